"""The dashboard as a part of a server: its pages, and what they ask for below /dashboard."""

from collections.abc import Callable, Sequence
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from extras.dashboard import training
from extras.dashboard.flags import Places
from extras.dashboard.forms import Stage
from extras.dashboard.jobs import Jobs
from extras.dashboard.training import FormRequest, Outlook, Training
from nanochat.web.errors import json_response
from nanochat.web.pages import page
from nanochat.web.shell import Part

STATIC = Path(__file__).parent / "static"
LINKS = (("runs", "Runs"), ("train", "Train"), ("models", "Models"))
OFF = "training from the page is off; start the server with --allow_training"


def dashboard(places: Places, stages: Sequence[Stage], outlook: Outlook, upload: int, chat: bool) -> Part:
    """The part that shows runs, training and models. upload: bytes. chat: another part has the page at /."""
    off = None if places.training else OFF
    trains = Training(stages, places, Jobs(places.base), outlook, off)
    router = APIRouter()
    router.include_router(_state(places, off, chat))
    router.include_router(training.routes(trains))
    pages = {f"/{view}": _page_of(view) for view, _ in LINKS}
    if not chat:
        pages["/"] = _page_of("runs")
    return Part(
        router,
        pages=pages,
        files={"/dashboard/static": STATIC},
        links=LINKS,
        limits={"/dashboard/files": upload},
        bodies=[FormRequest],
        running=trains.running,
    )


def _page_of(view: str) -> Callable[[Request], Response]:
    def show(request: Request) -> Response:
        return page((STATIC / "page.html").read_text(encoding="utf-8"), request, view, view=view)

    return show


def _state(places: Places, off: str | None, chat: bool) -> APIRouter:
    router = APIRouter()

    @router.get("/dashboard/state", tags=["Dashboard"], summary="What the server shows, and whether it trains")
    async def state() -> Response:
        return json_response({
            "chat": chat, "training": places.training, "training_off": off, "base_dir": str(places.base),
            "out_dirs": [str(path) for path in places.out_dirs],
        })  # fmt: skip

    return router
