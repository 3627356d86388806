"""Tokenizer files of other programs as a plain vocabulary: nanochat's pickle, Hugging Face's BPE, nanoGPT's characters.

Only tokenizers that give the same ids here are accepted: byte-level BPE without normalization, with merges in the order
of their ids and the special tokens behind them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nanochat import pickles
from nanochat.errors import UserError
from nanochat.paths import check_regular, read_json

# GPT-2's split (Radford et al. 2019), called ByteLevel in Hugging Face's files.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# The files of a tokenizer, in order of preference: of transformers, GPT-2, nanochat, nanoGPT's characters.
FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.pkl",), ("meta.pkl",))
LENGTHS = "token_bytes.pt"  # beside the original's tokenizer: how many bytes each token counts for


class Vocabulary(NamedTuple):
    """tokens[i] are the bytes of id i; specials take the ids behind; pattern None: one token per character."""

    tokens: list[bytes]
    specials: list[str]
    pattern: str | None


def holds(folder: Path) -> bool:
    """Whether a folder has a file that `read` or `Tokenizer.load` would read."""
    return any((folder / name).exists() for name, *_ in FILES)


def read(folder: Path) -> Vocabulary | None:
    """The vocabulary in the first of FILES that a folder has; None if it has none of them.

    Raises UserError, naming the file, for one that is damaged, unsafe or of another kind.
    """
    path = next((folder / name for name, *_ in FILES if (folder / name).exists()), None)
    if path is None:
        return None
    for name in (path.name, "merges.txt"):
        check_regular(folder / name)
    readers = {"tokenizer.json": _hugging_face, "vocab.json": _vocab_and_merges, "tokenizer.pkl": _nanochat,
               "meta.pkl": _characters}  # fmt: skip
    try:
        return readers[path.name](path)
    except (AttributeError, LookupError, TypeError, ValueError, OSError) as error:  # a shape that no such file has
        raise UserError(f"{path} is damaged or of another kind ({' '.join(str(error).split())[:200]})") from None


class _Encoding:
    """Stands for tiktoken's class while its pickle is read, and only keeps what it was made from."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _nanochat(path: Path) -> Vocabulary:
    content = pickles.load(path, {"tiktoken.core.Encoding": _Encoding})
    state = content.state if isinstance(content, _Encoding) else None
    if not isinstance(state, dict) or not {"pat_str", "mergeable_ranks", "special_tokens"} <= state.keys():
        raise UserError(f"{path} holds no tiktoken Encoding with its ranks; expected the tokenizer.pkl of nanochat")
    ranks, special = state["mergeable_ranks"], state["special_tokens"]
    if not (_maps(ranks, bytes) and _maps(special, str) and isinstance(state["pat_str"], str)):
        raise UserError(f"{path} is damaged: its ranks must map bytes, and its special tokens strings, to numbers")
    return _ordered(ranks, special, state["pat_str"], path)


def _characters(path: Path) -> Vocabulary:
    content = pickles.load(path)
    itos = content.get("itos") if isinstance(content, dict) else None
    if not isinstance(itos, dict) or not itos or set(itos) != set(range(len(itos))):
        raise UserError(f"{path} has no itos that maps 0, 1, 2, ... to characters; expected nanoGPT's meta.pkl")
    characters = [itos[i] for i in range(len(itos))]
    if not all(isinstance(c, str) and len(c) == 1 for c in characters):
        raise UserError(f"{path}: its itos holds more than single characters; expected nanoGPT's meta.pkl")
    return Vocabulary([c.encode("utf-8") for c in characters], [], None)


def _hugging_face(path: Path) -> Vocabulary:
    content = read_json(path)
    model = content.get("model") or {}
    if content.get("normalizer"):
        raise UserError(f"{path} changes texts before it splits them ({content['normalizer'].get('type')}); "
                        "only tokenizers without a normalizer are known")  # fmt: skip
    if model.get("type") == "WordLevel":
        return _one_a_character(model, path)
    if odd := [name for name in ("continuing_subword_prefix", "end_of_word_suffix") if model.get(name)]:
        raise UserError(f"{path} has a {odd[0]}, which is not known; expected byte-level BPE as GPT-2 has it")
    if model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise UserError(f"{path} is a tokenizer of type {model.get('type')!r}; expected byte-level BPE")
    pattern = _split_pattern(content.get("pre_tokenizer") or {}, path)
    added = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model.get("merges", [])]
    return _byte_level(model["vocab"], merges, added, pattern, path)


