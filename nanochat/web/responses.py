"""OpenAI's Responses API, without what it stores.

A request is translated into a chat (`items`), planned as one, and its reply written as items: a message, then the
functions for the client to call. Streams hold an event for everything that begins, grows or ends.
"""

import functools
import secrets
import time
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from nanochat.engine.text import TextChunk, TokenLogprob, merged, message_parts
from nanochat.web.bodies.items import WHOLE, ResponsesRequest, as_chat, function, renamed
from nanochat.web.bodies.schemas import ChatRequest
from nanochat.web.documentation import errors
from nanochat.web.errors import ApiError, to_json
from nanochat.web.generation import Generation, reason
from nanochat.web.openai import plan_chat
from nanochat.web.replies import Dialect, Plan, add_route
from nanochat.web.sse import Stream
from nanochat.web.state import ServedModel, ServerState
from nanochat.web.writers import scored_tokens


def routes(state: ServerState) -> APIRouter:
    router = APIRouter()
    dialect = Dialect(ResponsesRequest, plan_response)
    add_route(router, "/v1/responses", "OpenAI", "Answer a conversation, as the Responses API does", state, dialect)

    @router.api_route(
        "/v1/responses/{id:path}", methods=["GET", "DELETE", "POST"], include_in_schema=False, responses=errors(404)
    )
    async def stored(id: str) -> Response:
        raise ApiError(404, f"there is no response {id[:80]!r}: {WHOLE}", "not_found")

    return router


async def plan_response(state: ServerState, body: ResponsesRequest) -> Plan:
    as_one = as_chat(body)
    try:
        return await plan_chat(state, as_one, functools.partial(ResponseWriter, state, body))
    except ApiError as error:
        raise renamed(error) from None


