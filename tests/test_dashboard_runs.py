"""The dashboard's runs: curves of a file that grows, is cut or damaged, and what a real run that was killed shows."""

import contextlib
import fcntl
import json
import math
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import httpx
import pytest
import stages
from hypothesis import given, settings
from hypothesis import strategies as st
from watching import places, serving, synthetic, wait

from extras.dashboard import metrics, runs
from extras.dashboard.follow import Follower
from extras.dashboard.metrics import Metrics
from extras.dashboard.runs import Runs
from nanochat.errors import UserError
from nanochat.log import strict_json
from nanochat.paths import LOCK, alone_in

# ---------------------------------------------------------------- curves of any file, read in any pieces

values = st.one_of(st.floats(-1e6, 1e6), st.sampled_from(["NaN", "Infinity", "-Infinity", 3]))
trainings = st.fixed_dictionaries({"loss": values, "seconds": st.floats(0, 9), "tok_per_second": st.floats(0, 1e6)})
evaluations = st.fixed_dictionaries({"val_bpb": values})
odd = st.sampled_from([b"{\n", b"\n", b'{"loss": 1}\n', b'{"step": "1"}\n', b"\0\xff\n", b"[[[\n", b'{"step": NaN}\n'])
lines = st.lists(st.one_of(trainings, trainings, evaluations, odd), max_size=60)


def as_bytes(rows: list, since: int = 0, began: int = 0) -> list[bytes]:
    """The lines of a file; every training is the next step. No two starts write at the same time."""
    made, step = [], since
    for n, row in enumerate(rows):
        step += isinstance(row, dict) and "loss" in row
        line = row if isinstance(row, bytes) else strict_json({"step": step, "time": began + n, **row}).encode() + b"\n"
        made.append(line)
    return made


