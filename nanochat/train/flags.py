"""The flags of the training stages, and the numbers that follow from them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from nanochat.checkpoint.flags import ModelName
from nanochat.config import alias
from nanochat.errors import UserError
from nanochat.runtime import Runtime
from nanochat.scaling import REFERENCE_BATCH, shared


@dataclass
class TrainFlags:
    """Flags that every training stage has. Where the default is None, a later stage inherits from its checkpoint."""

    run: str = "dummy"
    """name of the wandb run; dummy logs to files only"""
    device_type: str = ""
    """cuda, mps or cpu; default: the best available"""
    dtype: str = "auto"
    """compute dtype: auto, float32, bfloat16 or float16"""
    seed: int = 42
    """seed of the initial weights and the order of the data"""
    resume: str = "auto"
    """auto resumes the run in the output folder if there is one, never starts anew, a number resumes from that step"""
    overwrite: bool = False
    """replace the checkpoints of another run in the output folder, at this run's first save"""
    compile: bool = True
    """use torch.compile where there is a compiler"""
    num_iterations: int = -1
    """optimizer steps; -1 lets the stage decide"""
    warmup_steps: int = 0
    """steps of learning-rate warmup"""
    warmup_ratio: float = 0.0
    """fraction of the run spent in learning-rate warmup"""
    warmdown_ratio: float = 0.65
    """fraction of the run spent in learning-rate warmdown"""
    final_lr_frac: float = 0.05
    """final learning rate as a fraction of the peak"""
    grad_clip: float = 0.0
    """maximum gradient norm; 0 disables clipping"""
    eval_every: int = 250
    """steps between validations; 0 validates at the end only, -1 never"""
    save_every: int = -1
    """steps between checkpoints; -1 saves at the end only"""
    save_minutes: float = 10.0
    """save whenever more minutes of training than this would be lost; 0 disables it"""
    keep_last: int = 2
    """newest checkpoints to keep beside the best one; 0 keeps all"""
    dry_run: bool = False
    """train and measure, but write no checkpoint and no report"""


@dataclass
class LaterFlags(TrainFlags):
    """Flags of the stages that start from a model."""

    source: ModelName = "mid"
    """model to start from: base, mid, sft, rl, sft:d4:700, gpt2, a folder, a ckpt.pt or user/name"""
    model_tag: Annotated[str | None, alias("-g", "--tag")] = None
    """tag of the model to start from; default: the deepest d<number>"""
    model_step: Annotated[int | None, alias("-s", "--step")] = None
    """step of the model to start from; default: the last"""
    out_tag: str | None = None
    """tag to write this run under; default: the tag of the model it starts from"""
    device_batch_size: int | None = None
    """rows per forward pass and rank; default: inherited, else 32"""
    embedding_lr: float | None = None
    """learning rate of the embeddings; default: inherited, else 0.2"""
    unembedding_lr: float | None = None
    """learning rate of the output layer; default: inherited, else 0.004"""
    matrix_lr: float | None = None
    """learning rate of the blocks' matrices (Muon); default: inherited, else 0.02"""
    scalar_lr: float | None = None
    """learning rate of the residual scalars; default: inherited, else 0.5"""
    weight_decay: float = 0.0
    """weight decay of the blocks' matrices"""
    init_lr_frac: float = 1.0
    """factor on all learning rates"""


@dataclass
class ConversationFlags(LaterFlags):
    """Flags of the stages that learn from given conversations."""

    conversations: str | None = None
    """littleworld, real (SmolTalk, MMLU, ...) or none; default: littleworld if the model descends from it, else real"""
    data_path: list[Path] = field(default_factory=list)
    """files of your own conversations, JSONL or a JSON array"""
    val_data_path: list[Path] = field(default_factory=list)
    """files of conversations to validate on; default: a held-out share of --data_path where it is all there is"""
    max_seq_len: int | None = None
    """context length in tokens; default: inherited, else the model's"""
    total_batch_size: int | None = None
    """tokens per optimizer step over all ranks; default: inherited (chat_sft: 32 rows)"""
    eval_tokens: int | None = None
    """tokens per validation; default: inherited, else 10485760"""


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


def settle(
    flags: LaterFlags, recorded: dict, T: int, rt: Runtime, is_resumed: bool, rows: int = 0
) -> Hyperparameters:  # fmt: skip
    """Flags, then what the checkpoint recorded, then defaults; the batch's factor on the rates as in base training.

    T is the model's context. Fine-tuning takes steps of so many `rows` and not its parent's batch, which was chosen for
    pretraining and would make it a few dozen steps. RL, whose batches have no fixed size in tokens, keeps the batch's
    factor of the stage before.
    """
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
    if rows and typed["total_batch_size"] is None:
        length = typed["max_seq_len"] or recorded.get("max_seq_len") or T
        recorded = {**recorded, "total_batch_size": None}
        fallback["total_batch_size"] = rows * length
    values, inherited = _inherit(typed, recorded, fallback)
    if inherited and not is_resumed:
        rt.print("inherited from the checkpoint: " + ", ".join(inherited))
    if values["max_seq_len"] > T:
        raise UserError(f"--max_seq_len {values['max_seq_len']} is longer than the model's context of {T} tokens")
    if has_rows:
        values |= _shared_batch(flags, values, rt)
    scale = (values["total_batch_size"] / REFERENCE_BATCH) ** 0.5
    h = Hyperparameters(**values, weight_decay=flags.weight_decay, lr_scale=flags.init_lr_frac * scale)
    if has_rows:
        accumulation(h, rt)
    return h


def _shared_batch(flags: ConversationFlags, values: dict, rt: Runtime) -> dict:
    """total_batch_size and device_batch_size: values that were not typed adapt to those that were."""
    rows, length, wanted = (values[name] for name in ("device_batch_size", "max_seq_len", "total_batch_size"))
    if rows < 1 or length < 1 or flags.total_batch_size is not None:
        return {}
    if flags.device_batch_size is None:
        batch, rows = shared(wanted, rows, length, rt.world)
    else:
        round_tokens = rows * length * rt.world
        batch = -(-wanted // round_tokens) * round_tokens
    if batch != wanted:
        rt.print(f"total_batch_size={batch}, whole rounds of {rows * length * rt.world} tokens")
    return {"total_batch_size": batch, "device_batch_size": rows}


def _inherit(typed: dict, recorded: dict, fallback: dict) -> tuple[dict, list[str]]:
    """What is None in `typed` filled from the checkpoint's record, else from `fallback`; and what the record gave."""
    values, inherited = {}, []
    for name, otherwise in fallback.items():
        value = typed[name]
        if value is None:
            value = recorded.get(name)
            inherited += [f"{name}={value}"] if value is not None else []
        values[name] = otherwise if value is None else value
    return values, inherited
