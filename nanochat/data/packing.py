"""Fill rows of a fixed length with documents: the longest that fits, again and again (best fit)."""

from bisect import bisect_right, insort
from dataclasses import dataclass

Document = tuple[list[int], list[int]]  # token ids and their weights; the first id is bos


@dataclass(frozen=True)
class Row:
    """row_len ids and the weight of each as a target."""

    ids: list[int]
    weights: list[int]


def pack(documents: list[Document], row_len: int, cut: bool) -> list[Row]:
    """Pack documents into rows of row_len ids, each row starting with bos. No token is lost.

    Where none of the rest fits: with `cut` the shortest is cut to fill the row and its remainder, with bos in front,
    goes back to the others; without, the row is padded with bos of weight 0. A document longer than a row is cut
    into pieces in either case.
    """
    pieces = [piece for document in documents for piece in _split(document, row_len)]
    waiting = sorted((len(ids), n) for n, (ids, _) in enumerate(pieces) if len(ids) > 1)
    bos = documents[0][0][0] if documents else 0
    rows = []
    while waiting:
        ids: list[int] = []
        weights: list[int] = []
        while waiting and len(ids) < row_len:
            room = row_len - len(ids)
            fits = bisect_right(waiting, (room, len(pieces))) - 1
            if fits >= 0:
                _, n = waiting.pop(fits)
                ids += pieces[n][0]
                weights += pieces[n][1]
            elif cut:
                _, n = waiting.pop(0)
                piece_ids, piece_weights = pieces[n]
                ids += piece_ids[:room]
                weights += piece_weights[:room]
                pieces[n] = (piece_ids[:1] + piece_ids[room:], piece_weights[:1] + piece_weights[room:])
                insort(waiting, (len(pieces[n][0]), n))
            else:
                break
        padding = row_len - len(ids)
        rows.append(Row(ids + [bos] * padding, weights + [0] * padding))
    return rows


def _split(document: Document, row_len: int) -> list[Document]:
    ids, weights = document
    bos, bos_weight = ids[:1], weights[:1]
    step = row_len - 1
    return [
        (bos + ids[start : start + step], bos_weight + weights[start : start + step])
        for start in range(1, max(2, len(ids)), step)
    ]
