"""Replies in the shapes that clients know: OpenAI's objects and chunks, and those of earlier versions.

A writer makes one reply, either whole or as events of a stream. An event is put together from strings that are made
once per stream, because one is written per token.
"""

import json
import secrets
import time
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from nanochat.engine.request import Scored
from nanochat.engine.text import TextChunk, TokenLogprob, merged, message_parts
from nanochat.web.errors import ApiError
from nanochat.web.generation import Generation, reason
from nanochat.web.sse import Stream
from nanochat.web.state import ServedModel

LEAST = -9999.0  # OpenAI's stand-in for the logarithm of zero, which JSON has no number for


class Spelling:
    """How a model's tokens are written in log probabilities."""

    def __init__(self, model: ServedModel) -> None:
        self._tokenizer = model.tokenizer
        self._known = model.spelled

    def entry(self, id: int, logprob: float) -> str:
        """The inside of a JSON object with token, bytes and logprob."""
        if id not in self._known:
            raw = self._tokenizer.decode_bytes([id])
            self._known[id] = f'"token":{quoted(raw.decode("utf-8", "replace"))},"bytes":{list(raw)},"logprob":'
        return f"{self._known[id]}{max(logprob, LEAST):.6g}"

    def text(self, id: int) -> str:
        """A token as a string that no other token has, because it is used as a key."""
        raw = self._tokenizer.decode_bytes([id])
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def chat(self, tokens: Sequence[TokenLogprob]) -> str:
        """JSON of the `logprobs` of a chat's choice."""
        return f'{{"content":[{",".join(self._chat_token(token.id, token.scored) for token in tokens)}]}}'

    def _chat_token(self, id: int, scored: Scored | None) -> str:
        own, top = (scored.logprob, scored.top) if scored else (LEAST, ())
        others = ",".join(f"{{{self.entry(other, logprob)}}}" for other, logprob in top)
        return f'{{{self.entry(id, own)},"top_logprobs":[{others}]}}'

    def completion(self, tokens: Sequence[TokenLogprob], offset: int = 0) -> dict[str, list]:
        """The `logprobs` of a completion's choice; offset: characters of the text before its first token."""
        return {
            "tokens": [self.text(token.id) for token in tokens],
            "token_logprobs": [None if token.scored is None else max(token.scored.logprob, LEAST) for token in tokens],
            "top_logprobs": [
                None if token.scored is None else {self.text(id): max(value, LEAST) for id, value in token.scored.top}
                for token in tokens
            ],
            "text_offset": [offset + token.start for token in tokens],
        }


class OpenAIWriter:
    """What OpenAI's two kinds of replies share."""

    stream: Stream  # of a reply that is streamed

    def __init__(self, model: ServedModel, id: str, kind: str, usage: bool, logprobs: bool) -> None:
        """usage: end a stream with the token counts."""
        self.model = model
        self.fields = {
            "id": f"{id}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": model.id,
            "system_fingerprint": model.fingerprint,
        }  # fmt: skip
        self.spelling = Spelling(model) if logprobs else None
        self._usage = usage
        self._head = json.dumps(self.fields, separators=(",", ":"))[:-1]

    def begin(self, stream: Stream) -> None:
        """Write events into `stream`."""
        self.stream = stream

    def flush(self) -> None:
        self.stream.flush()

    def end(self, generation: Generation) -> None:
        if self._usage:
            last = {"choices": [], "usage": generation.usage, "nanochat": _timing(generation, self.model)}
            self._write("," + json.dumps(last, separators=(",", ":"))[1:])
        self._done()

    def fail(self, reason: str) -> None:
        """End the stream with an error that OpenAI's clients raise."""
        self.stream.write(ApiError(500, reason, "internal_error").line)
        self._done()

    def _done(self) -> None:
        self.stream.write("[DONE]")
        self.stream.close()

    def _write(self, rest: str) -> None:
        self.stream.write(self._head + rest)

    def _choice(self, index: int, inside: str, logprobs: str = "null", finish: str = "null") -> None:
        usage = ',"usage":null' if self._usage else ""
        self._write(
            f',"choices":[{{"index":{index},{inside},"logprobs":{logprobs},"finish_reason":{finish}}}]{usage}}}'
        )

    def _object(self, generation: Generation, choices: list[dict]) -> dict:
        timing = _timing(generation, self.model)
        return {**self.fields, "choices": choices, "usage": generation.usage, "nanochat": timing}


