"""The training loop, the only one: pretraining, mid-training, fine-tuning and RL differ in their stream of batches.

    loss = sum of nll * weight over the whole step / number of tokens that count in it

The weight is 1 for text, 1 or 0 in conversations (only the assistant's tokens are learned), and the advantage in RL.
"The whole step" is all micro-batches on all ranks. A GPU that cannot hold the batch takes it in several micro-batches
and adds up their gradients (gradient accumulation); several ranks take a part each and sum theirs (data parallelism).
Dividing by the count of the whole step, not by each micro-batch's own, makes all of that equal: one batch of 4 rows,
twice 2, or 2 ranks of 2 take the same step, also where they hold different numbers of tokens that count.

Read `train`, then `_step`, then whatever you like. Shapes: B rows, T time.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.data.batch import Batch
from nanochat.errors import UserError, shown
from nanochat.log import MetricsLog, Progress
from nanochat.optim import Optimizer, Rates
from nanochat.runtime import PeerFailed, Runtime, repeatable

TOLERATED_BAD_STEPS = 5  # in a row; by then another would not help, and the weights are still good
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}  # 128 + the signal, as a shell reports it
SAME_CTRL_C = 1.0  # seconds in which torchrun repeats the Ctrl-C that the terminal has sent to all ranks already


@dataclass
class TrainState:
    """What a run has to remember between two steps; it is in the checkpoint, together with the optimizer's state."""

    step: int = 0
    progress: float = 0.0  # fraction of the run that is done, in [0, 1]
    epochs: float = 0.0  # passes over the data
    cursor: dict | None = None  # where the data stream resumes
    seconds: float = 0.0  # spent in training steps
    smooth_loss: float | None = None
    best_bpb: float | None = None
    before: dict[str, float] = field(default_factory=dict)  # scores from before the first step
    bad_steps: int = 0  # steps in a row that were not finite and not applied
    probed: bool = False  # this step's evaluations are done
    loss_scale: float = 2.0**16  # float16 only: the factor on the loss, see `_update_loss_scale`
    good_steps: int = 0  # float16 only: since the last overflow

    @classmethod
    def restored(cls, saved: object, where: object) -> "TrainState":
        """The state in a checkpoint. Raises UserError, naming `where`, for anything else."""
        known = {entry.name: getattr(cls(), entry.name) for entry in fields(cls)}
        if not isinstance(saved, dict) or "step" not in saved or saved.keys() - known.keys():
            raise UserError(f"{where} does not hold the state of a run that this version can resume")
        for name, value in saved.items():
            like = known[name]
            if name == "cursor":
                fits, expected = value is None or isinstance(value, dict), "a place in the data"
            elif name == "before":
                fits, expected = isinstance(value, dict) and all(map(_is_number, value.values())), "scores"
            elif like is None:
                fits, expected = value is None or _is_number(value), "a number"
            else:
                kinds = int if isinstance(like, int) else (int, float)
                fits, expected = isinstance(value, kinds) and value == value, "a number"
            if not fits:
                raise UserError(f"{where} is damaged: the {name} of its run is {shown(value)}, not {expected}")
        return cls(**saved)

    def measure_progress(self, num_iterations: int, num_epochs: float) -> None:
        """Set `progress`, from the steps where their number is given, else from the passes over the data."""
        done = self.step / num_iterations if num_iterations > 0 else self.epochs / num_epochs
        self.progress = min(1.0, done)

    def state_dict(self) -> dict:
        return asdict(self)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))


@dataclass
class Evaluation:
    """A measurement every `every` steps and at the end (0 = at the end only, -1 = never).

    With `first` it is also made before the first step, so that the others have something to be compared with.
    `measure(stopping)` returns scores by name. It may poll `stopping()`, on all ranks alike, and return early once that
    is true; its result is then discarded.
    """

    every: int
    measure: Callable[[Callable[[], bool]], dict[str, float]]
    first: bool = False

    def due(self, step: int, done: bool) -> bool:
        return self.every >= 0 and (done or step == 0 and self.first or _due(self.every, step))


