"""nanoGPT's way of training, on the one training loop.

A run has random windows of token files, AdamW, half a cosine of a learning rate, and a ckpt.pt in its out_dir.
"""

import contextlib
import math
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from extras.nanogpt.out_dir import CkptWriter, OutDirStepWriter, Run, checkpoints, refuse_taken, resume
from extras.nanogpt.settings import OF_ONE_START, SHAPE, Settings, check
from nanochat import foreign_tokenizers, gpt2_tokenizer, lora
from nanochat.checkpoint import door, gpt2, manager
from nanochat.checkpoint.parts import Ranks
from nanochat.config import changes
from nanochat.data import tokens
from nanochat.data.batch import Batch
from nanochat.data.shards import Split
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig, count_parameters
from nanochat.log import MetricsLog, duration, short
from nanochat.optim import Optimizer, Rates, adamw_groups
from nanochat.paths import alone_in, write_atomically
from nanochat.plan.cost import flops_per_token
from nanochat.report import sections
from nanochat.runtime import Runtime
from nanochat.tokenizer import Tokenizer
from nanochat.train.loop import Evaluation, Stage, TrainState, train
from nanochat.train.memory import check_memory, needed
from nanochat.train.objective import loss_of
from nanochat.train.parallel import Layout, divide, layout_for, optimizer_for, ranks_that_save
from nanochat.train.stage import is_finished, restore

NAME = "train"
SPLITS: tuple[Split, ...] = ("train", "val")
POSITIONS = "transformer.wpe.weight"
LARGEST_EXPONENT = 700.0  # e^700 is about all that a float holds
LONG = 30.0  # seconds without a line after which one wonders whether it runs

Data = dict[Split, tokens.Tokens]


def train_as_nanogpt(settings: Settings, rt: Runtime, changed: Sequence[str] = ()) -> TrainState:
    """Train, or with eval_only validate; `changed` lists the settings that a resumed run changes, to be printed.

    Raises UserError if settings, data and model do not fit together, if another process trains into out_dir, and if a
    new run would replace what is there.
    """
    check(settings)
    accumulation = _accumulation(settings, rt)
    folder, out_dir = tokens.find(settings.dataset), Path(settings.out_dir)
    with contextlib.ExitStack() as stack:
        if rt.is_main and not settings.eval_only:
            stack.enter_context(alone_in(out_dir, "give another --out_dir, or wait until it has finished"))
        rt.wait()  # no rank looks at out_dir before it is locked
        run = begin(settings, folder, rt)
        T = min(settings.block_size, run.model.config.sequence_len)
        data: Data = {split: tokens.read(folder, split, run.model.config.vocab_size, T) for split in SPLITS}
        tokens_per_step = settings.gradient_accumulation_steps * settings.batch_size * T
        rt.print(
            f"{NAME}: {settings.init_from}, {short(count_parameters(run.model))} parameters, {data['train'].count:,} "
            f"tokens in {folder}, {tokens_per_step:,} per step, {rt.device.type} {str(rt.dtype).removeprefix('torch.')}"
        )
        if changed:
            rt.print(f"{NAME}: resumed with other settings: {', '.join(changed)}")
        if settings.eval_only:
            scores = validate(run, data, settings, T, rt, lambda: False)
            rt.print(f"{NAME}: step {run.state.step}  " + "  ".join(f"{name} {x:.4f}" for name, x in scores.items()))
            return run.state
        _check_data(run, data, settings)
        run.data = {split: data[split].content() for split in SPLITS}
        return _train(settings, run, data, T, accumulation, folder, rt, changed)


