"""Serve one model from any source, started as servers of nanoGPT models are; also installed as gpt-server."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from nanochat.checkpoint.flags import ServingFlags
from nanochat.config import alias, parse
from nanochat.errors import UserError, run
from nanochat.paths import check_name
from nanochat.web.flags import NetworkFlags, find_api_key

MOST_SLOTS = 4096  # no machine holds their caches, except for toy models


@dataclass
class Flags(NetworkFlags, ServingFlags):
    """Serve one model: POST /generate continues a text, GET / shows what runs; also chat_web's page and API."""

    source: Annotated[
        str, alias("-i", "--init-from", "--model-type", "--checkpoint", "--checkpoint-path")
    ] = "resume"  # fmt: skip
    out_dir: str = "out"
    """folder where resume looks for ckpt.pt"""
    host: str = ""
    """address to listen on; default: with an API key 0.0.0.0, all of them, else 127.0.0.1, this machine only"""
    slots: int = 0
    """texts that run at once; further ones wait; 0: as many as fit this machine"""
    compile: bool = False
    """has no effect; accepted so that nanoGPT's commands run"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    check_name("out_dir", flags.out_dir)
    flags.check_network()
    if not 0 <= flags.slots <= MOST_SLOTS:
        raise UserError(f"--slots is {flags.slots}; expected 1 to {MOST_SLOTS}, or 0 for as many as fit")
    from nanochat import runtime
    from nanochat.engine.serving import serve_model
    from nanochat.web.server import listen, log_to_stderr, serve
    from nanochat.web.state import ServedModel, ServerState, Settings

    log_to_stderr()
    key = find_api_key(flags.api_key)
    host = flags.host or ("0.0.0.0" if key else "127.0.0.1")
    settings = Settings(temperature=0.8, top_k=200, max_tokens=256, **flags.network_settings(host))
    with listen(host, flags.port) as bound, runtime.start(flags.device_type) as rt:
        loaded = serve_model(flags.find(flags.out_dir), rt.device, flags.dtype, flags.slots)
        if flags.compile:
            print("--compile has no effect on generation")
        note = "" if flags.host or key else "Without --api_key only this machine is admitted; --host changes that."
        serve(ServerState([ServedModel(flags.source, [loaded])], settings), bound, host, note=note)


def cli() -> None:
    run(main)


if __name__ == "__main__":
    cli()
