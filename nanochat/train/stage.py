"""From flags to a stage and back to disk: what base_train, mid_train, chat_sft and chat_rl have in common."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile

import torch

from nanochat import schedule
from nanochat.checkpoint import manager
from nanochat.config import changes
from nanochat.data.batch import Batch
from nanochat.data.streams import Source, batches_for, one_pass
from nanochat.errors import UserError
from nanochat.eval.bpb import bits_per_byte
from nanochat.gpt import GPT, count_parameters
from nanochat.log import MetricsLog, strict_json
from nanochat.optim import Optimizer, Rates, parameter_groups
from nanochat.plan.cost import flops_per_token
from nanochat.report import sections
from nanochat.runtime import Runtime, can_compile
from nanochat.tokenizer import Tokenizer
from nanochat.train.flags import Hyperparameters, TrainFlags, accumulation
from nanochat.train.loop import Evaluation, Stage, TrainState, train
from nanochat.train.start import Begun, Start, plain


@dataclass(frozen=True)
class Run:
    """A run of a stage: where it starts, where its checkpoints go, its flags and its model.

    `about` goes into the meta files beside the usual.
    """

    start: Start
    flags: TrainFlags
    h: Hyperparameters
    tokenizer: Tokenizer
    begun: Begun
    about: dict

    @property
    def rt(self) -> Runtime:
        return self.start.rt


def run_stage(
    name: str,
    run: Run,
    train_source: Source,
    val_source: Source,
    num_iterations: int = -1,
    num_epochs: float = 1.0,
    evaluations: Sequence[Evaluation] = (),
) -> TrainState:
    """Train, log, save, validate and report a stage that learns from given text or conversations.

    `evaluations` are measured beside the validation.
    """
    h, rt, begun = run.h, run.rt, run.begun

    def validate(stopping: Callable[[], bool]) -> dict[str, float]:
        with closing(batches_for(rt, val_source, h.device_batch_size, h.max_seq_len)) as stream:
            measured = one_pass(stream, h.eval_tokens, rt.world)
            on_device = (batch.to(rt.device) for batch in takewhile(lambda _: not stopping(), measured))
            return {"val_bpb": bits_per_byte(begun.model, on_device, run.tokenizer.token_bytes)}

    def results(state: TrainState, scores: dict) -> dict:
        tokens = state.step * h.total_batch_size
        return {
            "tokens": tokens, "flops": tokens * flops_per_token(begun.model.config),
            "train_loss": state.smooth_loss, "val_bpb": scores.get("val_bpb"),
        }  # fmt: skip

    start = begun.state.cursor
    with closing(batches_for(rt, train_source, h.device_batch_size, h.max_seq_len, start, run.flags.seed)) as stream:
        return run_stream(
            name, run, stream, accumulation(h, rt), [Evaluation(run.flags.eval_every, validate), *evaluations], results,
            num_iterations, num_epochs, flops_per_token(begun.model.config),
        )  # fmt: skip


def run_stream(
    name: str,
    run: Run,
    stream: Iterator[Batch],
    accumulation: int,
    evaluations: list[Evaluation],
    results: Callable[[TrainState, dict], dict],
    num_iterations: int = -1,
    num_epochs: float = 1.0,
    flops_per_token: int = 0,
    best: str = "val_bpb",
    shown: tuple[str, ...] = (),
) -> TrainState:
    """Train, log, save, measure and report any stage.

    `results` makes the section of the report, beside what all have, of the last state and its checkpoint's meta.
    The checkpoint with the lowest `best`, one of the evaluations' scores, is kept beside the newest.
    """
    flags, h, rt, begun, folder = run.flags, run.h, run.rt, run.begun, run.start.folder
    model, state, stale = begun.model, begun.state, begun.stale
    adamw, muon = parameter_groups(
        model,
        h.embedding_lr * h.lr_scale,
        h.unembedding_lr * h.lr_scale,
        h.matrix_lr * h.lr_scale,
        h.scalar_lr * h.lr_scale,
        h.weight_decay,
    )
    optimizer = Optimizer(adamw, muon)
    if begun.saved is not None:
        optimizer.load_state_dict(begun.saved["optimizer"])
        torch.set_rng_state(begun.saved["rng"])
        begun.saved = None  # a second copy of the optimizer
    described = {
        "user_config": {**dataclasses.asdict(flags), **dataclasses.asdict(h)},
        "changed_flags": {name: plain(value) for name, value in changes(flags).items()},
        "dtype": str(model.dtype).removeprefix("torch."),
        "device_batch_size": h.device_batch_size,
        "total_batch_size": h.total_batch_size,
        "max_seq_len": h.max_seq_len,
        "seed": flags.seed,
        "git_commit": sections.git_commit(),
        "tokenizer_hash": run.tokenizer.hash,
        **run.about,
    }
    described = json.loads(strict_json(described))  # paths become strings
    saved_at = state.step if begun.is_resumed else -1
    reported: set[str] = set()  # damaged checkpoints

    def prune() -> None:
        for damage in manager.prune(folder, flags.keep_last, best):
            if damage not in reported:
                rt.print(f"{name}: {damage}; it is left as it is")
                reported.add(damage)

    def save(state: TrainState, passing: bool) -> None:
        nonlocal saved_at
        whole = optimizer.state_dict()  # collective
        if rt.is_main and not flags.dry_run:
            meta = {
                **described,
                "val_bpb": None,
                "passing": passing,
                "dataloader_state_dict": state.cursor,
                "loop_state": state.state_dict(),
            }
            try:
                manager.keep_tokenizer(folder, run.tokenizer)
                manager.save(folder, state.step, model, {"optimizer": whole, "rng": torch.get_rng_state()}, meta)
            except UserError:  # the disk is full, and these lines are of steps that are lost
                log.take_back(saved_at)
                raise
            saved_at = state.step
            if stale:
                # Checkpoints of the run that this one replaces, or of steps after the one it was resumed from, must
                # not be mistaken for its latest.
                manager.delete(folder, [step for step in stale if step != state.step])
                stale.clear()
                log.release()
            prune()

    def scored(state: TrainState, scores: dict[str, float]) -> None:
        if rt.is_main and not flags.dry_run:
            manager.update_meta(folder, state.step, {"loop_state": state.state_dict(), **scores})
            prune()

    is_logging = rt.is_main and not flags.dry_run
    config = {**described, "model_config": dataclasses.asdict(model.config)}
    log = MetricsLog(folder, flags.run, config, is_logging, resumed=begun.is_resumed)
    if stale and not begun.is_resumed:
        log.hold()
    else:
        log.resume(saved_at, state.probed)
    stage = Stage(
        name=name,
        model=model,
        forward=compiled(model, flags.compile, rt),
        optimizer=optimizer,
        stream=stream,
        accumulation=accumulation,
        rates=lambda step, progress: Rates(
            lr=schedule.lr_multiplier(
                progress, step, flags.warmup_steps, flags.warmup_ratio, flags.warmdown_ratio, flags.final_lr_frac
            ),
            weight_decay=schedule.weight_decay_multiplier(progress),
            momentum=schedule.muon_momentum(step, progress, flags.warmdown_ratio),
        ),
        save=save,
        scored=scored,
        num_iterations=num_iterations,
        num_epochs=num_epochs,
        save_every=flags.save_every,
        save_minutes=flags.save_minutes,
        grad_clip=flags.grad_clip,
        flops_per_token=flops_per_token,
        evaluations=evaluations,
        shown=shown,
        after_signal="nothing was written (--dry_run)" if flags.dry_run else Stage.after_signal,
    )
    state.measure_progress(num_iterations, num_epochs)
    never = all(each.every < 0 for each in evaluations)
    if begun.is_resumed and state.progress >= 1 and (state.probed or never):
        rt.print(_was_finished(name, state, num_iterations))
    state = train(stage, state, rt, log)
    log.close()
    if flags.dry_run:
        rt.print(f"{name}: done; nothing was written (--dry_run)")
        return state
    if rt.is_main:
        particular = results(state, manager.read_meta(folder, state.step))
        section = {
            "source": run.start.stage, "tag": run.start.tag, "step": state.step, "flags": changes(flags),
            "seed": flags.seed, "parameters": count_parameters(model), "steps": state.step, "seconds": state.seconds,
            "tokens_per_second": particular["tokens"] / max(state.seconds, 1e-9), **particular,
            "own_conversations": run.about.get("own_conversations"),
        }  # fmt: skip
        sections.write_section(name, section)
    rt.print(f"{name}: done; step {state.step} is in {folder}")
    return state


def _was_finished(name: str, state: TrainState, num_iterations: int) -> str:
    """What to print when a finished run is started again."""
    reached = "" if state.best_bpb is None else f", best val_bpb {state.best_bpb:.4f}"
    more = f"--num_iterations above {state.step}" if num_iterations > 0 else f"--num_epochs above {state.epochs:.3g}"
    return (
        f"{name}: this run already finished at step {state.step}{reached}, so nothing is trained; pass "
        f"{more} to train it further, or --resume never --overwrite to start over"
    )


def compiled(model: GPT, wanted: bool, rt: Runtime) -> Callable:
    """The model's forward, compiled if wanted; prints a line where there is no compiler."""
    if wanted and not can_compile(rt.device):
        rt.print("no C++ compiler was found, so torch.compile is not used; training is slower")
        wanted = False
    return torch.compile(model, dynamic=False) if wanted else model
