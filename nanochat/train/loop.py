"""The training loop, the only one: pretraining, mid-training, fine-tuning and RL differ in their stream of batches.

    loss = sum of nll * weight over the whole step / number of tokens that count in it

The weight is 1 for text, 1 or 0 in conversations (only the assistant's tokens are learned), and the advantage in RL.
With preferences it is the slope of a pair's loss and the count is that of pairs; a teacher adds its own term to nll.
"The whole step" is all micro-batches on all ranks. A GPU that cannot hold the batch takes it in several micro-batches
and adds up their gradients (gradient accumulation); several ranks take a part each and sum theirs (data parallelism).
Dividing by the count of the whole step, not by each micro-batch's own, makes all of that equal: one batch of 4 rows,
twice 2, or 2 ranks of 2 take the same step, also where they hold different numbers of tokens that count.

Read `train`, then `_Steps.take` and `compute`, then whatever you like. Shapes: B rows, T time.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, fields

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat.data.batch import Batch
from nanochat.errors import UserError, shown
from nanochat.log import MetricsLog, Progress
from nanochat.optim import Optimizer, Rates
from nanochat.peers import PeerFailed
from nanochat.plan.gpus import peak_of
from nanochat.reduce import whole
from nanochat.runtime import Runtime, memory_used, repeatable
from nanochat.train.pace import Pace, check_same_step
from nanochat.train.parallel import gathered
from nanochat.train.room import Room, is_out_of_memory, lowest, no_way_back
from nanochat.train.stopping import EXIT_CODES, agreed, stop_signals
from nanochat.train.times import Times, in_words
from nanochat.train.waiting import COLLECT_EVERY, OnTheWay, few_collections, on_device

TOLERATED_BAD_STEPS = 5  # in a row; by then another would not help, and the weights are still good
GOOD_STEPS = 2000  # float16 only: after so many without an overflow the loss scale doubles
READ_AT_ONCE = ("cpu",)  # devices that have computed a step when the program has started it


@dataclass
class TrainState:
    """What a run has to remember between two steps; it is in the checkpoint, together with the optimizer's state."""

    step: int = 0
    progress: float = 0.0  # fraction of the run that is done, in [0, 1]
    epochs: float = 0.0  # passes over the data
    cursor: dict | None = None  # where the data stream resumes
    seconds: float = 0.0  # spent in training steps
    timed: float = 0.0  # the same without the first step of each start, which compiles
    smooth_loss: float | None = None
    best_bpb: float | None = None
    before: dict[str, float] = field(default_factory=dict)  # scores from before the first step
    bad_steps: int = 0  # steps in a row that were not finite and not applied
    probed: bool = False  # this step's evaluations are done
    loss_scale: float = 2.0**16  # float16 only: the factor on the loss, see `_LossScale`
    good_steps: int = 0  # float16 only: since the last overflow
    times: dict[str, float] = field(default_factory=dict)  # seconds by part, see `Times`

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
            elif name in ("before", "times"):
                fits, expected = isinstance(value, dict) and all(map(_is_number, value.values())), "numbers by name"
            elif like is None:
                fits, expected = value is None or _is_number(value), "a number"
            else:
                kinds = int if isinstance(like, int) else (int, float)
                fits, expected = isinstance(value, kinds) and value == value, "a number"
            if not fits:
                raise UserError(f"{where} is damaged: the {name} of its run is {shown(value)}, not {expected}")
        return cls(**saved)

    def measure_progress(self, num_iterations: int, num_epochs: float, minutes: float = 0.0) -> None:
        """Set `progress`, from the time or the steps where these are given, else from the passes over the data."""
        if minutes > 0:
            done = self.timed / (60 * minutes)
        else:
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

    It may be a vector: that sum, and one for each name in `also`, which are divided by the same count and only logged.
    `save(state, passing)` begins to write a checkpoint; a passing one was due by time only and is replaced by the next
    one. `landed(wait)` raises what kept it from being written; with `wait` it blocks until that is known.
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
    landed: Callable[[bool], None] = lambda wait: None
    on_policy: bool = False  # whether the stream samples from the model, which must then be this step's
    num_iterations: int = -1  # -1 = until the stream has made num_epochs
    num_epochs: float = 1.0
    minutes: float = 0.0  # of training steps; 0 = until num_iterations or num_epochs
    save_every: int = -1  # steps; -1 = at the end only
    save_minutes: float = 0.0  # the most training that a crash may cost; 0 = no limit
    grad_clip: float = 0.0  # largest norm of the whole gradient; 0 = off
    flops_per_token: int = 0
    evaluations: list[Evaluation] = field(default_factory=list)
    also: tuple[str, ...] = ()  # metrics that `loss` sums besides the loss
    shown: tuple[str, ...] = ()  # metrics in the progress line; none: the loss
    log_every: int = 0  # steps between lines, which show a step's own loss; 0 = as time passes, smoothed, or as a bar
    rows_flag: str = "--device_batch_size"  # what to lower when memory runs out
    rate_flags: str = "--matrix_lr, --embedding_lr"  # what to lower when the loss is not finite
    after_signal: str = "step {step} is saved, start again to resume"
    saves: bool = True  # False: `save` writes nothing
    times: Times = field(default_factory=Times)


