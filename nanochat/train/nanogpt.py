"""nanoGPT's way of training: its settings with their names, defaults and meanings, on the one training loop.

A run has random windows of token files, AdamW, half a cosine of a learning rate, and a ckpt.pt in its out_dir.
"""

import math
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist

from nanochat import report, schedule, vocabularies
from nanochat.checkpoint import door, gpt2, manager
from nanochat.config import BITS, EXIT_INTERRUPTED, UserError, alias
from nanochat.cost import count_parameters, flops_per_token
from nanochat.data import tokens
from nanochat.data.batch import Batch
from nanochat.data.shards import Split
from nanochat.gpt import GPT, GPTConfig
from nanochat.log import MetricsLog, short
from nanochat.optim import Optimizer, Rates, adamw_groups
from nanochat.paths import check_name, write_atomically
from nanochat.runtime import Runtime, memory_of
from nanochat.tokenizer import Tokenizer
from nanochat.train.loop import Probe, Stage, TrainState, train
from nanochat.train.out_dir import CkptKeeper, Run, StepKeeper, earlier, resume
from nanochat.train.stage import compiled

NAME = "train"
SPLITS: tuple[Split, ...] = ("train", "val")
POSITIONS = "transformer.wpe.weight"
MOST = 1 << 62
# What no machine does; building more takes for ever before it fails.
LARGEST = {
    "gradient_accumulation_steps": 1_000_000, "batch_size": 1_000_000, "block_size": 100_000_000, "n_layer": 1000,
    "n_head": 10_000, "n_embd": 1_000_000, "max_iters": MOST, "eval_interval": MOST, "eval_iters": MOST,
    "log_interval": MOST,
}  # fmt: skip
BYTES = 16  # a parameter takes in training: itself, its gradient and two moments, in float32


@dataclass
class Settings:
    """nanoGPT's settings."""

    out_dir: str = "out"
    """where checkpoints go, and what init_from=resume goes on from"""
    eval_interval: int = 2000
    """steps between validations, at which checkpoints are saved, too"""
    log_interval: int = 1
    """steps between lines of progress"""
    eval_iters: int = 200
    """batches of each split in a validation"""
    eval_only: bool = False
    """validate once and write nothing"""
    always_save_checkpoint: bool = True
    """ckpt.pt is the latest and ckpt_best.pt the best; without it ckpt.pt is the best and ckpt_last.pt the latest"""
    init_from: str = "scratch"
    """scratch, resume, gpt2, gpt2-medium, gpt2-large, gpt2-xl, a path, user/repository, or such as base:d4"""
    wandb_log: bool = False
    """log to wandb"""
    wandb_project: str = "owt"
    """project of the wandb run"""
    wandb_run_name: str = "gpt2"
    """name of the wandb run"""
    dataset: Annotated[str, alias("--data-path")] = "openwebtext"
    """name of the token files, as scripts.prepare made them, or their folder; a text file is prepared first"""
    gradient_accumulation_steps: int = 5 * 8
    """micro-batches per step, over all ranks"""
    batch_size: int = 12
    """windows per micro-batch"""
    block_size: int = 1024
    """context in tokens; that of a loaded model is cut to it"""
    n_layer: int = 12
    """layers of a model from scratch"""
    n_head: int = 12
    """its attention heads"""
    n_embd: int = 768
    """its width"""
    dropout: float = 0.0
    """share of the activations that is dropped in training; 0.1 or more for fine-tuning"""
    bias: bool = False
    """whether a model from scratch has biases, as GPT-2 has"""
    learning_rate: float = 6e-4
    """the highest"""
    max_iters: int = 600000
    """steps of the whole run"""
    weight_decay: float = 1e-1
    """of the matrices"""
    beta1: float = 0.9
    """of AdamW"""
    beta2: float = 0.95
    """of AdamW"""
    grad_clip: float = 1.0
    """largest norm of the gradient; 0 is off"""
    decay_lr: bool = True
    """warm up and decay; without it the learning rate stays as it is"""
    warmup_iters: int = 2000
    """steps over which the learning rate rises"""
    lr_decay_iters: int = 600000
    """step at which it has fallen to min_lr"""
    min_lr: float = 6e-5
    """the lowest"""
    backend: str = "nccl"
    """has no effect: ranks speak NCCL on GPUs and Gloo elsewhere"""
    device: Annotated[str, alias("--device-type")] = ""
    """cuda, cuda:1, mps or cpu; empty takes the best one there is"""
    dtype: str = "auto"
    """compute type: auto, float32, bfloat16 or float16"""
    compile: bool = True
    """use torch.compile where there is a compiler"""
    seed: int = 1337
    """of the initial weights and the windows"""


