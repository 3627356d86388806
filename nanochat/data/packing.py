"""Fill rows of a fixed length with documents, without padding (best fit).

Every row starts at the beginning of a document, so the model never sees half a context. A row takes the longest waiting
document that fits, then the longest that fits into the rest, and so on. When none fits any more, text is cut: the
shortest document gives up its beginning to fill the row exactly, and its end waits for another row.
"""

from bisect import bisect_right, insort
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Document = tuple[Sequence[int] | np.ndarray, Sequence[int] | np.ndarray]  # ids, the first bos, and their weights


class Row(NamedTuple):
    """row_len ids, and the weight of each one's loss as a target; both int32."""

    ids: np.ndarray
    weights: np.ndarray


def pack(documents: Sequence[Document], row_len: int, cut: bool, most: int | None = None) -> list[Row]:
    """Pack documents into rows of row_len ids, each row starting with bos, at most `most` in a row. No token is lost.

    If no waiting document fits: with `cut` the shortest is cut to fill the row, and its remainder waits with a bos of
    its own; without, the row is padded with bos of weight 0. A document longer than a row is always cut into pieces.
    """
    pieces = [piece for document in documents for piece in _split(document, row_len)]
    # Sorted by length, then by number, so that the result depends on the documents alone.
    waiting = sorted((piece.shape[1], n) for n, piece in enumerate(pieces) if piece.shape[1] > 1)
    rows = []
    while waiting:
        parts: list[np.ndarray] = []
        room = row_len
        while waiting and room and (most is None or len(parts) < most):
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