def _train(
    settings: Settings, run: Run, data: Data, T: int, accumulation: int, folder: Path, rt: Runtime,
    changed: Sequence[str],
) -> TrainState:  # fmt: skip
    """Train a run on windows of T tokens."""
    state, again = run.state, _again(settings)
    divide(run.model, run.layout, rt)
    ranks = ranks_that_save(run.layout, rt)
    # The schedule gives the rate itself, not a factor on it.
    groups = adamw_groups(run.model, 1.0, (settings.beta1, settings.beta2), settings.weight_decay)
    optimizer = optimizer_for(run.model, groups, [])
    if run.optimizer is not None:
        restore(optimizer, run.optimizer, ranks)
        run.optimizer = None  # a second copy
    rt.wait()  # every rank has read the files that may now be renamed
    writer = _writer(settings, run, optimizer, T, folder, rt, ranks)
    stage = Stage(
        name=NAME,
        model=run.model,
        loss=loss_of(run.model, settings.compile, rt),
        optimizer=optimizer,
        stream=_stream(data["train"], settings, T, state, rt),
        accumulation=accumulation,
        rates=lambda step, _: Rates(lr=learning_rate(settings, step)),
        save=writer.save,
        landed=writer.landed,
        scored=writer.scored,
        num_iterations=settings.max_iters,
        save_every=settings.eval_interval,
        save_minutes=settings.save_minutes,
        grad_clip=settings.grad_clip,
        flops_per_token=flops_per_token(run.model.config, lora.wanted(settings)),
        evaluations=[
            Evaluation(settings.eval_interval, lambda stop: validate(run, data, settings, T, rt, stop), first=True)
        ],
        log_every=settings.log_interval,
        rows_flag="--batch_size",
        rate_flags="--learning_rate",
        after_signal="step {step} is saved, resume with " + again.replace("{", "{{").replace("}", "}}"),
    )
    if settings.init_from == "resume" and is_finished(stage, state):
        rt.print(
            f"{NAME}: the run in {settings.out_dir} is finished: step {state.step} of {settings.max_iters}, best "
            f"val_loss {run.best:.4f}; train it further with python -m scripts.train {again} "
            f"--max_iters={2 * state.step}"
        )
        return state
    writer.log.note(state.step, {**_start(settings), "resumed_with": list(changed)})
    _forecast(settings, run, T, rt)
    train(stage, state, rt, writer.log)
    writer.log.close()
    rt.print(f"{NAME}: done; step {state.step}, best val_loss {run.best:.4f}; python -m scripts.sample "
             f"--out_dir={shlex.quote(settings.out_dir)} shows what it writes")  # fmt: skip
    return state


def _start(settings: Settings) -> dict:
    """What tells one run, or one start of it, from another: the code, and the settings that are not the defaults."""
    return {"git_commit": sections.git_commit(), "changed_settings": changes(settings)}


def _writer(
    settings: Settings, run: Run, optimizer: Optimizer, T: int, folder: Path, rt: Runtime, ranks: Ranks | None
) -> CkptWriter | OutDirStepWriter:
    """What writes ckpt.pt, or our own format if nanoGPT's cannot hold the model."""
    out_dir, is_new = Path(settings.out_dir), settings.init_from != "resume"
    effective = _effective(settings, run, T)
    config = {"settings": effective, "model_config": asdict(run.model.config), **_start(settings)}
    wandb_run = settings.wandb_run_name if settings.wandb_log else "dummy"
    shared: dict[str, Any] = {
        "folder": out_dir,
        "model": run.model,
        "optimizer": optimizer,
        "log": MetricsLog(out_dir, wandb_run, config, rt.is_main, settings.wandb_project, not is_new),
        "saved_at": -1 if is_new else run.state.step,
        "is_main": rt.is_main,
        "ranks": ranks,
        "tell": lambda message: rt.print(f"{NAME}: {message}"),
        "keep_tokenizer": lambda: keep_tokenizer(folder, out_dir, run.tokenizer),
        "run": run,
    }
    if fits_ckpt(run.model.config) and not settings.lora_rank:
        writer = CkptWriter(**shared, always=settings.always_save_checkpoint, settings=effective)
        writer.recover()
    else:
        tokenizer_hash = run.tokenizer.hash if run.tokenizer else None
        meta = {"user_config": effective, "tokenizer_hash": tokenizer_hash, "data": run.data}
        meta |= {"parent": run.parent} if run.parent else {}
        stale = manager.steps(out_dir) if is_new else []
        writer = OutDirStepWriter(**shared, meta=meta, keep_last=1, best="val_loss", stale=stale)
    writer.begin(run.state, replaces=is_new and bool(checkpoints(out_dir)))
    return writer


