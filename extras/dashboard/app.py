"""The dashboard as a part of a server: its pages, and what they ask for below /dashboard."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from extras.dashboard import training, watch
from extras.dashboard.flags import Places
from extras.dashboard.forms import Stage
from extras.dashboard.jobs import Jobs, shown
from extras.dashboard.models import Models
from extras.dashboard.record import Job
from extras.dashboard.runs import Runs
from extras.dashboard.training import FormRequest, Outlook, Training, answered
from nanochat.web.bodies.schemas import Body, validated
from nanochat.web.documentation import describes
from nanochat.web.errors import json_response
from nanochat.web.pages import page
from nanochat.web.shell import Part

STATIC = Path(__file__).parent / "static"
LINKS = (("runs", "Runs"), ("train", "Train"), ("models", "Models"))
OFF = "training from the page is off; start the server with --allow_training"


class ExportRequest(Body):
    """A model for other programs."""

    to: str = Field(description="name of the folder below exports/ in the base folder")


def dashboard(places: Places, stages: Sequence[Stage], outlook: Outlook, upload: int, chat: bool) -> Part:
    """The part that shows runs, training and models. upload: bytes. chat: another part has the page at /."""
    off = None if places.training else OFF
    jobs = Jobs(places.base)
    places = dataclasses.replace(places, running=jobs.running)
    trains = Training(stages, places, jobs, outlook, off)
    router = APIRouter()
    router.include_router(_state(places, off, chat))
    router.include_router(watch.routes(places), prefix="/dashboard")
    router.include_router(training.routes(trains))
    router.include_router(_export(places, trains))
    pages = {f"/{view}": _page_of(view) for view, _ in LINKS}
    if not chat:
        pages["/"] = _page_of("runs")
    return Part(
        router,
        pages=pages,
        files={"/dashboard/static": STATIC},
        links=LINKS,
        limits={"/dashboard/files": upload},
        bodies=[FormRequest, ExportRequest],
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


def _export(places: Places, trains: Training) -> APIRouter:
    router = APIRouter()
    models = Models(Runs(places.base, lambda: places.watched, places.running), places.served)

    @router.post(
        "/dashboard/models/{id}/export", tags=[training.TAG], summary="Write a model for other programs, as a job",
        status_code=201, **describes(ExportRequest),
    )  # fmt: skip
    async def export(id: str, request: Request) -> Response:
        trains.permit()
        to = validated(ExportRequest, await request.body()).to
        return json_response(shown(await answered(lambda: start(id, to))), 201)

    def start(id: str, to: str) -> Job:
        _, *argv = models.export_command(id, to)  # without python's -m
        return trains.jobs.submit("export", argv, {}, "cpu", None)

    return router
