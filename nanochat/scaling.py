"""`--depth` sets every other number: shape, length of the run, batch size and the rates that go with it.

The rules are those of modern nanochat, tuned there at depth 12 and carried to other depths:
tokens = ratio * scaling parameters (Hoffmann et al. 2022); batch ~ tokens^0.383 ("Power Lines", Bergsma et al. 2025,
arXiv 2505.13738); learning rate ~ sqrt(batch); decay so that its time scale in tokens stays (Wang & Aitchison 2024).
"""

import math
from dataclasses import dataclass

from nanochat.errors import UserError
from nanochat.gpt import SMEAR_CHANNELS, GPTConfig

REFERENCE_DEPTH = 12
SFT_ROWS = 32  # per optimizer step of fine-tuning by default, as in the original
REFERENCE_BATCH = 2**19  # tokens


def config_from_depth(
    depth: int,
    vocab_size: int,
    sequence_len: int,
    aspect_ratio: int = 64,
    head_dim: int = 128,
    window_pattern: str = "SSSL",
) -> GPTConfig:
    """The shape of a new model: width = depth * aspect_ratio, rounded up to whole heads.

    Raises UserError, naming the flag, for an impossible shape.
    """
    asked = {"depth": depth, "max_seq_len": sequence_len, "aspect_ratio": aspect_ratio, "vocab_size": vocab_size}
    for name, value in asked.items():
        if value < 1:
            raise UserError(f"--{name} is {value}; expected 1 or more")
    if head_dim < 2 or head_dim % 2:
        raise UserError(f"--head_dim is {head_dim}; expected an even number, because RoPE rotates pairs of channels")
    if not window_pattern or set(window_pattern.upper()) - set("SL"):
        raise UserError(f"--window_pattern is {window_pattern!r}; expected letters S (short) and L (long), like SSSL")
    width = -(-depth * aspect_ratio // head_dim) * head_dim
    gates = max(SMEAR_CHANNELS, GPTConfig.ve_gate_channels)
    if width < gates:
        raise UserError(
            f"the model would be {width} wide (--depth {depth} x --aspect_ratio {aspect_ratio}, in heads of --head_dim "
            f"{head_dim}), but its gates read {gates} channels; use --aspect_ratio={-(-gates // depth)} or more"
        )
    return GPTConfig(
        sequence_len=sequence_len,
        vocab_size=vocab_size,
        n_layer=depth,
        n_head=width // head_dim,
        n_kv_head=width // head_dim,
        n_embd=width,
        window_pattern=window_pattern.upper(),
        short_window=short_window(sequence_len),
        long_window=sequence_len,
        # With fewer layers the middle one is the last: backout would scale the output, and flip it above 1.
        backout=depth > 2,
        bigram_rows=bigram_rows(vocab_size),
    )


def bigram_rows(vocab_size: int) -> int:
    """Rows of the table of pairs: five for each token (an odd number, for the hash), where the vocabulary is small.

    Measured with 4096 tokens. With 32768 the gain was small at depth 12 and gone at depth 25 (the original's log).
    """
    return 5 * vocab_size - 1 if vocab_size <= 8192 else 0


def short_window(sequence_len: int) -> int:
    """How far an S layer looks back: a quarter of the context, rounded up to a multiple of 128."""
    return 128 * -(-sequence_len // 512)


def scaling_parameters(config: GPTConfig) -> int:
    """The parameters that the scaling law counts: matrices of the blocks and the output layer, no embeddings."""
    D, d = config.n_embd, config.head_size
    block = 2 * D * config.n_head * d + 2 * D * config.n_kv_head * d + 8 * D * D
    gates = config.n_kv_head * config.ve_gate_channels
    return (
        config.n_layer * block
        + sum(gates for layer in range(config.n_layer) if config.has_value_embed(layer))
        + config.padded_vocab * D
    )


def shared(total_batch_size: int, rows: int, length: int, ranks: int) -> tuple[int, int]:
    """Tokens of a step that `ranks` can take in whole micro-batches, and the rows of a micro-batch, `rows` at most.

    The batch size stays, if need be with fewer rows, so that a run is the same on any number of ranks. If no number of
    rows divides it, the nearest size with the fewest micro-batches is taken.
    """
    if rows < 1:
        raise UserError(f"--device_batch_size is {rows}; expected 1 or more")
    for fewer in range(rows, 0, -1):
        if total_batch_size % (fewer * length * ranks) == 0:
            return total_batch_size, fewer
    rounds = math.ceil(total_batch_size / (rows * length * ranks))
    fewer = max(1, round(total_batch_size / (rounds * length * ranks)))
    return rounds * fewer * length * ranks, fewer


@dataclass(frozen=True)
class Horizon:
    """How long to train, and the factors on learning rates and weight decay that follow from it."""

    total_batch_size: int  # tokens per step
    rows: int  # of a forward pass on each rank
    num_iterations: int
    lr_scale: float
    weight_decay_scale: float


def horizon(
    config: GPTConfig,
    total_batch_size: int = -1,
    num_iterations: int = -1,
    target_flops: float = -1,
    flops_per_token: int = 1,
    param_data_ratio: float = 12,
    rows: int = 1,
    ranks: int = 1,
) -> Horizon:
    """Length and batch size of a run. Values of -1 follow from the rules; num_iterations overrides target_flops.

    A batch size from the rules is one that `ranks` can divide, with at most `rows` each; see `shared`.
    Raises UserError if no flag determines how long to train.
    """
    tokens = param_data_ratio * scaling_parameters(config)
    # The number of tokens that the tuned run at the reference depth saw.
    reference = config_from_depth(REFERENCE_DEPTH, config.vocab_size, config.sequence_len)
    reference_tokens = max(param_data_ratio, 1) * scaling_parameters(reference)
    if num_iterations > 0 and total_batch_size > 0:
        tokens = num_iterations * total_batch_size
    if total_batch_size <= 0:
        exact = REFERENCE_BATCH * (max(tokens, 1) / reference_tokens) ** 0.383
        total_batch_size, rows = shared(2 ** max(0, round(math.log2(exact))), rows, config.sequence_len, ranks)
    if num_iterations <= 0:
        if target_flops > 0:
            num_iterations = round(target_flops / (flops_per_token * total_batch_size))
        elif param_data_ratio > 0:
            num_iterations = round(tokens / total_batch_size)
        else:
            raise UserError("the run has no length: set --num_iterations, --target_flops or a ratio above 0")
    batch = total_batch_size / REFERENCE_BATCH
    # Bounded, because for runs of a few million tokens the rule gives a decay that wipes out the weights.
    decay = min(1.0, math.sqrt(batch) * reference_tokens / max(1, num_iterations * total_batch_size))
    return Horizon(total_batch_size, rows, max(1, num_iterations), math.sqrt(batch), decay)