def train_as_nanogpt(settings: Settings, rt: Runtime) -> TrainState:
    """Train, or with eval_only validate. Raises UserError where settings, data and model do not fit each other."""
    check(settings)
    accumulation = _accumulation(settings, rt)
    folder, out_dir = tokens.find(settings.dataset), Path(settings.out_dir)
    run = begin(settings, folder, rt)
    model, state, is_new = run.model, run.state, settings.init_from != "resume"
    T = min(settings.block_size, model.config.sequence_len)
    data = {split: tokens.read(folder, split, model.config.vocab_size, T) for split in SPLITS}
    tokens_per_step = settings.gradient_accumulation_steps * settings.batch_size * T
    rt.print(
        f"{NAME}: {settings.init_from}, {short(count_parameters(model))} parameters, {len(data['train'].ids):,} tokens "
        f"in {folder}, {tokens_per_step:,} a step, {rt.device.type} {str(rt.dtype).removeprefix('torch.')}"
    )

    def validate(stopping: Callable[[], bool]) -> dict[str, float]:
        def stream(split: Split) -> Iterator[Batch]:
            # The same windows each time, so that two validations differ by the model alone.
            seed = f"{settings.seed} validation"
            return tokens.windows(data[split], settings.batch_size, T, rt.rank, rt.world, seed=seed)

        return {f"{split}_loss": mean_loss(model, stream(split), settings.eval_iters, rt, stopping) for split in SPLITS}

    if settings.eval_only:
        _print_scores(state.step, validate(lambda: False), rt)
        return state
    optimizer = Optimizer(
        # The schedule gives the rate itself, not a factor on it.
        adamw_groups(model, 1.0, (settings.beta1, settings.beta2), settings.weight_decay), []
    )
    if run.optimizer is not None:
        optimizer.load_state_dict(run.optimizer)
    run.optimizer = optimizer.state_dict()
    described = asdict(settings)
    if fits_ckpt(model.config):
        keeper = CkptKeeper(out_dir, settings.always_save_checkpoint, described, is_new)
    else:
        keeper = StepKeeper(out_dir, described, is_new)
    if is_new and (replaced := earlier(out_dir)):
        rt.print(
            f"{NAME}: {out_dir} holds {', '.join(replaced)} of an earlier run, which this one replaces when it first "
            "saves; --init_from=resume goes on with it instead, another --out_dir keeps it"
        )
    about = {"settings": described, "model_config": asdict(model.config), "git_commit": report.git_commit()}
    wandb_run = settings.wandb_run_name if settings.wandb_log else "dummy"
    log = MetricsLog(out_dir, wandb_run, about, rt.is_main, settings.wandb_project, not is_new)
    log.resume(-1 if is_new else state.step, state.probed)
    if rt.is_main:
        keeper.begin(run)
    saved_at = -1 if is_new else state.step

    def save(_: TrainState, passing: bool) -> None:
        nonlocal saved_at
        run.optimizer = optimizer.state_dict()
        if rt.is_main:
            try:
                keep_tokenizer(folder, out_dir, run.tokenizer)
                keeper.save(run)
            except UserError:  # the disk is full, and these lines are of steps that are lost
                log.take_back(saved_at)
                raise
        saved_at = state.step

    def scored(_: TrainState, scores: dict[str, float]) -> None:
        is_best = scores["val_loss"] < run.best
        if is_best:
            run.best, run.best_step = scores["val_loss"], state.step
        if rt.is_main:
            keeper.scored(run, is_best)

    def stream() -> Iterator[Batch]:
        for batch in tokens.windows(
            data["train"], settings.batch_size, T, rt.rank, rt.world, state.cursor, seed=settings.seed
        ):
            # What dropout draws follows from the step alone, so that a run goes on exactly on any number of ranks.
            torch.manual_seed(tokens.number(f"{settings.seed} dropout {rt.rank}", state.step, 1 << 63))
            yield batch

    stage = Stage(
        name=NAME,
        model=model,
        forward=compiled(model, settings.compile, rt),
        optimizer=optimizer,
        stream=stream(),
        accumulation=accumulation,
        rates=lambda step, _: Rates(lr=learning_rate(settings, step)),
        save=save,
        scored=scored,
        num_iterations=settings.max_iters,
        save_every=settings.eval_interval,
        grad_clip=settings.grad_clip,
        flops_per_token=flops_per_token(model.config),
        probes=[Probe(settings.eval_interval, validate)],
        log_every=settings.log_interval,
        rate_flags="--learning_rate",
        after_signal="step {step} is saved, resume with --init_from=resume",
    )
    if state.step == 0:
        scores = validate(lambda: False)
        _print_scores(0, scores, rt)
        log.log(0, scores)
        run.best, run.best_step = scores["val_loss"], 0
    try:
        train(stage, state, rt, log)
    except KeyboardInterrupt:
        said = f"step {saved_at} is saved, go on with --init_from=resume" if saved_at > 0 else "nothing is saved yet"
        rt.print(f"{NAME}: interrupted at step {state.step}; {said}")
        raise SystemExit(EXIT_INTERRUPTED) from None
    log.close()
    rt.print(f"{NAME}: done; step {state.step}, best val_loss {run.best:.4f}; python -m scripts.sample "
             f"--out_dir={shlex.quote(str(out_dir))} shows what it writes")  # fmt: skip
    return state