@torch.no_grad()
def _forecast(settings: Settings, run: Run, T: int, rt: Runtime) -> None:
    """Print how long the first lines will take, where that is long: nanoGPT's defaults are for GPUs."""
    if rt.device.type != "cpu":
        return
    window = torch.zeros(1, T, dtype=torch.long)
    seconds = []
    for _ in range(2):  # the first is slower
        began = time.perf_counter()
        run.model(window, window)
        seconds.append(time.perf_counter() - began)
    batch = min(seconds) * settings.batch_size / rt.world
    validation = batch * settings.eval_iters * len(SPLITS)
    step = 3 * batch * settings.gradient_accumulation_steps  # backward takes twice as long as forward
    if step + validation > LONG:
        rt.print(
            f"{NAME}: on this CPU a validation takes roughly {duration(validation)} and a step {duration(step)}; for a "
            "try-out lower --eval_iters, --batch_size, --gradient_accumulation_steps, --block_size or --n_layer"
        )


def _stream(windows: tokens.Tokens, settings: Settings, T: int, state: TrainState, rt: Runtime) -> Iterator[Batch]:
    """Random windows of the training tokens, from where the run stands."""
    ranks = rt.rank, rt.world
    for batch in tokens.windows(windows, settings.batch_size, T, *ranks, state.cursor, seed=settings.seed):
        # What dropout draws follows from the step alone, so that a run resumes exactly on any number of ranks.
        torch.manual_seed(tokens.number(f"{settings.seed} dropout {rt.rank}", state.step, 1 << 63))
        yield batch


def validate(
    run: Run, data: Data, settings: Settings, T: int, rt: Runtime, stopping: Callable[[], bool]
) -> dict[str, float]:
    """train_loss and val_loss, on the same windows each time, so that validations differ by the model alone."""
    scores = {}
    for split in SPLITS:
        seed = f"{settings.seed} validation"
        stream = tokens.windows(data[split], settings.batch_size, T, rt.rank, rt.world, seed=seed)
        scores[f"{split}_loss"] = mean_loss(run.model, stream, settings.eval_iters, rt, stopping)
    if run.state.step == 0:
        run.note(0, scores)
    return {**scores, "val_perplexity": math.exp(min(scores["val_loss"], LARGEST_EXPONENT))}


def _check_data(run: Run, data: Data, settings: Settings) -> None:
    """Raise UserError if a run was trained on other tokens. The same tokens may lie elsewhere."""
    for split, now in data.items():
        if run.data.get(split, now.content()) != now.content():
            raise UserError(
                f"{now.path} holds other tokens than the run in {settings.out_dir} was trained with; put those back "
                "or name them with --dataset, or start a new run from this model with "
                f"--init_from={shlex.quote(settings.out_dir)} and another --out_dir"
            )


def _effective(settings: Settings, run: Run, T: int) -> dict:
    """The settings to save, as they are in effect: the shape is the model's."""
    started = {"init_from": run.settings.get("init_from", settings.init_from), "out_dir": settings.out_dir}
    kept = {name: value for name, value in asdict(settings).items() if name not in OF_ONE_START}
    return {**kept, **started, **{name: getattr(run.model.config, name) for name in SHAPE}, "block_size": T}


def _again(settings: Settings) -> str:
    """The flags that resume this run."""
    place = "" if settings.out_dir == Settings.out_dir else f" --out_dir={shlex.quote(settings.out_dir)}"
    return f"--init_from=resume{place}"


