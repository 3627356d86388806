"""From flags to a stage and back to disk: what base_train, mid_train, chat_sft and chat_rl have in common."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from itertools import takewhile
from pathlib import Path

import torch

from nanochat import fp8, lora, schedule
from nanochat.attention import backend_in_words
from nanochat.checkpoint import manager, parts
from nanochat.checkpoint.parts import Ranks
from nanochat.config import changes
from nanochat.data.batch import Batch
from nanochat.data.streams import Source, batches_for, one_pass
from nanochat.errors import UserError, shown
from nanochat.eval.bpb import text_loss
from nanochat.gpt import count_parameters
from nanochat.log import MetricsLog, strict_json
from nanochat.optim import Optimizer, Rates, parameter_groups
from nanochat.plan.cost import flops_per_token, training_memory
from nanochat.report import sections
from nanochat.scaling import shared
from nanochat.train.flags import TrainFlags
from nanochat.train.hyperparameters import accumulation
from nanochat.train.loop import Evaluation, Stage, TrainState, probed_rows, train
from nanochat.train.objective import DISTILLED, compiled_rows, loss_by, loss_of
from nanochat.train.parallel import divide, optimizer_for, ranks_that_save
from nanochat.train.start import Run, as_json
from nanochat.train.writer import RNG, CheckpointWriter


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

    `evaluations` are made beside the validation.
    """
    run = prepared(run)
    hparams, rt, flags = run.hparams, run.rt, run.start.flags
    rows, T = hparams.device_batch_size, hparams.max_seq_len
    flops = flops_per_token(run.model.config, lora.adapters_of(run.model))

    def validate(stopping: Callable[[], bool]) -> dict[str, float]:
        with closing(batches_for(rt, val_source, rows, T)) as stream:
            measured = one_pass(stream, hparams.eval_tokens, rt.world)
            on_device = (batch.to(rt.device) for batch in takewhile(lambda _: not stopping(), measured))
            loss = text_loss(run.model, on_device, run.tokenizer.token_bytes)
            return {"val_bpb": loss.bits_per_byte, "val_perplexity": loss.perplexity}

    def results(state: TrainState, scores: dict) -> dict:
        tokens = state.step * hparams.total_batch_size
        return {
            "tokens": tokens, "flops": tokens * flops, "train_loss": state.smooth_loss,
            "val_bpb": scores.get("val_bpb"), "val_perplexity": scores.get("val_perplexity"),
        }  # fmt: skip

    with closing(batches_for(rt, train_source, rows, T, run.state.cursor, flags.seed)) as stream:
        return run_stream(
            name, run, stream, accumulation(hparams, rt), [Evaluation(flags.eval_every, validate), *evaluations],
            results, num_iterations, num_epochs, flops,
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
    on_policy: bool = False,
) -> TrainState:
    """Train, log, save, evaluate and report any stage.

    `results` makes the stage's own part of the report from the last state and its checkpoint's meta file.
    The checkpoint with the lowest `best`, a score of one of the evaluations, is kept beside the newest.
    """
    flags, rt, state = run.start.flags, run.rt, run.state
    optimizer = restored_optimizer(run)
    writer = writer_of(name, run, optimizer, best)
    stage = Stage(
        name=name,
        model=run.model,
        loss=run.loss or loss_of(run.model, flags.compile, rt),
        also=run.also,
        optimizer=optimizer,
        stream=stream,
        accumulation=accumulation,
        on_policy=on_policy,
        rates=lambda step, progress: rates(flags, step, progress),
        save=writer.save,
        landed=writer.landed,
        scored=writer.scored,
        num_iterations=-1 if flags.minutes > 0 else num_iterations,
        num_epochs=num_epochs,
        minutes=max(0.0, flags.minutes),
        save_every=flags.save_every,
        save_minutes=flags.save_minutes,
        grad_clip=flags.grad_clip,
        flops_per_token=flops_per_token,
        evaluations=evaluations,
        shown=shown,
        rate_flags="--lora_lr" if lora.adapters_of(run.model) else Stage.rate_flags,
        saves=not flags.dry_run,
    )
    if run.start.is_resumed and is_finished(stage, state):
        rt.print(f"{name}: {_how_to_train_more(stage, state)}")
    else:
        writer.log.note(state.step, {key: writer.meta[key] for key in ("git_commit", "changed_flags")})
    state = train(stage, state, rt, writer.log)
    writer.log.close()
    ended = "nothing was written (--dry_run)" if flags.dry_run else f"step {state.step} is in {run.start.folder}"
    if rt.is_main and not flags.dry_run:
        own = results(state, manager.read_meta(run.start.folder, state.step))
        sections.write_section(name, {**_section(run, own["tokens"]), **own})
    rt.print(f"{name}: done; {ended}")
    return state