def begin(settings: Settings, folder: Path, rt: Runtime) -> Run:
    """The model that init_from names, fit for the token files in `folder`, and what else there is of its run."""
    out_dir = Path(settings.out_dir)
    there = [place for place in (folder, out_dir) if vocabularies.holds(place)]
    tokenizer = Tokenizer.load(folder) if folder in there else None
    if settings.init_from == "scratch":
        config = _from_scratch(settings, tokenizer, folder, rt.device)
        return Run(GPT(config, rt.dtype).to(rt.device), tokenizer, TrainState())
    if settings.init_from == "resume":
        run = resume(out_dir, Tokenizer.load(out_dir) if out_dir in there else tokenizer, rt)
    else:
        loaded = door.open(settings.init_from, manager.LoadAs(rt.device, rt.dtype))
        run = Run(loaded.model, loaded.tokenizer, TrainState())
    if tokenizer and run.tokenizer and tokenizer.hash != run.tokenizer.hash:
        raise UserError(
            f"the tokens in {folder} are those of another tokenizer ({tokenizer.vocab_size} tokens, "
            f"{tokenizer.hash[:12]}) than the model's ({run.tokenizer.vocab_size}, {run.tokenizer.hash[:12]}); "
            "prepare the text with the model's own: python -m scripts.prepare TEXT --tokenizer FOLDER"
        )
    return _adapted(run, settings, rt)