class ChatWriter(OpenAIWriter):
    """chat.completion, or chat.completion.chunk events.

    Tool calls are an extension: `parts` of the message, delta.part instead of delta.content.
    """

    def __init__(
        self, model: ServedModel, choices: int = 1, stream: bool = False, usage: bool = False, logprobs: bool = False
    ) -> None:
        super().__init__(model, "chatcmpl", "chat.completion.chunk" if stream else "chat.completion", usage, logprobs)
        self._choices = choices

    def begin(self, stream: Stream) -> None:
        super().begin(stream)
        for index in range(self._choices):
            self._delta(index, '{"role":"assistant","content":""}')

    def add(self, index: int, chunks: list[TextChunk], logprobs: list[TokenLogprob]) -> None:
        scored = self.spelling.chat(logprobs) if self.spelling and logprobs else "null"
        for kind, text in merged(chunks):
            if kind == "text":
                self._delta(index, f'{{"content":{quoted(text)}}}', scored)
                scored = "null"
            else:
                self._delta(index, f'{{"part":{{"type":"{kind}","text":{quoted(text)}}}}}')
        if scored != "null":
            self._delta(index, '{"content":""}', scored)

    def finish(self, index: int, reason: str) -> None:
        self._delta(index, "{}", finish=f'"{reason}"')

    def whole(self, generation: Generation) -> dict:
        choices = []
        for index, choice in enumerate(generation.choices):
            parts = message_parts(choice.chunks)
            choices.append({
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None, "parts": parts},
                "logprobs": json.loads(self.spelling.chat(choice.logprobs)) if self.spelling else None,
                "finish_reason": reason(choice),
            })  # fmt: skip
        return self._object(generation, choices)

    def _delta(self, index: int, delta: str, logprobs: str = "null", finish: str = "null") -> None:
        self._choice(index, f'"delta":{delta}', logprobs, finish)


class CompletionWriter(OpenAIWriter):
    """text_completion, whole or as events."""

    def __init__(
        self, model: ServedModel, echoes: Sequence[tuple[str, list[TokenLogprob]]], usage: bool, logprobs: bool
    ) -> None:
        """echoes: for each choice, the text before the reply, and its tokens."""
        super().__init__(model, "cmpl", "text_completion", usage, logprobs)
        self._echoes = echoes

    def begin(self, stream: Stream) -> None:
        super().begin(stream)
        for index, (before, tokens) in enumerate(self._echoes):
            if before:
                self._text(index, before, self._logprobs(tokens, 0))

    def add(self, index: int, chunks: list[TextChunk], logprobs: list[TokenLogprob]) -> None:
        text = "".join(chunk.text for chunk in chunks)
        self._text(index, text, self._logprobs(logprobs, len(self._echoes[index][0])))

    def finish(self, index: int, reason: str) -> None:
        self._text(index, "", finish=f'"{reason}"')

    def whole(self, generation: Generation) -> dict:
        choices = []
        for index, (choice, (before, tokens)) in enumerate(zip(generation.choices, self._echoes, strict=True)):
            scored = None
            if self.spelling:
                scored = self.spelling.completion(tokens)
                for name, values in self.spelling.completion(choice.logprobs, len(before)).items():
                    scored[name] += values
            choices.append(
                {"index": index, "text": before + choice.text, "logprobs": scored, "finish_reason": reason(choice)}
            )
        return self._object(generation, choices)

    def _logprobs(self, tokens: list[TokenLogprob], offset: int) -> str:
        if self.spelling is None:
            return "null"
        return json.dumps(self.spelling.completion(tokens, offset), separators=(",", ":"))

    def _text(self, index: int, text: str, logprobs: str = "null", finish: str = "null") -> None:
        self._choice(index, f'"text":{quoted(text)}', logprobs, finish)


class ClassicWriter(ChatWriter):
    """A chat.completion, or the events of earlier versions: {"token", "gpu"} and at the end {"done": true}."""

    def begin(self, stream: Stream) -> None:
        self.stream = stream

    def add(self, index: int, chunks: list[TextChunk], logprobs: list[TokenLogprob]) -> None:
        text = "".join(chunk.text for chunk in chunks if chunk.kind == "text")
        if text:
            self.stream.write(f'{{"token":{quoted(text)},"gpu":0}}')

    def finish(self, index: int, reason: str) -> None:
        pass

    def end(self, generation: Generation) -> None:
        self.stream.write('{"done":true}')
        self.stream.close()

    def fail(self, reason: str) -> None:
        self.stream.write(ApiError(500, reason, "internal_error").line)
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
