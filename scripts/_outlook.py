"""What a command from the dashboard will take, by the same rules and checks that its stage applies when it starts."""

import copy
import functools
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from extras.dashboard.forms import Command
from extras.dashboard.reach import PUBLISHED
from nanochat import lora
from nanochat.checkpoint import door, gpt2, manager
from nanochat.errors import UserError
from nanochat.gpt import GPTConfig
from nanochat.paths import tokenizer_dir
from nanochat.plan import cost, gpus
from nanochat.plan.gpus import Accelerator
from nanochat.report import sections
from nanochat.runtime import Runtime
from nanochat.tokenizer import Tokenizer
from nanochat.train.hyperparameters import Hyperparameters, resolve_hyperparameters
from nanochat.train.memory import check_memory
from scripts import base_train, chat_dpo, chat_rl, chat_sft
from scripts._forecast import RL_LENGTH
from scripts.plan import recorded_config

WITHOUT_LENGTH = "how long it takes depends on your conversations; --num_iterations or --minutes sets it"


class Outlook(NamedTuple):
    """A run to predict: its model, its batch, and its steps where they are known."""

    config: GPTConfig
    rows: int
    length: int
    total_batch: int
    steps: int | None
    eval_tokens: float
    """tokens of all validations"""
    muon: bool = True


class Quiet(Runtime):
    """A runtime that is only asked, and prints nothing. It never touches a GPU, whose memory the jobs need."""

    def print(self, *values: object) -> None:
        pass


def plan(command: Command) -> dict[str, Any] | None:
    """Memory, time and price of a command; None for one that trains nothing.

    Raises UserError for flags that its stage would refuse, a model that is missing, and what does not fit into memory.
    """
    flags, name = command.flags, command.stage.name
    if name not in ("base_train", "train") and not hasattr(flags, "model_step"):
        return None
    rt, on, notes = Quiet(torch.device("cpu"), torch.float32, 0, 1, 0), _accelerator(command.device), []
    if on is None:
        notes.append("the GPU here is not known, so time and price are not predicted")
    if getattr(flags, "device_batch_size", None) == "auto" and command.device != "cpu":
        flags = copy.copy(flags)
        flags.device_batch_size = 32
        notes.append("predicted for 32 rows at a time; how many fit is found out when it starts")
    made = _base(flags, rt) if name == "base_train" else _nanogpt(flags) if name == "train" else _later(name, flags, rt)
    if made is None:
        return None
    compiled, recompute, adapters = bool(flags.compile), getattr(flags, "recompute", False), lora.wanted(flags)
    memory = cost.training_memory(made.config, made.rows, made.length, compiled, 1, made.muon, recompute, adapters)
    if command.device == "cpu":
        check_memory(made.config, made.rows, made.length, rt, compiled, recompute, adapters=adapters)
    elif on is not None and not cost.fits(memory, on):
        notes.append(f"more than the {on.memory / 1e9:.0f} GB of {on.name}; give fewer rows at a time")
    seconds = tokens = None
    if on is not None:
        accumulation = max(1, round(made.total_batch / (made.rows * made.length)))
        size = made.rows * made.length
        step = cost.step_seconds(made.config, on, size, accumulation, 1, compiled, made.muon, adapters)
        minutes = max(0.0, getattr(flags, "minutes", 0.0))
        steps = int(60 * minutes / step) if minutes else made.steps
        if steps is None:
            notes.append(f"about {step:.2g} seconds a step; {WITHOUT_LENGTH}")
        else:
            tokens = steps * made.total_batch
            seconds = steps * step + cost.forward_seconds(made.config, on, made.eval_tokens)
    parameters = cost.sizes(made.config).all
    price = None if on is None or seconds is None or not on.price else on.price * seconds / 3600
    return {
        "memory_bytes": sum(memory.values()), "seconds": seconds, "tokens": tokens, "price": price,
        "parameters": parameters, "notes": notes,
    }  # fmt: skip


def run(command: Command) -> str | None:
    """The id of the run that a command makes; None for one that makes none. Raises UserError for a missing model."""
    flags, name = command.flags, command.stage.name
    if name == "base_train":
        return f"base:{flags.model_tag or f'd{flags.depth}'}"
    if name == "train":
        return f"out:{flags.out_dir.rpartition('/')[2]}"
    stage = next((source for source, module in manager.STAGE_COMMAND.items() if module == command.stage.module), None)
    if stage is None:
        return None
    tag = flags.out_tag or (flags.source if flags.source in PUBLISHED else _found(flags).tag).rpartition("/")[2]
    return f"{stage}:{tag}"


