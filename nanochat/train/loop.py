"""The training loop, once for every stage: pretraining, mid-training, fine-tuning and RL differ in their stream only.

    loss = sum of nll * weight over the whole step / number of its tokens that count

"The whole step" is all micro-batches on all ranks, so one batch of 4, twice 2, and 2 ranks of 2 take the same step
also when they hold different numbers of supervised tokens.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.data.batch import Batch
from nanochat.errors import UserError
from nanochat.log import MetricsLog, Progress
from nanochat.optim import Optimizer, Rates
from nanochat.runtime import PeerFailed, Runtime, repeatable

TOLERATED_BAD_STEPS = 5  # in a row; one more would be no better, and the weights are still good
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}  # 128 + the signal, as a shell reports it
SAME_CTRL_C = 1.0  # seconds in which torchrun passes one Ctrl-C on to ranks that the terminal has sent it to already


@dataclass
class TrainState:
    """What a run knows of itself between two steps; all of it is in the checkpoint, together with the optimizer."""

    step: int = 0
    progress: float = 0.0  # fraction of the run that is done, in [0, 1]
    epochs: float = 0.0  # passes over the data
    cursor: dict | None = None  # where the data stream resumes
    seconds: float = 0.0  # spent in training steps
    smooth_loss: float | None = None
    best_bpb: float | None = None
    before: dict[str, float] = field(default_factory=dict)  # what was measured before the first step
    bad_steps: int = 0  # in a row, not applied
    probed: bool = False  # this step's validation is done
    loss_scale: float = 2.0**16  # float16 only: the factor on the loss, see `_update_loss_scale`
    good_steps: int = 0  # float16 only: since the last overflow

    @classmethod
    def restored(cls, saved: object, where: object) -> "TrainState":
        """The state in a checkpoint. Raises UserError, naming `where`, for what is not one."""
        known = {entry.name: getattr(cls(), entry.name) for entry in fields(cls)}
        if not isinstance(saved, dict) or "step" not in saved or saved.keys() - known.keys():
            raise UserError(f"{where} does not hold the state of a run that this version can resume")
        for name, value in saved.items():
            is_number = isinstance(value, (int, float)) and value == value
            if isinstance(known[name], (int, float)) and not is_number:
                raise UserError(f"{where} is damaged: the {name} of its run is {value!r}, not a number")
        return cls(**saved)

    def measure_progress(self, num_iterations: int, num_epochs: float) -> None:
        """Set `progress`, from the steps where their number is given, else from the passes over the data."""
        done = self.step / num_iterations if num_iterations > 0 else self.epochs / num_epochs
        self.progress = min(1.0, done)

    def state_dict(self) -> dict:
        return asdict(self)


@dataclass
class Evaluation:
    """A measurement that is due every `every` steps and at the end (0 = at the end only, -1 = never).

    With `first` it is due before the first step too, so that the others have something to be compared with.
    `measure` is given a question, whether the run is being stopped, to ask now and then, by all ranks alike. Once the
    answer is yes, what it returns is thrown away, so it may cut its work short.
    """

    every: int
    measure: Callable[[Callable[[], bool]], dict[str, float]]
    first: bool = False

    def due(self, step: int, done: bool) -> bool:
        return self.every >= 0 and (done or step == 0 and self.first or _due(self.every, step))


@dataclass
class Stage:
    """A stage as data. forward(ids, targets) gives (B, T) nll; `scored` adds its scores to the latest checkpoint.

    `save(state, passing)` writes a checkpoint; a passing one was due by time only, and the next one replaces it.
    """

    name: str
    model: nn.Module
    forward: Callable[[Tensor, Tensor], Tensor]
    optimizer: Optimizer
    stream: Iterator[Batch]
    accumulation: int  # micro-batches per step and rank, at most
    rates: Callable[[int, float], Rates]  # of step and progress
    save: Callable[[TrainState, bool], None]
    scored: Callable[[TrainState, dict[str, float]], None]
    num_iterations: int = -1  # -1 = until the stream has made num_epochs
    num_epochs: float = 1.0
    save_every: int = -1  # steps; -1 = at the end only
    save_minutes: float = 0.0  # the most training that a crash may cost; 0 = no limit
    grad_clip: float = 0.0  # largest norm of the whole gradient; 0 = off
    flops_per_token: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)
    shown: tuple[str, ...] = ()  # metrics on the line of progress; none: the loss
    log_every: int = 0  # steps between lines, which show a step's own loss; 0 = as time passes, smoothed, or as a bar
    rate_flags: str = "--matrix_lr, --embedding_lr"  # what to lower when the loss is not finite
    after_signal: str = "step {step} is saved, start again to resume"


def train(stage: Stage, state: TrainState, rt: Runtime, log: MetricsLog) -> TrainState:
    """Run a stage from `state` to its end, saving and measuring on the way.

    A checkpoint is always written before anything is measured at its step. On SIGTERM or Ctrl-C the step is finished,
    saved, and SystemExit raised with the signal's code; a second Ctrl-C raises KeyboardInterrupt at once.
    Raises UserError after TOLERATED_BAD_STEPS losses in a row that are not finite, and what the stream raises, after
    saving what was learned before.
    """
    # A finished run that is given more steps has some left.
    state.measure_progress(stage.num_iterations, stage.num_epochs)
    saved_at = state.step
    saved_time = time.monotonic()

    def save(passing: bool) -> None:
        nonlocal saved_at, saved_time
        _refuse_broken_weights(stage, state)
        stage.save(state, passing)
        saved_at, saved_time = state.step, time.monotonic()

    def rescue() -> None:
        """Save before an error ends the run: its data changed or cannot be read any more, on this rank or another."""
        if saved_at != state.step and not state.bad_steps:
            save(passing=True)

    with stop_signals(rt) as stop, _progress_bar(stage, rt) as bar:
        while True:
            done = state.progress >= 1.0
            late = 0 < stage.save_minutes * 60 <= time.monotonic() - saved_time
            code, late = _agreed(stop, late, rt)
            due = done or code or _due(stage.save_every, state.step) and not state.bad_steps
            if (due or late and not state.bad_steps) and saved_at != state.step:
                save(passing=not due)
            if code:
                ending = "interrupted" if code == EXIT_CODES[signal.SIGINT] else "terminated"
                saved = stage.after_signal.format(step=saved_at) if saved_at else "nothing was learned yet"
                rt.print(f"{stage.name}: {ending}; {saved}")
                raise SystemExit(code)
            evaluations = [each for each in stage.evaluations if each.due(state.step, done)]
            if evaluations and not state.probed:
                try:
                    scores = _measure(evaluations, lambda: bool(_agreed(stop, False, rt)[0]))
                except (UserError, PeerFailed):
                    rescue()
                    raise
                if scores is None:
                    continue
                state.probed = True
                _report(stage, state, scores, log, rt)
                if state.step == 0:
                    state.before = scores
                elif saved_at == state.step:
                    stage.scored(state, scores)
            if done:
                return state
            started = time.perf_counter()
            try:
                micro_batches = [batch.to(rt.device) for batch in _next_step(stage, rt)]
            except (UserError, PeerFailed):
                rescue()
                raise
            with repeatable(rt.device):  # not around answering and measuring, which it would slow down
                metrics = _step(stage, state, micro_batches, rt)
            metrics["seconds"] = time.perf_counter() - started
            state.seconds += metrics["seconds"]
            metrics["tok_per_second"] = metrics.pop("tokens") / metrics["seconds"]
            metrics["tflop_per_second"] = metrics["tok_per_second"] * stage.flops_per_token / 1e12
            log.log(state.step, metrics)
            smooth = state.smooth_loss if state.smooth_loss is not None else math.nan
            loss = metrics["loss"] if stage.log_every else smooth
            figures = {name: metrics[name] for name in stage.shown} or {"loss": loss}
            reached = state.step if stage.num_iterations > 0 else round(100 * state.progress)
            bar.update(reached, **figures, tok_per_second=metrics["tok_per_second"])


def _refuse_broken_weights(stage: Stage, state: TrainState) -> None:
    """A step whose loss was finite may still have made the weights infinite, or so large that no next one will be."""
    if not bool(torch.isfinite(nn.utils.get_total_norm(stage.model.parameters()))):
        raise UserError(
            f"{stage.name} stopped at step {state.step} without saving: the norm of its weights is not finite; the "
            f"last checkpoint is untouched. Lower the learning rates ({stage.rate_flags}) and start again"
        )


def _progress_bar(stage: Stage, rt: Runtime) -> Progress:
    if stage.num_iterations > 0:
        return Progress(stage.num_iterations, stage.name, "steps", rt.is_main, lines_every=stage.log_every)
    return Progress(100, stage.name, "percent", rt.is_main)


def _step(stage: Stage, state: TrainState, micro_batches: list[Batch], rt: Runtime) -> dict[str, float]:
    """One optimizer step; advances `state`."""
    is_scaled = rt.dtype == torch.float16
    factor = state.loss_scale if is_scaled else 1.0
    valid = _sum_over_ranks(torch.stack([batch.counted for batch in micro_batches]).sum().float(), rt)
    loss = torch.zeros((), device=rt.device)
    for batch in micro_batches:
        nll = stage.forward(batch.inputs, batch.targets)
        part = (nll * batch.weights).sum() / valid.clamp_min(1)
        (part * factor).backward()
        loss += part.detach()
    loss = float(_sum_over_ranks(loss, rt))
    norm = float(_reduce_gradients(stage.model, rt, factor))
    rates = stage.rates(state.step, state.progress)
    finite = math.isfinite(loss) and math.isfinite(norm)
    if finite:
        if stage.grad_clip > 0 and norm > stage.grad_clip:
            _scale_gradients(stage.model, stage.grad_clip / norm)
        stage.optimizer.step(rates)
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
    return {**metrics, **last.figures}


def _next_step(stage: Stage, rt: Runtime) -> list[Batch]:
    """The micro-batches of a step. Where one rank cannot read its own, all raise, so that they can save together."""
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


def _measure(evaluations: list[Evaluation], stopping: Callable[[], bool]) -> dict[str, float] | None:
    """The scores of all evaluations together; None when a SIGTERM came in between."""
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
    rt.print(f"{stage.name}: step {state.step}  " + "  ".join(f"{name} {value:.4f}" for name, value in scores.items()))


def _due(every: int, step: int) -> bool:
    return every > 0 and step > 0 and step % every == 0


def _reduce_gradients(model: nn.Module, rt: Runtime, factor: float) -> Tensor:
    """Sum the gradients over the ranks, take the loss scale out, and return their norm."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if rt.world > 1:
        for work in [dist.all_reduce(gradient, async_op=True) for gradient in gradients]:
            work.wait()  # type: ignore[union-attr]
    if factor != 1:
        _scale_gradients(model, 1 / factor)
    return nn.utils.get_total_norm(gradients)


