"""Text to token ids and back: byte-level BPE (byte pair encoding), trained on text or read from other programs' files.

The idea: begin with the 256 bytes as tokens. Again and again, find the most frequent pair of neighbouring tokens in the
text and make it a token, with the next id. After V - 256 such merges frequent words are one token each and rare words
a few, and any text at all can still be spelled in bytes (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909; on
bytes: GPT-2, Radford et al. 2019). Encoding repeats the merges on new text, in the order they were learned; decoding
joins the tokens' bytes.

Merges never cross the pieces into which a regular expression splits the text first, so that no token is spent on
"dog." or "dog!". rustbpe trains, tiktoken encodes.

A token's id is its rank, the order in which it was learned. Special tokens, which mark documents and turns of a chat,
take the ids after those. Text never becomes a special token, whatever it spells: their ids enter only where a caller
asks for them by name.

nanoGPT's character models are the simplest case: one id per character, no special tokens.
"""

import codecs
import contextlib
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rustbpe
import tiktoken

from nanochat import foreign_tokenizers, pickles
from nanochat.errors import UserError
from nanochat.paths import read_json, write_text

if TYPE_CHECKING:
    import numpy as np

# The split pattern, GPT-4's with one difference: at most two digits per piece, because a small vocabulary should not be
# spent on 1000 three-digit numbers. In order: contractions ('s), words with a space or sign in front, digits,
# punctuation with a space in front and line ends behind, line ends, trailing spaces, other spaces.
# Since version 2 the combining marks after a letter belong to its word: without them Hindi and Thai are cut at every
# vowel sign. A mark after anything else, as in emoji, is punctuation in both versions, so texts without combining marks
# are split the same by both.
_SPLIT = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+WORD|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
PATTERNS = {1: _SPLIT.replace("WORD", r"\p{L}+"), 2: _SPLIT.replace("WORD", r"\p{L}[\p{L}\p{M}]*")}
SPLIT_PATTERN = PATTERNS[2]  # of tokenizers trained here; a loaded one keeps its own
FORMAT = "nanochat tokenizer 1"
LONGEST_SPACE = 50_000  # the pattern backtracks over white space; at some 300,000 characters its stack overflows
LONGEST_PATTERN = 10_000  # characters; those of other programs have some hundreds
SPARE_MERGES = 16  # two merges may give the same bytes; the second is dropped and a later one takes its place


