"""A page of tables, quotations and pictures, as Markdown and as one HTML file that needs no script and no network.

Any text may come from a model or from somebody else's file: all of them are escaped here.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from nanochat.report.curves import Picture, clean


class Code(str):
    """A text that is shown as it is typed."""


class Strong(str):
    """A text that is to be seen first."""


@dataclass(frozen=True)
class Paragraph:
    lines: Sequence[str]


@dataclass(frozen=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Quote:
    """What somebody wrote: paragraphs, each of pieces that stand behind one another."""

    paragraphs: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side, where there is room."""

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Rule:
    """A line between two things."""


Block = Paragraph | Table | Quote | Pictures | Rule


@dataclass(frozen=True)
class Chapter:
    title: str
    blocks: Sequence[Block]


# ---------------------------------------------------------------- Markdown


def markdown(title: str, lead: Sequence[Block], chapters: Sequence[Chapter]) -> str:
    """The page as Markdown; its pictures are files named <name>.svg beside it."""
    parts = [f"# {title}", *map(_markdown, lead)]
    for chapter in chapters:
        parts += [f"## {chapter.title}", *map(_markdown, chapter.blocks)]
    return "\n\n".join(parts) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Paragraph):
        return "  \n".join(_cell(line) for line in block.lines)
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Quote):
        said = "\n\n".join("".join(map(_span, pieces)) for pieces in block.paragraphs)
        return "\n".join(f"> {line}".rstrip() for line in said.split("\n"))
    if isinstance(block, Pictures):
        images = [f"![{_alternative(picture.text)}]({picture.name}.svg)" for picture in block.pictures]
        return "\n".join([f"**{_cell(block.title)}**", "", *images])
    return "---"


def _table(table: Table) -> str:
    rows = [[_cell(cell) for cell in row] for row in (table.head, *table.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines.insert(1, ["-" * max(width, 3) for width in widths])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """A text within a line. Underscores within a word, as names of stages have, mean nothing and are left alone."""
    plain = clean(text).replace("\n", " ").replace("|", "\\|")
    if isinstance(text, Code):
        return f"`{plain.replace('`', chr(39))}`" if plain else ""
    plain = plain.replace("<", "\\<").replace("`", "\\`")
    return f"**{plain}**" if isinstance(text, Strong) else plain


def _span(text: str) -> str:
    """A piece of a quotation; what a model writes must not be read as Markdown or HTML."""
    plain = clean(text)
    for letter in "\\`*_<":
        plain = plain.replace(letter, "\\" + letter)
    return f"**{plain}**" if isinstance(text, Strong) and plain else plain


def _alternative(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\[]<`*" else letter for letter in clean(text).replace("\n", " "))


# ---------------------------------------------------------------- HTML

# Nothing of the page may run or be fetched, whatever a text in it contains.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
PAGE_STYLE = """
:root{color-scheme:light dark;--page:#fffefc;--raised:#f6f4f0;--text:#23211e;--muted:#5d574f;--line:#ddd7cc;
--link:#2a6656}
@media(prefers-color-scheme:dark){:root{--page:#1c1b1a;--raised:#262423;--text:#ece9e4;--muted:#aca59a;--line:#3a3835;
--link:#7cc7b0}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:60rem;padding:1rem 1rem 4rem;background:var(--page);color:var(--text);
font:1rem/1.55 ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;overflow-wrap:anywhere}
h1{margin:.5rem 0}
h2{margin:2.4rem 0 .8rem;padding-top:.6rem;border-top:1px solid var(--line);font-size:1.3rem}
h3{margin:1.4rem 0 .4rem;font-size:1rem}
p{margin:.6rem 0}
.lead,nav{color:var(--muted)}
a{color:var(--link)}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin:1rem 0;padding:0;list-style:none}
.wide{overflow-x:auto;margin:.8rem 0}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:.32rem .9rem .32rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line);
overflow-wrap:normal}
td{white-space:nowrap}
td:last-child:nth-child(2){white-space:pre-wrap;overflow-wrap:anywhere}
tr>:first-child{position:sticky;left:0;background:var(--page)}
thead th{color:var(--muted);font-weight:600}
tbody th{min-width:6.5rem;font-weight:400}
@media(max-width:34rem){th,td{padding-right:.6rem}}
code{display:inline-block;max-width:100%;padding:.05rem .3rem;border-radius:.25rem;background:var(--raised);
font:.88em ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;white-space:pre-wrap}
blockquote{margin:.8rem 0;padding:.5rem 1rem;border-left:3px solid var(--line);background:var(--raised)}
blockquote p{white-space:pre-wrap}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,25rem),1fr));gap:1rem}
.pictures img{display:block;width:100%;height:auto}
hr{border:0;border-top:1px solid var(--line)}
""".strip().replace("\n", "")


def html(title: str, lead: Sequence[Block], chapters: Sequence[Chapter]) -> str:
    """The page as HTML, pictures and all."""
    links = "".join(f'<li><a href="#c{i}">{_plain(chapter.title)}</a></li>' for i, chapter in enumerate(chapters))
    body = [f"<h1>{_plain(title)}</h1>", *(f'<div class="lead">{_html(block)}</div>' for block in lead)]
    body.append(f'<nav aria-label="Chapters"><ul>{links}</ul></nav>')
    for i, chapter in enumerate(chapters):
        inside = "".join(_html(block, chapter.title) for block in chapter.blocks)
        body.append(f'<section aria-labelledby="c{i}"><h2 id="c{i}">{_plain(chapter.title)}</h2>{inside}</section>')
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{_plain(title)}</title>'
        f"<style>{PAGE_STYLE}</style>"
    )
    lines = "\n".join(body)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{lines}\n</main></body></html>\n'


def _html(block: Block, chapter: str = "") -> str:
    if isinstance(block, Paragraph):
        return f"<p>{'<br>'.join(_marked(line) for line in block.lines)}</p>"
    if isinstance(block, Table):
        head = "".join(f'<th scope="col">{_marked(cell)}</th>' for cell in block.head)
        rows = "".join(_row(row) for row in block.rows)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        # What scrolls must be reached by the keyboard, and then it needs a name.
        return f'<div class="wide" role="group" tabindex="0" aria-label="{_plain(chapter)}">{table}</div>'
    if isinstance(block, Quote):
        said = "".join(f"<p>{''.join(map(_marked, pieces))}</p>" for pieces in block.paragraphs)
        return f"<blockquote>{said}</blockquote>"
    if isinstance(block, Pictures):
        drawn = "".join(map(_image, block.pictures))
        return f'<h3>{_plain(block.title)}</h3><div class="pictures">{drawn}</div>'
    return "<hr>"


def _image(picture: Picture) -> str:
    content = base64.b64encode(picture.svg().encode()).decode()
    return f'<img alt="{_plain(picture.text)}" src="data:image/svg+xml;base64,{content}">'


def _row(row: Sequence[str]) -> str:
    """A row that on a phone may break within a long name, and before what stands in brackets."""
    first, *others = row
    name = _marked(first).replace("_", "_<wbr>")
    cells = "".join(f"<td>{_marked(cell).replace(' (', ' <wbr>(')}</td>" for cell in others)
    return f'<tr><th scope="row">{name}</th>{cells}</tr>'


def _marked(text: str) -> str:
    if isinstance(text, Code) and text:  # each flag for itself, so that no line ends behind its hyphens
        return " ".join(f"<code>{_plain(flag)}</code>" for flag in re.split(" (?=--)", text))
    return f"<strong>{_plain(text)}</strong>" if isinstance(text, Strong) and text else _plain(text)


def _plain(text: str) -> str:
    return escape(clean(text))
