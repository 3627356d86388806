"""Profanity by word list, as in C4 (Raffel et al. 2020, section 2.2): a page with one of the words is dropped."""

import re
from collections.abc import Iterable
from pathlib import Path

from nanochat.errors import UserError

LIST = Path(__file__).with_name("profanity.txt")

# Characters of scripts without spaces between words, for a pattern: Thai, Lao, kana, Chinese characters.
NO_SPACES = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(r"\w+")
_NO_SPACES = re.compile(f"[{NO_SPACES}]")


def load(path: Path) -> tuple[str, ...]:
    """The words and phrases of a list, one per line; # starts a comment. Raises UserError if it has none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the word list {path} ({error}); expected UTF-8, one word per line") from None
    words = {" ".join(line.casefold().split()) for line in lines if not line.lstrip().startswith("#")} - {""}
    if not words:
        raise UserError(f"the word list {path} holds no words; write one per line")
    return tuple(sorted(words))


class Words:
    """Finds words and phrases in text, whole and in any case; those of scripts without spaces anywhere."""

    def __init__(self, entries: Iterable[str]):
        entries = sorted(set(entries))
        self._single = {entry for entry in entries if _WORD.fullmatch(entry) and not _NO_SPACES.search(entry)}
        others = [entry for entry in entries if entry not in self._single]
        self._others = [(entry, _spaced_words(entry), _pattern(entry)) for entry in others]

    def first(self, text: str) -> str | None:
        """A word of the list that is in the text, as the list spells it, or None."""
        text = text.casefold()
        words = set(_WORD.findall(text))
        found = self._single & words
        if found:
            return min(found)
        for entry, needed, pattern in self._others:
            if needed <= words and pattern.search(text):
                return entry
        return None


def _spaced_words(entry: str) -> set[str]:
    return set() if _NO_SPACES.search(entry) else set(_WORD.findall(entry))


def _pattern(entry: str) -> re.Pattern[str]:
    spelled = r"\s+".join(map(re.escape, entry.split()))
    return re.compile(spelled if _NO_SPACES.search(entry) else rf"(?<!\w){spelled}(?!\w)")
