"""The report on a model's inside: Markdown, its pictures, JSON, and one HTML page that needs no other file."""

from collections.abc import Mapping
from pathlib import Path

from extras.look.chapter import Chapter
from nanochat import paths
from nanochat.api import Model
from nanochat.log import strict_json
from nanochat.report import page
from nanochat.report.card import escaped


def write(model: Model, chapters: Mapping[str, Chapter], folder: Path) -> Path:
    """Write look.md with its pictures, look.json and look.html to the folder. Returns the page's path."""
    title = f"Inside {model.name}"
    parts = [f"# {escaped(title)}", escaped(f"{model.serving}.")]
    parts += [f"## {each.title}\n\n{each.text}" for each in chapters.values()]
    text = "\n\n".join(parts) + "\n"
    pictures = {f"{picture.name}.svg": picture.svg for each in chapters.values() for picture in each.pictures}
    data = {"model": str(model.serving), **{name: each.data for name, each in chapters.items()}}
    files = {**pictures, "look.md": text, "look.json": strict_json(data), "look.html": page.html(text, pictures, title)}
    for name, content in files.items():
        paths.write_text(folder / name, content)
    return folder / "look.html"