def train(stage: Stage, state: TrainState, rt: Runtime, log: MetricsLog) -> TrainState:
    """Run a stage from `state` to its end, saving and evaluating on the way.

    A checkpoint is begun before anything is measured at its step, and written when this returns or raises. On SIGTERM
    or Ctrl-C the step is finished, saved, and SystemExit raised with the signal's code; a second Ctrl-C raises
    KeyboardInterrupt at once. Raises UserError after TOLERATED_BAD_STEPS losses in a row that are not finite, and what
    the stream raises, after saving what was learned before.
    """
    measure_progress(stage, state, rt)  # a finished run may have been given more steps
    stage.times = times = Times(state.times, rt.device.type == "cuda", rt.began)
    pace = Pace(stage.name, times, rt)
    check_same_step(state.step, rt)
    every = 1 if stage.on_policy else COLLECT_EVERY  # generating leaves more garbage than learning
    with (
        stop_signals(rt, stage.saves) as stop,
        _progress_bar(stage, rt) as bar,
        few_collections(every) as garbage,
        _landing(stage),
    ):
        steps = _Steps(stage, state, rt, log, bar)
        checkpoints = _Checkpoints(stage, state, steps.settle)
        while True:
            if stage.minutes > 0:
                measure_progress(stage, state, rt)
            done = state.progress >= 1.0
            with times.of("waiting"):
                code, late = agreed(stop, checkpoints.are_late(), rt)
            evaluations = [each for each in stage.evaluations if each.due(state.step, done)]
            if done or code or evaluations:
                steps.settle()
            checkpoints.save_if_due(done or code > 0, late)
            if code:
                checkpoints.land()
                rt.print(f"{stage.name}: {_ending(stage, code, checkpoints.saved_step)}")
                raise SystemExit(code)
            if evaluations and not state.probed:
                stage.optimizer.wait()
                with checkpoints.rescuing(), times.of("evaluation"), gathered(stage.model):
                    scores = _measure(evaluations, lambda: bool(agreed(stop, False, rt)[0]))
                garbage.collect()
                if scores is None:
                    continue
                state.probed = True
                _report(stage, state, scores, log, rt)
                if state.step == 0:
                    state.before = scores
                elif checkpoints.saved_step == state.step:
                    with times.of("saving"):
                        stage.scored(state, scores)
            if done:
                checkpoints.land()
                state.times = times.read()
                rt.print(f"{stage.name}: time {in_words(state.times)}")
                return state
            stage.landed(False)
            steps.take(checkpoints)
            pace.step(state.step)
            garbage.step()


