"""Reports as one HTML page that needs no script, no network and no other file."""

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from nanochat import paths
from nanochat.report.curves import Picture
from nanochat.report.markup import Html, tag

# The policy: nothing in the page may run or be fetched, whatever a text in it contains.
SHELL = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">HEAD
<style>
:root { color-scheme: light dark; --line: light-dark(#ddd7cc, #3a3835); --raised: light-dark(#f6f4f0, #262423) }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; overflow-wrap: anywhere; font: 1rem/1.55 system-ui, sans-serif;
  background: light-dark(#fffefc, #1c1b1a); color: light-dark(#23211e, #ece9e4) }
h1 + p, th { color: light-dark(#5d574f, #aca59a) }
h2 { margin: 2.4rem 0 .8rem; padding-top: .6rem; border-top: 1px solid var(--line); font-size: 1.3rem }
a { color: light-dark(#2a6656, #7cc7b0) }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; padding: 0; list-style: none }
.table { overflow-x: auto }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums }
th, td { padding: .32rem .9rem .32rem 0; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap }
td:last-child:nth-child(2) { white-space: normal }
pre, blockquote { margin: .8rem 0; padding: .5rem 1rem; background: var(--raised); white-space: pre-wrap }
pre { font: .88rem/1.5 ui-monospace, Menlo, Consolas, monospace }
blockquote { border-left: 3px solid var(--line); white-space: normal }
hr { border: 0; border-top: 1px solid var(--line) }
p:has(> img) { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); gap: 1rem }
p > img + br { display: none }
img { width: 100% }
STYLE</style></head>
<body><main>
BODY
</main></body></html>
"""


def html(markdown: str, pictures: Mapping[str, str], title: str = "Report card") -> str:
    """The page of a Markdown text. pictures: file name -> SVG, for the images in the text."""
    renderer, tokens = _parsed(markdown, pictures)
    links = []
    for token, following in pairwise(tokens):
        if token.type == "heading_open" and token.tag == "h2":
            token.attrSet("id", f"chapter-{len(links)}")
            links.append(f'<li><a href="#chapter-{len(links)}">{escape(following.content)}</a></li>')
    body = _rendered(renderer, tokens)
    body = body.replace("<h2", f'<nav aria-label="Chapters"><ul>{"".join(links)}</ul></nav>\n<h2', 1)
    return _page(tag("title", title), "", body)


def card(front: Html, head: Html, markdown: str, pictures: Mapping[str, str], shown: Sequence[str]) -> str:
    """The page of the report card: the front, then the chapters of the Markdown text folded, but those of `shown`."""
    renderer, tokens = _parsed(markdown, pictures)
    starts = [i for i, token in enumerate(tokens) if token.type == "heading_open" and token.tag == "h2"]
    folded = []
    for start, end in zip(starts, [*starts[1:], len(tokens)], strict=True):
        title = tokens[start + 1].content
        if title not in shown:
            inner = _rendered(renderer, tokens[start + 3 : end])
            folded.append(f"<details><summary><h3>{escape(title)}</h3></summary>\n{inner}</details>")
    details = f'<section class="rest"><h2>In detail</h2>\n{"".join(folded)}</section>' if folded else ""
    style = Path(__file__).with_name("card.css").read_text(encoding="utf-8")
    return _page(head, style, f"{front}\n{details}")


def _parsed(markdown: str, pictures: Mapping[str, str]) -> tuple[MarkdownIt, list[Token]]:
    """A text's tokens, with the pictures in place of their files' names, and what renders them."""
    renderer = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable("table")
    tokens = renderer.parse(markdown)
    for token in tokens:
        for child in token.children or []:
            if child.type == "image":
                child.attrSet("src", inlined(pictures.get(str(child.attrs["src"]), "")))
    return renderer, tokens


def _rendered(renderer: MarkdownIt, tokens: Sequence[Token]) -> str:
    body = renderer.renderer.render(tokens, renderer.options, {})
    # A region that scrolls has to be reachable by keyboard. No text can contain these tags: they are escaped there.
    body = body.replace("<table>", '<div class="table" role="group" tabindex="0" aria-label="Table"><table>')
    return body.replace("</table>", "</table></div>")


def _page(head: str, style: str, body: str) -> str:
    parts = {"HEAD": head, "STYLE": style, "BODY": body}
    return re.sub("HEAD|STYLE|BODY", lambda place: parts[place[0]], SHELL)  # at once: a text may contain such a word


def inlined(svg: str) -> str:
    """The address of a picture that is in the page itself."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def write(folder: Path, markdown: str, pictures: Sequence[Picture], title: str) -> None:
    """Write a report to a folder: report.md, report.html, and the pictures of both."""
    files = {f"{picture.name}.svg": picture.svg for picture in pictures}
    for name, content in {**files, "report.md": markdown, "report.html": html(markdown, files, title)}.items():
        paths.write_text(folder / name, content)
