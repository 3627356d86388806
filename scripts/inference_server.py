"""Serve one model from any source, started as servers of nanoGPT models are; also installed as gpt-server."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from nanochat.checkpoint.flags import ServingFlags
from nanochat.config import alias, given, parse
from nanochat.errors import UserError, run
from nanochat.paths import check_name
from nanochat.web.http.flags import NetworkFlags, find_api_key, share_cores

MOST_TOKENS = 4096  # as clients of /generate may ask for
MOST_SLOTS = 4096  # no machine holds their caches, except for toy models


@dataclass
class Flags(NetworkFlags, ServingFlags):
    """Serve one model: POST /generate continues a text, GET / shows what runs; also chat_web's page and API."""

    EXAMPLE: ClassVar = "--init_from gpt2 --port 8001"

    source: Annotated[
        str, alias("-i", "--init-from", "--model-type", "--checkpoint", "--checkpoint-path")
    ] = "resume"  # fmt: skip
    out_dir: str = "out"
    """folder where resume looks for ckpt.pt"""
    host: str = ""
    """address to listen on; default: with an API key 0.0.0.0, all of them, else 127.0.0.1, this machine only"""
    slots: int = 0
    """texts that run at once; further ones wait; 0: as many as fit this machine"""
    served_name: list[str] = field(default_factory=list)
    """name that clients see; repeat it for more names of the model"""
    chat_template: Literal["plain", "none"] = "plain"
    """how a base model chats: plain (lines of User: and Assistant:), or none (it only continues texts)"""

    # --- generation
    temperature: Annotated[float, alias("-t")] = 0.8
    """temperature of requests that name none; 0 takes the most likely token"""
    top_k: Annotated[int, alias("-k")] = 200
    """top_k of requests that name none; 0: sample from all tokens"""
    top_p: float = 1.0
    """top_p of requests that name none: sample from the fewest tokens whose probabilities sum to p"""
    max_tokens: Annotated[int, alias("-m", "--max-new-tokens")] = 256
    """maximum tokens of a reply to requests that name none"""

    # --- server
    cors_enabled: bool = False
    """let the pages of all web sites use the API, as --cors_origin '*' does"""
    compile: bool = False
    """has no effect; accepted so that nanoGPT's commands run"""

    NO_EFFECT: ClassVar = {
        "debug": "errors are always printed, on stderr",
        "max_batch_size": "--slots says how many texts run at once",
    }


@dataclass
class GptServerFlags(Flags):
    """Serve one model, as nanoLLM_gpt's gpt-server does: the page, OpenAI's API and POST /generate."""

    source: Annotated[
        str, alias("-i", "--init-from", "--model-type", "--checkpoint", "--checkpoint-path")
    ] = "gpt2"  # fmt: skip
    """what to serve: gpt2 ... gpt2-xl, a ckpt.pt or its folder, user/name, or a stage; with --out_dir: resume"""
    port: Annotated[int, alias("-p")] = 8080
    """port to listen on; 0 takes any free one"""


def main(argv: Sequence[str] | None = None) -> None:
    serve(parse(Flags, argv))


def gpt_server(argv: Sequence[str] | None = None) -> None:
    flags = parse(GptServerFlags, argv)
    if {"out_dir", "source"} & given(flags) == {"out_dir"}:
        flags.source = "resume"
    serve(flags)


def serve(flags: Flags) -> None:
    """Serve until a signal."""
    flags.cors_origin += ["*"] if flags.cors_enabled else []
    _check(flags)
    share_cores()
    from nanochat import runtime
    from nanochat.engine.serving import serve_model
    from nanochat.web.app import build_app
    from nanochat.web.server import listen, log_to_stderr
    from nanochat.web.server import serve as run_server
    from nanochat.web.state import ServedModel, ServerState, Settings, named

    log_to_stderr()
    key = find_api_key(flags.api_key)
    host = flags.host or ("0.0.0.0" if key else "127.0.0.1")
    settings = Settings(
        temperature=flags.temperature, top_k=flags.top_k, top_p=flags.top_p, max_tokens=flags.max_tokens,
        generate_top_k=flags.top_k, generate_max_tokens=flags.max_tokens, **flags.network_settings(host),
    )  # fmt: skip
    with listen(host, flags.port) as bound, runtime.start(flags.device_type) as rt:
        found = flags.find(flags.out_dir)
        loaded = serve_model(found, rt.device, flags.dtype, flags.slots)
        ((id, aliases),) = named([found.short_name], flags.served_name)
        model = ServedModel(id, [loaded], aliases=aliases, plain=flags.chat_template == "plain")
        if flags.compile:
            print("--compile has no effect on generation")
        note = "" if flags.host or key else "Without --api_key only this machine is admitted; --host changes that."
        state = ServerState([model], settings)
        run_server(build_app(state), state, bound, host, note=note)


def _check(flags: Flags) -> None:
    """Report mistakes that can be seen before anything is loaded."""
    check_name("out_dir", flags.out_dir)
    flags.check_network()
    if not 0 <= flags.slots <= MOST_SLOTS:
        raise UserError(f"--slots is {flags.slots}; expected 1 to {MOST_SLOTS}, or 0 for as many as fit")
    ranges = {"temperature": (0, 2), "top_k": (0, math.inf), "top_p": (0, 1), "max_tokens": (1, MOST_TOKENS)}
    for name, (least, most) in ranges.items():
        if not least <= (value := getattr(flags, name)) <= most:
            expected = f"{least} or more" if most == math.inf else f"{least} to {most}"
            raise UserError(f"--{name} is {value}; expected {expected}")


def cli() -> None:
    run(gpt_server)


if __name__ == "__main__":
    run(main)
