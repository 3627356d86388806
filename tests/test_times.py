"""Where the time of a stage goes. What torch.compile takes of it: tests/test_loss.py, where something is compiled."""

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_loop import model, rows_in_turn, run, stage

from nanochat.train import times
from nanochat.train.loop import Evaluation, TrainState
from nanochat.train.times import PARTS, Times, in_words


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock is a second later than the one before; nothing is compiled."""
    seconds = itertools.count()
    monkeypatch.setattr(times, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))
    monkeypatch.setattr(times, "_compiled", lambda: 0.0)


@pytest.mark.usefixtures("clock")
def test_a_part_interrupts_another_and_all_add_up() -> None:
    spent = Times({"data": 10.0}, began=-5.0)  # the clock says 0
    with spent.of("evaluation"):  # 1
        with spent.of("data"):  # 2 to 3
            pass
        with pytest.raises(ValueError, match="broken"), spent.of("saving"):  # 4 to 5
            raise ValueError("broken")
    assert spent.read() == {"starting": 5, "data": 11, "evaluation": 3, "saving": 1, "other": 2}  # 6 and 7
    assert sum(spent.read().values()) == 10 + 5 + 8


@pytest.mark.usefixtures("clock")
def test_of_a_gpu_the_parts_of_a_step_are_one() -> None:
    spent = Times(is_gpu=True)
    for part in ("data", "forward", "backward", "optimizer"):
        with spent.of(part):
            pass
    assert spent.read() == {"data": 1, "computing": 3, "other": 5}


@pytest.mark.usefixtures("clock")
def test_what_a_rank_does_at_its_own_pace() -> None:
    spent = Times({"forward": 7.0})  # the clock says 0
    with spent.of("data"), spent.of("waiting"):  # 1 to 4
        pass
    with spent.of("backward"):  # 5 to 6
        pass
    with spent.of("optimizer"):
        pass
    assert spent.own() == 7 + 2 + 1


class Moment:
    """A moment on a GPU, which it reaches when `now` is there."""

    now = next_one = 0

    def __init__(self) -> None:
        Moment.next_one += 1
        self.at = Moment.next_one

    def query(self) -> bool:
        return self.at <= Moment.now

    def elapsed_time(self, later: "Moment") -> float:
        return 1000.0 * (later.at - self.at)


@pytest.mark.usefixtures("clock")
def test_what_a_gpu_does_is_measured_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(times, "_now_on_gpu", Moment)
    spent = Times(is_gpu=True)
    spent.has_events = True
    with spent.of("data"):
        pass
    for part in ("forward", "backward", "optimizer"):
        with spent.of(part):
            pass
    for now, seconds in ((1, 0), (2, 1), (4, 2), (4, 2)):
        monkeypatch.setattr(Moment, "now", now)
        assert spent.own() == 1 + seconds


def test_without_torch_compile_nothing_of_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch._dynamo.utils", raising=False)
    with (spent := Times()).of("forward"):
        pass
    assert "compile" not in spent.read() and "torch._dynamo.utils" not in sys.modules


def test_the_loop_knows_its_parts_also_over_a_restart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved: list[dict] = []

    def steps(n: int) -> dict:
        return {"num_iterations": n, "save": lambda state, passing: saved.append(state.state_dict()),
                "evaluations": [Evaluation(1, lambda stopping: {"score": 1.0})]}  # fmt: skip

    first = run(stage(model(), rows_in_turn(2), **steps(2)), tmp_path)
    usual = {"starting", "data", "forward", "backward", "optimizer", "evaluation", "saving", "other"}
    assert usual <= first.times.keys()
    assert set(first.times) <= set(PARTS) and {"sampling", "computing"}.isdisjoint(first.times)
    assert f"test: time {in_words(first.times)}" in capsys.readouterr().out
    resumed = TrainState.restored(saved[-1], "it")
    assert resumed.times.keys() <= first.times.keys() and resumed.times
    before = resumed.times
    second = run(stage(model(), rows_in_turn(2), **steps(3)), tmp_path, state=resumed)
    assert all(second.times[part] > seconds for part, seconds in before.items())
    sampled = run(stage(model(), rows_in_turn(2), on_policy=True), tmp_path / "rl")
    assert "sampling" in sampled.times and "data" not in sampled.times


def test_one_line_with_shares() -> None:
    words = in_words({"data": 2.0, "compile": 0.0001, "forward": 118.0, "backward": 80.0})
    assert words == "3m20s: data 2.0s (1%), forward 1m58s (59%), backward 1m20s (40%)"