@dataclass
class Stage:
    """A stage as data. loss(batch) is the sum of nll * weight of a micro-batch, a float32 scalar with a gradient.

    `save(state, passing)` writes a checkpoint; a passing one was due by time only and is replaced by the next one.
    `scored(state, scores)` adds scores to the latest checkpoint.
    """

    name: str
    model: nn.Module
    loss: Callable[[Batch], Tensor]
    optimizer: Optimizer
    stream: Iterator[Batch]
    accumulation: int  # micro-batches per step and rank, at most
    rates: Callable[[int, float], Rates]  # of step and progress
    save: Callable[[TrainState, bool], None]
    scored: Callable[[TrainState, dict[str, float]], None]
    on_policy: bool = False  # whether the stream samples from the model, which must then be this step's
    num_iterations: int = -1  # -1 = until the stream has made num_epochs
    num_epochs: float = 1.0
    save_every: int = -1  # steps; -1 = at the end only
    save_minutes: float = 0.0  # the most training that a crash may cost; 0 = no limit
    grad_clip: float = 0.0  # largest norm of the whole gradient; 0 = off
    flops_per_token: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)
    shown: tuple[str, ...] = ()  # metrics in the progress line; none: the loss
    log_every: int = 0  # steps between lines, which show a step's own loss; 0 = as time passes, smoothed, or as a bar
    rate_flags: str = "--matrix_lr, --embedding_lr"  # what to lower when the loss is not finite
    after_signal: str = "step {step} is saved, start again to resume"


def train(stage: Stage, state: TrainState, rt: Runtime, log: MetricsLog) -> TrainState:
    """Run a stage from `state` to its end, saving and evaluating on the way.

    A checkpoint is always written before anything is measured at its step. On SIGTERM or Ctrl-C the step is finished,
    saved, and SystemExit raised with the signal's code; a second Ctrl-C raises KeyboardInterrupt at once.
    Raises UserError after TOLERATED_BAD_STEPS losses in a row that are not finite, and what the stream raises, after
    saving what was learned before.
    """
    state.measure_progress(stage.num_iterations, stage.num_epochs)  # a finished run may have been given more steps
    checkpoints = _Checkpoints(stage, state)
    with stop_signals(rt) as stop, _progress_bar(stage, rt) as bar:
        while True:
            done = state.progress >= 1.0
            code, late = _agreed(stop, checkpoints.are_late(), rt)
            checkpoints.save_if_due(done or code > 0, late)
            if code:
                ending = "interrupted" if code == EXIT_CODES[signal.SIGINT] else "terminated"
                saved = checkpoints.saved_step
                result = stage.after_signal.format(step=saved) if saved else "no step was finished"
                rt.print(f"{stage.name}: {ending}; {result}")
                raise SystemExit(code)
            evaluations = [each for each in stage.evaluations if each.due(state.step, done)]
            if evaluations and not state.probed:
                stage.optimizer.wait()
                with checkpoints.rescuing():
                    scores = _measure(evaluations, lambda: bool(_agreed(stop, False, rt)[0]))
                if scores is None:
                    continue
                state.probed = True
                _report(stage, state, scores, log, rt)
                if state.step == 0:
                    state.before = scores
                elif checkpoints.saved_step == state.step:
                    stage.scored(state, scores)
            if done:
                return state
            started = time.perf_counter()
            if stage.on_policy:
                stage.optimizer.wait()
            with checkpoints.rescuing():
                micro_batches = [batch.to(rt.device) for batch in _next_step(stage, rt)]
            with repeatable(rt.device):  # not around generating and measuring, which it would slow down
                metrics = _step(stage, state, micro_batches, rt)
            metrics["seconds"] = time.perf_counter() - started
            state.seconds += metrics["seconds"]
            metrics["tok_per_second"] = metrics.pop("tokens") / metrics["seconds"]
            metrics["tflop_per_second"] = metrics["tok_per_second"] * stage.flops_per_token / 1e12
            log.log(state.step, metrics)
            _show(bar, stage, state, metrics)


