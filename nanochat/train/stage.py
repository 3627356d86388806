"""From flags to a stage and back to disk: what base_train, mid_train, chat_sft and chat_rl have in common."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import torch

from nanochat import report, schedule
from nanochat.checkpoint import manager
from nanochat.config import UserError, changes
from nanochat.cost import count_parameters, flops_per_token, training_memory
from nanochat.data.batch import Batch
from nanochat.data.streams import Source, batches_for, one_pass
from nanochat.eval.bpb import bits_per_byte
from nanochat.gpt import GPT, GPTConfig
from nanochat.log import MetricsLog, strict_json
from nanochat.optim import Optimizer, Rates, parameter_groups
from nanochat.paths import checkpoints_dir
from nanochat.runtime import Runtime, can_compile, memory_of
from nanochat.scaling import REFERENCE_BATCH
from nanochat.tokenizer import Tokenizer
from nanochat.train.loop import Probe, Stage, TrainState, train


@dataclass
class TrainFlags:
    """Flags that every training stage has. Where the default is None, a later stage inherits from its checkpoint."""

    run: str = "dummy"
    """name of the wandb run; dummy logs to files only"""
    device_type: str = ""
    """cuda, mps or cpu; empty takes the best one there is"""
    dtype: str = "auto"
    """compute type: auto, float32, bfloat16 or float16"""
    model_tag: str | None = None
    """folder of the checkpoints; d<depth> by default"""
    seed: int = 42
    """of the initial weights and the order of the data"""
    resume: str = "auto"
    """auto goes on from the last checkpoint of this stage, never starts over, a number goes on from that step"""
    compile: bool = True
    """use torch.compile where there is a compiler"""
    num_iterations: int = -1
    """optimizer steps; -1 lets the stage decide"""
    warmup_steps: int = 0
    """steps over which the learning rate rises"""
    warmup_ratio: float = 0.0
    """share of the run over which the learning rate rises"""
    warmdown_ratio: float = 0.65
    """share of the run over which the learning rate falls"""
    final_lr_frac: float = 0.05
    """learning rate at the end, as a share"""
    grad_clip: float = 0.0
    """largest norm of the gradient; 0 is off"""
    eval_every: int = 250
    """steps between validations; 0 validates at the end only, -1 never"""
    save_every: int = -1
    """steps between checkpoints; -1 saves at the end only"""
    dry_run: bool = False
    """train and measure, but write no checkpoint and no report"""
    keep_last: int = 2
    """newest checkpoints to keep beside the best one; 0 keeps all"""


@dataclass
class LaterFlags(TrainFlags):
    """Flags of the stages that start from a checkpoint."""

    model_step: int | None = None
    """step of the checkpoint to start from; the last one by default"""
    device_batch_size: int | None = None
    """rows per forward pass and rank; inherited, else 32"""
    embedding_lr: float | None = None
    """learning rate of the embeddings; inherited, else 0.2"""
    unembedding_lr: float | None = None
    """learning rate of the output layer; inherited, else 0.004"""
    matrix_lr: float | None = None
    """learning rate of the blocks' matrices (Muon); inherited, else 0.02"""
    scalar_lr: float | None = None
    """learning rate of the residual scalars; inherited, else 0.5"""
    weight_decay: float = 0.0
    """of the blocks' matrices"""
    init_lr_frac: float = 1.0
    """factor on all learning rates"""


@dataclass
class ConversationFlags(LaterFlags):
    """Flags of the stages that learn from given conversations."""

    conversations: str = "littleworld"
    """which conversations to train on: littleworld, real or none"""
    data_path: list[Path] = field(default_factory=list)
    """JSONL files of your own conversations"""
    max_seq_len: int | None = None
    """context in tokens; inherited, else 2048"""
    total_batch_size: int | None = None
    """tokens per optimizer step over all ranks; inherited, else 524288"""
    eval_tokens: int | None = None
    """tokens of a validation; inherited, else 10485760"""


@dataclass(frozen=True)
class Hyperparameters:
    """What a stage settled on after defaults, scaling rules and inheritance. Batch sizes: rows, tokens, tokens."""

    device_batch_size: int
    total_batch_size: int
    max_seq_len: int
    embedding_lr: float
    unembedding_lr: float
    matrix_lr: float
    scalar_lr: float
    weight_decay: float
    lr_scale: float = 1.0  # on the rates above
    eval_tokens: int = 0


