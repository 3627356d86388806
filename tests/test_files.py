"""The pages' files: what browsers keep, what they ask for again, and how little goes over the wire."""

import gzip
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("fastapi")

from nanochat.engine.engine import Engine
from nanochat.tokenizer import Tokenizer
from nanochat.web.files import Files, takes_gzip
from tests.browsing import chromium, needs_chromium, profiles
from tests.scripted import calculating
from tests.served import Live, loaded, served

WEIGHT = 104_000  # bytes of the chat page, with all headers


@pytest.fixture(scope="module")
def live(tokenizer: Tokenizer) -> Iterator[Live]:
    with served([loaded(Engine(calculating(tokenizer, "é! Rome", 64), slots=4), tokenizer)]) as live:
        yield live


def page(live: Live, **headers: str) -> httpx.Response:
    return live.get("/", headers={"Accept": "text/html", **headers})


def versioned(live: Live, name: str, html: str = "/") -> str:
    shown = live.get(html, headers={"Accept": "text/html"}).text
    found = re.search(rf'"(assets/[0-9a-f]{{12}}/static/{name})"', shown)
    assert found
    return f"/{found[1]}"


def test_files_are_kept_for_good_at_the_address_of_their_version(live: Live) -> None:
    plain, kept = live.get("/static/logo.svg"), live.get(versioned(live, "logo.svg"))
    assert plain.headers["cache-control"] == "no-cache"
    assert kept.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert plain.content == kept.content
    script = live.get(versioned(live, "main.js"))
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    old = live.get(f"/assets/{'0' * 12}/static/logo.svg")  # a page of yesterday's, still open
    assert old.content == kept.content and old.headers["cache-control"] == "no-cache"
    for nothing in ("/static/index.html", "/assets/x/static/none.js", "/assets/x", "/static/..%2fpages.py"):
        assert live.get(nothing).status_code == 404


@pytest.mark.parametrize("path", ["/", "/docs", "/static/style.css"])
def test_what_the_browser_has_is_not_sent_again(live: Live, path: str) -> None:
    html = {"Accept": "text/html"}
    first = live.get(path, headers=html)
    again = live.get(path, headers={**html, "If-None-Match": f'"other", {first.headers["etag"]}'})
    assert again.status_code == 304 and again.content == b"" and again.headers["etag"] == first.headers["etag"]
    assert live.get(path, headers={**html, "If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/static/style.css"])
def test_gzip_is_sent_to_those_who_take_it(live: Live, path: str) -> None:
    with live.client.stream("GET", path, headers={"Accept": "text/html", "Accept-Encoding": "br, gzip"}) as response:
        raw = b"".join(response.iter_raw())
    assert response.headers["content-encoding"] == "gzip" and "Accept-Encoding" in response.headers["vary"]
    plain = live.get(path, headers={"Accept": "text/html", "Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert gzip.decompress(raw) == plain.content and len(raw) < len(plain.content) / 2


def test_accept_encoding_is_understood() -> None:
    for yes in ("gzip", "br;q=1.0, GZIP;q=0.5", "deflate,gzip"):
        assert takes_gzip(yes)
    for no in ("", "br", "gzip;q=0", "gzip; q=0.000", "identity", "xgzip"):
        assert not takes_gzip(no)


def test_a_page_names_all_that_its_script_imports(live: Live) -> None:
    for html, some in (("/", {"main.js", "api.js", "markdown.js", "drawing.js"}), ("/docs", {"docs.js", "dialogs.js"})):
        text = live.get(html, headers={"Accept": "text/html"}).text
        named = re.findall(r'(?:modulepreload" href|module" src)="(assets/[0-9a-f]{12}/static/([^"]+))"', text)
        assert {name for _, name in named} >= some and len(named) == len(set(named))
        for path, _ in named:
            script = live.get(f"/{path}").text
            imported = re.findall(r'^(?:import|\}) .*"\./([^"]+)";$', script, re.MULTILINE)
            assert set(imported) <= {name for _, name in named}


def test_stylesheets_come_as_one(live: Live) -> None:
    sheets = re.findall(r'href="(assets/[^"]+\.css)"', page(live).text)
    assert len(sheets) == 1
    styles = live.get(f"/{sheets[0]}")
    assert "#composer" in styles.text and ".hl-keyword" in styles.text
    assert styles.headers["cache-control"] == "public, max-age=31536000, immutable"
    for wrong in ("style.css+main.js", "style.css+none.css", "style.css+../files.py", "+", "a+b"):
        assert live.get(f"/assets/x/static/{wrong}").status_code == 404


def test_a_file_that_changes_changes_the_version(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("one", encoding="utf-8")
    files = Files({"/static": tmp_path})
    first = files.version()
    assert files.version() == first
    (tmp_path / "a.js").write_text("three", encoding="utf-8")
    assert files.version() != first


@needs_chromium
def test_the_page_is_light_and_a_second_visit_loads_next_to_nothing(live: Live) -> None:
    with chromium() as browser, profiles(browser) as visit:
        tab = visit("about:blank")
        session = tab.context.new_cdp_session(tab)
        received: dict[str, int] = {}
        urls: dict[str, str] = {}
        session.on("Network.responseReceived",
                   lambda event: urls.update({event["requestId"]: event["response"]["url"]}))  # fmt: skip
        session.on("Network.loadingFinished",
                   lambda event: received.update({event["requestId"]: int(event["encodedDataLength"])}))  # fmt: skip
        session.send("Network.enable")
        for most in (WEIGHT, 6000):  # the second time, the page is revalidated and the models are asked for
            received.clear()
            tab.goto("about:blank")
            tab.goto(f"{live.url}/")
            tab.wait_for_function("() => document.querySelector('#examples button')")
            tab.wait_for_load_state("networkidle")
            of_each = {urls.get(id, "?"): size for id, size in received.items()}
            assert 0 < sum(of_each.values()) < most, sorted(of_each.items(), key=lambda each: -each[1])