def _from_scratch(
    settings: Settings, tokenizer: Tokenizer | None, folder: Path, device: torch.device
) -> GPTConfig:
    if settings.n_embd % settings.n_head:
        raise UserError(f"--n_embd {settings.n_embd} is not a multiple of --n_head {settings.n_head}")
    known = tokenizer.vocab_size if tokenizer else tokens.vocabulary_size(folder)
    vocab_size = known or gpt2.VOCABULARIES[0]
    is_characters = tokenizer is not None and tokenizer.pattern is None
    # As nanoGPT rounds GPT-2's vocabulary, and not that of characters.
    rows = vocab_size if is_characters else -(-vocab_size // 64) * 64
    shape = {name: getattr(settings, name) for name in ("n_layer", "n_head", "n_embd", "block_size", "bias", "dropout")}
    size = (12 * settings.n_layer * settings.n_embd + rows + settings.block_size) * settings.n_embd
    if (memory := memory_of(device)) and size * BYTES > memory:
        raise UserError(
            f"a model of {settings.n_layer} layers of width {settings.n_embd} has {short(size)} parameters, whose "
            f"training takes {short(size * BYTES)} bytes; this machine has {short(memory)}; lower --n_layer or --n_embd"
        )
    config, _ = gpt2.from_nanogpt({**shape, "vocab_size": rows}, {}, folder)
    return gpt2.with_tokenizer(config, vocab_size)


def _adapted(run: Run, settings: Settings, rt: Runtime) -> Run:
    """A loaded model with the settings' dropout and, as nanoGPT crops it, their context."""
    config = run.model.config
    if settings.block_size > config.sequence_len:
        if settings.block_size != Settings.block_size:
            raise UserError(
                f"--block_size {settings.block_size} is longer than the model's context of {config.sequence_len} tokens"
            )
        rt.print(f"{NAME}: the model's context of {config.sequence_len} tokens is the block_size")
    wanted = replace(config, dropout=settings.dropout)
    if gpt2.is_gpt2(config):
        T = min(settings.block_size, config.sequence_len)
        # nanoGPT's own forward, which its ckpt.pt implies, has the exact GELU where OpenAI's has the tanh.
        wanted = replace(wanted, sequence_len=T, activation="gelu")
    if wanted == config:
        return run
    state = run.model.state_dict()
    if POSITIONS in state:
        state[POSITIONS] = state[POSITIONS][: wanted.sequence_len].clone()
        moments = (run.optimizer or {}).get("state", {}).get(POSITIONS, {})
        moments.update({name: moment[: wanted.sequence_len].clone() for name, moment in moments.items()})
    run.model = manager.build(wanted, state, Path(settings.init_from), manager.LoadAs(rt.device, rt.dtype))
    return run


def fits_ckpt(config: GPTConfig) -> bool:
    """Whether nanoGPT's format tells all of an architecture."""
    return gpt2.is_gpt2(config) and config.activation == "gelu" and config.norm_eps == 1e-5


def learning_rate(settings: Settings, step: int) -> float:
    if not settings.decay_lr:
        return settings.learning_rate
    s = settings
    return schedule.cosine(step, s.learning_rate, s.warmup_iters, s.lr_decay_iters, s.min_lr)


@torch.no_grad()
def mean_loss(
    model: GPT, stream: Iterator[Batch], batches: int, rt: Runtime, stopping: Callable[[], bool]
) -> float:
    """The mean nll of a number of batches of a stream that the ranks share, in nats a token, the same on every rank."""
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
    if tokenizer and vocabularies.holds(out_dir) and Tokenizer.load(out_dir).hash == tokenizer.hash:
        return
    for name in ("tokenizer.json", "token_bytes.json", "meta.pkl"):  # an older run's
        (out_dir / name).unlink(missing_ok=True)
    if tokenizer is not None:
        if (folder / "meta.pkl").exists():
            write_atomically(out_dir / "meta.pkl", lambda file: file.write((folder / "meta.pkl").read_bytes()))
        tokenizer.save(out_dir)


def check(settings: Settings) -> None:
    """Complain about what can be known before anything is built. Raises UserError."""
    for name, most in LARGEST.items():
        value = getattr(settings, name)
        if not 1 <= value <= most:
            expected = "1 or more" if value < 1 else f"{most} at most"
            raise UserError(f"--{name} is {value}; expected {expected}")
    if settings.batch_size * settings.block_size > LARGEST["block_size"]:
        raise UserError(
            f"--batch_size {settings.batch_size} x --block_size {settings.block_size} tokens are too many for one "
            f"micro-batch; expected {LARGEST['block_size']} at most, and more --gradient_accumulation_steps instead"
        )
    for name in ("learning_rate", "min_lr", "weight_decay", "grad_clip", "warmup_iters", "lr_decay_iters"):
        value = getattr(settings, name)
        if not 0 <= value < math.inf:
            raise UserError(f"--{name} is {value}; expected 0 or more")
    for name in ("dropout", "beta1", "beta2"):
        value = getattr(settings, name)
        if not 0 <= value < 1:
            raise UserError(f"--{name} is {value}; expected a share below 1")
    if settings.seed.bit_length() > BITS:
        raise UserError(f"--seed is a number of {settings.seed.bit_length()} bits; expected {BITS} bits at most")
    for name in ("out_dir", "dataset", "init_from"):
        check_name(name, getattr(settings, name))


def _accumulation(settings: Settings, rt: Runtime) -> int:
    """Micro-batches per step and rank. Raises UserError where the ranks cannot share them."""
    if settings.gradient_accumulation_steps % rt.world:
        raise UserError(
            f"--gradient_accumulation_steps {settings.gradient_accumulation_steps} counts the micro-batches of all "
            f"ranks and is not a multiple of their number, {rt.world}"
        )
    return settings.gradient_accumulation_steps // rt.world


def _print_scores(step: int, scores: dict[str, float], rt: Runtime) -> None:
    rt.print(f"{NAME}: step {step}  " + "  ".join(f"{name} {value:.4f}" for name, value in scores.items()))