@dataclass(frozen=True)
class Begun:
    """Where a run starts: the model and what else is restored of an interrupted one."""

    model: GPT
    state: TrainState
    optimizer: dict | None = None


@dataclass(frozen=True)
class Run:
    """A run of a stage on its way: where its checkpoints go, under which flags, and what it starts from.

    `about` goes into the meta files beside the usual.
    """

    source: str
    tag: str
    flags: TrainFlags
    h: Hyperparameters
    rt: Runtime
    tokenizer: Tokenizer
    begun: Begun
    about: dict


def accumulation(h: Hyperparameters, rt: Runtime) -> int:
    """Micro-batches per step and rank. Raises UserError where the batch sizes do not divide."""
    for name in ("device_batch_size", "max_seq_len", "total_batch_size"):
        if getattr(h, name) < 1:
            raise UserError(f"--{name} is {getattr(h, name)}; expected 1 or more")
    round_tokens = h.device_batch_size * h.max_seq_len * rt.world
    if h.total_batch_size % round_tokens:
        raise UserError(
            f"--total_batch_size {h.total_batch_size} is not a multiple of {round_tokens} "
            f"(--device_batch_size {h.device_batch_size} x --max_seq_len {h.max_seq_len} x {rt.world} ranks); "
            f"{max(1, h.total_batch_size // round_tokens) * round_tokens} is"
        )
    return h.total_batch_size // round_tokens


def resumed_step(source: str, tag: str, resume: str) -> int | None:
    """The step of the stage's run under `tag` that --resume goes on from; None where a run starts."""
    if resume not in ("auto", "never") and not resume.isdigit():
        raise UserError(f"--resume is {resume!r}; expected auto, never or the number of a step")
    if resume == "never" or resume == "auto" and not manager.steps(checkpoints_dir(source) / tag):
        return None
    return manager.find(source, tag, int(resume) if resume.isdigit() else None)[2]


def begin(
    source: str,
    tag: str,
    resume: str,
    rt: Runtime,
    wanted: GPTConfig,
    new: Callable[[], GPT],
    about: dict,
) -> Begun:
    """Resume the stage's run under `tag`, or start one with the model that `new` makes; `wanted` is its architecture.

    `about` names the data and, for a later stage, the checkpoint that it started from; a run is resumed only where
    they are the same, because its place in the data means nothing in other data.
    Raises UserError for an explicit step that is not there, and for a run that does not fit what is asked for now.
    """
    folder = checkpoints_dir(source) / tag
    step = resumed_step(source, tag, resume)
    if step is None:
        return Begun(new(), TrainState())
    loaded = manager.load_step(folder, tag, step, manager.LoadAs(rt.device, rt.dtype), with_optimizer=True)
    if loaded.model.config != wanted:
        found, asked = dataclasses.asdict(loaded.model.config), dataclasses.asdict(wanted)
        differ = ", ".join(f"{name} {found[name]} (now {asked[name]})" for name in asked if found[name] != asked[name])
        raise UserError(
            f"{folder} holds a run with {differ}; use the old flags, another --model_tag, or --resume never"
        )
    for name, value in json.loads(strict_json(about)).items():
        if loaded.meta.get(name) != value:
            raise UserError(
                f"{folder} holds a run whose {name} is {_short(loaded.meta.get(name))}, not {_short(value)}; "
                "use another --model_tag, or --resume never to start over"
            )
    assert loaded.optimizer is not None
    rt.print(f"resuming from step {loaded.step} of {folder}")
    return Begun(loaded.model, TrainState(**loaded.meta["loop_state"]), loaded.optimizer)


