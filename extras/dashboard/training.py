"""The routes of training: forms, jobs and uploads."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from extras.dashboard import files, forms
from extras.dashboard.flags import Places
from extras.dashboard.forms import Command, Stage, Wrong
from extras.dashboard.jobs import Jobs, Missing, NotNow, devices, shown
from extras.dashboard.record import Job
from nanochat.errors import UserError
from nanochat.web.bodies.schemas import Body, validated
from nanochat.web.documentation import describes
from nanochat.web.errors import ApiError, bad_request, json_response

EVERY = 1.0  # seconds between two looks at the jobs
LINES, MOST_LINES = 200, 5000  # of a log
LEFT_BEHIND = 86400.0  # seconds after which an upload that did not arrive is deleted
TAG = "Training"

log = logging.getLogger("nanochat.web")

T = TypeVar("T")


class FormRequest(Body):
    """A filled form: what is not in `values` has the stage's own default."""

    stage: str = Field(description="base_train, mid_train, chat_sft, ...: GET /dashboard/forms lists them")
    values: dict[str, Any] = Field(default={}, description="flags by their names, without --")


@dataclass(frozen=True)
class Outlook:
    """What scripts know and the dashboard does not: what a command will take, which run it makes, what files hold."""

    plan: Callable[[Command], Mapping[str, Any] | None]
    run: Callable[[Command], str | None]
    conversations: files.Count
    documents: files.Count


