"""How long a person waits: for help, for the first answer, for a page that can be used; and what that weighs.

    python dev/bench_start.py                        with a model of depth 4 with random weights
    python dev/bench_start.py --source sft           with a model of the base folder
    python dev/bench_start.py --previous ../old      the same with another checkout of nanochat, by turns

Everything runs in processes of its own, on an otherwise idle machine. Cold: the files of the checkout, of the Python
packages and of the model are out of the system's cache, as after the machine was started; warm: they were just read.
For the page, cold is a first visit and warm the second one in the same browser. Times are the median of the rounds,
memory is the peak of resident memory. Without Chromium the page is left out, without posix_fadvise what is cold.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds the packages beside it

from nanochat.config import parse
from nanochat.errors import UserError, run
from nanochat.paths import base_dir
from nanochat.report.sections import machine
from nanochat.terminal import columns

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "What is 12 + 30?"
SEEN_TOUR = "localStorage.setItem('nanochat.tour-seen', 'true')"
PATIENCE = 300.0  # seconds, for a machine that does something else as well
SETTLING = 2.0  # seconds in which what the page still fetches is counted
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
Figures = dict[str, float]


@dataclass
class Flags:
    """Measure how nanochat starts; the last line is JSON."""

    source: str = ""
    """model of the base folder, such as sft or sft:d3; default: a small one with random weights"""
    previous: Path | None = None
    """another checkout to compare with"""
    rounds: int = 3
    """measure this often; the median counts"""
    cold: bool = True
    """measure without the system's cache of files, too"""
    page: bool = True
    """measure the page, in Chromium"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    folders = {"nanochat": ROOT} | ({"previous": flags.previous.resolve()} if flags.previous else {})
    load = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        base = base_dir() if flags.source else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        source = flags.source or "sft"
        if not flags.source:
            python(ROOT, base, "-c", "from dev import bench_serve; bench_serve.save_random_model()")
        found: dict[str, dict[str, list[float]]] = {name: {} for name in folders}
        for _ in range(flags.rounds):
            for name, folder in folders.items():
                for what, figure in measured(folder, base, source, flags).items():
                    found[name].setdefault(what, []).append(figure)
    medians = {name: {what: statistics.median(each) for what, each in rows.items()} for name, rows in found.items()}
    here = machine()
    print(f"{here['CPU']}, {here['cores']} cores, {here['system']}, Python {here['Python']}, torch {here['torch']}; "
          f"load {load:.1f} at the start\n")  # fmt: skip
    print(table(medians))
    print(json.dumps({"machine": here, "load": load, **medians}))


def table(medians: dict[str, Figures]) -> str:
    """A row for each figure, a column for each checkout."""
    names = list(dict.fromkeys(what for rows in medians.values() for what in rows))
    rows = [[what, *(f"{each[what]:,.2f}" if what in each else "-" for each in medians.values())] for what in names]
    return columns([["", *medians], *rows])


def measured(folder: Path, base: Path, source: str, flags: Flags) -> Figures:
    """All figures of a checkout, once: seconds, megabytes and kilobytes, as their names say."""
    starts = {
        "help of chat_cli": ["-m", "scripts.chat_cli", "--help"],
        "help of chat_sft": ["-m", "scripts.chat_sft", "--help"],
        "first answer": ["-m", "scripts.chat_cli", "--source", source, "--seed", "1", "--max_tokens", "32",
                         "-p", QUESTION],
    }  # fmt: skip
    if (folder / "scripts" / "__main__.py").exists():
        starts = {"list of commands": ["-m", "nanochat"], **starts}
    found: Figures = {}
    for name, words in starts.items():
        for state in ("cold", "warm"):
            if state == "cold" and not (flags.cold and forget(folder, base)):
                continue
            found[f"{name}, {state}, s"], memory = first_output(folder, base, words)
        found[f"{name}, MB"] = memory
    return found | (page(folder, base, source) if flags.page and CHROMIUM else {})


def environment(folder: Path, base: Path) -> dict[str, str]:
    settings = {**os.environ, "PYTHONPATH": str(folder), "NANOCHAT_BASE_DIR": str(base), "PYTHONUNBUFFERED": "1"}
    settings.pop("PYTHONDONTWRITEBYTECODE", None)  # without bytecode, importing torch takes three times as long
    return settings


def python(folder: Path, base: Path, *words: str) -> None:
    subprocess.run([sys.executable, *words], cwd=folder, env=environment(folder, base), check=True)


def first_output(folder: Path, base: Path, words: Sequence[str]) -> tuple[float, float]:
    """Seconds until a process writes to stdout, and its peak memory in MB. Raises UserError if it fails."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as complaints:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=folder, env=environment(folder, base), stdout=subprocess.PIPE,
            stderr=complaints,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.read(1)
        seconds = time.perf_counter() - began
        process.stdout.read()
        process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            complaints.seek(0)
            raise UserError(f"python {' '.join(words)} in {folder} failed: {complaints.read().strip()[-300:]}")
    return seconds, usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def forget(folder: Path, base: Path) -> bool:
    """Take the files of a checkout, of the packages and of the model out of the system's cache; False if it cannot.

    Pages that a running process has mapped stay, such as Python itself.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    os.sync()  # what is not yet written stays
    packages = Path(sysconfig.get_paths()["platlib"])
    for root in (folder / "nanochat", folder / "scripts", packages, base):
        for path in root.rglob("*"):
            if path.is_file():
                with open(path, "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def page(folder: Path, base: Path, source: str) -> Figures:
    """Until the server answers, until a question can be sent, and what comes over the wire."""
    from playwright.sync_api import sync_playwright

    with served(folder, base, source) as (url, pid, seconds), sync_playwright() as playwright:
        found = {"server answers, warm, s": seconds}
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": 1280, "height": 860})
        context.set_default_timeout(1000 * PATIENCE)
        context.add_init_script(SEEN_TOUR)
        for visit in ("cold", "warm"):
            tab = context.new_page()
            received: list[float] = []
            wire = context.new_cdp_session(tab)
            wire.send("Network.enable")
            wire.on("Network.loadingFinished", counter(received))
            began = time.perf_counter()
            tab.goto(url, wait_until="commit")
            tab.fill("#prompt", QUESTION)
            tab.wait_for_selector("#send:enabled")
            found[f"page can be used, {visit}, s"] = time.perf_counter() - began
            tab.wait_for_timeout(1000 * SETTLING)
            found[f"page, {visit}, KB received"] = sum(received) / 1000
            tab.close()
        browser.close()
        status = Path(f"/proc/{pid}/status")
        if status.exists() and (peak := re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))):
            found["server, MB"] = int(peak[1]) / 1024
    return found


def counter(received: list[float]) -> Callable[[dict], None]:
    return lambda event: received.append(event["encodedDataLength"])


@contextlib.contextmanager
def served(folder: Path, base: Path, source: str) -> Iterator[tuple[str, int, float]]:
    """A chat server: its address, its process, and the seconds until it answered. Raises UserError if it does not."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "scripts.chat_web", "--port", "0", "--source", source, "--slots", "2"]
    process = subprocess.Popen(
        command, cwd=folder, env=environment(folder, base), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        url = next((found[0] for line in process.stdout if (found := re.search(r"http://[\w.]+:\d+", line))), None)
        if url is None:
            raise UserError(f"{' '.join(command)} in {folder} did not start; start it by hand to see why")
        yield url, process.pid, time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    run(main)
