"""Pages for browsers: links that hold behind any proxy, and what all of them share."""

from collections.abc import Sequence
from html import escape

from starlette.requests import Request
from starlette.responses import Response

from nanochat.web.files import REVALIDATE, answer, once
from nanochat.web.http.front import place

PAGES = ((".", "Chat"), ("docs", "API"))  # app.state.pages: the path and the name of every page, in order

# What every page has: a comment of that name becomes the text.
SHARED = {
    "head": """<meta charset="utf-8" />
    <meta name="viewport" content="width=device-width, initial-scale=1, interactive-widget=resizes-content" />
    <meta name="color-scheme" content="light dark" />
    <link rel="icon" href="{base}static/logo.svg" type="image/svg+xml" />
    <link rel="stylesheet" href="{base}static/style.css" />
    <script src="{base}static/theme.js"></script>""",
    "navigation": """<div class="bar">
        <img class="logo" src="{base}static/logo.svg" alt="" width="26" height="26" />
        <span class="brand">nanochat</span>
        <button type="button" class="icon-button" id="close-sidebar" aria-label="Close sidebar" title="Close sidebar"
          data-icon="sidebar"></button>
      </div>
      <nav class="pages" aria-label="Pages"><!-- links --></nav>""",
    "open sidebar": """<button type="button" class="icon-button" id="open-sidebar" aria-label="Open sidebar"
          title="Open sidebar" aria-expanded="false" aria-controls="sidebar" data-icon="menu"></button>""",
}


def page(html: str, request: Request, here: str, **fields: str) -> Response:
    """A page whose links are right wherever the client sees it.

    `<!-- name -->` becomes the text of SHARED; its links are the app's pages, of which `here` is this one's path.
    `{name}` becomes what `fields` has under that name, as it stands. Files come from where browsers keep them for good.
    """
    for name, text in {**SHARED, "links": _links(request.app.state.pages, here)}.items():
        html = html.replace(f"<!-- {name} -->", text)
    html = request.app.state.files.linked(html)
    for name, value in {**fields, "base": place(request).base}.items():
        html = html.replace(f"{{{name}}}", value)
    return answer(request, once(html, "text/html"), REVALIDATE, vary="Accept, Accept-Encoding")


def _links(pages: Sequence[tuple[str, str]], here: str) -> str:
    return "".join(
        f'<a href="{{base}}{escape(path)}"{" aria-current=page" if path == here else ""}>{escape(name)}</a>'
        for path, name in pages
    )
