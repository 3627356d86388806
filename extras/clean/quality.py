"""Is a page prose? The rules of Gopher and of C4, which look at a text's form alone.

Gopher: Rae et al. 2021, "Scaling Language Models", https://arxiv.org/abs/2112.11446, section A.1.1 and table A1.
C4: Raffel et al. 2020, "Exploring the Limits of Transfer Learning", https://arxiv.org/abs/1910.10683, section 2.2.
"""

import re
from collections.abc import Sequence

import numpy as np

_STOP_WORD = re.compile(r"\b(?:the|be|to|of|and|that|have|with)\b", re.IGNORECASE)

# ---------------------------------------------------------------- Gopher


def gopher(text: str, english: bool = True) -> str | None:
    """The first of Gopher's rules that a text breaks, in a few words; None when it breaks none.

    A word is what stands between white space. `english` asks for two English stop words.
    """
    words = text.split()
    if not 50 <= len(words) <= 100_000:
        return "fewer than 50 or more than 100,000 words"
    letters = sum(map(len, words))
    if not 3 <= letters / len(words) <= 10:
        return "mean length of words outside 3 to 10"
    if max(text.count("#"), text.count("...") + text.count("…")) > 0.1 * len(words):
        return "more than a # or ellipsis in ten words"
    lines = text.splitlines()
    if sum(line.lstrip().startswith(("•", "-", "*")) for line in lines) > 0.9 * len(lines):
        return "more than 90% of lines are bullet points"
    if sum(line.rstrip().endswith(("...", "…")) for line in lines) > 0.3 * len(lines):
        return "more than 30% of lines end in an ellipsis"
    if sum(map(_has_letter, words)) < 0.8 * len(words):
        return "fewer than 80% of words have a letter"
    if english and not _two_stop_words(text):
        return "fewer than two stop words"
    return _repetition(text, words, letters)


def _has_letter(word: str) -> bool:
    return word.isalpha() or any(map(str.isalpha, word))


def _two_stop_words(text: str) -> bool:
    found = (match.group().lower() for match in _STOP_WORD.finditer(text))
    first = next(found, None)
    return any(word != first for word in found)


def _repetition(text: str, words: Sequence[str], letters: int) -> str | None:
    """Table A1. Parts of the characters are taken without white space, for numerator and denominator alike."""
    for unit, parts in (
        ("paragraphs", [part for part in re.split(r"\n\s*\n", text) if part.strip()]),
        ("lines", [line for line in text.splitlines() if line.strip()]),
    ):
        repeats, repeated = _repeated(parts)
        if repeats > 0.30 * len(parts) or repeated > 0.20 * len(text):
            return f"repeated {unit}"
    lengths = np.array([len(word) for word in words])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) for word in words])
    pieces = ids  # the number of the piece of n words that starts at each word; equal pieces have equal numbers
    for n in range(2, 11):
        pieces, first, count = _numbered(pieces[:-1] * len(ids) + ids[n - 1 :])
        if count.max() == 1:
            return None  # then no longer piece is there twice either
        if n in _MOST_IN_ONE:
            most = _MOST_IN_ONE[n]
            size = (starts[first + n] - starts[first])[count == count.max()].max()
            if count.max() * size > most * letters:
                return f"one piece of {n} words makes up more than {most:.0%}"
        else:
            most = 0.20 - 0.01 * n
            if lengths[_inside_repeats(pieces, first, n)].sum() > most * letters:
                return f"repeated pieces of {n} words make up more than {most:.0%}"
    return None


_MOST_IN_ONE = {2: 0.20, 3: 0.18, 4: 0.16}  # part of the characters by the words in the most frequent piece


def _numbered(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Small numbers in place of keys; and for each number where it stands first and how often it stands."""
    _, first, numbers, count = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    return numbers.reshape(-1), first, count


def _inside_repeats(pieces: np.ndarray, first: np.ndarray, n: int) -> np.ndarray:
    """Which words lie in a piece of n words that has stood before: bool, one a word."""
    again = first[pieces] != np.arange(len(pieces))
    edges = np.zeros(len(pieces) + n, dtype=np.int64)  # +1 where a repeated piece starts, -1 behind its end
    edges[: len(pieces)] += again
    edges[n:] -= again
    return np.cumsum(edges)[: len(pieces) + n - 1] > 0


def _repeated(parts: Sequence[str]) -> tuple[int, int]:
    """How many parts have stood before, and their characters."""
    seen: set[str] = set()
    repeats = characters = 0
    for part in parts:
        if part in seen:
            repeats += 1
            characters += len(part)
        seen.add(part)
    return repeats, characters


# ---------------------------------------------------------------- C4

_ENDS_SENTENCE = (".", "?", "!", '"', "”", "'", "’")
_SENTENCE_END = re.compile(r"[.?!]+[\"'”’)\]]*(?=\s|$)")
_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
_NOTICES = re.compile(r"javascript|terms of use|privacy policy|cookie policy|use(?:s| of)? cookies", re.IGNORECASE)


def c4(text: str) -> tuple[str, int, str | None]:
    """What C4 keeps of a page, how many lines it changes or takes, and why all of the page goes (None: it stays).

    Kept are lines of five words or more that end as a sentence does, without Wikipedia's [1] and without notices of
    cookies and Javascript. Pages with a curly bracket, "lorem ipsum" or fewer than three sentences go. Empty lines
    stay, for they part paragraphs; C4's list of words is a rule of its own here.
    """
    if "{" in text:
        return text, 0, "a curly bracket"
    if "lorem ipsum" in text.lower():
        return text, 0, "lorem ipsum"
    before = text.splitlines()
    lines = [_CITATION.sub("", line) if "[" in line else line for line in before]
    lines = [line if not line.strip() or _is_prose(line.strip()) else None for line in lines]
    kept = [line for line in lines if line is not None]
    sentences = sum(max(1, len(_SENTENCE_END.findall(line))) for line in kept if line.strip())
    if sentences < 3:
        return text, 0, "fewer than three sentences"
    changed = sum(now != line for now, line in zip(lines, before, strict=True))
    return (re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip() if changed else text), changed, None


def _is_prose(line: str) -> bool:
    words = line.split()
    ends = line.endswith(_ENDS_SENTENCE) and not line.endswith("...")
    return ends and len(words) >= 5 and max(map(len, words)) <= 1000 and not _NOTICES.search(line)
