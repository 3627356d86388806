"""The training loop: what a step computes, when it saves and measures, and what makes it stop."""

import gc
import json
import math
import multiprocessing
import os
import signal
import socket
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from nanochat import runtime
from nanochat.data.batch import Batch
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig
from nanochat.log import MetricsLog
from nanochat.optim import AdamWGroup, Optimizer, Rates
from nanochat.runtime import Runtime
from nanochat.train import loop
from nanochat.train.loop import Evaluation, Stage, TrainState, train
from nanochat.train.objective import loss_of

processes = multiprocessing.get_context("fork")

CONFIG = GPTConfig(sequence_len=8, vocab_size=64, n_layer=2, n_head=2, n_kv_head=2, n_embd=32)
ONE = Runtime(torch.device("cpu"), torch.float32, 0, 1, 0)


@pytest.fixture(params=["read at once", "a step late"], autouse=True)
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test on a CPU as it is, and with the losses read as late as a GPU's."""
    if request.param == "a step late":
        monkeypatch.setattr(loop, "READ_AT_ONCE", ())
    return request.param


def model(dtype: torch.dtype = torch.float32) -> GPT:
    made = GPT(CONFIG, dtype)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return made


def batch(start: int, stop: int, weights: torch.Tensor | None = None, progress: float = 0.0) -> Batch:
    """Rows start..stop-1 of an endless table. Row n has n % 4 * 2 tokens with a weight, so that parts differ."""
    rows = [torch.randint(64, (9,), generator=torch.Generator().manual_seed(n)) for n in range(start, stop)]
    ids = torch.stack(rows)
    if weights is None:
        weights = torch.tensor([[float(t < n % 4 * 2) for t in range(8)] for n in range(start, stop)])
    return Batch(ids[:, :-1], ids[:, 1:], weights, progress, {"row": stop})


def stage(model: GPT, stream: Iterator[Batch], optimizer: Optimizer | None = None, **settings: object) -> Stage:
    """A stage that trains with AdamW at a real rate."""
    parameters = dict(model.named_parameters())
    given: dict = {
        "name": "test", "model": model, "loss": loss_of(model, False, ONE), "stream": stream, "accumulation": 1,
        "optimizer": optimizer or Optimizer([AdamWGroup(parameters, 0.01, (0.8, 0.9))], []),
        "rates": lambda step, progress: Rates(), "save": lambda state, passing: None,
        "scored": lambda state, scores: None, "num_iterations": 3, **settings,
    }  # fmt: skip
    return Stage(**given)


