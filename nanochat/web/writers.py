"""Replies in the shapes that clients know: OpenAI's chunks and objects, and the events of earlier versions.

A chunk is put together from strings that are made once a stream, for it is written once a token.
"""

import json
import time
from collections.abc import Iterable, Sequence
from json.encoder import encode_basestring_ascii as quoted

from nanochat.engine.request import Scored
from nanochat.engine.text import TextChunk, TokenLogprob, joined
from nanochat.web.errors import ApiError
from nanochat.web.generation import Generation, reason
from nanochat.web.service import Model
from nanochat.web.sse import Stream

LEAST = -9999.0  # OpenAI's way to write the logarithm of zero, which JSON has no number for


class Spelling:
    """How a model's tokens are written in log probabilities."""

    def __init__(self, model: Model) -> None:
        self._tokenizer = model.tokenizer
        self._known = model.spelled

    def entry(self, id: int, logprob: float) -> str:
        """The inside of a JSON object with token, bytes and logprob."""
        if id not in self._known:
            raw = self._tokenizer.decode_bytes([id])
            self._known[id] = f'"token":{quoted(raw.decode("utf-8", "replace"))},"bytes":{list(raw)},"logprob":'
        return f"{self._known[id]}{max(logprob, LEAST):.6g}"

    def text(self, id: int) -> str:
        """A token as a string that no other token has, as it is a key."""
        raw = self._tokenizer.decode_bytes([id])
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def chat(self, told: Sequence[TokenLogprob]) -> str:
        """JSON of the `logprobs` of a chat's choice."""
        return f'{{"content":[{",".join(self._chat_token(token.id, token.scored) for token in told)}]}}'

    def _chat_token(self, id: int, scored: Scored | None) -> str:
        own, top = (scored.logprob, scored.top) if scored else (LEAST, ())
        others = ",".join(f"{{{self.entry(other, logprob)}}}" for other, logprob in top)
        return f'{{{self.entry(id, own)},"top_logprobs":[{others}]}}'

    def completion(self, told: Iterable[TokenLogprob], offset: int = 0) -> dict:
        """The `logprobs` of a completion's choice; offset: characters of the text before its first token."""
        told = list(told)
        return {
            "tokens": [self.text(token.id) for token in told],
            "token_logprobs": [None if token.scored is None else max(token.scored.logprob, LEAST) for token in told],
            "top_logprobs": [
                None if token.scored is None else {self.text(id): max(value, LEAST) for id, value in token.scored.top}
                for token in told
            ],
            "text_offset": [offset + token.start for token in told],
        }


class Head:
    """What all chunks or objects of a reply begin with."""

    def __init__(self, model: Model, kind: str, id: str) -> None:
        self.fields = {
            "id": id, "object": kind, "created": int(time.time()), "model": model.id,
            "system_fingerprint": model.fingerprint,
        }  # fmt: skip
        self.json = json.dumps(self.fields, separators=(",", ":"))[:-1]


class ChunkWriter:
    """What the two kinds of OpenAI's streams have in common."""

    def __init__(self, stream: Stream, model: Model, head: Head, usage: bool, logprobs: bool) -> None:
        self.stream = stream
        self.model = model
        self.usage = usage
        self.spelling = Spelling(model) if logprobs else None
        self._head = head.json
        self._before = f'{head.json},"choices":[{{"index":'
        self._after = '}],"usage":null}' if usage else "}]}"

    def flush(self) -> None:
        self.stream.flush()

    def end(self, generation: Generation) -> None:
        if self.usage:
            usage = {"choices": [], "usage": generation.usage, "nanochat": figures(generation, self.model)}
            self.stream.write(self._head + "," + json.dumps(usage, separators=(",", ":"))[1:])
        self.stream.write("[DONE]")
        self.stream.close()

    def fail(self, reason: str) -> None:
        broken(self.stream, reason)


class ChatWriter(ChunkWriter):
    """chat.completion.chunk events. Tool calls are an extension: delta.part instead of delta.content."""

    def __init__(
        self, stream: Stream, model: Model, head: Head, choices: int, usage: bool, logprobs: bool
    ) -> None:  # fmt: skip
        super().__init__(stream, model, head, usage, logprobs)
        for index in range(choices):
            self._chunk(index, '{"role":"assistant","content":""}')

    def pieces(self, index: int, pieces: list[TextChunk], told: list[TokenLogprob]) -> None:
        logprobs = self.spelling.chat(told) if self.spelling and told else "null"
        for kind, text in joined(pieces):
            if kind == "text":
                self._chunk(index, f'{{"content":{quoted(text)}}}', logprobs)
                logprobs = "null"
            else:
                self._chunk(index, f'{{"part":{{"type":"{kind}","text":{quoted(text)}}}}}')
        if logprobs != "null":
            self._chunk(index, '{"content":""}', logprobs)

    def finished(self, index: int, reason: str) -> None:
        self._chunk(index, "{}", finish=f'"{reason}"')

    def _chunk(self, index: int, delta: str, logprobs: str = "null", finish: str = "null") -> None:
        self.stream.write(
            f'{self._before}{index},"delta":{delta},"logprobs":{logprobs},"finish_reason":{finish}{self._after}'
        )


