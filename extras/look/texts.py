"""Texts of a file as a model reads them, and files of labelled texts."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nanochat import chat
from nanochat.api import Model
from nanochat.data.documents import decoded, documents
from nanochat.errors import UserError

LONGEST = 256  # tokens of a text that are read


def read(model: Model, path: Path, most: int) -> Iterator[list[int]]:
    """The ids of the file's texts, the first 256 of each, `most` tokens in all. Raises UserError if there are none."""
    left, longest = most, min(LONGEST, model.config.sequence_len)
    for text in documents([path], "text", []):
        ids = [*chat.opening(model.tokenizer), *model.tokenizer.encode(text)][: min(longest, left)]
        if len(ids) > 1:
            yield ids
            left -= len(ids)
        if left < 2:
            return
    if left == most:
        raise UserError(f"{path} has no text of two tokens or more; expected a text or JSONL file with some")


class Labelled(NamedTuple):
    texts: list[str]
    labels: list[str]


def labelled(path: Path) -> Labelled:
    """Texts with labels: JSON lines with "text" and "label", or CSV with columns of these names."""
    content = "".join(decoded(path))
    rows = _of_csv(path, content) if path.suffix.lower() in (".csv", ".tsv") else _of_lines(path, content)
    if len({label for _, label in rows}) < 2:
        raise UserError(f"{path} has {len(rows)} texts and fewer than two labels; a probe has to tell labels apart")
    return Labelled([text for text, _ in rows], [label for _, label in rows])


def _of_csv(path: Path, content: str) -> list[tuple[str, str]]:
    reader = csv.DictReader(io.StringIO(content), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    names = reader.fieldnames or []
    if not {"text", "label"} <= set(names):
        begins = ", ".join(names) or "nothing"
        raise UserError(f"{path} begins with {begins}; expected a first line with the columns text and label")
    return [_checked(row.get("text"), row.get("label"), f"{path}:{number}") for number, row in enumerate(reader, 2)]


def _of_lines(path: Path, content: str) -> list[tuple[str, str]]:
    rows = []
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise UserError(f'{path}:{number} is not a JSON object; expected lines like {{"text": "…", "label": "…"}}')
        rows.append(_checked(row.get("text"), row.get("label"), f"{path}:{number}"))
    return rows


def _checked(text: object, label: object, where: str) -> tuple[str, str]:
    if not isinstance(text, str) or not text or not isinstance(label, str | int | float) or label == "":
        raise UserError(f"{where} lacks a text or a label; expected both")
    return text, str(label)
