"""The routes of the dashboard's views of runs and models."""

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from fastapi import APIRouter
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from extras.dashboard.follow import Follower, series
from extras.dashboard.metrics import Axis
from extras.dashboard.models import HasChildren, InUse, Models
from extras.dashboard.runs import AT_ONCE, Runs
from nanochat.errors import UserError
from nanochat.web.errors import ApiError, bad_request, json_response, to_json
from nanochat.web.sse import EventStream, Stream

if TYPE_CHECKING:
    from extras.dashboard.flags import Places

EVERY = 1.0  # seconds between two looks at runs that are followed
POINTS, MOST_POINTS = 600, 2000  # of a curve
MOST_RUNS, MOST_KEYS = 32, 32  # of one request
OFF = "the server was started without --allow_training"

T = TypeVar("T")


def routes(places: "Places") -> APIRouter:
    """The routes, below /dashboard, for the folders that were named at the start."""
    router = APIRouter(include_in_schema=False)
    runs = Runs(places.base, lambda: places.watched, places.running)
    models = Models(runs, places.served)

    @router.get("/runs")
    async def list_runs() -> Response:
        return json_response({"runs": await asyncio.to_thread(runs.summaries)})

    @router.get("/runs/{id}")
    async def detail(id: str) -> Response:
        return json_response(await found(lambda: runs.detail(runs.find(id))))

    @router.get("/runs/{id}/diff")
    async def diff(id: str, request: Request) -> Response:
        other = request.query_params.get("other", "")
        return json_response({"differs": await found(lambda: runs.differs(runs.find(id), runs.find(other)))})

    @router.get("/curves")
    async def curves(request: Request) -> Response:
        return json_response({"series": await found(lambda: curves_of(runs, request.query_params))})

    @router.get("/follow")
    async def follow(request: Request) -> Response:
        followers = await found(lambda: followers_of(runs, request.query_params))
        return follow_events(followers)

    @router.get("/models")
    async def list_models() -> Response:
        return json_response({"models": await asyncio.to_thread(models.summaries)})

    @router.delete("/models/{id}")
    async def delete(id: str, request: Request) -> Response:
        if not places.training:
            raise ApiError(403, f"{id} cannot be deleted from the page; {OFF}", "training_off")
        query = request.query_params
        if query.get("confirm") != id:
            raise bad_request(f"to delete {id}, pass confirm={id} as well", "confirm", "not_confirmed")
        with_children = query.get("with_children", "") in ("1", "true")
        return json_response({"freed": await found(lambda: models.delete(id, with_children))})

    return router


async def found(read: Callable[[], T]) -> T:
    """What a function finds on disk, in another thread. Its UserErrors become refusals."""
    with _refusals():
        return await asyncio.to_thread(read)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except (HasChildren, InUse) as error:
        refusal = ApiError(409, str(error), "in_use")
        refusal.envelope["error"] |= {"dependents": getattr(error, "children", []), "job": getattr(error, "job", None)}
        raise refusal from None
    except UserError as error:
        raise ApiError(404, str(error), "not_found") from None
    except FileNotFoundError as error:  # deleted while it was read
        raise ApiError(404, f"{error.filename} has gone", "not_found") from None


# ---------------------------------------------------------------- curves


def curves_of(runs: Runs, query: QueryParams) -> list[dict]:
    """The curves that a request names, a series for each run and key."""
    ids, keys, x = _named(query)
    points = int(_number(query, "points", POINTS))
    if not 2 <= points <= MOST_POINTS:
        raise bad_request(f"points is {points}; expected 2 to {MOST_POINTS}", "points")
    after, begin, end = (_number(query, name, default) for name, default in
                         (("since", -math.inf), ("from", -math.inf), ("to", math.inf)))  # fmt: skip
    made = []
    for id in ids:
        metrics, exact = runs.look(runs.find(id))
        if exact and (begin, end) != (-math.inf, math.inf):
            metrics = metrics.part(x, begin, end, AT_ONCE)
        made += [series(id, key, x, metrics.curve(key, x, points, after, begin, end), exact) for key in keys]
    return made


def _named(query: QueryParams) -> tuple[list[str], list[str], Axis]:
    """The runs, keys and axis that a request names."""
    ids, keys = query.getlist("run"), query.getlist("key") or ["loss"]
    if not 1 <= len(ids) <= MOST_RUNS:
        raise bad_request(f"{len(ids)} runs are named; expected 1 to {MOST_RUNS}, as in run=base:d3", "run")
    if len(keys) > MOST_KEYS:
        raise bad_request(f"{len(keys)} keys are named; expected at most {MOST_KEYS}", "key")
    x: Any = {"steps": "step"}.get(query.get("x", "step"), query.get("x", "step"))
    if x not in get_args(Axis):
        raise bad_request(f"x is {x!r:.40}; expected one of {', '.join(get_args(Axis))}", "x")
    return list(dict.fromkeys(ids)), list(dict.fromkeys(keys)), x


def _number(query: QueryParams, name: str, default: float) -> float:
    text = query.get(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value) or text is not None and math.isinf(value):
        raise bad_request(f"{name} is {text!r:.40}; expected a number", name)
    return value


# ---------------------------------------------------------------- follow


def followers_of(runs: Runs, query: QueryParams) -> list[Follower]:
    """What follows the runs that a request names, from now on."""
    ids, keys, x = _named(query)
    return [Follower(runs, runs.find(id), keys, x) for id in ids]


def follow_events(followers: list[Follower]) -> EventStream:
    """The events of runs, until the reader leaves."""

    async def write() -> None:
        while True:
            for follower in followers:
                for event, data in await asyncio.to_thread(follower.poll):
                    stream.write(to_json(data), event)
            stream.flush()
            await asyncio.sleep(EVERY)

    task: asyncio.Task[None] | None = None

    def stop() -> None:
        if task is not None:
            task.cancel()

    stream = Stream(stop)
    task = asyncio.get_running_loop().create_task(write())
    task.add_done_callback(lambda _: stream.close())
    return EventStream(stream)
