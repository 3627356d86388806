"""Pages for browsers: links that hold behind any proxy, and one navigation."""

from collections.abc import Sequence
from html import escape

from starlette.requests import Request
from starlette.responses import Response

from nanochat.web.files import REVALIDATE, answer, once
from nanochat.web.http.front import place

PAGES = ((".", "Chat"), ("docs", "API"))  # app.state.pages: the path and the name of every page, in order

HEAD = """<div class="bar">
        <img class="logo" src="{base}static/logo.svg" alt="" width="26" height="26" />
        <span class="brand">nanochat</span>
        <button type="button" class="icon-button" id="close-sidebar" aria-label="Close sidebar" title="Close sidebar"
          data-icon="sidebar"></button>
      </div>
      <nav class="pages" aria-label="Pages">LINKS</nav>"""


def page(html: str, request: Request, here: str, **fields: str) -> Response:
    """A page whose links are right wherever the client sees it.

    `<!-- navigation -->` becomes the head of the sidebar: links to the app's pages, of which `here` is this one's path.
    `{name}` becomes what `fields` has under that name, as it stands. Files come from where browsers keep them for good.
    """
    html = html.replace("<!-- navigation -->", _navigation(request.app.state.pages, here))
    html = request.app.state.files.linked(html)
    for name, value in {**fields, "base": place(request).base}.items():
        html = html.replace(f"{{{name}}}", value)
    return answer(request, once(html, "text/html"), REVALIDATE, vary="Accept, Accept-Encoding")


def _navigation(pages: Sequence[tuple[str, str]], here: str) -> str:
    links = (
        f'<a href="{{base}}{escape(path)}"{" aria-current=page" if path == here else ""}>{escape(name)}</a>'
        for path, name in pages
    )
    return HEAD.replace("LINKS", "".join(links))