class Tokenizer:
    """ranks: {bytes: id} with ids 0..n-1; specials: the names of the special tokens, which take ids n, n+1, ...

    The first special token begins every document (`bos`). pattern None: every token is a character. pattern_version is
    the pattern's number in PATTERNS, None for a pattern of another program.
    """

    def __init__(self, ranks: dict[bytes, int], specials: Sequence[str], pattern: str | None = SPLIT_PATTERN):
        if sorted(ranks.values()) != list(range(len(ranks))):
            raise ValueError("the ranks of a tokenizer must be 0, 1, 2, ... without gaps")
        if len(set(specials)) != len(specials):
            raise ValueError("every special token of a tokenizer needs a name of its own")
        self.pattern = pattern
        self.pattern_version = next((version for version, ours in PATTERNS.items() if ours == pattern), None)
        self.tokens = sorted(ranks, key=ranks.__getitem__)
        self.specials = {name: len(ranks) + i for i, name in enumerate(specials)}
        self.first_special = len(ranks)  # ids from here on are not text
        self.vocab_size = len(ranks) + len(specials)
        # How many bytes of text a token stands for, to compute bits per byte: the fair measure between vocabularies.
        self.token_bytes = [len(token) for token in self.tokens] + [0] * len(specials)
        self.hash = _content_hash(pattern or "", self.tokens, specials)
        self._bpe: tiktoken.Encoding | None = None
        if pattern is None:
            self._characters = {token.decode("utf-8"): rank for token, rank in ranks.items()}
            if specials or not ranks or any(len(character) != 1 for character in self._characters):
                raise ValueError("the tokens of a character tokenizer must be single characters and nothing else")
            return
        missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
        if missing:
            raise ValueError(f"the ranks of a tokenizer must hold every single byte; {missing[0]:#04x} is missing")
        if not specials:
            raise ValueError("a tokenizer needs special tokens, at least the one that begins a document")
        self._bpe = tiktoken.Encoding("nanochat", pat_str=pattern, mergeable_ranks=ranks, special_tokens=self.specials)

    @property
    def bos(self) -> int:
        """The id of the first special token. Raises UserError where there are none."""
        if not self.specials:
            raise UserError("this tokenizer has one id a character and no token that begins a document or a chat")
        return self.first_special

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, specials: Sequence[str], pattern: str = SPLIT_PATTERN
    ) -> "Tokenizer":
        """Learn `vocab_size` tokens, the special ones included. The same texts give the same tokenizer.

        Raises UserError if vocab_size is too small for the bytes and specials, or larger than the text can fill.
        """
        smallest = 256 + len(specials)
        if vocab_size < smallest:
            raise UserError(
                f"a vocabulary of {vocab_size} is too small: 256 bytes and {len(specials)} special tokens "
                f"take {smallest}; choose a larger --vocab_size"
            )
        wanted = vocab_size - len(specials)
        pieces = (piece for text in texts for piece in _pieces(_valid(text)))
        learner = rustbpe.Tokenizer()  # type: ignore[attr-defined]
        learner.train_from_iterator(pieces, vocab_size=wanted + SPARE_MERGES, pattern=pattern)
        tokens = list(dict.fromkeys(bytes(token) for token, _ in learner.get_mergeable_ranks()))[:wanted]
        if len(tokens) < wanted:
            raise UserError(
                f"the text is too short or too uniform for a vocabulary of {vocab_size}: it has no more pairs after "
                f"{len(tokens) - 256} merges; use more text or --vocab_size={len(tokens) + len(specials)}"
            )
        return cls({token: rank for rank, token in enumerate(tokens)}, specials, pattern)

    @classmethod
    def characters(cls, text: str) -> "Tokenizer":
        """One id for each character that occurs, in the order of their code points, as in nanoGPT."""
        return cls({character.encode("utf-8"): id for id, character in enumerate(sorted(set(text)))}, [], None)

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read what `save` wrote, or one of the files that `foreign_tokenizers` knows.

        Raises UserError, naming the file, when it is missing, incomplete or of another kind.
        """
        path = Path(folder) / "tokenizer.json"
        remedy = "run python -m scripts.tok_train, with the --dataset that is to be trained on"
        content: dict[str, Any] = read_json(path, remedy) if path.exists() else {"model": None}
        if "model" in content:  # as in Hugging Face's tokenizer.json
            vocabulary = foreign_tokenizers.read(Path(folder))
            if vocabulary is None:
                raise UserError(f"there is no tokenizer at {path}; {remedy}")
            tokens, specials, pattern = vocabulary
            try:
                return cls._checked(tokens, specials, pattern)
            except (ValueError, TypeError) as error:
                raise UserError(f"the tokenizer in {folder} is in an unknown format: {error}") from None
        if content.get("format") != FORMAT:
            raise UserError(
                f"{path} is not a tokenizer: its format is {content.get('format')!r}, expected {FORMAT!r}; {remedy}"
            )
        try:
            tokens = [token.encode("latin-1") for token in content["ranks"]]
            tokenizer = cls._checked(tokens, content["specials"], content["pattern"])
            if tokenizer.hash != content["hash"]:
                raise ValueError("its content does not have the hash it states")
            return tokenizer
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            raise UserError(f"the tokenizer {path} is damaged: {reason}; {remedy}") from None

    @classmethod
    def _checked(cls, tokens: Sequence[bytes], specials: Sequence[str], pattern: str | None) -> "Tokenizer":
        _check_pattern(pattern)
        return cls({token: rank for rank, token in enumerate(tokens)}, specials, pattern)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, from which `load` reads everything, and token_bytes.json, a list for other programs.

        In tokenizer.json the token of rank i is the i-th string, with one character (U+0000 to U+00FF) per byte.
        The token_bytes.pt of an earlier tokenizer, as the original nanochat writes it, is deleted.
        """
        (Path(folder) / "token_bytes.pt").unlink(missing_ok=True)
        write_text(Path(folder) / "token_bytes.json", json.dumps(self.token_bytes) + "\n")
        content = {
            "format": FORMAT,
            "hash": self.hash,
            "pattern": self.pattern,
            "pattern_version": self.pattern_version,  # for readers; loading uses the pattern itself
            "specials": list(self.specials),
            "ranks": [token.decode("latin-1") for token in self.tokens],
        }
        write_text(Path(folder) / "tokenizer.json", json.dumps(content, indent=1) + "\n")

    def encode(self, text: str, prepend: str | int | None = None, append: str | int | None = None) -> list[int]:
        """The ids of a text, between optional special tokens given by name or id.

        Half a surrogate pair, which UTF-8 cannot hold, is encoded as U+FFFD. Raises UserError for a character that a
        character tokenizer does not have, and for a text that another program's pattern cannot split.
        """
        if self._bpe is None:
            ids = self._encode_characters(text)
        else:
            with _no_panic():
                ids = [id for piece in _pieces(text) for id in self._bpe.encode_ordinary(piece)]
        return self._ends(prepend) + ids + self._ends(append)

    def encode_batch(self, texts: Sequence[str], prepend: str | int | None = None) -> list[list[int]]:
        """`encode` for many texts at once, on several threads."""
        if self._bpe is None:
            return [self.encode(text, prepend) for text in texts]
        pieces = [_pieces(text) for text in texts]
        with _no_panic():
            encoded = iter(self._bpe.encode_ordinary_batch([piece for text in pieces for piece in text], num_threads=4))
        return [self._ends(prepend) + [id for _ in text for id in next(encoded)] for text in pieces]

    def encode_arrays(self, texts: Sequence[str], prepend: str | int | None = None) -> "list[np.ndarray]":
        """`encode` for many texts, as int32 arrays: a third faster, and other threads run meanwhile."""
        import numpy as np  # here, so that a script that only reads its flags does not wait for it

        def arrays(text: str) -> "list[np.ndarray]":
            if self._bpe is None:
                return [np.array(self._encode_characters(text), np.int32)]
            with _no_panic():
                return [self._bpe.encode_to_numpy(piece, disallowed_special=()) for piece in _pieces(_valid(text))]

        front = np.array(self._ends(prepend), np.int32)
        return [np.concatenate([front, *arrays(text)], dtype=np.int32) for text in texts]

    def decode(self, ids: Iterable[int], cut_off: bool = False) -> str:
        """The text of some ids, special tokens as their names; bytes that are not UTF-8 become U+FFFD.

        cut_off: the text ends in the middle, perhaps of a character, whose beginning is then left out.
        """
        return utf8_decoder().decode(self.decode_bytes(ids), final=not cut_off)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of some ids. A token may hold a part of a character, so only a whole text is sure to be UTF-8."""
        if self._bpe is None:
            return b"".join(self.tokens[id] for id in ids)
        return self._bpe.decode_bytes(list(ids))

    def special(self, name: str) -> int:
        """The id of a special token. Raises UserError if this tokenizer has no such token."""
        if name not in self.specials:
            raise UserError(f"this tokenizer has no special token {name}; it has {' '.join(self.specials) or 'none'}")
        return self.specials[name]

    def has_special(self, name: str) -> bool:
        return name in self.specials

    def pickled(self) -> bytes:
        """The original nanochat's tokenizer.pkl, or nanoGPT's meta.pkl for a character tokenizer."""
        if self._bpe is not None:
            return pickles.dump(self._bpe)  # pickled as its settings
        itos = dict(enumerate(token.decode("utf-8") for token in self.tokens))
        return pickles.dump({"vocab_size": len(itos), "itos": itos, "stoi": self._characters})

    def _encode_characters(self, text: str) -> list[int]:
        try:
            return [self._characters[character] for character in text]
        except KeyError as error:
            raise UserError(
                f"the character {error.args[0]!r} is none of the {self.vocab_size} that this model knows; leave it out"
            ) from None

    def _ends(self, token: str | int | None) -> list[int]:
        if token is None:
            return []
        return [self.special(token) if isinstance(token, str) else token]


# Characters of every kind, which a pattern must split without losing any.
_PROBE = (
    "It's a naïve café, 12345 हिन्दी ที่นี่ 世界!  \n\r\n\t\u00a0\u2028 👩🏽‍🚀❤️ ½ x² #_$ \0\x1b\ue000 "
    + "a" * 999 + "é" * 99
)  # fmt: skip
_TRY = """
import contextlib, resource, sys, tiktoken
for limit, most in ((resource.RLIMIT_CPU, 5), (resource.RLIMIT_AS, 4 << 30), (resource.RLIMIT_CORE, 0)):
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(limit, (most, most))
pattern, text = sys.stdin.buffer.read().decode().split("\\ufffe")
ranks = {bytes([byte]): byte for byte in range(256)}
try:
    encoding = tiktoken.Encoding("try", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"end": 256})