class Training:
    """What the routes share."""

    def __init__(self, stages: Sequence[Stage], places: Places, jobs: Jobs, outlook: Outlook, off: str | None) -> None:
        """off: why nothing may be started or changed, one sentence; None where that is allowed."""
        self.stages = {stage.name: stage for stage in stages}
        self.places, self.jobs, self.outlook, self.off = places, jobs, outlook, off
        self._parsing = threading.Lock()  # the parser of command lines takes stderr for itself while it works

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the queues moving for as long as the server runs."""
        await asyncio.to_thread(devices)
        await asyncio.to_thread(self._tidy)
        keeping = asyncio.create_task(self._keep_moving())
        yield
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping

    async def _keep_moving(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self.jobs.advance, self.off is None)
            except (OSError, UserError) as error:  # a full disk, or no more processes: later there may be room
                log.warning("the queue cannot move: %s", error)
            await asyncio.sleep(EVERY)

    def _tidy(self) -> None:
        """Delete what uploads left that never arrived."""
        for path in self.places.uploads.glob(".*") if self.places.uploads.is_dir() else ():
            if path.is_file() and time.time() - path.stat().st_mtime > LEFT_BEHIND:
                path.unlink(missing_ok=True)

    def permit(self) -> None:
        """Raise ApiError where training is off."""
        if self.off is not None:
            raise ApiError(403, self.off, "training_off")

    def command(self, body: FormRequest) -> Command:
        """The command of a form. Raises Wrong."""
        stage = self.stages.get(body.stage)
        if stage is None:
            raise Wrong({"": f"there is no stage {body.stage[:40]!r}; expected one of {', '.join(self.stages)}"})
        with self._parsing:
            return forms.command(stage, body.values, self.places)

    def check(self, body: FormRequest) -> dict[str, Any]:
        """What is wrong with a form, the command that it comes to, and what that will take."""
        try:
            command = self.command(body)
        except Wrong as wrong:
            return {"errors": wrong.errors, "command": None, "plan": None}
        try:
            plan, errors = self.outlook.plan(command), {}
        except UserError as error:
            plan, errors = None, forms.placed(command.stage, error)
        return {"errors": errors, "command": str(command), "plan": plan}

    def start(self, body: FormRequest) -> Job:
        """Queue the command of a form. Raises Wrong, also for what a stage refuses once it knows its model."""
        command = self.command(body)
        try:
            self.outlook.plan(command)
            run = self.outlook.run(command)
        except UserError as error:
            raise Wrong(forms.placed(command.stage, error)) from None
        return self.jobs.submit(command.stage.name, command.argv, command.values, command.device, run)

    def again(self, job: Job) -> list[str]:
        """The words that resume a job: the same ones, without those that would begin anew."""
        if job.stage not in self.stages:
            return job.argv
        values = {name: value for name, value in job.values.items() if name not in ("overwrite", "resume")}
        if job.stage == "train" and (Path(str(values.get("out_dir"))) / "ckpt.pt").exists():
            values["init_from"] = "resume"
        return self.command(FormRequest(stage=job.stage, values=values)).argv

    async def upload(self, name: str, body: AsyncIterator[bytes]) -> dict[str, Any]:
        safe = files.safe_name(name)
        part = await files.receive(body, self.places.uploads)
        return await asyncio.to_thread(files.keep, part, safe, self.outlook.conversations, self.outlook.documents)


def routes(training: Training) -> APIRouter:
    router = APIRouter()
    _form_routes(router, training)
    _job_routes(router, training)
    _file_routes(router, training)
    return router


def _form_routes(router: APIRouter, training: Training) -> None:
    @router.get("/dashboard/forms", tags=[TAG], summary="The stages that can be started, with their flags")
    async def list_forms() -> Response:
        made = await asyncio.to_thread(
            lambda: [forms.form(stage, training.places) for stage in training.stages.values()]
        )
        return json_response({"forms": made})

    @router.post("/dashboard/check", tags=[TAG], summary="What a filled form comes to", **describes(FormRequest))
    async def check(http: Request) -> Response:
        body = validated(FormRequest, await http.body())
        return json_response(await answered(lambda: training.check(body)))


def _job_routes(router: APIRouter, training: Training) -> None:
    jobs = training.jobs

    @router.get("/dashboard/jobs", tags=[TAG], summary="Jobs, and which wait for which device")
    async def list_jobs() -> Response:
        training.permit()
        found = await answered(lambda: (jobs.all(), jobs.queue()))
        return json_response({"jobs": [shown(job) for job in found[0]], "queue": found[1], "devices": devices()})

    @router.post("/dashboard/jobs", tags=[TAG], summary="Start a stage", status_code=201, **describes(FormRequest))
    async def start(http: Request) -> Response:
        training.permit()
        body = validated(FormRequest, await http.body())
        return json_response(shown(await answered(lambda: training.start(body))), 201)

    @router.get("/dashboard/jobs/{id}", tags=[TAG], summary="One job")
    async def one(id: str) -> Response:
        training.permit()
        return json_response(shown(await answered(lambda: jobs.get(id))))

    @router.get("/dashboard/jobs/{id}/log", tags=[TAG], summary="The last lines that a job printed")
    async def log(id: str, http: Request) -> Response:
        training.permit()
        lines = _lines(http.query_params.get("tail", str(LINES)))
        return json_response({"text": await answered(lambda: jobs.log(id, lines))})

    @router.post("/dashboard/jobs/{id}/stop", tags=[TAG], summary="Have a job save and end; asked again, kill it")
    async def stop(id: str) -> Response:
        training.permit()
        return json_response(shown(await answered(lambda: jobs.stop(id))))

    @router.post("/dashboard/jobs/{id}/resume", tags=[TAG], summary="Queue a job that is over once more")
    async def resume(id: str) -> Response:
        training.permit()
        return json_response(shown(await answered(lambda: jobs.resume(id, training.again))))

    @router.delete("/dashboard/jobs/{id}", tags=[TAG], summary="Forget a job that is over; its run stays")
    async def forget(id: str) -> Response:
        training.permit()
        await answered(lambda: jobs.forget(id))
        return json_response({"id": id})


def _file_routes(router: APIRouter, training: Training) -> None:
    @router.get("/dashboard/files", tags=[TAG], summary="What was uploaded")
    async def list_files() -> Response:
        training.permit()
        return json_response({"files": await answered(lambda: files.listing(training.places.uploads))})

    @router.post("/dashboard/files", tags=[TAG], summary="Upload text or conversations", status_code=201)
    async def upload(http: Request) -> Response:
        training.permit()
        with refusals():
            kept = await training.upload(http.query_params.get("name", ""), http.stream())
        return json_response(kept, 201)


async def answered(work: Callable[[], T]) -> T:
    """What a function returns, in another thread. Its UserErrors become refusals."""
    with refusals():
        return await asyncio.to_thread(work)


@contextlib.contextmanager
def refusals() -> Any:
    """A user's errors as ApiErrors."""
    try:
        yield
    except Wrong as wrong:
        refused = bad_request(str(wrong), next(iter(wrong.errors)) or None, "invalid_value")
        refused.envelope["error"]["errors"] = wrong.errors
        raise refused from None
    except Missing as error:
        raise ApiError(404, str(error), "not_found") from None
    except NotNow as error:
        raise ApiError(409, str(error), "not_now") from None
    except UserError as error:
        raise bad_request(str(error)) from None


def _lines(given: str) -> int:
    if not (given.isascii() and given.isdecimal()) or not 1 <= int(given[:9]) <= MOST_LINES:
        raise bad_request(f"tail is {given[:20]!r}; expected 1 to {MOST_LINES}", "tail")
    return int(given)