def rows_in_turn(count: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
    start = rank * count
    while True:
        yield batch(start, start + count)
        start += count * world


def run(of: Stage, folder: Path, rt: Runtime = ONE, state: TrainState | None = None) -> TrainState:
    return train(of, state or TrainState(), rt, MetricsLog(folder, "dummy", {}, rt.is_main))


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def weights_of(model: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# ---------------------------------------------------------------- the gradient of a step


def gradient(folder: Path, stream: Iterator[Batch], accumulation: int, rt: Runtime = ONE, **settings: object) -> dict:
    """The gradient that the optimizer is given last: AdamW with beta1 = 0 and rate 0 remembers it as it is.

    On rank 0; on the others it is empty.
    """
    made = model(rt.dtype)
    optimizer = Optimizer([AdamWGroup(dict(made.named_parameters()), 0.0, (0.0, 0.9))], [])
    run(stage(made, stream, optimizer, accumulation=accumulation, **{"num_iterations": 1, **settings}), folder, rt)
    return {name: state["exp_avg"] for name, state in optimizer.state_dict()["state"].items()}


def by_hand(one: Batch) -> dict[str, torch.Tensor]:
    made = model()
    nll = made(one.inputs, one.targets)
    loss = (nll * one.weights).sum() / (one.weights != 0).sum()
    parameters = dict(made.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def assert_close(one: dict, other: dict, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    assert one.keys() == other.keys() and len(one) > 10
    for name in one:
        assert torch.allclose(one[name], other[name], rtol=rtol, atol=atol), name


def two_ranks(rank: int, port: int, folder: str) -> None:
    """Compute a gradient on two ranks; then run until a SIGTERM that comes to rank 1 only."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0")
    torch.set_num_threads(1)
    mine = Path(folder, str(rank))
    with runtime.start("cpu", "float32", 0) as rt:
        found = gradient(mine, rows_in_turn(2, rank, 2), 1, rt)
        torch.save(found, Path(folder, f"gradient{rank}.pt"))

        def stream() -> Iterator[Batch]:
            for n, one in enumerate(rows_in_turn(2, rank, 2)):
                if n == 2 and rank == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield one

        def save(state: TrainState, passing: bool) -> None:
            Path(folder, f"saved{rank}").write_text(str(state.step), encoding="utf-8")

        run(stage(model(), stream(), save=save, num_iterations=50), mine, rt)


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_one_batch_equals_accumulation_equals_two_ranks(tmp_path, port):
    """Of the four rows 0, 2, 4 and 6 tokens count, so that no two parts have the same number."""
    whole = by_hand(batch(0, 4))
    assert_close(gradient(tmp_path / "a", rows_in_turn(4), 1), whole)
    assert_close(gradient(tmp_path / "b", rows_in_turn(2), 2), whole)
    assert_close(gradient(tmp_path / "c", rows_in_turn(1), 4), whole)  # the first has nothing to learn from
    losses = [metrics(tmp_path / name)[0]["loss"] for name in "abc"]
    assert losses == pytest.approx([losses[0]] * 3)
    halves = [by_hand(batch(0, 2)), by_hand(batch(2, 4))]  # the mean of means is something else
    wrong = (halves[0]["lm_head.weight"] + halves[1]["lm_head.weight"]) / 2
    assert (wrong - whole["lm_head.weight"]).abs().max() > 1e-2 * whole["lm_head.weight"].abs().max()

    children = [processes.Process(target=two_ranks, args=(rank, port, str(tmp_path))) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(300)
    assert [child.exitcode for child in children] == [143, 143]
    assert_close(torch.load(tmp_path / "gradient0.pt", weights_only=True), whole)
    for rank in range(2):
        # The signal came to one rank during its third step; both finished it, saved and left together.
        assert (tmp_path / f"saved{rank}").read_text(encoding="utf-8") == "3"
    assert metrics(tmp_path / "0")[0]["loss"] == pytest.approx(losses[0])
    assert not (tmp_path / "1" / "metrics.jsonl").exists()


def test_weights_scale_the_loss_but_are_counted_once(tmp_path):
    """As advantages do: of either sign, and divided by the number of tokens."""
    weights = torch.zeros(2, 8)
    weights[0, 1:4], weights[1, 2] = -2.0, 0.5
    one = batch(0, 2, weights)
    assert_close(gradient(tmp_path, iter([one]), 1), by_hand(one))


def test_the_gradient_in_float16_is_scaled_and_unscaled(tmp_path):
    half = Runtime(torch.device("cpu"), torch.float16, 0, 1, 0)
    stream = iter([batch(0, 4)] * 12)  # the first overflow until the scale is low enough
    got, exact = gradient(tmp_path, stream, 1, half, num_iterations=12), by_hand(batch(0, 4))
    assert got.keys() == exact.keys()
    for name in ("lm_head.weight", "transformer.wte.weight", "transformer.h.0.mlp.c_fc.weight"):
        assert (got[name] - exact[name]).norm() < 0.05 * exact[name].norm(), name


@pytest.mark.parametrize("clip", [1e-3, 1e6])
def test_clipping(tmp_path, clip):
    whole = by_hand(batch(0, 4))
    norm = float(torch.stack([g.norm() for g in whole.values()]).norm())
    factor = min(1.0, clip / norm)
    clipped = gradient(tmp_path, rows_in_turn(4), 1, grad_clip=clip)
    assert_close(clipped, {name: g * factor for name, g in whole.items()}, atol=1e-6 * factor)
    assert metrics(tmp_path)[0]["grad_norm"] == pytest.approx(norm, rel=1e-4)  # that before clipping


def test_a_batch_without_any_token_to_learn_from(tmp_path):
    made = model()
    run(stage(made, iter([batch(0, 4), batch(0, 1), batch(4, 8)])), tmp_path)
    assert [line["loss"] for line in metrics(tmp_path)][1] == 0.0
    assert all(weight.isfinite().all() for weight in weights_of(made))


# ---------------------------------------------------------------- losses that are not finite

BAD = torch.full((4, 8), math.nan)


def test_a_step_that_is_not_finite_is_not_applied(tmp_path, capsys):
    first, second = batch(0, 4), batch(4, 8)
    plain, hit = model(), model()
    run(stage(plain, iter([first, second]), num_iterations=2), tmp_path / "plain")
    stream = iter([first, batch(8, 12, BAD), batch(0, 4, BAD * math.inf), second])
    state = run(stage(hit, stream, num_iterations=4), tmp_path / "hit")
    assert equal(weights_of(plain), weights_of(hit))
    assert (state.step, state.bad_steps) == (4, 0) and state.smooth_loss is not None
    assert capsys.readouterr().out.count("not applied") == 2
    assert [line["step"] for line in metrics(tmp_path / "hit")] == [1, 2, 3, 4]


def test_an_infinite_gradient_alone_is_not_applied_either(tmp_path):
    made = model()
    before = weights_of(made)
    huge = batch(0, 4)
    huge = Batch(huge.inputs, huge.targets, huge.weights * 1e38, 0.0, {})  # a finite loss, but no finite norm
    state = run(stage(made, iter([huge]), num_iterations=1), tmp_path)
    assert equal(weights_of(made), before) and state.bad_steps == 1


def test_five_bad_steps_in_a_row_stop_the_run_before_anything_is_saved(tmp_path):
    stream = iter([*[batch(0, 4, BAD)] * 4, batch(0, 4), *[batch(0, 4, BAD)] * 4, batch(4, 8)])
    assert run(stage(model(), stream, num_iterations=10), tmp_path / "four").step == 10
    made = model()
    saved: list[int] = []
    stream = iter([batch(0, 4), *[batch(0, 4, BAD)] * 9])
    with pytest.raises(UserError, match=r"stopped at step 6.*5 times in a row.*last checkpoint is untouched"):
        save = lambda s, _: saved.append(s.step)  # noqa: E731
        run(stage(made, stream, num_iterations=20, save_every=1, save=save), tmp_path)
    assert saved == [1]


def test_weights_too_large_for_a_next_step_are_not_saved(tmp_path):
    made = model()
    with torch.no_grad():
        made.lm_head.weight.mul_(1e30)
    saved: list[int] = []
    save = lambda s, _: saved.append(s.step)  # noqa: E731
    with pytest.raises(UserError, match="norm of its weights is not finite"):
        run(stage(made, iter([batch(0, 4)]), num_iterations=1, save=save), tmp_path)
    assert saved == []


def test_the_loss_scale_halves_and_doubles(tmp_path):
    """It is part of the state, so a run that is resumed after an overflow, or shortly before a doubling, keeps it."""
    half = Runtime(torch.device("cpu"), torch.float16, 0, 1, 0)
    made = model(torch.float16)
    state = TrainState(good_steps=1999, loss_scale=8.0)
    state = run(stage(made, rows_in_turn(2), num_iterations=1), tmp_path, half, state)
    assert (state.loss_scale, state.good_steps) == (16.0, 0)
    loud = (Batch(b.inputs, b.targets, b.weights * 1e30, 0.0, {}) for b in rows_in_turn(2))
    state = run(stage(made, loud, num_iterations=2), tmp_path, half, state)
    assert (state.loss_scale, state.good_steps) == (8.0, 0)
    with pytest.raises(UserError, match="not finite 5 times"):  # from a scale of 1 on it is the run that is bad
        run(stage(made, loud, num_iterations=20), tmp_path, half, TrainState(step=2, loss_scale=1.0))


def test_a_float16_overflow_is_mended_by_a_smaller_scale(tmp_path):
    """A loss this large overflows float16 under the first loss scales; those are no bad steps."""
    half = Runtime(torch.device("cpu"), torch.float16, 0, 1, 0)
    made = model(torch.float16)
    loud = [batch(n, n + 4) for n in range(20)]
    loud = [Batch(b.inputs, b.targets, b.weights * 300, 0.0, {}) for b in loud]
    before = weights_of(made)
    state = run(stage(made, iter(loud), num_iterations=20), tmp_path, half)
    assert (state.step, state.bad_steps) == (20, 0)
    assert "NaN" in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert not equal(weights_of(made), before) and all(w.isfinite().all() for w in weights_of(made))


# ---------------------------------------------------------------- when what happens


def events_of(tmp_path: Path, save_every: int, every: list[int], steps: int) -> list[str]:
    events: list[str] = []

    def measure(name: str) -> Callable[[object], dict[str, float]]:
        def evaluation(_: object) -> dict[str, float]:
            events.append(f"evaluation {name}")
            return {f"score_{name}": 1.0}

        return evaluation

    evaluations = [Evaluation(due, measure(str(n))) for n, due in enumerate(every)]
    run(
        stage(
            model(), rows_in_turn(2), num_iterations=steps, save_every=save_every, evaluations=evaluations,
            save=lambda state, passing: events.append(f"save {state.step}"),
            scored=lambda state, scores: events.append(f"scored {state.step} {'+'.join(sorted(scores))}"),
        ),
        tmp_path,
    )  # fmt: skip
    return events


def test_a_checkpoint_is_saved_before_it_is_measured(tmp_path):
    assert events_of(tmp_path, 2, [2], 5) == [
        "save 2", "evaluation 0", "scored 2 score_0", "save 4", "evaluation 0", "scored 4 score_0",
        "save 5", "evaluation 0", "scored 5 score_0",
    ]  # fmt: skip


def test_evaluations_at_the_end_only_or_never(tmp_path):
    assert events_of(tmp_path, -1, [0, -1, 3], 4) == [
        "evaluation 2", "save 4", "evaluation 0", "evaluation 2", "scored 4 score_0+score_2",
    ]  # fmt: skip
    assert [line["step"] for line in metrics(tmp_path) if "score_0" in line] == [4]


def test_without_a_number_of_steps_the_epochs_decide(tmp_path):
    stream = (batch(n, n + 1, progress=(n + 1) * 0.3) for n in range(99))
    seen: list[tuple[int, float]] = []

    def rates(step: int, progress: float) -> Rates:
        seen.append((step, progress))
        return Rates()

    state = run(stage(model(), stream, num_iterations=-1, num_epochs=1.5, rates=rates), tmp_path)
    assert (state.step, state.progress) == (5, 1.0)
    assert seen == [(n, pytest.approx(n / 5)) for n in range(5)]


class Clock:
    """A clock in place of the loop's: every loss that is computed takes `each` seconds."""

    def __init__(self, each: float) -> None:
        self.each, self.now = each, 0.0

    def perf_counter(self) -> float:
        self.now += 1e-6  # no step takes no time
        return self.now

    monotonic = perf_counter

    def slow(self, of: Stage) -> Stage:
        loss = of.loss

        def slowly(one: Batch) -> torch.Tensor:
            self.now += self.each
            return loss(one)

        of.loss = slowly
        return of


def test_a_run_of_minutes_ends_with_them_and_its_schedule_follows_the_time(tmp_path, monkeypatch, reading):
    monkeypatch.setattr(loop, "time", clock := Clock(3.0))
    seen: list[float] = []

    def rates(step: int, progress: float) -> Rates:
        seen.append(progress)
        return Rates()

    states: list[dict] = []
    settings = {"num_iterations": -1, "minutes": 0.5, "rates": rates, "save_every": 4}
    of = stage(model(), rows_in_turn(2), save=lambda state, passing: states.append(state.state_dict()), **settings)
    state = run(clock.slow(of), tmp_path)
    late = reading == "a step late"  # where it is known a step late that the time is up
    assert state.step == 11 + late and state.progress == 1.0  # the first step is not counted: it compiles
    assert state.timed == pytest.approx(30.0, rel=1e-4) and state.seconds == pytest.approx(33.0 + 3.0 * late, rel=1e-4)
    assert seen[:2] == [0.0, 0.0] and seen[-1] == pytest.approx(0.9, rel=1e-4) and sorted(seen) == seen
    # Resumed from the save at step 4, it trains for the rest of the time, and for a first step that is free again.
    left = TrainState.restored(states[0], "the checkpoint")
    assert 0 < left.timed < 12
    again = run(clock.slow(stage(model(), rows_in_turn(2), **settings)), tmp_path / "again", state=left)
    assert again.timed == pytest.approx(30.0, rel=1e-4) and seen[state.step] == pytest.approx(states[0]["timed"] / 30)


def _until_the_time_is_up(folder: Path, rank: int, port: int) -> None:
    """Two ranks, one of which is twice as slow as the other."""
    os.environ.update(WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port))  # fmt: skip
    with runtime.start("cpu", "float32", 0) as rt:
        loop.time = clock = Clock(1.0 + rank)  # type: ignore[assignment]
        of = stage(model(), rows_in_turn(1, rank, 2), num_iterations=-1, minutes=5 / 60)
        state = run(clock.slow(of), folder, rt)
        (folder / f"steps_{rank}").write_text(str(state.step), encoding="utf-8")


def test_ranks_that_train_for_minutes_end_at_the_same_step(tmp_path, port, reading):
    ranks = [processes.Process(target=_until_the_time_is_up, args=(tmp_path, n, port)) for n in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    steps = str(6 + (reading == "a step late"))
    assert [(tmp_path / f"steps_{n}").read_text(encoding="utf-8") for n in range(2)] == [steps, steps]


def test_the_state_knows_where_the_data_resumes(tmp_path):
    states: list[dict] = []
    run(stage(model(), rows_in_turn(2), accumulation=3, num_iterations=2, save_every=1,
              save=lambda state, passing: states.append(state.state_dict())), tmp_path)  # fmt: skip
    assert [s["cursor"] for s in states] == [{"row": 6}, {"row": 12}]
    assert [s["progress"] for s in states] == [0.5, 1.0]
    assert TrainState(**json.loads(json.dumps(states[0]))).step == 1
    line = metrics(tmp_path)[0]
    assert line.keys() >= {"loss", "grad_norm", "lr", "progress", "seconds", "tok_per_second", "tflop_per_second",
                            "memory_bytes"}  # fmt: skip
    assert line["tok_per_second"] == pytest.approx(2 * 8 * 3 / line["seconds"])


def test_a_step_is_reported_when_the_next_has_been_started(tmp_path, reading):
    lines: list[int] = []

    def stream() -> Iterator[Batch]:
        for one in rows_in_turn(2):
            path = tmp_path / "metrics.jsonl"
            lines.append(len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0)
            yield one

    run(stage(model(), stream(), num_iterations=5, save_every=3), tmp_path)
    # Before step 4 the third is saved, and with it everything is reported.
    assert lines == ([0, 1, 2, 3, 4] if reading == "read at once" else [0, 0, 1, 3, 3])
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5]


def test_garbage_is_collected_at_set_times_and_as_usual_afterwards(tmp_path):
    seen: list[tuple[bool, bool]] = []

    def stream() -> Iterator[Batch]:
        for one in rows_in_turn(2):
            seen.append((gc.isenabled(), gc.get_freeze_count() > 0))
            yield one

    measure = Evaluation(12, lambda stopping: dangling.append(circle()) or {})
    dangling: list[weakref.ref] = []
    run(stage(model(), stream(), num_iterations=14, evaluations=[measure]), tmp_path)
    assert seen == [(True, False)] * 10 + [(False, True)] * 4
    assert len(dangling) == 2 and dangling[0]() is None  # what an evaluation leaves is collected after it
    assert gc.isenabled() and gc.get_freeze_count() == 0


class Node:
    itself: object = None


def circle() -> weakref.ref:
    """Garbage that only the collector finds."""
    node = Node()
    node.itself = node
    return weakref.ref(node)


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    done = TrainState(step=3, progress=1.0, probed=True)
    made = model()
    before = weights_of(made)
    assert run(stage(made, iter([])), tmp_path, state=done).step == 3
    assert equal(weights_of(made), before)


def test_late_checkpoints_are_passing(tmp_path):
    """Between two that are due, a run saves as soon as more than save_minutes would be lost."""
    saved: list[tuple[int, bool]] = []
    run(stage(model(), rows_in_turn(2), num_iterations=5, save_every=3, save_minutes=1e-9,
              save=lambda s, passing: saved.append((s.step, passing))), tmp_path)  # fmt: skip
    assert saved == [(1, True), (2, True), (3, False), (4, True), (5, False)]


@pytest.mark.parametrize("where", ["training", "validation"])
def test_data_that_fails_costs_no_step(where, tmp_path):
    saved: list[tuple[int, bool]] = []

    def unreadable(*_: object) -> dict[str, float]:
        raise UserError("docs.jsonl changed while this run was reading it")

    def stream() -> Iterator[Batch]:
        yield from (batch(n, n + 2) for n in range(3))
        unreadable()

    evaluations = [Evaluation(3, unreadable)] if where == "validation" else []
    with pytest.raises(UserError, match="changed while"):
        save = lambda s, passing: saved.append((s.step, passing))  # noqa: E731
        run(stage(model(), stream(), num_iterations=20, save=save, evaluations=evaluations), tmp_path)
    assert saved == [(3, True)]


@pytest.mark.parametrize(
    "wrong",
    [None, {}, {"stepp": 1}, {"step": 1, "more": 2}, {"step": "1"}, {"step": math.nan}, {"step": 1.5},
     {"step": 1, "cursor": "x"}, {"step": 1, "before": [1]}, {"step": 1, "smooth_loss": []}],
    ids=str,
)  # fmt: skip
def test_a_state_that_no_run_wrote(wrong):
    with pytest.raises(UserError, match="the meta file"):
        TrainState.restored(wrong, "the meta file")
    state = TrainState(step=3, loss_scale=4.0, before={"pass@1": 0.5})
    assert TrainState.restored(state.state_dict(), "it") == state


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_and_saves(number, code, tmp_path, capsys):
    before = signal.getsignal(number)
    saved: list[int] = []

    def stream() -> Iterator[Batch]:
        for n, one in enumerate(rows_in_turn(2)):
            if n == 2:
                os.kill(os.getpid(), number)
            yield one

    with pytest.raises(SystemExit) as stop:
        run(stage(model(), stream(), num_iterations=20, save=lambda s, passing: saved.append(s.step)), tmp_path)
    assert stop.value.code == code and saved == [3]
    assert "step 3 is saved" in capsys.readouterr().out
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    saved: list[int] = []

    def stream() -> Iterator[Batch]:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)
        yield from rows_in_turn(2)

    with pytest.raises(KeyboardInterrupt):
        run(stage(model(), stream(), num_iterations=20, save=lambda s, passing: saved.append(s.step)), tmp_path)
    assert saved == []


def test_a_sigterm_in_a_measurement(tmp_path):
    """The measurement can ask, may stop early, and is discarded; the checkpoint is not saved twice."""
    saved: list[int] = []
    scored: list[int] = []

    def measure(stopping: Callable[[], bool]) -> dict[str, float]:
        assert not stopping()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping()
        return {"val_bpb": 0.1}

    with pytest.raises(SystemExit) as stop:
        run(
            stage(
                model(), rows_in_turn(2), num_iterations=20, save_every=2, evaluations=[Evaluation(2, measure)],
                save=lambda s, passing: saved.append(s.step), scored=lambda s, _: scored.append(s.step),
            ),
            tmp_path,
        )  # fmt: skip
    assert stop.value.code == 143
    assert (saved, scored) == ([2], [])
    assert not any("val_bpb" in line for line in metrics(tmp_path))