except ValueError as error:
    sys.exit(print(error) or 1)
if encoding.decode(encoding.encode_ordinary(text)) != text:
    sys.exit(print("it leaves out a part of the text") or 1)
"""


def utf8_decoder() -> codecs.IncrementalDecoder:
    """Tokens are pieces of UTF-8, so that a character may be split over several of them."""
    return codecs.getincrementaldecoder("utf-8")(errors="replace")


def _check_pattern(pattern: object) -> None:
    """Raise ValueError for another program's split pattern that does not compile, or cannot split ordinary text.

    On some patterns the regular-expression engine compiles for minutes, takes all memory, panics, or ends the process,
    so an unknown one is first tried in another process.
    """
    if pattern is None or pattern in (*PATTERNS.values(), foreign_tokenizers.GPT2_PATTERN):
        return
    if not isinstance(pattern, str):
        raise ValueError(f"its split pattern is {type(pattern).__name__}, not text")
    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"its split pattern has {len(pattern):,} characters, expected at most {LONGEST_PATTERN:,}")
    tried = subprocess.run(
        [sys.executable, "-c", _TRY], input=f"{pattern}\ufffe{_PROBE}".encode(), capture_output=True, check=False
    )
    if tried.returncode:
        reason = " ".join(tried.stdout.decode("utf-8", "replace").split()) if tried.returncode == 1 else ""
        reason = reason or "the regular-expression engine fails on it"
        raise ValueError(f"its split pattern {pattern[:60]!r} cannot be used: {reason}")


@contextlib.contextmanager
def _no_panic() -> Iterator[None]:
    """Turn the engine's failure on a text into a UserError: a ValueError, or a panic, which cannot be imported."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException" and "Regex error" not in str(error):
            raise
        raise UserError(
            "the split pattern of this tokenizer cannot split a text (the regular-expression engine gave up); "
            "leave that text out, or use a model with another tokenizer"
        ) from None


def _pieces(text: str) -> list[str]:
    """The text, cut inside white space that is too long for the split pattern."""
    if len(text) <= LONGEST_SPACE:
        return [text]
    runs = re.finditer(r"\s+", text)
    cuts = [cut for run in runs for cut in range(run.start() + LONGEST_SPACE, run.end(), LONGEST_SPACE)]
    return [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def _valid(text: str) -> str:
    """The text with lone surrogates replaced, as tiktoken does it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _content_hash(pattern: str, tokens: Sequence[bytes], specials: Sequence[str]) -> str:
    """sha256, in hex, of everything that decides the ids; each part with its length, so that no two contents agree."""
    digest = hashlib.sha256()
    for part in [pattern.encode("utf-8"), *tokens, b"specials", *(name.encode("utf-8") for name in specials)]:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