def _base(flags: base_train.Flags, rt: Runtime) -> Outlook:
    config = base_train.config_of(flags, Tokenizer.load(tokenizer_dir()).vocab_size)
    start: Any = SimpleNamespace(rt=rt, is_resumed=False, meta={})
    horizon, hparams = base_train.scaled(flags, start, config)
    steps, batch = horizon.num_iterations, hparams.total_batch_size
    validated = _validated(flags.eval_every, steps, hparams.eval_tokens)
    return Outlook(config, hparams.device_batch_size, flags.max_seq_len, batch, steps, validated)


def _later(name: str, flags: Any, rt: Runtime) -> Outlook | None:
    """A stage that starts from a model; None where the model is one that would have to be fetched first."""
    if flags.source in PUBLISHED:
        return None
    found = _found(flags)
    if found.kind != "nanochat":
        return None
    config, _ = recorded_config(found.meta, found.folder)
    hparams = _hyperparameters(name, flags, found.meta, config, rt)
    steps = flags.num_iterations if flags.num_iterations > 0 else None
    if name == "chat_rl":
        chat_rl.select(flags.task)
        answers = flags.examples_per_step * flags.num_samples
        length = min(RL_LENGTH, config.sequence_len)
        return Outlook(config, hparams.device_batch_size, length, answers * length, steps, 0)
    validated = _validated(flags.eval_every, steps or 1, hparams.eval_tokens)
    batch = hparams.total_batch_size
    return Outlook(config, hparams.device_batch_size, hparams.max_seq_len, batch, steps, validated)


def _hyperparameters(name: str, flags: Any, meta: dict, config: GPTConfig, rt: Runtime) -> Hyperparameters:
    """What the stage trains with, as it finds it when it starts."""
    numbers = {**(meta.get("user_config") or {}), "total_batch_size": meta.get("total_batch_size")}
    recorded = {key: value for key, value in numbers.items() if type(value) in (int, float) and value > 0}
    if name in ("chat_sft", "chat_dpo"):
        loaded = SimpleNamespace(model=SimpleNamespace(config=config))
        start: Any = SimpleNamespace(rt=rt, is_resumed=False, recorded=recorded, loaded=loaded)
        return (chat_sft if name == "chat_sft" else chat_dpo).resolved(flags, start)
    return resolve_hyperparameters(flags, recorded, config, rt, False)


def _nanogpt(flags: Any) -> Outlook | None:
    """Training in nanoGPT's way; None from a model whose shape only its weights tell."""
    if flags.init_from in PUBLISHED:
        config = gpt2.published(flags.init_from)
    elif flags.init_from == "scratch":
        if flags.n_embd % flags.n_head:
            raise UserError(f"--n_embd {flags.n_embd} is not a multiple of --n_head {flags.n_head}")
        vocab = flags.vocab_size or 50304
        shape = {name: getattr(flags, name) for name in ("n_layer", "n_head", "n_embd", "block_size", "bias")}
        config, _ = gpt2.from_nanogpt({**shape, "dropout": 0.0, "vocab_size": vocab}, {}, tokenizer_dir())
    else:
        return None
    length = min(flags.block_size, config.sequence_len)
    step = flags.batch_size * flags.gradient_accumulation_steps * length
    validations = 1 + flags.max_iters // flags.eval_interval
    validated = validations * 2 * flags.eval_iters * flags.batch_size * length
    return Outlook(config, flags.batch_size, length, step, flags.max_iters, validated, muon=False)


def _validated(every: int, steps: int, tokens: int) -> float:
    """The tokens of all validations of a run."""
    return 0 if every < 0 else tokens * (1 if every == 0 else 1 + (steps - 1) // every)


def _found(flags: Any) -> door.Found:
    return door.find(flags.source, flags.model_tag, flags.model_step)


@functools.lru_cache(maxsize=16)
def _accelerator(device: str) -> Accelerator | None:
    """The accelerator of that name here; None for a GPU that is not known. A processor is measured, once."""
    if device == "cpu":
        return gpus.accelerator("cpu")
    known = gpus.known(str(sections.machine()["GPU"])) if device.startswith("cuda") else None
    return gpus.accelerator(known) if known else None