def begin(settings: Settings, folder: Path, rt: Runtime) -> Run:
    """The model that init_from names, fit for the token files in `folder`, and what else there is of its run."""
    out_dir = Path(settings.out_dir)
    there = [place for place in (folder, out_dir) if foreign_tokenizers.holds(place)]
    tokenizer = Tokenizer.load(folder) if folder in there else None
    if settings.init_from != "resume" and not settings.eval_only:
        refuse_taken(out_dir, tokenizer, settings.overwrite)

    if settings.init_from == "scratch":
        config = _from_scratch(settings, tokenizer, folder)
        layout = check_fits(config, settings, rt)
        return Run(GPT(config, rt.dtype).to(rt.device), tokenizer, TrainState(), layout=layout)
    if settings.init_from == "resume":
        run = resume(out_dir, Tokenizer.load(out_dir) if out_dir in there else tokenizer, rt)
    else:
        found, adapters = door.find(settings.init_from, out_dir=out_dir), lora.wanted(settings)
        loaded = found.load(manager.LoadAs(rt.device, rt.dtype, keep_float32=not adapters))
        run = Run(loaded.model, loaded.tokenizer, TrainState())
        if adapters is not None:
            run.parent = door.record(found)
            rt.print(f"{NAME}: {lora.summary(lora.attach(run.model, adapters))}")
    run.layout = check_fits(run.model.config, settings, rt)
    rows = run.model.config.padded_vocab
    if settings.vocab_size not in (None, rows):
        rt.print(f"{NAME}: --vocab_size {settings.vocab_size} has no effect on a trained model; this one has {rows}")
    if tokenizer and run.tokenizer and tokenizer.hash != run.tokenizer.hash:
        raise UserError(
            f"the tokens in {folder} are those of another tokenizer ({tokenizer.vocab_size} tokens, "
            f"{tokenizer.hash[:12]}) than the model's ({run.tokenizer.vocab_size}, {run.tokenizer.hash[:12]}); "
            "prepare the text with the model's own: python -m scripts.prepare TEXT --tokenizer FOLDER"
        )
    return _adapted(run, settings, rt)


