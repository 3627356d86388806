"""From the Engine's events to text, as it comes: whole characters, parts, stop strings and log probabilities.

The Engine knows token ids only. To show a reply to people or send it over a network, put each event into a ReplyText
and pass on the chunks that come out; no chunk is ever taken back.
"""

import codecs
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

from nanochat import chat
from nanochat.engine.request import Event, Finish, Scored
from nanochat.tokenizer import Tokenizer, utf8_decoder

Kind = Literal["text", "python", "python_output", "call", "arguments"]


class TextChunk(NamedTuple):
    """Some text of a reply. A tool call or its output comes whole, visible text as it is generated.

    "call" is the name of a function for the client to call, "arguments" is a piece of its arguments.
    """

    kind: Kind
    text: str


class TokenLogprob(NamedTuple):
    """A token of the visible text and its log probability."""

    id: int
    start: int
    """characters of visible text before it"""
    scored: Scored | None
    """None for the first token of a prompt, which no token precedes"""


class Calls(Protocol):
    """Splits text that calls functions into chunks; see nanochat.web.bodies.toolcalls."""

    opening: str
    """where such text begins"""
    only_first: bool
    """whether it may only begin a reply"""

    def add(self, text: str) -> list[TextChunk]: ...


class ReplyText:
    """The text of one reply.

    Visible text is held back only while it may be the beginning of a stop string. The first complete stop string ends
    the reply: it is not shown, `finish` becomes "stop" and later events are ignored, so the caller should cancel the
    request. Stop strings are searched in the visible text and do not reach across a tool call, nor into a call of a
    function; see `expect_calls`.

    The chunks of kind "text", joined, equal `chat.reply_text` of the tokens. With parts=False, for text that is not a
    chat, they hold all tokens but the special ones. A character still unfinished at the end of the reply is left out;
    bytes within it that are not UTF-8 become U+FFFD.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str] = (), parts: bool = True, lstrip: bool = False,
        min_tokens: int = 0, show_stop: bool = False,
    ) -> None:  # fmt: skip
        """stop: strings that end the reply, none of them empty. parts: separate tool calls from text.

        lstrip: leave out white space at the beginning. min_tokens: stop strings count only in what comes after so many
        sampled tokens. show_stop: show what ended the reply, a stop string or a token that is not special.

        Raises UserError for parts=True and a tokenizer without tokens for tool calls.
        """
        self.tokenizer = tokenizer
        self.stop = stop
        self.min_tokens = min_tokens
        self.show_stop = show_stop
        self.chunks: list[TextChunk] = []  # all so far
        self.logprobs: list[TokenLogprob] = []  # all that `pop_logprobs` has returned
        self.finish: Finish | None = None
        self.stop_string: str | None = None  # the one that ended the reply
        self.cut_character = False  # it ended within a character, whose beginning was left out
        self.sampled = 0  # tokens sampled from the model, including the one that ended the reply
        self.cached = 0  # prompt tokens found in the prefix cache
        self._kinds: dict[int, Kind] = {}  # what follows each special token
        if parts:
            ids = chat.tool_ids(tokenizer)
            self._kinds = {
                ids.python_start: "python", ids.python_end: "text",
                ids.output_start: "python_output", ids.output_end: "text",
            }  # fmt: skip
        self._kind: Kind = "text"
        self._block: list[str] = []  # text of the open tool call or output
        self._calls: Calls | None = None
        self._calling = False  # all that follows are calls
        self._utf8 = utf8_decoder()
        self._held = ""  # visible text that may be the beginning of a stop string
        self._shown = 0  # characters of visible text in `chunks`
        self._decoded = 0  # characters of visible text decoded so far
        self._pending: list[TokenLogprob] = []
        self._lstrip = lstrip

    @property
    def text(self) -> str:
        """What the user sees so far."""
        return "".join(chunk.text for chunk in self.chunks if chunk.kind == "text")

    def expect_calls(self, calls: Calls, only: bool) -> None:
        """Split calls of functions from the text, to its end or from its beginning (`only`)."""
        self._calls, self._calling = calls, only

    def add(self, event: Event) -> list[TextChunk]:
        """The chunks that this event completes; none after the end."""
        if self.finish is not None:
            return []
        self.cached += event.cached
        self.sampled += (event.token is not None and not event.forced) + (event.stop_id is not None)
        chunks = [] if event.token is None else self._token(event.token, event.scored)
        if event.stop_id is not None and self.show_stop and event.stop_id < self.tokenizer.first_special:
            chunks += self._token(event.stop_id, event.scored)
        if event.finish is not None and self.finish is None:
            self.cut_character = bool(self._utf8.getstate()[0])
            self._utf8.reset()
            chunks += self._close()
            self.finish = self.finish or event.finish
        self.chunks += chunks
        return chunks

    def pop_logprobs(self) -> list[TokenLogprob]:
        """The scored tokens not yet returned whose text has begun to be shown; at the end, the rest.

        Tokens hidden by a stop string are never returned.
        """
        if not self._pending:
            return []
        count = len(self._pending)
        if self.finish is None or self.stop_string is not None:
            count = sum(token.start < self._shown for token in self._pending)
        popped, self._pending = self._pending[:count], self._pending[count:]
        self.logprobs += popped
        return popped

    def _token(self, id: int, scored: Scored | None) -> list[TextChunk]:
        if id in self._kinds:
            chunks = self._close()
            self._kind = self._kinds[id]
            return chunks
        if id >= self.tokenizer.first_special:  # does not belong in a reply; it ends an unfinished character
            text = _flush(self._utf8)
        else:
            text = self._utf8.decode(self.tokenizer.tokens[id])
            if self._kind == "text" and not self._calling and scored is not None:
                self._pending.append(TokenLogprob(id, self._decoded, scored))
        if self._kind != "text":
            self._block.append(text)
            return []
        return self._visible(text)

    def _visible(self, text: str, last: bool = False) -> list[TextChunk]:
        """Show what cannot be part of a stop string or of a call, or end the reply at a complete stop string.

        last: no text follows.
        """
        if self._calls and self._calling:
            return self._calls.add(text)
        self._decoded += len(text)
        text = self._held + text
        end = self._before_call(text, last)
        stops = self.stop if self.sampled > self.min_tokens else ()
        # The first to be complete wins, however the text was split into tokens; of two, the longer.
        found = [(at + len(stop), at, stop) for stop in stops if (at := text.find(stop, 0, end)) >= 0]
        if found:
            after, at, self.stop_string = min(found)
            self.finish, self._held = "stop", ""
            return self._show(text[: after if self.show_stop and self.stop_string not in chat.PLAIN_STOPS else at])
        if self._calls and text.startswith(self._calls.opening, end):
            shown, self._held, self._calling = self._show(text[:end]), "", True
            self._pending = [token for token in self._pending if token.start < self._shown]
            return shown + self._calls.add(text[end + len(self._calls.opening) :])
        certain = end - _stop_prefix(text[:end], stops)
        self._held = text[certain:]
        return self._show(text[:certain])

    def _before_call(self, text: str, last: bool) -> int:
        """The length of the text before a call of a function that begins in it, or may begin at its end."""
        if not self._calls:
            return len(text)
        opening = self._calls.opening
        if self._calls.only_first and not (text.startswith(opening) or opening.startswith(text)):
            self._calls = None
            return len(text)
        at = text.find(opening)
        return at if at >= 0 else len(text) - (0 if last else _stop_prefix(text, [opening]))

    def _show(self, text: str) -> list[TextChunk]:
        self._shown += len(text)
        if self._lstrip:
            text = text.lstrip()
            self._lstrip = not text
        return [TextChunk("text", text)] if text else []

    def _close(self) -> list[TextChunk]:
        """End the current part: nothing of it is held back any longer."""
        if self._kind != "text":
            block, self._block = "".join([*self._block, _flush(self._utf8)]), []
            return [TextChunk(self._kind, block)]
        chunks = self._visible(_flush(self._utf8), last=True)
        held, self._held = self._held, ""
        return chunks + self._show(held)


def prompt_logprobs(
    tokenizer: Tokenizer, ids: Sequence[int], scored: Sequence[Scored | None]
) -> Iterator[TokenLogprob]:
    """The tokens of a prompt, with where each begins in `tokenizer.decode(ids)`."""
    utf8, start = utf8_decoder(), 0
    for id, score in zip(ids, scored, strict=True):
        yield TokenLogprob(id, start, score)
        start += len(utf8.decode(tokenizer.decode_bytes([id])))


def merged(chunks: Iterable[TextChunk]) -> list[TextChunk]:
    """The chunks with neighbouring text joined: the parts of a message."""
    parts: list[TextChunk] = []
    for chunk in chunks:
        if parts and chunk.kind == parts[-1].kind and chunk.kind in ("text", "arguments"):
            parts[-1] = TextChunk(chunk.kind, parts[-1].text + chunk.text)
        else:
            parts.append(chunk)
    return parts


def message_parts(chunks: Iterable[TextChunk]) -> list[dict[str, str]]:
    """The chunks, but for calls of functions, as the content parts of an assistant's message; see `nanochat.chat`."""
    return [{"type": kind, "text": text} for kind, text in merged(chunks) if kind not in ("call", "arguments")]


def _flush(utf8: codecs.IncrementalDecoder) -> str:
    rest = utf8.decode(b"", final=True)
    utf8.reset()
    return rest


def _stop_prefix(text: str, stops: Sequence[str]) -> int:
    """The length of the longest end of `text` that is the beginning of a stop string."""
    longest = 0
    for stop in stops:
        at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
        while at >= 0 and not stop.startswith(text[at:]):
            at = text.find(stop[0], at + 1)
        longest = max(longest, len(text) - at if at >= 0 else 0)
    return longest
