"""Serve trained models: a page to chat with and an API for OpenAI's clients."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from extras.dashboard.flags import DashboardFlags
from nanochat.checkpoint.flags import ServingFlags
from nanochat.config import alias, parse
from nanochat.errors import UserError, run
from nanochat.web.http.flags import NetworkFlags, share_cores

if TYPE_CHECKING:
    import torch

    from nanochat.web.state import ServedModel


@dataclass
class Flags(DashboardFlags, NetworkFlags, ServingFlags):
    """Serve trained models on a page and by an API. Ctrl-C finishes the running replies, then exits."""

    EXAMPLE: ClassVar = "--source sft:d3 --port 8001"

    # --- model
    model: list[str] = field(default_factory=list)
    """serve this model instead, named as for --source; repeat it for several, the first is the default"""
    served_name: list[str] = field(default_factory=list)
    """name that clients see; with several models once for each, in order"""
    chat_template: Literal["plain", "none"] = "none"
    """how base models chat: plain (lines of User: and Assistant:), or none (they only continue texts)"""

    # --- generation
    system: str = ""
    """system prompt of conversations that have none"""
    temperature: Annotated[float, alias("-t")] = 0.8
    """temperature of requests that name none; 0 takes the most likely token"""
    top_k: Annotated[int, alias("-k")] = 50
    """top_k of requests that name none; 0: sample from all tokens"""
    max_tokens: Annotated[int, alias("-m")] = 512
    """maximum tokens of a reply to requests that name none"""

    # --- server
    slots: int = 0
    """requests that run at once per model and GPU; 0: as many as fit this machine"""
    max_queue: int = 256
    """requests that may wait for a slot; further ones are refused"""
    drain_seconds: float = 30.0
    """seconds to wait for replies under way after SIGTERM or Ctrl-C"""
    log_prompts: bool = False
    """write prompts and replies to stderr"""
    allow_code: bool = False
    """let models run Python in a sandbox"""
    unsafe_code: bool = False
    """with --allow_code: run it even where this machine cannot fully isolate it"""

    # --- machine
    num_gpus: Annotated[int, alias("-n")] = 1
    """number of GPUs, each of which serves every model"""
    compile: bool = False
    """on a GPU: compile decoding, which makes it faster and the first replies late"""



def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    _check(flags)
    share_cores()
    from nanochat import runtime
    from nanochat.engine.tools import permit_code
    from nanochat.web.app import build_app
    from nanochat.web.server import listen, log_to_stderr, serve
    from nanochat.web.state import ServerState, Settings
    from scripts._dashboard import dashboard_part

    notice = permit_code("--allow_code", flags.unsafe_code, "leave --allow_code out") if flags.allow_code else ""
    log_to_stderr()
    settings = Settings(
        temperature=flags.temperature, top_k=flags.top_k, max_tokens=flags.max_tokens, max_queue=flags.max_queue,
        log_prompts=flags.log_prompts, system=flags.system, **flags.network_settings(flags.host),
    )  # fmt: skip
    with listen(flags.host, flags.port) as bound, runtime.start(flags.device_type) as rt:
        state = ServerState(load(flags, rt.device), settings)
        served = [f"{model.source}:{model.tag}" for model in state.models.values()]
        app = build_app(state, [dashboard_part(flags, lambda: served)])
        serve(app, state, bound, flags.host, flags.drain_seconds, notice)


def load(flags: Flags, device: "torch.device") -> "list[ServedModel]":
    """Load the models named by the flags, one Engine per GPU."""
    import torch

    from nanochat.checkpoint import door
    from nanochat.engine.serving import serve_model
    from nanochat.engine.tools import python_tools
    from nanochat.web.state import ServedModel, named

    available = torch.cuda.device_count() if device.type == "cuda" else flags.num_gpus
    if flags.num_gpus > available:
        raise UserError(f"--num_gpus is {flags.num_gpus}, but this machine has {available}")
    devices = [torch.device("cuda", n) if device.type == "cuda" else device for n in range(flags.num_gpus)]
    models: list[ServedModel] = []
    chosen = [door.find(name) for name in flags.model] or [flags.find()]
    names = named([found.short_name for found in chosen], flags.served_name)
    for found, (id, aliases) in zip(chosen, names, strict=True):
        servings = [serve_model(found, each, flags.dtype, flags.slots, flags.compile) for each in devices]
        if servings[0].note:
            print(f"{id}: {servings[0].note}")
        tools = python_tools(servings[0].tokenizer) if flags.allow_code else None
        plain = flags.chat_template == "plain"
        models.append(ServedModel(id, servings, flags.max_queue, tools, aliases, plain))
    return models


def _check(flags: Flags) -> None:
    """Report mistakes that can be seen before anything is loaded."""
    for name, least in (("num_gpus", 1), ("slots", 0), ("max_queue", 0), ("max_tokens", 1), ("top_k", 0)):
        if getattr(flags, name) < least:
            raise UserError(f"--{name} is {getattr(flags, name)}; expected {least} or more")
    if not 0 <= flags.temperature <= 2:
        raise UserError(f"--temperature is {flags.temperature}; expected a number from 0 to 2")
    if not 0 <= flags.drain_seconds < 86400:
        raise UserError(f"--drain_seconds is {flags.drain_seconds}; expected 0 or more, and less than a day (86400)")
    flags.check_network()
    flags.check_dashboard(flags, flags.host)
    if flags.unsafe_code and not flags.allow_code:
        raise UserError("--unsafe_code has no effect without --allow_code; add --allow_code, or leave it out")
    if flags.model and (flags.source != "sft" or flags.model_tag or flags.step):
        raise UserError("--model names models completely; leave out --source, --model_tag and --step")


if __name__ == "__main__":
    run(main)