def _scale_gradients(model: nn.Module, factor: float) -> None:
    torch._foreach_mul_([p.grad for p in model.parameters() if p.grad is not None], factor)


def _sum_over_ranks(value: Tensor, rt: Runtime) -> Tensor:
    if rt.world > 1:
        dist.all_reduce(value)
    return value


def _agreed(stop: "Stop", late: bool, rt: Runtime) -> tuple[int, bool]:
    """stop.code and `late`, the same on all ranks, so that they save, and leave the loop, at the same step."""
    if rt.world == 1:
        return stop.code, late
    flags = torch.tensor([stop.code, int(late)], device=rt.device)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    code, late = flags.tolist()
    return code, bool(late)


def _update_loss_scale(state: TrainState, finite: bool) -> bool:
    """Keep float16 gradients in range (Micikevicius 2018): half the scale on an overflow, twice after 2000 good steps.

    Returns whether a smaller scale may still mend a step that was not finite.
    """
    state.good_steps = state.good_steps + 1 if finite else 0
    if not finite:
        state.loss_scale /= 2
    elif state.good_steps % 2000 == 0:
        state.loss_scale *= 2
    return state.loss_scale >= 1


class Stop:
    """Whether a signal has asked the run to end: code is 0, or the exit code for the first of them."""

    def __init__(self) -> None:
        self.code = 0
        self.since = 0.0


@contextmanager
def stop_signals(rt: Runtime) -> Iterator[Stop]:
    """Note SIGTERM and the first Ctrl-C for as long as the context lasts; a second Ctrl-C interrupts as usual."""
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        is_ctrl_c = number == signal.SIGINT
        if not stop.code:
            stop.code, stop.since = EXIT_CODES[signal.Signals(number)], time.monotonic()
            if is_ctrl_c and rt.is_main:  # past Python's buffers, which a handler must not enter a second time
                os.write(2, b"\nCtrl-C: finishing this step and saving it; Ctrl-C again ends at once\n")
        elif is_ctrl_c and (rt.world == 1 or time.monotonic() - stop.since > SAME_CTRL_C):
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in EXIT_CODES}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
