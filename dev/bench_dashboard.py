"""How long the dashboard takes to open on many long runs, and what following a live run costs.

    python dev/bench_dashboard.py                             1,000 runs of 100,000 lines, about a minute
    python dev/bench_dashboard.py --runs 10 --lines 10000     smaller

The runs share one file by hard links, so it is in the file system's cache after the first of them has been read; every
run is still opened and read by itself. The share of a core is the server's own processor time, from /proc.
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
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from nanochat.config import parse
from nanochat.errors import UserError, run
from nanochat.log import strict_json
from nanochat.paths import SOURCES

KEYS = ("loss", "val_bpb", "lr", "grad_norm", "tok_per_second", "mfu", "memory_bytes")  # what the page draws
PATIENCE = 60.0  # seconds for the server to start
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
        began = time.perf_counter()
        server, url = start(base)
        try:
            found = {"start": time.perf_counter() - began, **opening(url, flags.shown)}
            found |= following(url, server.pid, base, flags.per_second, flags.seconds)
        finally:
            server.terminate()
            server.wait()
    for name, value in found.items():
        print(f"{name:<28} {value:8.3f}")
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))


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


def start(base: Path) -> tuple[subprocess.Popen, str]:
    """A server on a base folder, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "NANOCHAT_BASE_DIR": str(base), "PYTHONPATH": os.getcwd()}
    server = subprocess.Popen(
        [sys.executable, "-m", "scripts.dashboard", f"--port={port}"], env=environment, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.01)
        else:
            return server, f"http://127.0.0.1:{port}/dashboard"
    server.kill()
    raise UserError("scripts.dashboard did not start; start it by hand to see why")


def get(url: str, **query: object) -> dict:
    with urllib.request.urlopen(f"{url}?{urlencode(query, doseq=True)}") as response:
        return json.load(response)


def opening(url: str, shown: int) -> dict[str, float]:
    """Seconds until the list and the first curves have come, and until the curves are exact."""
    began = time.perf_counter()
    ids = [each["id"] for each in get(f"{url}/runs")["runs"]][:shown]
    found = {"list": time.perf_counter() - began}
    query = {"run": ids, "key": KEYS, "x": "step"}
    series = get(f"{url}/curves", **query)["series"]
    found["list and first curves"] = time.perf_counter() - began
    while not all(each["exact"] for each in series):
        time.sleep(0.2)
        series = get(f"{url}/curves", **query)["series"]
    found["until curves are exact"] = time.perf_counter() - began
    began = time.perf_counter()
    get(f"{url}/runs")
    found["list again"] = time.perf_counter() - began
    began = time.perf_counter()
    get(f"{url}/curves", **query)
    return {**found, "curves again": time.perf_counter() - began}


def following(url: str, process: int, base: Path, per_second: float, seconds: float) -> dict[str, float]:
    """The share of a core that the server takes, idle and while a live run is followed."""
    folder = base / SOURCES["base"] / "live"
    folder.mkdir()
    rng, received = random.Random(2), 0
    with open(folder / "metrics.jsonl", "w", encoding="utf-8", buffering=1) as file:
        file.write(line_of(1, 10**6, rng))
        time.sleep(1)
        idle = share_of_a_core(process, lambda: time.sleep(seconds / 3))
        query = urlencode({"run": ["base:live"], "key": KEYS}, doseq=True)
        with urllib.request.urlopen(f"{url}/follow?{query}") as response:

            def read() -> None:
                nonlocal received
                for line in response:
                    received += line.startswith(b"data: ")

            threading.Thread(target=read, daemon=True).start()

            def write() -> None:
                for step in range(2, 2 + round(per_second * seconds)):
                    file.write(line_of(step, 10**6, rng))
                    time.sleep(1 / per_second)

            share = share_of_a_core(process, write)
    return {"share of a core, idle": idle, "share of a core, following": share, "events": float(received)}


def share_of_a_core(process: int, action) -> float:
    """The fraction of a core that a process takes during an action."""
    began, before = time.perf_counter(), processor_seconds(process)
    action()
    return (processor_seconds(process) - before) / (time.perf_counter() - began)


def processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    run(main)
