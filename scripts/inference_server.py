"""Serve one model of any source, started as servers of nanoGPT models are; also installed as gpt-server."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from nanochat import runtime
from nanochat.checkpoint.flags import ServingFlags
from nanochat.config import alias, parse
from nanochat.engine import serving
from nanochat.errors import UserError, run
from nanochat.paths import check_name
from nanochat.web.operation import api_key, known_hosts, log_to_stderr, serve
from nanochat.web.server import listen
from nanochat.web.service import Service, Settings, model

MOST_SLOTS = 4096  # whose caches no machine holds beyond toy models


@dataclass
class Flags(ServingFlags):
    """Serve one model: POST /generate continues a text, GET / says what runs; also the page and the API of chat_web."""

    source: Annotated[
        str, alias("-i", "--init-from", "--model-type", "--checkpoint", "--checkpoint-path")
    ] = "resume"  # fmt: skip
    out_dir: str = "out"
    """where resume looks for ckpt.pt"""
    host: str | None = None
    """address to listen on; default: 0.0.0.0, all of them, with an API key, else 127.0.0.1, this machine only"""
    port: Annotated[int, alias("-p")] = 8000
    """0: any free one"""
    api_key: str | None = None
    """what clients must send as a bearer token; default: NANOCHAT_API_KEY or NANOGPT_API_KEY, else none is needed"""
    slots: int = 0
    """texts continued at once, further ones wait; 0: as many as suit this machine"""
    compile: bool = False
    """has no effect; for commands that were written for nanoGPT"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    check_name("out_dir", flags.out_dir)
    if not 0 <= flags.slots <= MOST_SLOTS:
        raise UserError(f"--slots is {flags.slots}; expected 1 to {MOST_SLOTS}, or 0 for as many as are good")
    log_to_stderr()
    key = api_key(flags.api_key)
    host = flags.host or ("0.0.0.0" if key else "127.0.0.1")
    settings = Settings(temperature=0.8, top_k=200, max_tokens=256, api_key=key, hosts=known_hosts(host))
    with listen(host, flags.port) as bound, runtime.start(flags.device_type) as rt:
        loaded = serving.serve_model(flags.find(flags.out_dir), rt.device, flags.dtype, flags.slots)
        if flags.compile:
            print("--compile has no effect on generating")
        remark = "" if flags.host or key else "Without --api_key only this machine is let in; --host says otherwise."
        serve(Service([model(flags.source, [loaded])], settings), bound, host, remark=remark)


def cli() -> None:
    run(main)


if __name__ == "__main__":
    cli()