def _step(stage: Stage, state: TrainState, micro_batches: list[Batch], rt: Runtime) -> dict[str, float]:
    """One optimizer step; advances `state`. Returns the step's metrics."""
    is_scaled = rt.dtype == torch.float16
    scale = state.loss_scale if is_scaled else 1.0
    # The tokens that count are known before the first backward pass, so each part of the loss gets its final weight.
    valid = _sum_over_ranks(torch.stack([batch.counted for batch in micro_batches]).sum().float(), rt)
    total = torch.zeros((), device=rt.device)
    for n, batch in enumerate(micro_batches):
        part = stage.loss(batch) / valid.clamp_min(1)
        with stage.optimizer.reducing() if n == len(micro_batches) - 1 else nullcontext():
            (part * scale).backward()  # adds to the gradients of the micro-batches before
        total += part.detach()
    total = _sum_over_ranks(total, rt)
    length = stage.optimizer.reduce() / scale
    rates = stage.rates(state.step, state.progress)
    factor = _factor(length, stage.grad_clip, scale)
    stage.optimizer.step(rates, factor, ~(total.isfinite() & length.isfinite()))
    loss, norm = float(total), float(length)
    finite = math.isfinite(loss) and math.isfinite(norm)
    if finite:
        state.smooth_loss = loss if state.smooth_loss is None else 0.95 * state.smooth_loss + 0.05 * loss
    stage.optimizer.zero_grad()
    overflowed = is_scaled and _update_loss_scale(state, finite) and math.isfinite(loss)
    state.bad_steps = 0 if finite else state.bad_steps + (not overflowed)
    last = micro_batches[-1]
    state.step += 1
    state.cursor = last.cursor
    state.epochs = last.progress
    state.probed = False
    state.measure_progress(stage.num_iterations, stage.num_epochs)
    if not finite and not overflowed:
        rt.print(f"{stage.name}: step {state.step} has a loss of {loss} and a gradient norm of {norm}; not applied")
    if state.bad_steps >= TOLERATED_BAD_STEPS:
        raise UserError(
            f"{stage.name} stopped at step {state.step}: the loss or its gradient was not finite "
            f"{state.bad_steps} times in a row; the last checkpoint is untouched. "
            f"Lower the learning rates ({stage.rate_flags}), set --grad_clip 1, or use --dtype float32"
        )
    tokens = sum(batch.inputs.numel() for batch in micro_batches) * rt.world
    metrics = {"loss": loss, "grad_norm": norm, "lr": rates.lr, "progress": state.progress, "tokens": tokens}
    if stage.optimizer.muon:
        metrics |= {"momentum": rates.momentum, "weight_decay": rates.weight_decay}
    return {**metrics, **last.metrics}


def _factor(norm: Tensor, clip: float, scale: float) -> Tensor | None:
    """What the gradients have to be multiplied by, to be clipped and without the loss scale; None for 1."""
    if clip <= 0 and scale == 1:
        return None
    clipped = (clip / norm).clamp_max(1) if clip > 0 else torch.ones_like(norm)
    return clipped / scale


def _update_loss_scale(state: TrainState, finite: bool) -> bool:
    """Loss scaling for float16, as torch's GradScaler does it (Micikevicius et al. 2018).

    Small gradients would round to 0 in float16, so the loss is multiplied by a large number and the gradients divided
    by it. Half the scale after an overflow, twice after 2000 good steps. Returns whether a smaller scale may still mend
    a step that was not finite.
    """
    state.good_steps = state.good_steps + 1 if finite else 0
    if not finite:
        state.loss_scale /= 2
    elif state.good_steps % 2000 == 0:
        state.loss_scale *= 2
    return state.loss_scale >= 1


def _next_step(stage: Stage, rt: Runtime) -> list[Batch]:
    """The micro-batches of a step. If one rank cannot read its own, all raise, so that they can save together."""
    batches: list[Batch] = []
    error: UserError | PeerFailed | None = None
    try:
        while len(batches) < stage.accumulation and not (batches and batches[-1].ends_step):
            batches.append(next(stage.stream))
    except (UserError, PeerFailed) as raised:
        error = raised
    if rt.world > 1:
        failed = torch.tensor(int(error is not None), device=rt.device)
        dist.all_reduce(failed, op=dist.ReduceOp.MAX)
        if failed and error is None:
            error = PeerFailed("another rank could not read its part of the data")
    if error is not None:
        raise error
    return batches


def _sum_over_ranks(value: Tensor, rt: Runtime) -> Tensor:
    if rt.world > 1:
        dist.all_reduce(value)
    return value


# ---------------------------------------------------------------- evaluations and progress


def _measure(evaluations: list[Evaluation], stopping: Callable[[], bool]) -> dict[str, float] | None:
    """The scores of all evaluations together; None if the run is being stopped."""
    scores: dict[str, float] = {}
    for evaluation in evaluations:
        scores |= evaluation.measure(stopping)
        if stopping():
            return None
    return scores


