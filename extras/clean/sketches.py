"""MinHash sketches: finding similar documents without comparing every pair.

A document's pieces are its runs of five words, ignoring case, punctuation and white space. The similarity of two
documents is the fraction of their pieces that both share (Jaccard). It is estimated by the fraction of 128 minhash
numbers that agree, give or take 0.04 (Broder 1997). Documents that agree in all five numbers of one of 25 bands meet in
a place (locality-sensitive hashing): 0.988 of the pairs with similarity 0.7 do, 0.9999 with 0.8, 0.0003 with 0.1. To
compare documents that met, one byte of each number is kept (b-bit minwise hashing, Li & König 2010).
"""

import hashlib
import re

import numpy as np

from extras.clean import INSTALL
from extras.clean.words import NO_SPACES
from nanochat.errors import UserError

PIECE = 5  # words, as in FineWeb (Penedo et al. 2024)
NUMBERS = 128
BANDS = 25
ROWS = 5  # numbers per band
MEETINGS = BANDS + 1  # places of a document: one per band, and one for its whole text
EXACT = NUMBERS + 1  # the agreement of texts that differ in case and white space only
LONGEST = 1 << 20  # characters of a document that are used

_HASH = 8  # bytes of a text's own hash
WIDTH = _HASH + NUMBERS  # bytes of a sketch
_WORD = re.compile(rf"[^\W{NO_SPACES}]+|[{NO_SPACES}]")  # or one character in scripts without spaces


class Sketcher:
    """Collects documents; `arrays` gives their sketches and meeting places.

    Raises UserError if rensa, which computes MinHash, is not installed.
    """

    def __init__(self) -> None:
        try:
            from rensa import RMinHash  # type: ignore[attr-defined]
        except ImportError:
            raise UserError(f"--dedup needs rensa, which is not installed; {INSTALL}") from None
        self._minhash = RMinHash
        self._hashes: list[bytes] = []
        self._numbers: list[np.ndarray] = []

    def add(self, text: str) -> None:
        """Sketch one more document."""
        plain = " ".join(text.casefold().split())
        words = _WORD.findall(plain[:LONGEST]) or [plain]
        minhash = self._minhash(NUMBERS, 0)
        minhash.update([" ".join(words[start : start + PIECE]) for start in range(max(1, len(words) - PIECE + 1))])
        self._numbers.append(np.array(minhash.digest(), dtype=np.uint32))
        self._hashes.append(hashlib.blake2b(plain.encode(), digest_size=_HASH).digest())

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Sketches (n, WIDTH) uint8, a row a document, and places (2, n * MEETINGS) uint64, sorted.

        A column of the second is a place, uniform over 64 bits, and the row of a document at that place.
        """
        n = len(self._numbers)
        numbers = np.array(self._numbers, dtype=np.uint32).reshape(n, NUMBERS)
        hashes = np.frombuffer(b"".join(self._hashes), dtype=np.uint8).reshape(n, _HASH)
        sketches = np.concatenate([hashes, (numbers & 0xFF).astype(np.uint8)], axis=1)
        bands = numbers[:, : BANDS * ROWS].astype(np.uint64).reshape(n, BANDS, ROWS)
        salt = np.random.default_rng(0).integers(2**63, size=(BANDS, ROWS), dtype=np.uint64) * 2 + 1
        places = np.concatenate([_mixed((bands * salt).sum(axis=2)), hashes.view(np.uint64)], axis=1).reshape(-1)
        rows = np.repeat(np.arange(n, dtype=np.uint64), MEETINGS)
        order = np.lexsort((rows, places))
        return sketches, np.stack([places[order], rows[order]])


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Mix the bits so that each affects all of the result (the finaliser of splitmix64, Steele et al. 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def agreement(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How many of the NUMBERS agree in each row of two (n, WIDTH) arrays; EXACT if the texts are the same."""
    same = first == second
    return np.where(same.all(axis=1), EXACT, same[:, _HASH:].sum(axis=1))


def needed(similarity: float) -> float:
    """The expected agreement for a similarity; bytes of different numbers agree once in 256."""
    return NUMBERS * (similarity + (1 - similarity) / 256) if similarity < 1 else EXACT


def similarity(agreement: int) -> float:
    """The similarity for an agreement, 0 to 1."""
    return max(0.0, (min(agreement, NUMBERS) / NUMBERS - 1 / 256) / (1 - 1 / 256))
