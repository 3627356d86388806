"""The numbers a stage trains with, from its flags, the checkpoint it starts from, and defaults."""

from dataclasses import dataclass

from nanochat import lora
from nanochat.errors import UserError
from nanochat.gpt import GPTConfig
from nanochat.runtime import Runtime
from nanochat.scaling import REFERENCE_BATCH, shared
from nanochat.train.flags import ConversationFlags, LaterFlags, RowFlags
from nanochat.train.memory import rows_that_fit

DEFAULTS = {
    "device_batch_size": 32, "total_batch_size": 524288, "embedding_lr": 0.2, "unembedding_lr": 0.004,
    "matrix_lr": 0.02, "scalar_lr": 0.5,
}  # fmt: skip
EVAL_TOKENS = 10485760


@dataclass(frozen=True)
class Hyperparameters:
    """What a stage trains with. device_batch_size is in rows, total_batch_size and max_seq_len are in tokens."""

    device_batch_size: int
    total_batch_size: int
    max_seq_len: int
    embedding_lr: float
    unembedding_lr: float
    matrix_lr: float
    scalar_lr: float
    weight_decay: float
    lr_scale: float = 1.0  # factor on the rates above
    eval_tokens: int = 0


def accumulation(hparams: Hyperparameters, rt: Runtime) -> int:
    """Micro-batches per step and rank. Raises UserError if the batch sizes do not divide."""
    for name in ("device_batch_size", "max_seq_len", "total_batch_size"):
        if getattr(hparams, name) < 1:
            raise UserError(f"--{name} is {getattr(hparams, name)}; expected 1 or more")
    round_tokens = hparams.device_batch_size * hparams.max_seq_len * rt.world
    if hparams.total_batch_size % round_tokens:
        raise UserError(
            f"--total_batch_size {hparams.total_batch_size} is not a multiple of {round_tokens} "
            f"(--device_batch_size {hparams.device_batch_size} x --max_seq_len {hparams.max_seq_len} x {rt.world} "
            f"ranks); {max(1, hparams.total_batch_size // round_tokens) * round_tokens} is"
        )
    return hparams.total_batch_size // round_tokens


def resolve_hyperparameters(
    flags: LaterFlags, recorded: dict, config: GPTConfig, rt: Runtime, is_resumed: bool, rows: int = 0, most: int = 0
) -> Hyperparameters:  # fmt: skip
    """Flags first, then what the checkpoint recorded, then defaults, for a model of this config.

    Learning rates scale with the square root of the batch, as in pretraining. Fine-tuning takes steps of `rows` rows
    and not its parent's batch, which was chosen for pretraining and would leave it few steps. RL, whose batches
    have no fixed size in tokens, keeps the factor of the stage before. Rows have up to `most` tokens, by default those
    of the model's context.
    """
    T = config.sequence_len
    fallback = {**DEFAULTS, "max_seq_len": T}
    has_rows = isinstance(flags, RowFlags)
    if isinstance(flags, ConversationFlags):
        fallback["eval_tokens"] = EVAL_TOKENS
    passed = {name: getattr(flags, name, None) for name in fallback}
    if rows and passed["total_batch_size"] is None:
        recorded = {**recorded, "total_batch_size": rows * (passed["max_seq_len"] or recorded.get("max_seq_len") or T)}
    values, inherited = {}, []
    for name, default in fallback.items():
        values[name] = next(value for value in (passed[name], recorded.get(name), default) if value is not None)
        if passed[name] is None and recorded.get(name) is not None and not (rows and name == "total_batch_size"):
            inherited.append(f"{name}={values[name]}")
    if inherited and not is_resumed:
        rt.print("inherited from the checkpoint: " + ", ".join(inherited))
    if values["max_seq_len"] > (most or T):
        limit = f"the model's context of {T} tokens" if most in (0, T) else f"twice the model's context, {most} tokens"
        raise UserError(f"--max_seq_len {values['max_seq_len']} is longer than {limit}")
    if flags.device_batch_size == "auto":
        length = values["max_seq_len"]
        values["device_batch_size"] = rows_that_fit(
            config, length, rt, bool(flags.compile), flags.recompute, lora.wanted(flags)
        )
    if isinstance(flags, RowFlags):
        values |= _shared_batch(flags, values, rt)
    scale = (values["total_batch_size"] / REFERENCE_BATCH) ** 0.5
    hparams = Hyperparameters(**values, weight_decay=flags.weight_decay, lr_scale=flags.init_lr_frac * scale)
    if has_rows:
        accumulation(hparams, rt)
    return hparams


def _shared_batch(flags: RowFlags, values: dict, rt: Runtime) -> dict:
    """total_batch_size and device_batch_size: the one that was not passed adapts to the one that was."""
    rows, length, wanted = (values[name] for name in ("device_batch_size", "max_seq_len", "total_batch_size"))
    if rows < 1 or length < 1:
        return {}
    if flags.total_batch_size is not None:
        is_auto = flags.device_batch_size == "auto"
        return {"device_batch_size": shared(wanted, rows, length, rt.world)[1]} if is_auto else {}
    if flags.device_batch_size in (None, "auto"):
        batch, rows = shared(wanted, rows, length, rt.world)
    else:
        round_tokens = rows * length * rt.world
        batch = -(-wanted // round_tokens) * round_tokens
    if batch != wanted:
        rt.print(f"total_batch_size={batch}, whole rounds of {rows * length * rt.world} tokens")
    return {"total_batch_size": batch, "device_batch_size": rows}
