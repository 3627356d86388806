"""How long the dashboard takes to open on many long runs, and what following a live run costs.

    python dev/bench_dashboard.py                             1,000 runs of 100,000 lines, about a minute
    python dev/bench_dashboard.py --runs 10 --lines 10000     smaller

The runs share one file by hard links, so it is in the file system's cache after the first of them has been read; every
run is still opened and read by itself. Beside each time stands the server's own processor time, from /proc: what counts
on a machine that does something else as well.
"""

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from nanochat.config import parse
from nanochat.errors import UserError, run
from nanochat.log import strict_json
from nanochat.paths import SOURCES

KEYS = ("loss", "val_bpb", "lr", "grad_norm", "tok_per_second", "mfu", "memory_bytes")  # what the page draws
PATIENCE = 600.0  # seconds for the server to start
EVAL_EVERY = 250


@dataclass
class Flags:
    """Measure the dashboard's server; the last line is JSON."""

    runs: int = 1000
    """runs in the base folder"""
    lines: int = 100_000
    """lines of each"""
    shown: int = 5
    """runs whose curves are drawn over each other"""
    per_second: float = 10.0
    """lines per second that the live run writes"""
    seconds: float = 30.0
    """how long it is followed"""


def main() -> None:
    flags = parse(Flags)
    if not Path("/proc/self/stat").exists():
        raise UserError("this reads processor time from /proc, which only Linux has; run it there")
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        make_runs(base, flags.runs, flags.lines)
        server, url, began = start(base)
        try:
            found = {"start": (time.perf_counter() - began, processor_seconds(server.pid))}
            found |= opening(url, server.pid, flags.shown)
            found |= following(url, server.pid, base, flags.per_second, flags.seconds)
        finally:
            server.terminate()
            server.wait()
    print(f"{'':<28} seconds  of the processor")
    for name, (seconds, processor) in found.items():
        print(f"{name:<28} {seconds:7.3f} {processor:7.3f}  {processor / seconds:7.2%}")
    print(json.dumps({name: [round(each, 4) for each in measured] for name, measured in found.items()}))


def make_runs(base: Path, runs: int, lines: int) -> None:
    """Finished base runs r0000, r0001, …, whose metrics are one file."""
    prototype = base / "prototype.jsonl"
    rng = random.Random(1)
    with open(prototype, "w", encoding="utf-8") as file:
        for step in range(1, lines + 1):
            file.write(line_of(step, lines, rng))
            if step % EVAL_EVERY == 0:
                scores = {"val_bpb": 1 + rng.random(), "val_perplexity": 9.0}
                file.write(strict_json({"step": step, "time": 1.7e9 + step, **scores}) + "\n")
    config = {"user_config": {f"flag_{n}": n for n in range(60)}, "model_config": {f"number_{n}": n for n in range(30)}}
    for number in range(runs):
        folder = base / SOURCES["base"] / f"r{number:04d}"
        folder.mkdir(parents=True)
        os.link(prototype, folder / "metrics.jsonl")
        (folder / "config.json").write_text(strict_json({**config, "seed": number}, indent=2), encoding="utf-8")


def line_of(step: int, lines: int, rng: random.Random) -> str:
    """A line as the loop writes it."""
    return strict_json({
        "step": step, "time": round(1.7e9 + step + rng.random(), 3), "loss": 3 + rng.random(),
        "grad_norm": rng.random(), "lr": rng.random(), "progress": step / lines, "momentum": rng.random(),
        "weight_decay": rng.random(), "seconds": 1 + rng.random(), "tok_per_second": 1e5 * (1 + rng.random()),
        "tflop_per_second": 100 * rng.random(), "mfu": rng.random(), "memory_bytes": 81234567890,
    }) + "\n"  # fmt: skip


def start(base: Path) -> tuple[subprocess.Popen, str, float]:
    """A server on a base folder, its address, and when it was started."""
    began = time.perf_counter()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "NANOCHAT_BASE_DIR": str(base), "PYTHONPATH": os.getcwd()}
    server = subprocess.Popen(
        [sys.executable, "-m", "scripts.dashboard", f"--port={port}"], env=environment, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        try:  # the port is open a little before the server answers
            get(f"http://127.0.0.1:{port}/health")
        except OSError:
            time.sleep(0.01)
        else:
            return server, f"http://127.0.0.1:{port}/dashboard", began
    server.kill()
    raise UserError("scripts.dashboard did not start; start it by hand to see why")


def get(url: str, **query: object) -> dict:
    with urllib.request.urlopen(f"{url}?{urlencode(query, doseq=True)}") as response:
        return json.load(response)


def opening(url: str, process: int, shown: int) -> dict[str, tuple[float, float]]:
    """Until the list and the first curves have come, until the curves are exact, and the same again."""
    ids: list[str] = []
    query = {"run": ids, "key": KEYS, "x": "step"}

    def read_list() -> None:
        ids[:] = [each["id"] for each in get(f"{url}/runs")["runs"]][:shown]

    def until_exact() -> None:
        while not all(each["exact"] for each in get(f"{url}/curves", **query)["series"]):
            time.sleep(2)

    return {
        "list": timed(process, read_list),
        "first curves": timed(process, lambda: get(f"{url}/curves", **query)),
        "until they are exact": timed(process, until_exact),
        "list again": timed(process, read_list),
        "curves again": timed(process, lambda: get(f"{url}/curves", **query)),
    }


def following(
    url: str, process: int, base: Path, per_second: float, seconds: float
) -> dict[str, tuple[float, float]]:  # fmt: skip
    """What the server takes when nobody looks, and while a live run is followed."""
    folder = base / SOURCES["base"] / "live"
    folder.mkdir()
    rng, received = random.Random(2), 0
    busy: list[tuple[float, float]] = []
    with open(folder / "metrics.jsonl", "w", encoding="utf-8", buffering=1) as file:

        def write() -> None:
            for step in range(2, 2 + round(per_second * seconds)):
                file.write(line_of(step, 10**6, rng))
                time.sleep(1 / per_second)

        file.write(line_of(1, 10**6, rng))
        time.sleep(1)
        idle = timed(process, lambda: time.sleep(seconds / 3))
        query = urlencode({"run": ["base:live"], "key": KEYS}, doseq=True)
        with urllib.request.urlopen(f"{url}/follow?{query}") as response:
            threading.Thread(target=lambda: busy.append(timed(process, write)), daemon=True).start()
            for line in response:
                received += line.startswith(b"event: points")
                if busy:
                    break
    if not received:
        raise UserError("the server has sent no points of the live run; open its page to see why")
    return {"nobody looks": idle, "a live run is followed": busy[0]}


def timed(process: int, action: Callable[[], object]) -> tuple[float, float]:
    """The seconds that an action takes, and those of the processor that a process spends meanwhile."""
    began, before = time.perf_counter(), processor_seconds(process)
    action()
    return time.perf_counter() - began, processor_seconds(process) - before


def processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    run(main)