def expected(whole: list[bytes], key: str, width: int) -> list[tuple[float, ...]]:
    """Step, tokens, seconds, mean, lowest and highest of every `width` lines that have a key, from all lines."""
    tokens = seconds = 0.0
    found: dict[int, list[tuple[float, ...]]] = {}
    for number, line in enumerate(whole):
        with contextlib.suppress(ValueError, TypeError):
            row = json.loads(line)
            if isinstance(row, dict) and type(row.get("step")) is int:
                if "loss" in row:
                    seconds += row["seconds"]
                    tokens += row["seconds"] * row["tok_per_second"]
                if key in row:
                    found.setdefault(number // width, []).append((row["step"], tokens, seconds, float(row[key])))
    made = []
    for points in found.values():
        *places, values = zip(*points, strict=True)
        finite = [value for value in values if math.isfinite(value)]
        means = [sum(place) / len(points) for place in places]
        made.append((*means, *((sum(finite) / len(finite), min(finite), max(finite)) if finite else [math.nan] * 3)))
    return made


def shown(read: Metrics, key: str) -> list[tuple[float, ...]]:
    axes = [read.curve(key, axis, 1 << 30).x for axis in ("step", "tokens", "time")]
    curve = read.curve(key, points=1 << 30)
    return list(zip(*axes, curve.y, curve.low, curve.high, strict=True))


def assert_same(read: Metrics, whole: list[bytes]) -> None:
    for key in ("loss", "val_bpb"):
        found, wanted = shown(read, key), expected(whole, key, read.width)
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert one == pytest.approx(other, rel=1e-9, abs=1e-6, nan_ok=True)


@given(lines, st.lists(st.integers(0, 9000), max_size=12))
@settings(max_examples=60)
def test_a_curve_is_the_same_however_the_file_grew(rows, cuts):
    """With 8 buckets, so that they are merged again and again; also lines that are still being written."""
    whole = as_bytes(rows)
    content = b"".join(whole)
    with mock.patch.multiple(metrics, BUCKETS=8, BLOCK=2048), contextlib.ExitStack() as stack:
        path = Path(os.environ["NANOCHAT_BASE_DIR"] + ".jsonl")
        stack.callback(path.unlink)
        file = stack.enter_context(open(path, "wb", buffering=0))
        read, written = Metrics(path), 0
        for end in [*sorted(min(cut, len(content)) for cut in cuts), len(content)]:
            written += file.write(content[written:end])
            assert read.advance()
        assert read.width == 1 or len(whole) > 4 * read.width
        assert (read.at.line, read.version) == (len(whole), 0)
        assert_same(read, whole)
        few = read.curve("loss", points=3)
        assert few.x.size <= 3 and (not few.x.size or few.low.min() <= few.y.min() or math.isnan(few.low.min()))


@given(lines, lines, st.floats(0, 1))
@settings(max_examples=60)
def test_a_file_that_was_cut_is_read_on_from_where_it_still_holds(before, after, share):
    whole = as_bytes(before)
    kept = whole[: round(share * len(whole))]
    last = max((json.loads(line)["step"] for line in kept if b'"loss": ' in line and b'"seconds"' in line), default=0)
    others = as_bytes(after, last, 1000)
    with mock.patch.multiple(metrics, BUCKETS=8, BLOCK=2048, PROOF=200), contextlib.ExitStack() as stack:
        path = Path(os.environ["NANOCHAT_BASE_DIR"] + ".jsonl")
        path.write_bytes(b"".join(whole))
        stack.callback(path.unlink)
        read = Metrics(path)
        read.advance()
        path.write_bytes(b"".join(kept + others))
        read.advance()
        assert_same(read, kept + others)
        assert read.at.line == len(kept + others)


def test_a_spike_is_an_event_once(tmp_path):
    def loss(step: int) -> float:
        return math.nan if step in (150, 151) else 9.0 if 100 <= step < 103 else 3 + 0.01 * (step % 7)

    read = Metrics(synthetic(tmp_path / "run", 300, loss) / "metrics.jsonl")
    read.advance()
    spikes = [(event.step, event.text) for event in read.events if event.kind == "spike"]
    assert [step for step, _ in spikes] == [100, 150]
    assert spikes[0][1].startswith("loss 9, after 3.0") and "nan" in spikes[1][1]


def test_of_a_long_file_a_sample_comes_first_and_then_all(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "AT_ONCE", 20_000)
    base = tmp_path / "base"
    folder = synthetic(base / "base_checkpoints" / "long", 6000)
    size = (folder / "metrics.jsonl").stat().st_size
    assert size > 2 * metrics.SAMPLE and size > 20_000
    monkeypatch.setattr(metrics, "SAMPLES", 20)
    found = Runs(base)
    run = found.find("base:long")
    follower = Follower(found, run, ["loss"], "step")
    follower.poll()
    first, exact = found.look(run)
    curve = first.curve("loss")
    assert not exact and curve.x[0] < 60 and curve.x[-1] == 6000 and first.at.line < 1000
    assert first.curve("loss", "tokens").x[-1] == pytest.approx(6000 * 50, rel=0.01)
    wait(lambda: found.look(run)[1])
    assert_same(found.look(run)[0], (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True))
    assert ("reset", {"run": "base:long"}) in follower.poll()
    assert follower.poll() == []
    whole = found.look(run)[0]
    assert whole.width > 1 and whole.curve("loss", begin=1000, end=1500).x.size < 300
    for axis, factor in (("step", 1), ("tokens", 50), ("time", 0.5)):
        part = whole.part(axis, 1000 * factor, 1500 * factor, 1 << 20).curve("loss", axis, 600, begin=1000 * factor,
                                                                            end=1500 * factor)  # fmt: skip
        assert list(part.x) == [step * factor for step in range(1000, 1501)]
        assert list(part.y) == [4 - step / 1e4 for step in range(1000, 1501)]
    assert whole.part("step", 0, 6000, 1000) is whole
    path = folder / "metrics.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b'{"step": 5990,')])
    with mock.patch.object(metrics, "row_of", wraps=metrics.row_of) as parsed:
        whole.advance()
    assert parsed.call_count <= whole.width  # of the file that was cut, the end alone is read again
    assert_same(whole, path.read_bytes().splitlines(keepends=True))


# ---------------------------------------------------------------- a real run: watched, killed, resumed


@dataclass
class Watched:
    """A base folder with a run that was killed and resumed, and what was seen of it meanwhile."""

    base: Path
    folder: Path
    alive: dict  # its summary while it trained
    killed: dict
    reached: int  # the last step before it was killed
    events: list[tuple[str, dict]]  # what a follower got


@pytest.fixture(scope="module")
def watched(worlds, tmp_path_factory) -> Watched:
    base = tmp_path_factory.mktemp("watched") / "base"
    shutil.copytree(worlds["base"], base)
    folder = base / "base_checkpoints" / "d1"
    argv = stages.flags("base", base, "--save_every=10", "--eval_every=4", "--seed=7")
    found = Runs(base)
    child = stages.start(base, "base", [*argv, "--num_iterations=100000"])
    wait(lambda: (folder / "metrics.jsonl").exists() and len(stages.losses(folder)) > 2)
    run = found.find("base:d1")
    follower = Follower(found, run, ["loss", "val_bpb"], "step")
    events = follower.poll()
    with mock.patch.object(fcntl, "flock", side_effect=AssertionError("a lock was touched")):
        [alive] = found.summaries()
    wait(lambda: stages.losses(folder)[-1][0] > 20 and stages.losses(folder)[-1][0] % 10 > 2)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert (folder / LOCK).exists()
    events += follower.poll()
    [killed] = found.summaries()
    reached = stages.losses(folder)[-1][0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(base))
        stages.train("base", [*argv, f"--num_iterations={reached + 5}"])
    events += follower.poll()
    return Watched(base=base, folder=folder, alive=alive, killed=killed, reached=reached, events=events)


def test_the_state_of_a_run_is_that_of_its_lock(watched):
    assert (watched.alive["state"], watched.killed["state"]) == ("running", "stopped")
    assert watched.alive["last"]["seconds_left"] > 0 and watched.killed["last"]["seconds_left"] is None
    assert watched.alive["total_steps"] == 100000
    [now] = Runs(watched.base).summaries()
    assert (now["state"], now["step"], now["total_steps"]) == ("finished", watched.reached + 5, watched.reached + 5)
    last = {name: now["last"][name] for name in ("loss", "val_bpb")}
    assert last == {"loss": stages.losses(watched.folder)[-1][1], "val_bpb": stages.scores(watched.folder)[now["step"]]}
    assert now["last"]["memory_bytes"] > 1 << 20 and now["started"] < now["updated"]


def test_what_happened_to_a_run(watched, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(watched.base))
    found = Runs(watched.base)
    detail = found.detail(found.find("base:d1"))
    kinds = {kind: [event for event in detail["events"] if event["kind"] == kind] for kind in
             ("started", "restarted", "evaluated", "saved", "spike")}  # fmt: skip
    saved = watched.reached // 10 * 10
    assert [event["step"] for event in kinds["started"]] == [0]
    [again] = kinds["restarted"]
    assert again["step"] == saved and f"after step {watched.reached} had been reached" in again["text"]
    assert again["tokens"] == pytest.approx(128 * saved)
    assert [event["step"] for event in kinds["evaluated"]] == sorted(stages.scores(watched.folder))
    assert [event["step"] for event in kinds["saved"]][-1] == watched.reached + 5
    assert detail["config"]["model_config"]["n_layer"] == 1 and detail["changed_flags"]["depth"] == 1
    assert {"loss", "lr", "grad_norm", "val_bpb", "tok_per_second"} <= {*detail["keys"]}
    assert detail["report"].startswith("# Report card") and "base_train" in detail["report"]
    read, exact = found.look(found.find("base:d1"))
    curve = read.curve("loss")
    assert exact and list(zip(curve.x, curve.y, strict=True)) == stages.losses(watched.folder)


def test_a_follower_is_told_what_is_new_and_that_the_file_was_cut(watched):
    kinds = [kind for kind, _ in watched.events]
    assert kinds[0] == "run" and kinds.count("reset") == 1
    before = [data for kind, data in watched.events[: kinds.index("reset")] if kind == "points"]
    steps = [step for data in before if data["key"] == "loss" for step in data["x"]]
    assert steps == list(range(steps[0], watched.reached + 1))
    assert {data["key"] for data in before} == {"loss", "val_bpb"}


def test_a_lock_of_another_machine_counts_while_lines_come(tmp_path):
    (tmp_path / LOCK).write_text("process 1 on elsewhere, which started at 2026-01-01\n", encoding="utf-8")
    assert runs.in_use(tmp_path, time.time(), set())
    assert not runs.in_use(tmp_path, time.time() - 3600, set())
    with alone_in(tmp_path / "run"):
        assert runs.in_use(tmp_path / "run", 0.0, runs.locked_inodes()) and runs.in_use(tmp_path / "run", 0.0, None)
    assert not runs.in_use(tmp_path / "run", 0.0, None)


def test_out_folders_are_runs_and_have_names_of_their_own(tmp_path, base):
    (tmp_path / "several").mkdir()
    synthetic(tmp_path / "several" / "out", 3, settings={"init_from": "base:d4:7"})
    synthetic(tmp_path / "out", 3, settings={"init_from": str(tmp_path / "several" / "out")})
    found = Runs(base, lambda: [tmp_path / "several", tmp_path / "out", tmp_path / "none"])
    named = {run["id"]: run for run in found.summaries()}
    assert named.keys() == {"out:out", "out:out~2"} and named["out:out"]["kind"] == "nanogpt"
    assert (named["out:out"]["parent"], named["out:out~2"]["parent"]) == ("base:d4", "out:out")
    assert found.find("out:out~2").folder == tmp_path / "out"


# ---------------------------------------------------------------- the routes, on a real server


@pytest.fixture(scope="module")
def live(watched) -> Iterator[httpx.Client]:
    synthetic(watched.base / "mid_checkpoints" / "other", 50, parent={"source": "base", "tag": "d1"}, seed=3)
    with serving(places(watched.base)) as client:
        yield client


def test_the_list_and_the_curves(live, watched):
    listed = live.get("/runs").json()["runs"]
    assert [run["id"] for run in listed] == ["mid:other", "base:d1"]
    assert listed[0]["parent"] == "base:d1" and listed[0]["state"] == "stopped"
    query = {"run": ["base:d1", "mid:other"], "key": ["loss", "val_bpb"], "x": "tokens"}
    series = live.get("/curves", params=query).json()["series"]
    assert [(each["run"], each["key"]) for each in series] == [
        (run, key) for run in query["run"] for key in query["key"]
    ]  # fmt: skip
    assert series[2]["x"] == [50 * step for step in range(1, 51)] and series[3]["x"] == []
    part = live.get("/curves", params={"run": "mid:other", "from": 10, "to": 20, "points": 4}).json()["series"][0]
    assert len(part["x"]) == 4 and part["x"][0] == 11 and part["x"][-1] == 19.5
    assert part["low"][0] < part["y"][0] < part["high"][0]
    differs = {each["name"]: each for each in live.get("/runs/base:d1/diff?other=mid:other").json()["differs"]}
    assert differs["seed"]["other"] == 3 and differs["model.n_embd"] == {
        "name": "model.n_embd", "this": 32, "other": None
    }  # fmt: skip
    assert "depth" not in differs


@pytest.mark.parametrize("path, status, word", [
    ("/runs/base:none", 404, "base:none"), ("/runs/base:..", 404, "no run"), ("/runs/..%2F..%2Fetc", 404, ""),
    ("/runs/base:d1/diff?other=x", 404, "'x'"), ("/curves", 400, "0 runs"),
    ("/curves?run=base:d1&points=1e9", 400, "2000"), ("/curves?run=base:d1&points=x", 400, "points"),
    ("/curves?run=base:d1&x=y", 400, "step, tokens, time"),
    ("/curves?run=base:d1&from=inf", 400, "from"), ("/follow?run=sft:d1", 404, "sft:d1"),
])  # fmt: skip
def test_mistakes_are_one_sentence(live, path, status, word):
    response = live.get(path)
    assert response.status_code == status
    assert word in response.json().get("error", {}).get("message", "")


def test_a_page_follows_a_run_that_grows_and_is_cut(live, watched):
    path = synthetic(watched.base / "base_checkpoints" / "grows", 5) / "metrics.jsonl"
    whole = path.read_bytes()
    got: list[tuple[str, dict]] = []
    with live.stream("GET", "/follow?run=base:grows&key=loss&key=none") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        kind = ""
        for line in response.iter_lines():
            if line.startswith("event: "):
                kind = line[7:]
            if not line.startswith("data: "):
                continue
            got.append((kind, json.loads(line[6:])))
            if kind == "run" and len(got) == 1:
                with open(path, "ab") as file:
                    file.write(b'{"step": 6, "time": 1.0, "loss": "NaN"}\n{"step": 7, "time": 2.0, "loss": 1.5}\n{"st')
            if kind == "run" and len(got) == 3:
                path.write_bytes(whole[: whole.index(b'{"step": 3')])
            if kind == "reset":
                break
    assert got[1] == ("points", {"run": "base:grows", "key": "loss", "x": [6, 7], "y": [None, 1.5]})
    assert [kind for kind, _ in got] == ["run", "points", "run", "reset"] and got[2][1]["step"] == 7
    shutil.rmtree(path.parent)
    with pytest.raises(UserError, match="no run"):
        Runs(watched.base).find("base:grows")
