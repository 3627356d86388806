"""Replies in the shapes that clients know: OpenAI's objects and chunks, and those of earlier versions.

A writer makes one reply, either whole or as the events of a stream.
"""

import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from nanochat.engine.text import ReplyText, TextChunk, TokenLogprob, merged, message_parts
from nanochat.tokenizer import Tokenizer
from nanochat.web.bodies.schemas import ChatRequest
from nanochat.web.bodies.toolcalls import calls
from nanochat.web.errors import ApiError, to_json
from nanochat.web.generation import Generation, reason
from nanochat.web.sse import Stream
from nanochat.web.state import ServedModel

LEAST = -9999.0  # OpenAI's stand-in for the logarithm of zero, which JSON has no number for


class ReplyWriter:
    """What OpenAI's two kinds of replies share."""

    stream: Stream  # set by `begin`, for a reply that is streamed

    def __init__(
        self, model: ServedModel, id: str, kind: str, usage: bool, logprobs: bool,
        figures: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        """usage: end a stream with the token counts. logprobs: report log probabilities.

        figures: those of the prompt, for a client that lets the server truncate it.
        """
        self.model = model
        self.tokenizer = model.tokenizer
        self.usage = usage
        self.logprobs = logprobs
        self.figures = figures or {}
        self.fields = {
            "id": f"{id}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model.id,
            "system_fingerprint": model.fingerprint,
        }  # fmt: skip

    def begin(self, stream: Stream) -> None:
        """Write events into `stream` from now on."""
        self.stream = stream

    def flush(self) -> None:
        self.stream.flush()

    def end(self, generation: Generation) -> None:
        if self.usage:
            self.stream.write(to_json(self._object(generation, [])))
        self._done()

    def fail(self, reason: str) -> None:
        """End the stream with an error that OpenAI's clients raise."""
        self.stream.write(to_json(ApiError(500, reason, "internal_error").envelope))
        self._done()

    def _done(self) -> None:
        self.stream.write("[DONE]")
        self.stream.close()

    def _chunk(
        self, index: int, content: dict, logprobs: dict | None = None, finish: str | None = None,
        figures: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        choice = {"index": index, **content, "logprobs": logprobs, "finish_reason": finish}
        about = {**({"usage": None} if self.usage else {}), **({"nanochat": figures} if figures else {})}
        self.stream.write(to_json({**self.fields, "choices": [choice], **about}))

    def _object(self, generation: Generation, choices: list[dict]) -> dict:
        about = {**_timing(generation, self.model), **self.figures}
        return {**self.fields, "choices": choices, "usage": generation.usage, "nanochat": about}


class ChatWriter(ReplyWriter):
    """chat.completion, or chat.completion.chunk events.

    Calls of the server's own tools are an extension: `parts` of the message, delta.part instead of delta.content.
    """

    def __init__(self, model: ServedModel, body: ChatRequest, figures: Mapping[str, int] | None = None) -> None:
        kind = "chat.completion.chunk" if body.stream else "chat.completion"
        super().__init__(model, "chatcmpl", kind, body.stream_options.include_usage, body.logprobs, figures)
        self.choices = body.n
        self.older = bool(body.functions)  # calls in the older form: function_call instead of tool_calls
        self._calls: Counter[int] = Counter()  # by choice: how many have begun

    def begin(self, stream: Stream) -> None:
        super().begin(stream)
        for index in range(self.choices):
            self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, figures=self.figures)

    def add(self, index: int, chunks: list[TextChunk], logprobs: list[TokenLogprob]) -> None:
        scored = self._logprobs(logprobs) if self.logprobs and logprobs else None
        for kind, text in merged(chunks):
            if kind == "text":
                self._chunk(index, {"delta": {"content": text}}, scored)
                scored = None
            elif kind == "call":
                self._calls[index] += 1
                self._call(index, {"name": text, "arguments": ""}, {"id": _call_id(), "type": "function"})
            elif kind == "arguments":
                self._call(index, {"arguments": text}, {})
            else:
                self._chunk(index, {"delta": {"part": {"type": kind, "text": text}}})
        if scored is not None:
            self._chunk(index, {"delta": {"content": ""}}, scored)

    def _call(self, index: int, function: dict, head: dict) -> None:
        delta = {"index": self._calls[index] - 1, **head, "function": function}
        self._chunk(index, {"delta": {"function_call": function} if self.older else {"tool_calls": [delta]}})

    def finish(self, index: int, reason: str) -> None:
        self._chunk(index, {"delta": {}}, finish=self._reason(reason))

    def whole(self, generation: Generation) -> dict:
        choices = []
        for index, choice in enumerate(generation.choices):
            choices.append({
                "index": index,
                "message": self._message(choice),
                "logprobs": self._logprobs(choice.logprobs) if self.logprobs else None,
                "finish_reason": self._reason(reason(choice)),
            })  # fmt: skip
        return self._object(generation, choices)

    def _message(self, choice: ReplyText) -> dict:
        called = [{"name": call.name, "arguments": call.arguments} for call in calls(choice.chunks)]
        message: dict[str, Any] = {
            "role": "assistant", "content": choice.text or None if called else choice.text, "refusal": None,
            "parts": message_parts(choice.chunks),
        }  # fmt: skip
        if called and self.older:
            message["function_call"] = called[0]
        elif called:
            message["tool_calls"] = [{"id": _call_id(), "type": "function", "function": each} for each in called]
        return message

    def _reason(self, reason: str) -> str:
        return "function_call" if self.older and reason == "tool_calls" else reason

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, list]:
        return {"content": scored_tokens(self.tokenizer, tokens)}


