"""What the routes share: the models, the operator's settings, and the replies under way."""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

from nanochat import chat
from nanochat.engine.serving import Serving
from nanochat.engine.text import ReplyText
from nanochat.engine.tools import Tools, calculator_tools
from nanochat.errors import UserError
from nanochat.web.bodies import messages
from nanochat.web.bodies.grammar import Grammars
from nanochat.web.errors import ApiError, bad_request
from nanochat.web.generation import Generation
from nanochat.web.service import Service, Settings
from nanochat.web.sse import Stream
from nanochat.web.worker import Pool, QueueFullError

log = logging.getLogger("nanochat.web")


class ServedModel:
    """One checkpoint, ready to answer."""

    def __init__(
        self, id: str, servings: Sequence[Serving], max_queue: int = 256, tools: Tools | None = None,
        aliases: Sequence[str] = (), plain: bool = False,
    ) -> None:  # fmt: skip
        """servings: the same checkpoint in one Engine per GPU. tools: what chats may call, the calculator by default.

        aliases: further names that clients may use. plain: a base model chats, too, by chat.plain_prompt.
        Raises UserError where a chat model's tokenizer lacks the special tokens of conversations.
        """
        first = servings[0]
        self.id = id
        self.aliases = aliases
        self.source, self.tag, self.step = first.source, first.tag, first.step
        self.meta, self.folder, self.stage_is_known = first.meta, first.folder, first.stage_is_known
        self.tokenizer = first.tokenizer
        self.pool = Pool([serving.engine for serving in servings], max_queue)
        self.context = first.engine.max_len
        self.parameters = first.parameters
        self.dtype, self.device = first.dtype_name, str(first.device)
        meta_file = first.folder / f"meta_{first.step:06d}.json"
        self.created = int(meta_file.stat().st_mtime if meta_file.exists() else time.time())
        learned = first.source != "base"
        self.plain = plain and not learned and chat.can_chat_plainly(first.tokenizer)
        self.chats = learned or self.plain
        self.stop_ids = chat.stop_ids(first.tokenizer)
        self.tools = (tools or calculator_tools(first.tokenizer)) if learned else None
        self.tool_names = [] if not learned else ["calculator"] if tools is None else ["calculator", "python"]
        self.grammars = Grammars(first.tokenizer, self.stop_ids)
        identity = [self.source, self.tag, self.step, self.dtype, first.tokenizer.hash, first.meta.get("files")]
        self.fingerprint = "fp_" + hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]

    @property
    def described(self) -> str:
        """What it is, in a line for the operator."""
        chats = "" if self.chats else "; continues texts, does not chat"
        if self.plain:
            chats = "; a base model: chats are plain text to it, in lines of User: and Assistant:"
        step = f"step {self.step}, " if self.step else ""
        return (
            f"{self.id}: {step}{self.parameters / 1e6:.1f}M parameters, {self.dtype} on {self.device}, "
            f"context {self.context}, {self.pool.slots} at once{chats}"
        )

    def prompt(self, turns: Sequence[dict[str, Any]]) -> list[int]:
        """The token ids that the reply to a conversation follows."""
        return (chat.plain_prompt if self.plain else messages.prompt)(self.tokenizer, turns)

    def reply_text(
        self, stops: Sequence[str], prefilled: bool = False, endless: bool = False, **settings: Any
    ) -> ReplyText:  # fmt: skip
        """The text of a reply in a chat, which ends at these strings.

        prefilled: it continues a message of the client's. endless: a next turn that the model begins does not end it.
        settings: those of ReplyText.
        """
        if not self.plain:
            return ReplyText(self.tokenizer, stops, **settings)
        ends = [] if endless else chat.PLAIN_STOPS
        return ReplyText(self.tokenizer, [*stops, *ends], parts=False, lstrip=not prefilled, **settings)