@contextmanager
def _landing(stage: Stage) -> Iterator[None]:
    """When an error ends the run, let a checkpoint that was begun be written; that error is the one to report."""
    try:
        yield
    except Exception:
        with suppress(Exception):
            stage.landed(True)
        raise


def _ending(stage: Stage, code: int, saved: int) -> str:
    """How a signal has ended the run, and what is left of it: step `saved`, or nothing where that is 0."""
    ending = "interrupted" if code == EXIT_CODES[signal.SIGINT] else "terminated"
    if not stage.saves:
        return f"{ending}; nothing was written (--dry_run)"
    return f"{ending}; {stage.after_signal.format(step=saved) if saved else 'no step was finished'}"


def measure_progress(stage: Stage, state: TrainState, rt: Runtime) -> None:
    """Set the state's progress. All ranks take the time of the first one, so that they end at the same step."""
    if stage.minutes > 0 and rt.world > 1:
        timed = torch.tensor(state.timed, dtype=torch.float64)
        dist.broadcast(timed, 0)
        state.timed = timed.item()
    state.measure_progress(stage.num_iterations, stage.num_epochs, stage.minutes)


# ---------------------------------------------------------------- a step


@dataclass
class _Started:
    """A step that the device may still be computing: what is known of it, and its figures, which are not.

    tokens are those of all ranks; metrics come last in its line of the log.
    """

    step: int
    progress: float
    began: float
    tokens: float
    rates: Rates
    metrics: dict[str, float]
    figures: OnTheWay  # as `compute` returned them