def scored_tokens(tokenizer: Tokenizer, tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Tokens with their log probabilities and those of the most likely ones, as chats have them."""

    def one(id: int, logprob: float) -> dict[str, Any]:
        raw = tokenizer.decode_bytes([id])
        shown = raw.decode("utf-8", "replace")
        return {"token": shown, "id": id, "bytes": list(raw), "logprob": max(logprob, LEAST)}

    content = []
    for id, _, scored in tokens:
        own, top = (scored.logprob, scored.top) if scored else (LEAST, ())
        content.append(one(id, own) | {"top_logprobs": [one(*other) for other in top]})
    return content


class CompletionWriter(ReplyWriter):
    """text_completion, whole or as events."""

    def __init__(
        self, model: ServedModel, echoes: Sequence[tuple[str, Sequence[TokenLogprob]]], usage: bool, logprobs: bool,
        figures: Mapping[str, int],
    ) -> None:  # fmt: skip
        """echoes: for each choice, the text before the reply, and its tokens."""
        super().__init__(model, "cmpl", "text_completion", usage, logprobs, figures)
        self.echoes = echoes

    def begin(self, stream: Stream) -> None:
        super().begin(stream)
        for index, (before, tokens) in enumerate(self.echoes):
            if before:
                self._chunk(index, {"text": before}, self._logprobs(tokens))

    def add(self, index: int, chunks: list[TextChunk], logprobs: list[TokenLogprob]) -> None:
        text = "".join(chunk.text for chunk in chunks)
        self._chunk(index, {"text": text}, self._logprobs(logprobs, len(self.echoes[index][0])))

    def finish(self, index: int, reason: str) -> None:
        self._chunk(index, {"text": ""}, finish=reason)

    def whole(self, generation: Generation) -> dict:
        choices = []
        for index, (choice, (before, tokens)) in enumerate(zip(generation.choices, self.echoes, strict=True)):
            after = [token._replace(start=len(before) + token.start) for token in choice.logprobs]
            logprobs = self._logprobs([*tokens, *after])
            choices.append(
                {"index": index, "text": before + choice.text, "logprobs": logprobs, "finish_reason": reason(choice)}
            )
        return self._object(generation, choices)

    def _logprobs(self, tokens: Sequence[TokenLogprob], offset: int = 0) -> dict[str, list] | None:
        """offset: characters of the text before these tokens."""
        if not self.logprobs:
            return None
        scores = [token.scored for token in tokens]
        return {
            "tokens": [self._key(token.id) for token in tokens],
            "token_logprobs": [score and max(score.logprob, LEAST) for score in scores],
            "top_logprobs": [
                score and {self._key(id): max(logprob, LEAST) for id, logprob in score.top} for score in scores
            ],
            "text_offset": [offset + token.start for token in tokens],
            "token_ids": [token.id for token in tokens],
            "top_token_ids": [score and {self._key(id): id for id, _ in score.top} for score in scores],
        }

    def _key(self, id: int) -> str:
        """A string that is unique to the token, because it is used as a key."""
        raw = self.tokenizer.decode_bytes([id])
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


class ClassicWriter(ChatWriter):
    """A chat.completion, or the events of earlier versions: {"token", "gpu"} and at the end {"done": true}."""

    def __init__(self, model: ServedModel) -> None:
        super().__init__(model, ChatRequest(messages=[]))

    def begin(self, stream: Stream) -> None:
        self.stream = stream

    def add(self, index: int, chunks: list[TextChunk], logprobs: list[TokenLogprob]) -> None:
        text = "".join(chunk.text for chunk in chunks if chunk.kind == "text")
        if text:
            self.stream.write(to_json({"token": text, "gpu": 0}))

    def finish(self, index: int, reason: str) -> None:
        pass

    def end(self, generation: Generation) -> None:
        self.stream.write(to_json({"done": True}))
        self.stream.close()

    def _done(self) -> None:
        self.stream.close()


def _call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


class GenerateWriter:
    """The events of /generate: {"index", "text"}, whose texts joined are those of a reply that is sent whole."""

    stream: Stream  # set by `begin`

    def __init__(self) -> None:
        self._spaces: dict[int, str] = {}  # by choice; white space at the end is not shown

    def begin(self, stream: Stream) -> None:
        self.stream = stream

    def add(self, index: int, chunks: list[TextChunk], logprobs: list[TokenLogprob]) -> None:
        text = self._spaces.get(index, "") + "".join(chunk.text for chunk in chunks)
        shown = text.rstrip()
        self._spaces[index] = text[len(shown) :]
        if shown:
            self.stream.write(to_json({"index": index, "text": shown}))

    def finish(self, index: int, reason: str) -> None:
        pass

    def flush(self) -> None:
        self.stream.flush()

    def end(self, generation: Generation) -> None:
        self.stream.write("[DONE]")
        self.stream.close()

    def fail(self, reason: str) -> None:
        self.stream.write(to_json(ApiError(500, reason, "internal_error").envelope))
        self.stream.write("[DONE]")
        self.stream.close()


def _timing(generation: Generation, model: ServedModel) -> dict[str, Any]:
    """What this server reports beyond OpenAI's usage. The rate excludes the time to the first token."""
    first, tokens = generation.first_token or 0.0, generation.completion_tokens
    decoding = generation.seconds - first
    rate = (tokens - 1) / decoding if tokens > 1 and decoding > 0 else 0.0
    return {
        "context_length": model.context,
        "seconds": round(generation.seconds, 3),
        "first_token_seconds": round(first, 3),
        "tokens_per_second": round(rate, 2),
    }
