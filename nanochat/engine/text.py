"""From the Engine's events to text, as it comes: whole characters, parts, stop strings, and what each token was worth.

The Engine knows ids only. Whoever shows a reply to people or sends it over a network puts each event into a ReplyText
and passes on the pieces that come out; nothing is ever taken back.
"""

import codecs
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from nanochat import chat
from nanochat.engine.request import Event, Finish, Scored
from nanochat.tokenizer import Tokenizer

Kind = Literal["text", "python", "python_output"]


class Piece(NamedTuple):
    """Some text of a reply. A tool's call or output comes whole, visible text as it is written."""

    kind: Kind
    text: str


class Told(NamedTuple):
    """A token of the visible text, for those who ask for log probabilities."""

    id: int
    start: int
    """characters of visible text before it"""
    scored: Scored | None
    """None for the first token of a prompt, which follows nothing"""


class ReplyText:
    """The text of one reply.

    Visible text is held back only while it may be the beginning of a stop string. The first stop string to be complete
    ends the reply: nothing of it is shown, `finish` is "stop" and later events are ignored, so the caller should cancel
    the request. Stop strings are looked for in the visible text and do not reach across a tool call.

    All pieces of kind "text", joined, are `chat.reply_text` of the tokens. Without `parts`, for texts that are no
    chat, they are all tokens but the special ones. A character that is unfinished at the end becomes U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), parts: bool = True) -> None:
        """stop: strings that end the reply, none of them empty. parts: tell tool calls from text.

        Raises UserError when `parts` is asked of a tokenizer without tokens for tool calls.
        """
        self.tokenizer = tokenizer
        self.stop = stop
        self.pieces: list[Piece] = []  # all so far
        self.all_told: list[Told] = []  # what `told` has returned
        self.finish: Finish | None = None
        self.stop_string: str | None = None  # which one ended the reply
        self.sampled = 0  # tokens the model was asked for, the one that ended the reply included
        self.cached = 0  # tokens of the prompt that needed no reading
        self._kinds: dict[int, Kind] = {}
        if parts:
            ids = chat.tool_ids(tokenizer)
            self._kinds = {
                ids.python_start: "python", ids.python_end: "text",
                ids.output_start: "python_output", ids.output_end: "text",
            }  # fmt: skip
        self._kind: Kind = "text"
        self._block: list[str] = []  # of the tool call or output that is open
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""  # visible text that may be the beginning of a stop string
        self._shown = 0  # characters of visible text that were told
        self._read = 0  # characters of visible text that were decoded
        self._untold: list[Told] = []

    @property
    def text(self) -> str:
        """What the user sees so far."""
        return "".join(piece.text for piece in self.pieces if piece.kind == "text")

    def add(self, event: Event) -> list[Piece]:
        """What the event makes certain. Nothing after the end."""
        if self.finish is not None:
            return []
        self.cached += event.cached
        self.sampled += (event.token is not None and not event.forced) + (event.stop_id is not None)
        pieces = [] if event.token is None else self._token(event.token, event.scored)
        if event.finish is not None and self.finish is None:
            pieces += self._close()
            self.finish = self.finish or event.finish
        self.pieces += pieces
        return pieces

    def told(self) -> list[Told]:
        """The tokens with log probabilities, not yet returned, whose text has begun to be shown, or is not to come."""
        if not self._untold:
            return []
        count = len(self._untold)
        if self.finish is None or self.stop_string is not None:
            count = sum(token.start < self._shown for token in self._untold)
        told, self._untold = self._untold[:count], self._untold[count:]
        self.all_told += told
        return told

    def _token(self, id: int, scored: Scored | None) -> list[Piece]:
        if id in self._kinds:
            pieces = self._close()
            self._kind = self._kinds[id]
            return pieces
        if id >= self.tokenizer.first_special:  # not a token of replies; a character does not go on behind it
            text = self._flush()
        else:
            text = self._utf8.decode(self.tokenizer.decode_bytes([id]))
            if self._kind == "text" and scored is not None:
                self._untold.append(Told(id, self._read, scored))
        if self._kind != "text":
            self._block.append(text)
            return []
        return self._visible(text)

    def _visible(self, text: str) -> list[Piece]:
        """Show what cannot be part of a stop string, or end the reply where one is complete."""
        self._read += len(text)
        text = self._held + text
        if self.stop:
            # The first to be complete counts, however the text was cut into tokens; of two, the longer.
            found = [(at + len(stop), at, stop) for stop in self.stop if (at := text.find(stop)) >= 0]
            if found:
                _, at, self.stop_string = min(found)
                self.finish, self._held = "stop", ""
                return self._show(text[:at])
            certain = len(text) - _begun(text, self.stop)
            text, self._held = text[:certain], text[certain:]
        return self._show(text)

    def _show(self, text: str) -> list[Piece]:
        self._shown += len(text)
        return [Piece("text", text)] if text else []

    def _close(self) -> list[Piece]:
        """The end of a part: nothing of it is held back any longer."""
        if self._kind != "text":
            block, self._block = "".join([*self._block, self._flush()]), []
            return [Piece(self._kind, block)]
        pieces = self._visible(self._flush())
        held, self._held = self._held, ""
        return pieces + self._show(held)

    def _flush(self) -> str:
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces with neighbouring text joined, as `chat` wants the parts of a message."""
    parts: list[Piece] = []
    for piece in pieces:
        if parts and piece.kind == "text" == parts[-1].kind:
            parts[-1] = Piece("text", parts[-1].text + piece.text)
        else:
            parts.append(piece)
    return parts


def _begun(text: str, stops: Sequence[str]) -> int:
    """The length of the longest end of `text` with which a stop string begins."""
    longest = 0
    for stop in stops:
        at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
        while at >= 0 and not stop.startswith(text[at:]):
            at = text.find(stop[0], at + 1)
        longest = max(longest, len(text) - at if at >= 0 else 0)
    return longest
