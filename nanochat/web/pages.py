"""Pages for browsers: links that hold behind any proxy, and one navigation."""

from collections.abc import Sequence
from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from nanochat.web.http.front import place

PAGES = ((".", "Chat"), ("docs", "API"))  # app.state.pages: the path and the name of every page, in order


def page(html: str, request: Request, here: str, **fields: str) -> Response:
    """A page whose links are right wherever the client sees it.

    In `html`, `<!-- navigation -->` becomes the links to the app's pages, `here` being the path of this one, and
    `{name}` what `fields` has under that name, as it stands.
    """
    html = html.replace("<!-- navigation -->", _navigation(request.app.state.pages, here))
    for name, value in {**fields, "base": place(request).base}.items():
        html = html.replace(f"{{{name}}}", value)
    return HTMLResponse(html, headers={"Cache-Control": "no-cache", "Vary": "Accept"})


def _navigation(pages: Sequence[tuple[str, str]], here: str) -> str:
    links = (
        f'<a href="{{base}}{escape(path)}"{" aria-current=page" if path == here else ""}>{escape(name)}</a>'
        for path, name in pages
    )
    return f'<nav class="pages" aria-label="Pages">{"".join(links)}</nav>'