class _Steps:
    """Takes steps and reports them.

    A step is read when the next one has been started, so that a GPU has work while the program reads: its loss reaches
    the log, and a loss that is not finite ends the run, a step late. A CPU is done by then, and is read at once. What
    the state has of the losses is behind by that step, until `settle`.
    """

    def __init__(self, stage: Stage, state: TrainState, rt: Runtime, log: MetricsLog, bar: Progress) -> None:
        self.stage, self.state, self.rt, self.log, self.bar = stage, state, rt, log, bar
        self.scale = _LossScale(state, rt.device) if rt.dtype == torch.float16 else None
        self.peak = peak_of(rt.device) * rt.world
        self.room = Room(stage.name, stage.rows_flag, rt)
        self.started: _Started | None = None
        self.ended = 0.0  # when the step before had been computed
        self.is_first = True  # whether the step that is read next is the first of this start

    def take(self, checkpoints: "_Checkpoints") -> None:
        """Start a step; advances the state, as far as it is known, and reports the step before."""
        stage, state, rt = self.stage, self.state, self.rt
        began = time.perf_counter()
        if stage.on_policy:
            stage.optimizer.wait()
        with checkpoints.rescuing(), stage.times.of("sampling" if stage.on_policy else "data"):
            batches, counted = _next_step(stage, rt)
        rates, last = stage.rates(state.step, state.progress), batches[-1]
        with repeatable(rt.device):  # not around generating and measuring, which it would slow down
            fitting = on_device(self.room.fitted(batches), rt.device)
            figures = compute(stage, fitting, counted, rates, rt, self.room, self.scale)
        tokens = sum(batch.inputs.numel() for batch in batches) * rt.world
        state.step += 1
        state.cursor, state.epochs, state.probed = last.cursor, last.progress, False
        state.measure_progress(stage.num_iterations, stage.num_epochs, stage.minutes)
        started = _Started(state.step, state.progress, began, tokens, rates, last.metrics, OnTheWay(figures))
        self.settle()
        self.started = started
        if rt.device.type in READ_AT_ONCE:
            self.settle()

    def settle(self) -> None:
        """Report the step that was started last, if it was not yet. Raises UserError after too many bad ones."""
        step, self.started = self.started, None
        if step is None:
            return
        stage, state = self.stage, self.state
        with stage.times.of("optimizer"):  # a GPU is waited for here
            loss, norm, scale, good_steps, *also = step.figures.read()
        now = time.perf_counter()
        seconds, self.ended = now - max(step.began, self.ended), now
        state.seconds += seconds
        is_first, self.is_first = self.is_first, False
        state.timed += 0.0 if is_first else seconds
        self._judge(step.step, loss, norm, scale)
        if self.scale is not None:
            state.loss_scale, state.good_steps = scale, int(good_steps)
        metrics = {"loss": loss, "grad_norm": norm, "lr": step.rates.lr, "progress": step.progress}
        tokens = step.metrics.get("tokens", step.tokens)
        if stage.optimizer.muon:
            metrics |= {"momentum": step.rates.momentum, "weight_decay": step.rates.weight_decay}
        metrics |= {name: value for name, value in step.metrics.items() if name != "tokens"}
        metrics |= dict(zip(stage.also, also, strict=True))
        metrics |= {"seconds": seconds, "tok_per_second": tokens / seconds}
        metrics["tflop_per_second"] = metrics["tok_per_second"] * stage.flops_per_token / 1e12
        if self.peak:
            metrics["mfu"] = 1e12 * metrics["tflop_per_second"] / self.peak
        metrics["memory_bytes"] = memory_used(self.rt.device)
        self.log.log(step.step, metrics)
        _show(self.bar, stage, state, step, metrics, is_first)

    def _judge(self, step: int, loss: float, norm: float, scale: float) -> None:
        """Note the loss, or count a bad step, which the device did not apply. Raises UserError after too many."""
        stage, state = self.stage, self.state
        if math.isfinite(loss) and math.isfinite(norm):
            state.smooth_loss = loss if state.smooth_loss is None else 0.95 * state.smooth_loss + 0.05 * loss
            state.bad_steps = 0
            return
        if self.scale is not None and scale >= 1 and math.isfinite(loss):
            return  # an overflow, which a smaller loss scale may mend
        state.bad_steps += 1
        self.rt.print(f"{stage.name}: step {step} has a loss of {loss} and a gradient norm of {norm}; not applied")
        if state.bad_steps >= TOLERATED_BAD_STEPS:
            raise UserError(
                f"{stage.name} stopped at step {step}: the loss or its gradient was not finite "
                f"{state.bad_steps} times in a row; the last checkpoint is untouched. "
                f"Lower the learning rates ({stage.rate_flags}), set --grad_clip 1, or use --dtype float32"
            )


def compute(
    stage: Stage, batches: Sequence[Batch], counted: int, rates: Rates, rt: Runtime, room: Room,
    scale: "_LossScale | None" = None,
) -> Tensor:  # fmt: skip
    """Compute one optimizer step of these micro-batches and apply it if it is finite, without waiting for the device.

    counted: the tokens of the whole step that count. Returns a float32 vector on the device: the loss, the norm of the
    gradient, as they are after the step the loss scale and its good steps, and what `stage.also` names. Raises
    UserError where memory runs out and the step cannot be computed with fewer rows at a time.
    """
    while True:
        batches = _as_many(room.fitted(batches), stage, rt)
        try:
            loss = _add_gradients(stage, batches, counted, rt, scale)
            break
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if stage.optimizer.has_sent:
                raise room.refusal("while the ranks exchanged their gradients") from error
            room.shrink(batches)
        # Only now, without the error and the frames that it holds, is the memory of the attempt free.
        stage.optimizer.zero_grad()
        if rt.device.type == "cuda":
            torch.cuda.empty_cache()
    with no_way_back(room, "in the optimizer's part of a step"), stage.times.of("optimizer"):
        if rt.world > 1:
            dist.all_reduce(loss)
        norm = stage.optimizer.reduce()
        if scale is not None:
            norm = norm / scale.scale
        finite = loss[0].isfinite() & norm.isfinite()
        stage.optimizer.step(rates, _factor(norm, stage.grad_clip, scale), ~finite)
        stage.optimizer.zero_grad()
    scaling = [torch.ones_like(norm), torch.zeros_like(norm)]
    if scale is not None:
        scale.update(finite)
        scaling = [scale.scale, scale.good_steps.float()]
    return torch.cat([torch.stack([loss[0], norm, *scaling]), loss[1:]])


