"""Serve trained models: a page to chat with and an API that OpenAI's clients speak."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlsplit

import torch

from nanochat import runtime
from nanochat.checkpoint import door
from nanochat.checkpoint.flags import ServingFlags
from nanochat.config import alias, parse
from nanochat.engine import serving
from nanochat.engine.tools import permit_code, python_tools
from nanochat.errors import UserError, run
from nanochat.web.operation import api_key, known_hosts, log_to_stderr, serve
from nanochat.web.server import listen
from nanochat.web.service import Model, Service, Settings, model


@dataclass
class Flags(ServingFlags):
    """Serve trained models on a page and by an API. Ctrl-C finishes what runs and ends."""

    model: list[str] = field(default_factory=list)
    """a model instead of these three, as in --source; repeat it for several, the first is the default"""
    temperature: Annotated[float, alias("-t")] = 0.8
    """default temperature; 0 takes the most likely token"""
    top_k: Annotated[int, alias("-k")] = 50
    """default top_k; 0: sample from all tokens"""
    max_tokens: Annotated[int, alias("-m")] = 512
    """default maximum tokens of a reply"""
    host: str = "127.0.0.1"
    """address to listen on; 0.0.0.0 lets other machines in"""
    port: Annotated[int, alias("-p")] = 8000
    """0: any free one"""
    api_key: str | None = None
    """what clients must send as a bearer token; default: NANOCHAT_API_KEY or NANOGPT_API_KEY, else none is needed"""
    cors_origin: list[str] = field(default_factory=list)
    """a web site whose pages may use the API, such as https://example.com; repeat it for several"""
    num_gpus: Annotated[int, alias("-n")] = 1
    """engines of each model, one a GPU"""
    slots: int = 0
    """requests answered at once by an engine; 0: as many as suit this machine"""
    max_queue: int = 256
    """requests that may wait for a slot; further ones are refused"""
    drain_seconds: float = 30.0
    """how long replies may take to their end after SIGTERM or Ctrl-C"""
    allow_code: bool = False
    """let models run Python in a sandbox"""
    unsafe_code: bool = False
    """with --allow_code: even where this machine cannot fully isolate model-written programs"""
    log_prompts: bool = False
    """write what people say and models answer to stderr"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    _check(flags)
    notice = permit_code("--allow_code", flags.unsafe_code, "leave --allow_code out") if flags.allow_code else ""
    log_to_stderr()
    settings = Settings(
        temperature=flags.temperature, top_k=flags.top_k, max_tokens=flags.max_tokens, api_key=api_key(flags.api_key),
        cors_origins=tuple(flags.cors_origin), max_queue=flags.max_queue, log_prompts=flags.log_prompts,
        hosts=known_hosts(flags.host, flags.cors_origin),
    )  # fmt: skip
    with listen(flags.host, flags.port) as bound, runtime.start(flags.device_type) as rt:
        service = Service(load(flags, rt.device), settings)
        serve(service, bound, flags.host, flags.drain_seconds, notice)


def load(flags: Flags, device: torch.device) -> list[Model]:
    """The models that the flags name, each in as many Engines as there are to be GPUs."""
    there = torch.cuda.device_count() if device.type == "cuda" else flags.num_gpus
    if flags.num_gpus > there:
        raise UserError(f"--num_gpus is {flags.num_gpus}, but this machine has {there}")
    models: dict[str, Model] = {}
    for found in [door.find(name) for name in flags.model] or [flags.find()]:
        if (id := found.short_name) in models:
            raise UserError(f"--model names {id} twice")
        devices = [torch.device("cuda", n) if device.type == "cuda" else device for n in range(flags.num_gpus)]
        servings = [serving.serve_model(found, each, flags.dtype, flags.slots) for each in devices]
        if servings[0].note:
            print(f"{id}: {servings[0].note}")
        tools = python_tools(servings[0].tokenizer) if flags.allow_code else None
        models[id] = model(id, servings, flags.max_queue, tools)
    return list(models.values())


def _check(flags: Flags) -> None:
    """Complain about what can be known before anything is loaded."""
    for name, least in (("num_gpus", 1), ("slots", 0), ("max_queue", 0), ("max_tokens", 1), ("top_k", 0)):
        if getattr(flags, name) < least:
            raise UserError(f"--{name} is {getattr(flags, name)}; expected {least} or more")
    if not 0 <= flags.temperature <= 2:
        raise UserError(f"--temperature is {flags.temperature}; expected a number from 0 to 2")
    if not 0 <= flags.drain_seconds < 86400:
        raise UserError(f"--drain_seconds is {flags.drain_seconds}; expected 0 or more, and less than a day (86400)")
    for origin in flags.cors_origin:
        if origin != "*" and (not urlsplit(origin).netloc or urlsplit(origin).path):
            raise UserError(f"--cors_origin {origin} is no origin; expected one such as https://example.com, or *")
    if flags.unsafe_code and not flags.allow_code:
        raise UserError("--unsafe_code has no effect without --allow_code; add --allow_code, or leave it out")
    if flags.model and (flags.source != "sft" or flags.model_tag or flags.step):
        raise UserError("--model says it all; leave out --source, --model_tag and --step")


if __name__ == "__main__":
    run(main)
