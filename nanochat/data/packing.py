"""Fill rows of a fixed length with documents: the longest that fits, again and again (best fit)."""

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Document = tuple[Sequence[int] | np.ndarray, Sequence[int] | np.ndarray]  # ids, the first bos, and their weights


@dataclass(frozen=True)
class Row:
    """row_len ids and the weight of each as a target, both int32."""

    ids: np.ndarray
    weights: np.ndarray


def pack(documents: Sequence[Document], row_len: int, cut: bool) -> list[Row]:
    """Pack documents into rows of row_len ids, each row starting with bos. No token is lost.

    Where none of the rest fits: with `cut` the shortest is cut to fill the row and its remainder, with bos in front,
    goes back to the others; without, the row is padded with bos of weight 0. A document longer than a row is cut
    into pieces in either case.
    """
    pieces = [piece for document in documents for piece in _split(document, row_len)]
    waiting = sorted((piece.shape[1], n) for n, piece in enumerate(pieces) if piece.shape[1] > 1)
    rows = []
    while waiting:
        parts: list[np.ndarray] = []
        room = row_len
        while waiting and room:
            fits = bisect_right(waiting, (room, len(pieces))) - 1
            if fits >= 0:
                _, n = waiting.pop(fits)
                parts.append(pieces[n])
            elif cut:
                _, n = waiting.pop(0)
                parts.append(pieces[n][:, :room])
                pieces[n] = np.concatenate([pieces[n][:, :1], pieces[n][:, room:]], axis=1)
                insort(waiting, (pieces[n].shape[1], n))
            else:
                break
            room -= parts[-1].shape[1]
        padding = np.array([[parts[0][0, 0]], [0]], np.int32).repeat(room, axis=1)
        rows.append(Row(*np.concatenate([*parts, padding], axis=1)))
    return rows


def _split(document: Document, row_len: int) -> list[np.ndarray]:
    """The pieces of a document, each no longer than a row: (2, length), the ids above their weights."""
    whole = np.array(document, np.int32)
    if whole.shape[1] <= row_len:
        return [whole]
    starts = range(1, whole.shape[1], row_len - 1)
    return [np.concatenate([whole[:, :1], whole[:, start : start + row_len - 1]], axis=1) for start in starts]