class ResponseWriter:
    """A response object, whole or as the events of a stream."""

    stream: Stream | None = None  # set by `begin`, for a reply that is streamed

    def __init__(
        self, state: ServerState, body: ResponsesRequest, model: ServedModel, chat: ChatRequest, figures: dict
    ) -> None:
        """figures: those of the prompt, for a client that lets the server truncate it."""
        self.model = model
        self.logprobs = chat.logprobs
        self.response = _response(state, model, body)
        if figures:
            self.response["nanochat"] = figures
        self.items: list[dict[str, Any]] = self.response["output"]
        self._chunks: list[TextChunk] = []  # of the message
        self._number = 0  # of the next event
        self._open = False  # whether the last item is still being written

    def begin(self, stream: Stream) -> None:
        """Write events into `stream` from now on."""
        self.stream = stream
        self._event("response.created", response=self.response)
        self._event("response.in_progress", response=self.response)

    def add(self, index: int, chunks: list[TextChunk], logprobs: list[TokenLogprob]) -> None:
        scored = scored_tokens(self.model.tokenizer, logprobs) if self.logprobs else []
        for kind, text in merged(chunks):
            if kind == "call":
                self._close("completed")
                self._begin_call(text)
            elif kind == "arguments":
                self.items[-1]["arguments"] += text
                self._event("response.function_call_arguments.delta", **self._place, delta=text)
            else:
                self._chunks.append(TextChunk(kind, text))
                if kind == "text":
                    self._text(text, scored)
                    scored = []
        if scored and not (self.items and self.items[-1]["type"] == "function_call"):
            self._text("", scored)

    def finish(self, index: int, reason: str) -> None:
        if not self.items:
            self._begin_message()
        self._close("incomplete" if reason == "length" else "completed")
        self.response["status"] = "incomplete" if reason == "length" else "completed"
        if reason == "length":
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}

    def flush(self) -> None:
        assert self.stream is not None
        self.stream.flush()

    def end(self, generation: Generation) -> None:
        self._count(generation)
        self._event(f"response.{self.response['status']}", response=self.response)
        self._done()

    def fail(self, reason: str) -> None:
        self.response |= {"status": "failed", "error": {"code": "server_error", "message": reason}}
        self._event("response.failed", response=self.response)
        self._done()

    def whole(self, generation: Generation) -> dict[str, Any]:
        (choice,) = generation.choices
        self.add(0, choice.chunks, choice.logprobs)
        self.finish(0, reason(choice))
        self._count(generation)
        return self.response

    # ---------------------------------------------------------------- items

    def _begin_message(self) -> None:
        id = f"msg_{secrets.token_hex(12)}"
        self._begin({"id": id, "type": "message", "status": "in_progress", "role": "assistant", "content": []})
        content = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._event("response.content_part.added", **self._place, content_index=0, part=content)
        self.items[-1]["content"].append(content)

    def _begin_call(self, name: str) -> None:
        id, call_id = f"fc_{secrets.token_hex(12)}", f"call_{secrets.token_hex(12)}"
        self._begin({
            "id": id, "type": "function_call", "status": "in_progress", "call_id": call_id, "name": name,
            "arguments": "",
        })  # fmt: skip

    def _begin(self, item: dict[str, Any]) -> None:
        self.items.append(item)
        self._open = True
        self._event("response.output_item.added", output_index=len(self.items) - 1, item=item)

    def _text(self, text: str, scored: list[dict]) -> None:
        if not self.items:
            self._begin_message()
        content = self.items[0]["content"][0]
        content["text"] += text
        content["logprobs"] += scored
        self._event("response.output_text.delta", **self._place, content_index=0, delta=text, logprobs=scored)

    def _close(self, status: str) -> None:
        """End the last item."""
        if not self._open:
            return
        self._open = False
        item = self.items[-1]
        if item["type"] == "function_call":
            ended = {"name": item["name"], "arguments": item["arguments"]}
            self._event("response.function_call_arguments.done", **self._place, **ended)
        else:
            content = item["content"][0]
            ended = {"text": content["text"], "logprobs": content["logprobs"]}
            self._event("response.output_text.done", **self._place, content_index=0, **ended)
            self._event("response.content_part.done", **self._place, content_index=0, part=content)
            if any(chunk.kind != "text" for chunk in self._chunks):
                item["parts"] = message_parts(self._chunks)  # as in the message of a chat
        item["status"] = status
        self._event("response.output_item.done", output_index=len(self.items) - 1, item=item)

    # ---------------------------------------------------------------- events

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}

    def _event(self, kind: str, **content: Any) -> None:
        if self.stream is not None:
            self.stream.write(to_json({"type": kind, "sequence_number": self._number, **content}), kind)
            self._number += 1

    def _count(self, generation: Generation) -> None:
        usage = generation.usage
        self.response["completed_at"] = int(time.time())
        self.response["usage"] = {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {**usage["prompt_tokens_details"], "cache_write_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        }

    def _done(self) -> None:
        assert self.stream is not None
        self.stream.close()


def _response(state: ServerState, model: ServedModel, body: ResponsesRequest) -> dict[str, Any]:
    """A response that has begun, with the settings of the request as they were understood."""
    settings = state.settings
    choice = body.tool_choice or "auto"
    return {
        "id": f"resp_{secrets.token_hex(12)}", "object": "response", "created_at": int(time.time()),
        "status": "in_progress", "model": model.id, "output": [], "error": None, "incomplete_details": None,
        "instructions": body.instructions, "metadata": body.metadata, "max_output_tokens": body.max_output_tokens,
        "temperature": settings.temperature if body.temperature is None else body.temperature,
        "top_p": body.top_p if "top_p" in body.model_fields_set else settings.top_p,
        "top_logprobs": body.top_logprobs, "tools": [{"type": "function", **function(tool)} for tool in body.tools],
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "parallel_tool_calls": body.parallel_tool_calls,
        "text": {"format": body.text.format or {"type": "text"}, "verbosity": body.text.verbosity or "medium"},
        "truncation": "auto" if body.truncates else "disabled", "reasoning": {"effort": None, "summary": None},
        "service_tier": "default", "background": False, "store": False, "previous_response_id": None,
        "completed_at": None, "usage": None,
    }  # fmt: skip