def _from_scratch(settings: Settings, tokenizer: Tokenizer | None, folder: Path) -> GPTConfig:
    if settings.n_embd % settings.n_head:
        raise UserError(f"--n_embd {settings.n_embd} is not a multiple of --n_head {settings.n_head}")
    known = tokenizer.vocab_size if tokenizer else tokens.vocabulary_size(folder)
    vocab_size = known or gpt2_tokenizer.VOCABULARIES[0]
    is_characters = tokenizer is not None and tokenizer.pattern is None
    # As nanoGPT rounds GPT-2's vocabulary, and not that of characters.
    rows = settings.vocab_size or (vocab_size if is_characters else -(-vocab_size // 64) * 64)
    if rows < vocab_size:
        raise UserError(f"--vocab_size is {rows}; expected {vocab_size} or more, the tokens of the data in {folder}")
    shape = {name: getattr(settings, name) for name in ("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout")}
    config, _ = gpt2.from_nanogpt({**shape, "vocab_size": rows}, {}, folder)
    return gpt2.with_tokenizer(config, vocab_size)


def check_fits(config: GPTConfig, settings: Settings, rt: Runtime) -> Layout:
    """How the model lies on the ranks. Raises UserError if training cannot fit into memory."""
    if settings.eval_only:
        return Layout()
    size = (config, settings.batch_size, min(settings.block_size, config.sequence_len), rt, bool(settings.compile))
    adapters = lora.wanted(settings)
    layout = layout_for(settings.parallel, rt, lambda parts: needed(*size, adapters=adapters, parts=parts))
    check_memory(
        *size, flag="batch_size", smaller="--n_layer or --n_embd", adapters=adapters, parts=layout.parts
    )
    return layout


def _adapted(run: Run, settings: Settings, rt: Runtime) -> Run:
    """A loaded model with the settings' dropout and, as nanoGPT crops it, their context.

    One with adapters stays that of its parent; the windows are shorter all the same.
    """
    config = run.model.config
    if settings.block_size > config.sequence_len:
        if settings.block_size != Settings.block_size:
            raise UserError(
                f"--block_size {settings.block_size} is longer than the model's context of {config.sequence_len} tokens"
            )
        rt.print(f"{NAME}: the model's context of {config.sequence_len} tokens is the block_size")
    wanted = replace(config, dropout=settings.dropout)
    if settings.lora_rank:
        for module in run.model.modules():
            if hasattr(module, "config"):
                setattr(module, "config", wanted)  # noqa: B010
        return run
    if gpt2.is_gpt2(config):
        T = min(settings.block_size, config.sequence_len)
        # nanoGPT's own forward, which its ckpt.pt implies, has the exact GELU where OpenAI's has the tanh.
        wanted = replace(wanted, sequence_len=T, activation="gelu")
    if wanted == config:
        return run
    state = run.model.state_dict()
    if POSITIONS in state:
        state[POSITIONS] = state[POSITIONS][: wanted.sequence_len].clone()
        saved = run.optimizer["optimizer"]["state"] if isinstance(run.optimizer, dict) else {}
        moments = saved.get(POSITIONS, {})
        moments.update({name: moment[: wanted.sequence_len].clone() for name, moment in moments.items()})
    run.model = manager.build(wanted, state, Path(settings.init_from), manager.LoadAs(rt.device, rt.dtype))
    return run


def fits_ckpt(config: GPTConfig) -> bool:
    """Whether nanoGPT's format can hold an architecture."""
    return gpt2.is_gpt2(config) and config.activation == "gelu" and config.norm_eps == 1e-5


def learning_rate(settings: Settings, step: int) -> float:
    if not settings.decay_lr:
        return settings.learning_rate
    s = settings
    return cosine(step, s.learning_rate, s.warmup_iters, s.lr_decay_iters, s.min_lr)


@torch.no_grad()
def mean_loss(
    model: GPT, stream: Iterator[Batch], batches: int, rt: Runtime, stopping: Callable[[], bool]
) -> float:
    """The mean nll in nats per token of a number of batches that the ranks share, the same on every rank."""
    total = torch.zeros(2, dtype=torch.float64)
    was_training = model.training
    model.eval()
    try:
        for first in range(0, batches, rt.world):
            if stopping():  # all ranks ask equally often, also where one has no batch left
                break
            batch = next(stream).to(rt.device)
            if first + rt.rank < batches:
                nll = model(batch.inputs, batch.targets)
                total += torch.tensor([nll.cpu().double().sum(), nll.numel()], dtype=torch.float64)
    finally:
        model.train(was_training)
    if rt.world > 1:
        total = total.to(rt.device)
        dist.all_reduce(total)
    loss, counted = total.tolist()
    return loss / max(counted, 1)


def keep_tokenizer(folder: Path, out_dir: Path, tokenizer: Tokenizer | None) -> None:
    """Put the tokenizer beside the checkpoints, with the dataset's meta.pkl, so that sampling needs nothing else."""
    if tokenizer and foreign_tokenizers.holds(out_dir) and Tokenizer.load(out_dir).hash == tokenizer.hash:
        return
    for name in ("tokenizer.json", "token_bytes.json", "meta.pkl"):  # an older run's
        (out_dir / name).unlink(missing_ok=True)
    if tokenizer is not None:
        if (folder / "meta.pkl").exists():
            write_atomically(out_dir / "meta.pkl", lambda file: file.write((folder / "meta.pkl").read_bytes()))
        tokenizer.save(out_dir)


def _accumulation(settings: Settings, rt: Runtime) -> int:
    """Micro-batches per step and rank. Raises UserError if the ranks cannot share them."""
    if settings.gradient_accumulation_steps % rt.world:
        raise UserError(
            f"--gradient_accumulation_steps {settings.gradient_accumulation_steps} counts the micro-batches of all "
            f"ranks and is not a multiple of their number, {rt.world}"
        )
    return settings.gradient_accumulation_steps // rt.world


def cosine(step: int, peak: float, warmup_steps: int, decay_steps: int, lowest: float) -> float:
    """nanoGPT's learning rate: linear up to `peak` over warmup_steps, half a cosine down to `lowest` at decay_steps."""
    if step < warmup_steps:
        return peak * (step + 1) / (warmup_steps + 1)
    if step >= decay_steps:
        return lowest
    fraction = (step - warmup_steps) / (decay_steps - warmup_steps)
    return lowest + 0.5 * (1 + math.cos(math.pi * fraction)) * (peak - lowest)