def _report(stage: Stage, state: TrainState, scores: dict[str, float], log: MetricsLog, rt: Runtime) -> None:
    if "val_bpb" in scores:
        state.best_bpb = min(scores["val_bpb"], math.inf if state.best_bpb is None else state.best_bpb)
    if not scores:
        return
    log.log(state.step, scores)
    figures = (f"{name} {value:.{4 if value < 100 else 1}f}" for name, value in scores.items())
    rt.print(f"{stage.name}: step {state.step}  " + "  ".join(figures))


def _progress_bar(stage: Stage, rt: Runtime) -> Progress:
    if stage.num_iterations > 0:
        return Progress(stage.num_iterations, stage.name, "steps", rt.is_main, lines_every=stage.log_every)
    return Progress(100, stage.name, "percent", rt.is_main)


def _show(bar: Progress, stage: Stage, state: TrainState, metrics: dict[str, float]) -> None:
    smooth = state.smooth_loss if state.smooth_loss is not None else math.nan
    shown = {name: metrics[name] for name in stage.shown} or {"loss": metrics["loss"] if stage.log_every else smooth}
    reached = state.step if stage.num_iterations > 0 else round(100 * state.progress)
    bar.update(reached, **shown, tok_per_second=metrics["tok_per_second"])


def _due(every: int, step: int) -> bool:
    return every > 0 and step > 0 and step % every == 0


# ---------------------------------------------------------------- saving and stopping


class _Checkpoints:
    """When a run saves, and which step it saved last."""

    def __init__(self, stage: Stage, state: TrainState) -> None:
        self.stage = stage
        self.state = state
        self.saved_step = state.step
        self.saved_time = time.monotonic()

    def are_late(self) -> bool:
        """Whether a crash would now cost more than save_minutes of training."""
        return 0 < self.stage.save_minutes * 60 <= time.monotonic() - self.saved_time

    def save_if_due(self, is_last: bool, late: bool) -> None:
        """Save at the end, every save_every steps, and when it is late; after bad steps at the end only."""
        state = self.state
        due = is_last or _due(self.stage.save_every, state.step) and not state.bad_steps
        if (due or late and not state.bad_steps) and self.saved_step != state.step:
            self._save(passing=not due)

    @contextmanager
    def rescuing(self) -> Iterator[None]:
        """Save before an error ends the run: its data changed or cannot be read any more, on this rank or another."""
        try:
            yield
        except (UserError, PeerFailed):
            if self.saved_step != self.state.step and not self.state.bad_steps:
                self._save(passing=True)
            raise

    def _save(self, passing: bool) -> None:
        self.stage.optimizer.wait()
        # A step whose loss was finite may still have made the weights infinite, or too large for any next step.
        if not bool(torch.isfinite(nn.utils.get_total_norm(self.stage.model.parameters()))):
            raise UserError(
                f"{self.stage.name} stopped at step {self.state.step} without saving: the norm of its weights is not "
                f"finite; the last checkpoint is untouched. Lower the learning rates ({self.stage.rate_flags}) and "
                "start again"
            )
        self.stage.save(self.state, passing)
        self.saved_step, self.saved_time = self.state.step, time.monotonic()


@dataclass
class Stop:
    """Whether a signal has asked the run to end: code is 0, or the exit code for the first of them."""

    code: int = 0
    since: float = 0.0


def _agreed(stop: Stop, late: bool, rt: Runtime) -> tuple[int, bool]:
    """stop.code and `late`, the same on all ranks, so that they save, and leave the loop, at the same step."""
    if rt.world == 1:
        return stop.code, late
    flags = torch.tensor([stop.code, int(late)], device=rt.device)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    code, late = flags.tolist()
    return code, bool(late)


@contextmanager
def stop_signals(rt: Runtime) -> Iterator[Stop]:
    """Note SIGTERM and the first Ctrl-C for as long as the context lasts; a second Ctrl-C interrupts as usual."""
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        is_ctrl_c = number == signal.SIGINT
        if not stop.code:
            stop.code, stop.since = EXIT_CODES[signal.Signals(number)], time.monotonic()
            if is_ctrl_c and rt.is_main:  # os.write, because a handler must not enter Python's buffered print again
                os.write(2, b"\nCtrl-C: finishing this step and saving it; Ctrl-C again ends at once\n")
        elif is_ctrl_c and (rt.world == 1 or time.monotonic() - stop.since > SAME_CTRL_C):
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in EXIT_CODES}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