def _one_a_character(model: dict, path: Path) -> Vocabulary:
    """A character model as it is written for transformers: every word is one character."""
    vocab: Any = model.get("vocab")
    if not _maps(vocab, str) or any(len(word) != 1 for word in vocab) or sorted(vocab.values()) != [*range(len(vocab))]:
        raise UserError(f"{path} is a tokenizer of whole words; expected byte-level BPE, or single characters")
    return Vocabulary([word.encode("utf-8") for word in sorted(vocab, key=vocab.__getitem__)], [], None)


def _vocab_and_merges(path: Path) -> Vocabulary:
    lines = path.with_name("merges.txt").read_text(encoding="utf-8-sig").split("\n")
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    return _byte_level(read_json(path), merges, {}, GPT2_PATTERN, path)


def _split_pattern(step: dict, path: Path) -> str:
    """The regular expression of a pre-tokenizer: ByteLevel by itself, or Split with one and ByteLevel behind."""
    steps = step.get("pretokenizers", [step]) if step.get("type") == "Sequence" else [step]
    kinds = [each.get("type") for each in steps]
    first, last = steps[0], steps[-1]
    if not last.get("add_prefix_space"):
        if kinds == ["ByteLevel"] and last.get("use_regex", True):
            return GPT2_PATTERN
        is_plain = first.get("behavior") == "Isolated" and not first.get("invert") and not last.get("use_regex", True)
        if kinds == ["Split", "ByteLevel"] and is_plain and (pattern := first.get("pattern", {}).get("Regex")):
            return pattern
    raise UserError(f"{path} splits texts by {', '.join(map(str, kinds))} in a way that is not supported; expected "
                    "ByteLevel without a prefix space, by itself or behind one Split")  # fmt: skip


def _byte_level(
    vocab: dict[str, int], merges: Sequence[Sequence[str]], added: dict[str, int], pattern: str, path: Path
) -> Vocabulary:
    """Tokens spelled with one printable character per byte -> the vocabulary."""
    spelled = {char: bytes([byte]) for byte, char in enumerate(byte_characters())}
    ranks: dict[bytes, int] = {}
    last = -1
    for token in [*spelled, *("".join(pair) for pair in merges)]:
        rank = vocab.get(token)
        if rank is None or not all(char in spelled for char in token):
            raise UserError(f"{path} is not byte-level BPE: its vocabulary has no token {token!r}")
        if len(token) > 1 and rank <= last:
            raise UserError(f"{path}: its merges are not in the order of their ids (at {token!r}), as they have to be")
        last = rank if len(token) > 1 else last
        ranks[b"".join(spelled[char] for char in token)] = rank
    known = set(ranks.values())
    special = {name: id for name, id in {**vocab, **added}.items() if id not in known}
    return _ordered(ranks, special, pattern, path)


def byte_characters() -> list[str]:
    """The printable character that stands for each byte in GPT-2's files: its own, or one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(rest)) for byte in range(256)]


def _ordered(ranks: Mapping[bytes, int], special: Mapping[str, int], pattern: str, path: Path) -> Vocabulary:
    tokens = sorted(ranks, key=ranks.__getitem__)
    specials = sorted(special, key=special.__getitem__)
    if early := [name for name in specials if special[name] < max(ranks.values(), default=0)]:
        raise UserError(
            f"{path} gives its special token {early[0]!r} the id {special[early[0]]}, among those of its text; only "
            "tokenizers whose special tokens have the last ids can be read, so this model cannot be used here"
        )
    ids = [*(ranks[token] for token in tokens), *(special[name] for name in specials)]
    if ids != list(range(len(ids))):
        wrong = next(i for i, id in enumerate(ids) if i != id)
        found = f"gives the id {ids[wrong]} to two tokens" if ids[wrong] < wrong else f"has no token of the id {wrong}"
        raise UserError(f"{path} {found}; only tokenizers whose ids are 0, 1, 2, ... without a gap can be read")
    return Vocabulary(tokens, specials, pattern)


def _maps(value: object, kind: type) -> bool:
    """Whether this is a dict from `kind` to whole numbers."""
    return isinstance(value, dict) and all(isinstance(k, kind) and type(v) is int for k, v in value.items())