class CompletionWriter(ChunkWriter):
    """text_completion events."""

    def __init__(
        self, stream: Stream, model: Model, head: Head, usage: bool, logprobs: bool,
        echoes: Sequence[tuple[str, list[TokenLogprob]]],
    ) -> None:  # fmt: skip
        """echoes: for each choice, what comes before the reply, and its tokens."""
        super().__init__(stream, model, head, usage, logprobs)
        self.offsets = [len(before) for before, _ in echoes]
        for index, (before, told) in enumerate(echoes):
            if before:
                self._chunk(index, before, self._logprobs(told, 0))

    def pieces(self, index: int, pieces: list[TextChunk], told: list[TokenLogprob]) -> None:
        self._chunk(index, "".join(piece.text for piece in pieces), self._logprobs(told, self.offsets[index]))

    def finished(self, index: int, reason: str) -> None:
        self._chunk(index, "", finish=f'"{reason}"')

    def _logprobs(self, told: list[TokenLogprob], offset: int) -> str:
        if self.spelling is None:
            return "null"
        return json.dumps(self.spelling.completion(told, offset), separators=(",", ":"))

    def _chunk(self, index: int, text: str, logprobs: str = "null", finish: str = "null") -> None:
        self.stream.write(
            f'{self._before}{index},"text":{quoted(text)},"logprobs":{logprobs},"finish_reason":{finish}{self._after}'
        )


class ClassicWriter:
    """The events of earlier versions: {"token", "gpu"} and at the end {"done": true}."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def pieces(self, index: int, pieces: list[TextChunk], told: list[TokenLogprob]) -> None:
        text = "".join(piece.text for piece in pieces if piece.kind == "text")
        if text:
            self.stream.write(f'{{"token":{quoted(text)},"gpu":0}}')

    def finished(self, index: int, reason: str) -> None:
        pass

    def flush(self) -> None:
        self.stream.flush()

    def end(self, generation: Generation) -> None:
        self.stream.write('{"done":true}')
        self.stream.close()

    def fail(self, reason: str) -> None:
        self.stream.write(ApiError(500, reason, "internal_error").line)
        self.stream.close()


def chat_object(generation: Generation, model: Model, head: Head, logprobs: bool = False) -> dict:
    """A whole chat.completion. Its messages have the parts of the reply as an extension."""
    spelling = Spelling(model)
    choices = []
    for index, choice in enumerate(generation.choices):
        parts = [{"type": piece.kind, "text": piece.text} for piece in joined(choice.pieces)]
        choices.append({
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None, "parts": parts},
            "logprobs": json.loads(spelling.chat(choice.all_told)) if logprobs else None,
            "finish_reason": reason(choice),
        })  # fmt: skip
    return {**head.fields, "choices": choices, "usage": generation.usage, "nanochat": figures(generation, model)}


def completion_object(
    generation: Generation, model: Model, head: Head, logprobs: bool, echoes: Sequence[tuple[str, list[TokenLogprob]]]
) -> dict:
    """A whole text_completion. echoes: for each choice, what comes before the reply, and its tokens."""
    spelling = Spelling(model)
    choices = []
    for index, (choice, (before, told)) in enumerate(zip(generation.choices, echoes, strict=True)):
        scored = None
        if logprobs:
            scored = spelling.completion(told)
            for name, values in spelling.completion(choice.all_told, len(before)).items():
                scored[name] += values
        choices.append(
            {"index": index, "text": before + choice.text, "logprobs": scored, "finish_reason": reason(choice)}
        )
    return {**head.fields, "choices": choices, "usage": generation.usage, "nanochat": figures(generation, model)}


def figures(generation: Generation, model: Model) -> dict:
    """What this server tells beyond OpenAI's usage. The rate is that after the first token."""
    first, tokens = generation.first_token or 0.0, generation.completion_tokens
    writing = generation.seconds - first
    rate = (tokens - 1) / writing if tokens > 1 and writing > 0 else 0.0
    return {
        "context_length": model.context,
        "seconds": round(generation.seconds, 3),
        "first_token_seconds": round(first, 3),
        "tokens_per_second": round(rate, 2),
    }


def broken(stream: Stream, reason: str) -> None:
    """End a stream with an error that OpenAI's clients raise."""
    stream.write(ApiError(500, reason, "internal_error").line)
    stream.write("[DONE]")
    stream.close()