def named(ids: Sequence[str], names: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
    """For each model the name that clients see and further ones; `names` are those of --served_name.

    Raises UserError where it is not clear whose they are, or two models would have one name.
    """
    if "" in names:
        raise UserError("--served_name is empty; expected the name that clients should see")
    if names and len(ids) > 1 and len(ids) != len(names):
        raise UserError(f"--served_name is given {len(names)} times for {len(ids)} models; give one for each, in order")
    if len(ids) == 1:
        return [(names[0], names[1:])] if names else [(ids[0], ())]
    public = names or ids
    if twice := next((name for name in public if public.count(name) > 1), None):
        raise UserError(f"two models are called {twice}; --served_name, once for each in order, gives them names")
    return [(name, ()) for name in public]


class ServerState(Service):
    """The state of a running server with models."""

    def __init__(self, models: Sequence[ServedModel], settings: Settings) -> None:
        super().__init__(settings, {model.id: model.pool for model in models})
        self.models = {model.id: model for model in models}
        self.default = models[0]
        self.streams: dict[str, Stream] = {}  # resumable ones, by id
        self._open: set[Generation] = set()

    @property
    def idle(self) -> bool:
        return all(model.pool.idle for model in self.models.values())

    def health(self) -> dict:
        healthy = all(model.pool.healthy for model in self.models.values())
        workers = [worker for model in self.models.values() for worker in model.pool.workers]
        return {
            "status": "draining" if self.draining else "ok" if healthy else "failed",
            "ready": healthy and not self.draining,
            "models": list(self.models),
            "num_gpus": len(self.default.pool.workers),
            "available_workers": sum(worker.free > 0 for worker in workers),
        }

    def stats(self) -> dict:
        """What is running: workers as earlier versions reported them, and figures per model."""
        workers = [(model, worker) for model in self.models.values() for worker in model.pool.workers]
        return {
            "total_workers": len(workers),
            "available_workers": sum(worker.free > 0 for _, worker in workers),
            "busy_workers": sum(worker.free <= 0 for _, worker in workers),
            "workers": [
                {"gpu_id": number, "device": str(worker.engine.model.device), "model": model.id}
                for number, (model, worker) in enumerate(workers)
            ],
            "models": {model.id: model.pool.figures for model in self.models.values()},
        }

    def announcement(self) -> list[str]:
        return [model.described for model in self.models.values()]

    def at(self, address: str) -> str:
        return f"the page; the API is at {address}/v1, its documentation at {address}/docs"

    @property
    def example_model(self) -> str:
        return next((model for model in self.models.values() if model.chats), self.default).id

    def start(self) -> None:
        for model in self.models.values():
            model.pool.start()

    async def stop(self) -> None:
        for model in self.models.values():
            await model.pool.stop()

    def pick(self, name: str | None) -> ServedModel:
        """The model that a client names; the first when it names none.

        A server's only model answers to any name: programs written for other servers have theirs built in.
        """
        if not name or len(self.models) == 1:
            return self.default
        for model in self.models.values():
            if name in (model.id, f"{model.source}:{model.tag}:{model.step}", *model.aliases):
                return model
        message = f"there is no model {name!r} here; available: {', '.join(self.models)}"
        raise ApiError(404, message, "model_not_found", "model")

    def begin(self, model: ServedModel, generation: Generation) -> None:
        """Queue a reply. Raises ApiError with Retry-After when the queue is full."""
        pool, wanted = model.pool, len(generation.requests)
        if wanted > pool.slots + pool.max_queue:
            message = f"{wanted} replies at once exceed this server's limit of {pool.slots + pool.max_queue}"
            raise bad_request(message, "n")
        if not pool.healthy:
            raise ApiError(503, "the model's engine has stopped; see the server's log", "engine_stopped")
        try:
            pool.submit(generation)
        except QueueFullError as error:
            message = f"the queue is full ({error.waiting} waiting requests); retry in {error.retry_after} seconds"
            retry = {"Retry-After": str(error.retry_after)}
            raise ApiError(429, message, "rate_limit_exceeded", headers=retry) from None
        self._open.add(generation)
        generation.ended.add_done_callback(lambda _: self._ended(model, generation))

    def abort(self, reason: str) -> None:
        for generation in list(self._open):
            generation.cancel()
            generation.fail(reason)
            generation.flush()

    def _ended(self, model: ServedModel, generation: Generation) -> None:
        self._open.discard(generation)
        model.pool.took(generation.seconds)
        self.metrics.ended(model.id, generation)
        said = ("text", "call", "arguments")
        self.log("reply", model, ["".join(c.text for c in choice.chunks if c.kind in said)
                                  for choice in generation.choices])  # fmt: skip

    def log(self, what: str, model: ServedModel, content: Any) -> None:
        """Log prompts and replies, if the operator asked for it."""
        if self.settings.log_prompts:
            log.info("%s", json.dumps({"what": what, "model": model.id, "content": content}))