def restored_optimizer(run: Run) -> Optimizer:
    """The optimizer of a run. A resumed one gets its state back, and so does the random generator."""
    hparams, scale = run.hparams, run.hparams.lr_scale
    adamw, muon = parameter_groups(
        run.model,
        hparams.embedding_lr * scale,
        hparams.unembedding_lr * scale,
        hparams.matrix_lr * scale,
        hparams.scalar_lr * scale,
        hparams.weight_decay,
        getattr(run.start.flags, "lora_lr", 0.0),
    )
    # On a CPU the graphs save a hundredth of a step and take a minute to compile.
    compiled = bool(run.start.flags.compile) and run.rt.device.type == "cuda"
    optimizer = optimizer_for(run.model, adamw, muon, compiled)
    if run.saved is not None:
        restore(optimizer, run.saved, run.ranks)
        run.saved = None  # a second copy of the optimizer
    return optimizer


def restore(optimizer: Optimizer, saved: Path | dict, ranks: Ranks | None) -> None:
    """Give an optimizer, and torch's random generator, the state that a checkpoint was loaded with.

    Raises UserError where a folder does not hold that of these parameters.
    """
    if isinstance(saved, dict):  # of an earlier version, or in nanoGPT's format
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved.get("rng", torch.get_rng_state()))
        return
    random = torch.get_rng_state()
    buffers = optimizer.buffers()
    missing = parts.read(saved, {**buffers, RNG: random}, ranks)
    if lacking := sorted(name for name in missing if name.endswith(".momentum") or "." not in name):
        raise UserError(f"{saved} lacks {shown(', '.join(lacking))}; it belongs to another model")
    torch.set_rng_state(random)


def writer_of(name: str, run: Run, optimizer: Optimizer, best: str) -> CheckpointWriter:
    """What writes the checkpoints and metrics of a run, and records with them how it was made."""
    start, flags, hparams = run.start, run.start.flags, run.hparams
    run_config = {
        "user_config": {**asdict(flags), **asdict(hparams)},
        "changed_flags": {flag: as_json(value) for flag, value in changes(flags).items()},
        "dtype": str(run.model.dtype).removeprefix("torch."),
        "device_batch_size": hparams.device_batch_size,
        "total_batch_size": hparams.total_batch_size,
        "max_seq_len": hparams.max_seq_len,
        "seed": flags.seed,
        "git_commit": sections.git_commit(),
        "tokenizer_hash": run.tokenizer.hash,
        **run.lineage,
        **run.extra,
    }
    run_config = json.loads(strict_json(run_config))  # paths become strings
    described = {**run_config, "model_config": asdict(run.model.config)}
    writer = CheckpointWriter(
        folder=start.folder,
        model=run.model,
        optimizer=optimizer,
        log=MetricsLog(
            start.folder, flags.run, described, run.rt.is_main and not flags.dry_run, resumed=start.is_resumed
        ),
        saved_at=run.state.step if start.is_resumed else -1,
        is_main=run.rt.is_main,
        saves=not flags.dry_run,
        ranks=run.ranks,
        keep_tokenizer=lambda: manager.keep_tokenizer(start.folder, run.tokenizer),
        meta=run_config,
        keep_last=flags.keep_last,
        best=best,
        stale=start.stale,
        tell=lambda message: run.rt.print(f"{name}: {message}"),
    )
    writer.begin(run.state, replaces=bool(start.stale) and not start.is_resumed)
    return writer