def check_memory(config: GPTConfig, h: Hyperparameters, rt: Runtime, compiled: bool) -> None:
    """Raise UserError where training cannot fit into memory, rather than be killed for it.

    The prediction may be 15 % off (tests/test_plan.py), so what is up to a quarter too much is tried.
    """

    sharing = rt.world if rt.device.type == "cpu" else 1  # ranks of one memory

    def needed(rows: int) -> float:
        return sharing * training_memory(config, rows, h.max_seq_len, compiled, rt.world).total

    there = memory_of(rt.device) * 1.25
    if not there or needed(h.device_batch_size) <= there:
        return
    fitting = next((rows for rows in range(h.device_batch_size - 1, 0, -1) if needed(rows) * 1.25 <= there), 0)
    advice = f"--device_batch_size={fitting} fits" if fitting else "a model of fewer layers (--depth) fits"
    raise UserError(
        f"training on {h.device_batch_size} rows of {h.max_seq_len} tokens at a time takes about "
        f"{needed(h.device_batch_size) / 1e9:.0f} GB, and there are {there / 1.25e9:.0f} GB; {advice}"
    )


def run_stage(
    name: str,
    run: Run,
    train_source: Source,
    val_source: Source,
    num_iterations: int = -1,
    num_epochs: float = 1.0,
    probes: Sequence[Probe] = (),
) -> TrainState:
    """Train, log, save, validate and report a stage that learns from given text or conversations.

    `probes` are measured beside the validation.
    """
    h, rt, begun = run.h, run.rt, run.begun
    check_memory(begun.model.config, h, rt, run.flags.compile)

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
            name, run, stream, accumulation(h, rt), [Probe(run.flags.eval_every, validate), *probes], results,
            num_iterations, num_epochs, flops_per_token(begun.model.config),
        )  # fmt: skip


def run_stream(
    name: str,
    run: Run,
    stream: Iterator[Batch],
    accumulation: int,
    probes: list[Probe],
    results: Callable[[TrainState, dict], dict],
    num_iterations: int = -1,
    num_epochs: float = 1.0,
    flops_per_token: int = 0,
    best: str = "val_bpb",
    shown: tuple[str, ...] = (),
) -> TrainState:
    """Train, log, save, measure and report any stage.

    `results` makes the section of the report, beside what all have, of the last state and its checkpoint's meta.
    The checkpoint with the lowest `best`, one of the probes' scores, is kept beside the newest.
    """
    flags, h, rt, begun = run.flags, run.h, run.rt, run.begun
    folder = checkpoints_dir(run.source) / run.tag
    model, state = begun.model, begun.state
    adamw, muon = parameter_groups(
        model,
        h.embedding_lr * h.lr_scale,
        h.unembedding_lr * h.lr_scale,
        h.matrix_lr * h.lr_scale,
        h.scalar_lr * h.lr_scale,
        h.weight_decay,
    )
    optimizer = Optimizer(adamw, muon)
    if begun.optimizer is not None:
        optimizer.load_state_dict(begun.optimizer["optimizer"])
        torch.set_rng_state(begun.optimizer["rng"])
    described = {
        "user_config": {**dataclasses.asdict(flags), **dataclasses.asdict(h)},
        "changed_flags": changes(flags),
        "device_batch_size": h.device_batch_size,
        "total_batch_size": h.total_batch_size,
        "max_seq_len": h.max_seq_len,
        "seed": flags.seed,
        "git_commit": report.git_commit(),
        "tokenizer_hash": run.tokenizer.hash,
        **run.about,
    }
    described = json.loads(strict_json(described))  # paths become strings
    # What an abandoned run left goes with this one's first save, so that it is never taken for this one's last.
    stale = [step for step in manager.steps(folder) if begun.optimizer is None or step > state.step]

    saved_at = -1 if begun.optimizer is None else state.step

    def save(state: TrainState) -> None:
        nonlocal saved_at
        whole = optimizer.state_dict()  # collective
        if rt.is_main and not flags.dry_run:
            meta = {
                **described,
                "val_bpb": None,
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
                manager.delete(folder, [step for step in stale if step != state.step])
                stale.clear()
            manager.prune(folder, flags.keep_last, best)

    def scored(state: TrainState, scores: dict[str, float]) -> None:
        if rt.is_main and not flags.dry_run:
            manager.update_meta(folder, state.step, {"loop_state": state.state_dict(), **scores})
            manager.prune(folder, flags.keep_last, best)

    is_logging = rt.is_main and not flags.dry_run
    log = MetricsLog(folder, flags.run, {**described, "model_config": dataclasses.asdict(model.config)}, is_logging)
    log.resume(state.step if begun.optimizer is not None else -1, state.probed)
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
        grad_clip=flags.grad_clip,
        flops_per_token=flops_per_token,
        probes=probes,
        shown=shown,
    )
    state = train(stage, state, rt, log)
    log.close()
    if flags.dry_run:
        rt.print(f"{name}: done; nothing was written (--dry_run)")
        return state
    if rt.is_main:
        particular = results(state, manager.read_meta(folder, state.step))
        section = {
            "source": run.source, "tag": run.tag, "step": state.step, "flags": changes(flags), "seed": flags.seed,
            "parameters": count_parameters(model), "steps": state.step, "seconds": state.seconds,
            "tokens_per_second": particular["tokens"] / max(state.seconds, 1e-9), **particular,
        }  # fmt: skip
        report.write_section(name, section)
    rt.print(f"{name}: done; step {state.step} is in {folder}")
    return state


