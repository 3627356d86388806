"""What the routes share: the models, the settings, and how a reply is begun."""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nanochat import chat
from nanochat.engine.request import ContextLengthError, Request
from nanochat.engine.serving import Serving
from nanochat.engine.tools import Tools, calculator_tools
from nanochat.errors import UserError
from nanochat.tokenizer import Tokenizer
from nanochat.web.errors import ApiError, bad_request
from nanochat.web.generation import Generation
from nanochat.web.grammar import Grammars
from nanochat.web.metrics import Metrics
from nanochat.web.sse import Streams
from nanochat.web.worker import Pool, QueueFullError

log = logging.getLogger("nanochat.web")


@dataclass(frozen=True)
class Settings:
    """What the operator decided."""

    temperature: float = 0.8
    top_k: int = 50
    max_tokens: int = 512
    api_key: str | None = None
    cors_origins: tuple[str, ...] = ()
    max_queue: int = 256
    """requests that wait for a slot, in each model"""
    max_body: int = 4 << 20
    """bytes"""
    log_prompts: bool = False
    hosts: frozenset[str] | None = None
    """names that a request's Host header may have besides addresses; None: any"""


@dataclass
class Model:
    """One checkpoint, ready to answer."""

    id: str
    source: str
    tag: str
    step: int
    tokenizer: Tokenizer
    pool: Pool
    context: int
    parameters: int
    created: int
    dtype: str
    device: str
    tools: Tools | None
    tool_names: list[str]
    fingerprint: str
    grammars: Grammars
    spelled: dict[int, str] = field(default_factory=dict)  # how tokens are written in log probabilities

    @property
    def chats(self) -> bool:
        return self.source != "base"

    @property
    def stop_ids(self) -> set[int]:
        return chat.stop_ids(self.tokenizer)


class Service:
    """The state of a running server."""

    def __init__(self, models: Sequence[Model], settings: Settings) -> None:
        self.models = {model.id: model for model in models}
        self.default = models[0]
        self.settings = settings
        self.streams = Streams()
        self.metrics = Metrics({model.id: model.pool for model in models})
        self.draining = False
        self._open: set[Generation] = set()

    @property
    def idle(self) -> bool:
        return all(model.pool.idle for model in self.models.values())

    def stats(self) -> dict:
        """What is running, in the words of earlier versions and in ours."""
        workers = [(model, worker) for model in self.models.values() for worker in model.pool.workers]
        return {
            "total_workers": len(workers),
            "available_workers": sum(worker.free > 0 for _, worker in workers),
            "busy_workers": sum(worker.free <= 0 for _, worker in workers),
            "workers": [
                {"gpu_id": number, "device": str(worker.engine.model.device), "model": model.id}
                for number, (model, worker) in enumerate(workers)
            ],
            "models": {
                model.id: {
                    "slots": model.pool.slots,
                    "busy_slots": model.pool.busy_slots,
                    "waiting": model.pool.waiting,
                    **model.pool.totals,
                }
                for model in self.models.values()
            },
        }

    def start(self) -> None:
        for model in self.models.values():
            model.pool.start(asyncio.get_running_loop())

    def stop(self) -> None:
        for model in self.models.values():
            model.pool.stop()

    def pick(self, name: str | None) -> Model:
        """The model a client names; the first when it names none."""
        if name is None:
            return self.default
        for model in self.models.values():
            if name in (model.id, f"{model.source}:{model.tag}:{model.step}"):
                return model
        there = ", ".join(self.models)
        raise ApiError(404, f"there is no model {name!r} here; there are: {there}", "model_not_found", "model")

    def check(self, model: Model, request: Request, param: str) -> None:
        """Raises ApiError where the Engine would refuse the request."""
        try:
            model.pool.workers[0].engine.check(request)
        except ContextLengthError as error:
            message = (
                f"this model's context holds {error.context} tokens, but the prompt has {error.prompt_tokens}; "
                "shorten it"
            )
            raise bad_request(message, param, "context_length_exceeded") from None
        except UserError as error:
            raise bad_request(str(error), param) from None

    def begin(self, model: Model, generation: Generation) -> None:
        """Queue a reply. Raises ApiError with Retry-After when the server is too busy, or about to end."""
        pool, wanted = model.pool, len(generation.requests)
        if wanted > pool.slots + pool.max_queue:
            message = (
                f"{wanted} replies are more than this server takes at once, which is {pool.slots + pool.max_queue}"
            )
            raise bad_request(message, "n")
        if not pool.healthy:
            raise ApiError(503, "the model's engine has stopped; see the server's log", "engine_stopped")
        try:
            pool.submit(generation.job)
        except QueueFullError as error:
            retry = {"Retry-After": str(error.retry_after)}
            message = f"{error}, and no more are taken; try again in {error.retry_after} seconds"
            raise ApiError(429, message, "rate_limit_exceeded", headers=retry) from None
        self._open.add(generation)
        generation.ended.add_done_callback(lambda _: self._ended(model, generation))

    def abort(self, reason: str) -> None:
        """End all replies that are not done."""
        for generation in list(self._open):
            generation.cancel()
            generation.fail(reason)
            generation.flush()

    def _ended(self, model: Model, generation: Generation) -> None:
        self._open.discard(generation)
        self.metrics.ended(model.id, generation)
        self.note("reply", model, [choice.text for choice in generation.choices])

    def note(self, what: str, model: Model, content: Any) -> None:
        """Log what somebody wrote or was answered, if the operator asked for it."""
        if self.settings.log_prompts:
            log.info("%s", json.dumps({"what": what, "model": model.id, "content": content}))


def model(id: str, servings: Sequence[Serving], max_queue: int = 256, tools: Tools | None = None) -> Model:
    """A model from the Engines that serve it, one a GPU.

    tools: what chats may call instead of the calculator. Raises UserError where a chat model's tokenizer lacks the
    special tokens of conversations.
    """
    first = servings[0]
    engine = first.engine
    names = ["calculator"] if tools is None else ["calculator", "python"]
    chats = first.source != "base"
    said = [first.source, first.tag, first.step, first.dtype_name, first.tokenizer.hash, first.meta.get("files")]
    meta_file = first.folder / f"meta_{first.step:06d}.json"
    return Model(
        id=id,
        source=first.source,
        tag=first.tag,
        step=first.step,
        tokenizer=first.tokenizer,
        pool=Pool([serving.engine for serving in servings], max_queue),
        context=engine.max_len,
        parameters=first.parameters,
        created=int(meta_file.stat().st_mtime) if meta_file.exists() else int(time.time()),
        dtype=first.dtype_name,
        device=str(first.device),
        tools=(tools or calculator_tools(first.tokenizer)) if chats else None,
        tool_names=names if chats else [],
        grammars=Grammars(first.tokenizer, chat.stop_ids(first.tokenizer)),
        fingerprint="fp_" + hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12],
    )