def probed_rows(model: nn.Module, loss: Callable[[Batch], Tensor], rows: int, T: int, held: float, rt: Runtime) -> int:
    """How many rows of T tokens fit into memory, by a real forward and backward: `rows`, or half of it, and so on.

    held: bytes that the optimizer will take besides. Changes nothing: no gradient and no random number is left of it.
    Raises UserError where not even one row fits. The same on all ranks, which must call it together.
    """
    devices = [rt.device] if rt.device.type == "cuda" else []
    room = Room("--device_batch_size=auto", "--device_batch_size", rt)
    while True:
        weights = torch.ones(rows, T)
        ids = torch.zeros(rows, T, dtype=torch.int64)
        batch = Batch(ids, ids, weights, 0.0, {}).to(rt.device)
        try:
            with torch.random.fork_rng(devices), repeatable(rt.device):
                taken = torch.empty(int(held), dtype=torch.uint8, device=rt.device)
                loss(batch).view(-1)[0].backward()
                del taken
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            room.shrink([batch])
        model.zero_grad()
        if room.rows is None or room.rows == rows:
            return lowest(rows, rt)
        rows = room.rows


def _as_many(batches: list[Batch], stage: Stage, rt: Runtime) -> list[Batch]:
    """As many micro-batches on every rank, where each pass gathers weights: more that teach nothing on some."""
    if stage.optimizer.parts is None:
        return batches
    most = torch.tensor(len(batches))
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return batches + [batches[-1].unlearned()] * (int(most) - len(batches))


def _add_gradients(
    stage: Stage, batches: Sequence[Batch], counted: int, rt: Runtime, scale: "_LossScale | None"
) -> Tensor:
    """Add up the gradients of a step in `.grad`. Returns this rank's part of the loss, and of what `also` names.

    The tokens that count are known before the first backward pass, so each part gets its final weight.
    """
    loss = torch.zeros(1 + len(stage.also), device=rt.device)
    for n, batch in enumerate(batches):
        with stage.times.of("forward"):
            part = stage.loss(batch).view(-1) / max(1, counted)
        reducing = stage.optimizer.reducing() if n == len(batches) - 1 else nullcontext()
        with reducing, stage.times.of("backward"):
            (part[0] if scale is None else part[0] * scale.scale).backward()
        loss += part.detach()
    return loss


def _factor(norm: Tensor, clip: float, scale: "_LossScale | None") -> Tensor | None:
    """What the gradients have to be multiplied by, to be clipped and without the loss scale; None for 1."""
    clipped = (clip / norm).clamp_max(1) if clip > 0 else None
    if scale is None:
        return clipped
    return scale.scale.reciprocal() if clipped is None else clipped / scale.scale


class _LossScale:
    """Loss scaling for float16, on the device, as torch's GradScaler does it (Micikevicius et al. 2018).

    Small gradients would round to 0 in float16, so the loss is multiplied by a large number and the gradients divided
    by it. Half the scale after an overflow, twice after GOOD_STEPS good steps.
    """

    def __init__(self, state: TrainState, device: torch.device) -> None:
        self.scale = torch.tensor(state.loss_scale, dtype=torch.float32, device=device)
        self.good_steps = torch.tensor(state.good_steps % GOOD_STEPS, dtype=torch.int32, device=device)

    def update(self, finite: Tensor) -> None:
        torch._amp_update_scale_(self.scale, self.good_steps, (~finite).float(), 2.0, 0.5, GOOD_STEPS)