def describe_parent(loaded: manager.Loaded, source: str) -> dict:
    """What a later stage writes down of the checkpoint it started from."""
    digest = loaded.meta.get("files", {}).get(f"model_{loaded.step:06d}.pt", {}).get("sha256")
    return {"source": source, "tag": loaded.tag, "step": loaded.step, "sha256": digest}


def settle(flags: LaterFlags, loaded: manager.Loaded, rt: Runtime) -> Hyperparameters:
    """Flags, then what the checkpoint says, then defaults; the batch's factor on the rates as in base training.

    RL, whose batches have no fixed size in tokens, keeps the factor of the stage before.
    """
    T = loaded.model.config.sequence_len
    fallback = {
        "device_batch_size": 32,
        "total_batch_size": 524288,
        "max_seq_len": T,
        "embedding_lr": 0.2,
        "unembedding_lr": 0.004,
        "matrix_lr": 0.02,
        "scalar_lr": 0.5,
    }
    has_rows = isinstance(flags, ConversationFlags)
    if has_rows:
        fallback["eval_tokens"] = 10485760
    typed = {name: getattr(flags, name, None) for name in fallback}
    values = _inherit(typed, loaded.meta, fallback, rt)
    if values["max_seq_len"] > T:
        raise UserError(f"--max_seq_len {values['max_seq_len']} is longer than the model's context of {T} tokens")
    round_tokens = values["device_batch_size"] * values["max_seq_len"] * rt.world
    if has_rows and flags.total_batch_size is None and round_tokens > 0 and values["total_batch_size"] % round_tokens:
        # What nobody typed must not stand in the way of what somebody did.
        values["total_batch_size"] = -(-values["total_batch_size"] // round_tokens) * round_tokens
        rt.print(f"total_batch_size={values['total_batch_size']}, whole rounds of {round_tokens} tokens")
    scale = (values["total_batch_size"] / REFERENCE_BATCH) ** 0.5
    h = Hyperparameters(**values, weight_decay=flags.weight_decay, lr_scale=flags.init_lr_frac * scale)
    if has_rows:
        accumulation(h, rt)
    return h


def _inherit(typed: dict, meta: dict, fallback: dict, rt: Runtime) -> dict:
    """Fill what is None in `typed` from the checkpoint's configuration, else from `fallback`, and say so."""
    recorded = meta.get("user_config") or {}
    values, said = {}, []
    for name, otherwise in fallback.items():
        value = typed[name]
        if value is None:
            value = recorded.get(name)
            said += [f"{name}={value}"] if value is not None else []
        values[name] = otherwise if value is None else value
    if said:
        rt.print("inherited from the checkpoint: " + ", ".join(said))
    return values


def compiled(model: GPT, wanted: bool, rt: Runtime) -> Callable:
    """The model's forward, compiled where that is wanted and there is a compiler; says so where there is none."""
    if wanted and not can_compile(rt.device):
        rt.print("no C++ compiler was found, so torch.compile is not used; training is slower")
        wanted = False
    return torch.compile(model, dynamic=False) if wanted else model


def _short(value: object) -> str:
    """A value of the meta file for a sentence; of a checkpoint as much as a reader can use."""
    if isinstance(value, dict):
        return f"{value.get('source')} {value.get('tag')} step {value.get('step')}, {str(value.get('sha256'))[:8]}"
    return str(value)