def rates(flags: TrainFlags, step: int, progress: float) -> Rates:
    """The factors on learning rates and weight decay, and the momentum, of a step."""
    ramps = flags.warmup_steps, flags.warmup_ratio, flags.warmdown_ratio
    ramped = schedule.lr_multiplier(progress, step, *ramps, flags.final_lr_frac)
    return Rates(
        lr=schedule.on_curve(progress, flags.lr_curve) if flags.lr_curve else ramped,
        weight_decay=schedule.weight_decay_multiplier(progress),
        momentum=schedule.muon_momentum(step, progress, flags.warmdown_ratio),
    )


def prepared(run: Run) -> Run:
    """The run with its loss; with --device_batch_size=auto also with as many rows as its device has memory for.

    To be called before the optimizer is made. Raises UserError for --fp8 where it is not possible.
    """
    flags, rt, model, hparams = run.start.flags, run.rt, run.model, run.hparams
    model.recompute = flags.recompute
    model.document_bos = run.tokenizer.bos if flags.document_mask else None
    if rt.device.type != "cpu":  # which has no choice
        rt.print(f"attention: {backend_in_words(rt.device, model.dtype, model.config.head_size)}")
    if flags.fp8 and run.layout.parts > 1:
        raise UserError(f"--fp8 does not work with --parallel {run.layout.mode} yet; leave one of them out")
    if flags.fp8:
        run.extra["fp8"] = record = fp8.convert(model, rt.device)
        rt.print(f"{record['matrices']} matrices are multiplied in float8 ({record['recipe']} scaling)")
    divide(model, run.layout, rt)
    run.ranks = ranks_that_save(run.layout, rt)
    run.rows = compiled_rows(model, flags.compile, rt, run.teacher)
    run.loss, run.also = loss_by(run.rows, model, run.teacher), DISTILLED if run.teacher else ()
    if getattr(flags, "device_batch_size", None) == "auto" and run.layout.parts == 1:  # which ranks probe by themselves
        rows, T = hparams.device_batch_size, hparams.max_seq_len
        adapters = lora.adapters_of(model)
        memory = training_memory(model.config, rows, T, bool(flags.compile), rt.world, adapters=adapters)
        held = memory["optimizer state"]
        fitting = probed_rows(model, run.loss, rows, T, held, rt)
        if fitting != rows:
            fitting = shared(hparams.total_batch_size, fitting, T, rt.world)[1]
            rt.print(f"device_batch_size={fitting}, since {rows} rows ran out of memory")
        run.hparams = replace(hparams, device_batch_size=fitting)
    return run


def is_finished(stage: Stage, state: TrainState) -> bool:
    """Whether nothing is left to train or to evaluate."""
    state.measure_progress(stage.num_iterations, stage.num_epochs, stage.minutes)
    return state.progress >= 1 and (state.probed or all(each.every < 0 for each in stage.evaluations))


def _how_to_train_more(stage: Stage, state: TrainState) -> str:
    reached = "" if state.best_bpb is None else f", best val_bpb {state.best_bpb:.4f}"
    more = f"--num_epochs above {state.epochs:.3g}"
    if stage.minutes > 0:
        more = f"--minutes above {stage.minutes:g}"
    elif stage.num_iterations > 0:
        more = f"--num_iterations above {state.step}"
    return (
        f"this run already finished at step {state.step}{reached}, so nothing is trained; pass {more} to train it "
        "further, or --resume never --overwrite to start over"
    )


def _section(run: Run, tokens: int) -> dict:
    """What the report says of every stage."""
    state, flags = run.state, run.start.flags
    return {
        "source": run.start.stage, "tag": run.start.tag, "step": state.step, "flags": changes(flags),
        "seed": flags.seed, "parameters": count_parameters(run.model), "steps": state.step, "seconds": state.seconds,
        "times": state.times,
        "tokens_per_second": tokens / max(state.seconds, 1e-9),
        "own_conversations": run.extra.get("own_conversations"),
    }  # fmt: skip