def _next_step(stage: Stage, rt: Runtime) -> tuple[list[Batch], int]:
    """The micro-batches of a step, and how many tokens count in it, over all ranks.

    If one rank cannot read its own, all raise, so that they can save together.
    """
    batches: list[Batch] = []
    error: UserError | PeerFailed | None = None
    try:
        while len(batches) < stage.accumulation and not (batches and batches[-1].ends_step):
            batches.append(next(stage.stream))
    except (UserError, PeerFailed) as raised:
        error = raised
    counted = sum(int(batch.counted) for batch in batches)
    if rt.world > 1:
        sums = torch.tensor([counted, int(error is not None)])  # of the processors, so that no GPU is waited for
        with stage.times.of("waiting"):
            dist.all_reduce(sums)
        counted, failed = sums.tolist()
        if failed and error is None:
            error = PeerFailed("another rank could not read its part of the data")
    if error is not None:
        raise error
    return batches, counted


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
    return Progress(100, stage.name, "", rt.is_main)  # how many steps there will be is not known


def _show(
    bar: Progress, stage: Stage, state: TrainState, step: _Started, metrics: dict[str, float], is_first: bool
) -> None:
    smooth = state.smooth_loss if state.smooth_loss is not None else math.nan
    shown = {name: metrics[name] for name in stage.shown} or {"loss": metrics["loss"] if stage.log_every else smooth}
    speed = {} if is_first else {"tok_per_second": metrics["tok_per_second"]}  # the first step compiles
    if stage.num_iterations > 0:
        bar.update(step.step, **shown, **speed)
    else:
        bar.update(round(100 * step.progress), step=step.step, **shown, **speed)


def _due(every: int, step: int) -> bool:
    return every > 0 and step > 0 and step % every == 0


# ---------------------------------------------------------------- saving and stopping


class _Checkpoints:
    """When a run saves, and which step it saved last."""

    def __init__(self, stage: Stage, state: TrainState, settle: Callable[[], None]) -> None:
        self.stage = stage
        self.state = state
        self.settle = settle  # makes the state what it is after the last step
        self.saved_step = state.step
        self.saved_time = time.monotonic()

    def are_late(self) -> bool:
        """Whether a crash would now cost more than save_minutes of training."""
        return 0 < self.stage.save_minutes * 60 <= time.monotonic() - self.saved_time

    def save_if_due(self, is_last: bool, late: bool) -> None:
        """Save at the end, every save_every steps, and when it is late; after bad steps at the end only."""
        state = self.state
        due = is_last or _due(self.stage.save_every, state.step)
        if self.saved_step == state.step or not (due or late):
            return
        self.settle()
        if is_last or not state.bad_steps:
            self._save(passing=not due)

    @contextmanager
    def rescuing(self) -> Iterator[None]:
        """Save before an error ends the run: its data changed or cannot be read any more, on this rank or another."""
        try:
            yield
        except (UserError, PeerFailed):
            self.settle()
            if self.saved_step != self.state.step and not self.state.bad_steps:
                self._save(passing=True)
            raise

    def land(self) -> None:
        """Wait for the checkpoint that was begun last."""
        with self.stage.times.of("saving"):
            self.stage.landed(True)

    def _save(self, passing: bool) -> None:
        self.stage.optimizer.wait()
        with self.stage.times.of("saving"):
            self._write(passing)
        self.saved_step, self.saved_time = self.state.step, time.monotonic()

    def _write(self, passing: bool) -> None:
        # A step whose loss was finite may still have made the weights infinite, or too large for any next step.
        norm = nn.utils.get_total_norm(self.stage.model.parameters())
        if not bool(torch.isfinite(whole({"norm": norm})["norm"])):
            raise UserError(
                f"{self.stage.name} stopped at step {self.state.step} without saving: the norm of its weights is not "
                f"finite; the last checkpoint is untouched. Lower the learning rates ({self.stage.rate_flags}) and "
                "start again"
            )
        self.state.times = self.stage.times.read()
        self.stage.save(self.state, passing)
