"""Train a base model on the text of a dataset."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

from nanochat.config import alias, parse
from nanochat.errors import UserError, run
from nanochat.paths import DEFAULT_DATASET, check_tag, tokenizer_dir
from nanochat.train.flags import Rows, TeacherFlags, TrainFlags

if TYPE_CHECKING:  # imported after the flags were parsed, since torch takes seconds
    from nanochat.gpt import GPTConfig
    from nanochat.runtime import Runtime
    from nanochat.scaling import Horizon
    from nanochat.train.hyperparameters import Hyperparameters
    from nanochat.train.start import Run, Start

SAMPLED = ("Once upon a time", "The capital of", "My name is")  # what it continues while it trains
LITTLE_WORLD = ("Once upon a time", "Mira lives in", "7 plus 5 is")  # the same for the text that nanochat makes
BPB = "val_bpb: bits per byte that the model needs for text it was not trained on; 8 without any model, fewer is better"


@dataclass
class ModelAndBatch:
    """The model, its data and its batch."""

    # --- model
    depth: int = 20
    """layers of the model; shape, batch and length of the run follow from it"""

    # --- data
    dataset: list[str] = field(default_factory=lambda: [DEFAULT_DATASET])
    """name of a dataset, or a URL of shards (s3://...); several are mixed by weight in tokens: a:0.7 b:0.3"""

    # --- batch and length
    max_seq_len: int = 2048
    """context length in tokens"""
    device_batch_size: Rows = 32
    """rows per forward pass and rank; auto: as many as fit into memory"""
    total_batch_size: int = -1
    """tokens per optimizer step over all ranks; -1 follows the scaling rule"""
    target_param_data_ratio: float = 12.0
    """train on this many tokens per scaling parameter"""
    target_flops: float = -1.0
    """train for this many floating-point operations; -1 is off"""

    # --- optimization
    embedding_lr: float = 0.3
    """learning rate of the embeddings"""
    unembedding_lr: float = 0.008
    """learning rate of the output layer"""
    matrix_lr: float = 0.02
    """learning rate of the blocks' matrices (Muon)"""
    scalar_lr: float = 0.5
    """learning rate of the residual scalars"""
    weight_decay: float = 0.28
    """apply this weight decay to the blocks' matrices, before the scaling rule"""

    # --- output
    model_tag: Annotated[str | None, alias("--out-tag")] = None
    """tag to write the model under; default: d<depth>"""


@dataclass
class Flags(TrainFlags, TeacherFlags, ModelAndBatch):
    """Train a base model on the text of a dataset; --depth sets everything that you do not pass."""

    EXAMPLE: ClassVar = "--depth 12 --dataset fineweb-edu --minutes 60"

    # --- model
    aspect_ratio: int = 64
    """make the model this much wider per layer"""
    head_dim: int = 128
    """size of an attention head"""
    window_pattern: str = "SSSL"
    """use short (S) and long (L) attention windows, repeated over the layers"""

    # --- optimization
    warmup_steps: int = 40
    """steps of learning-rate warmup"""

    # --- evaluation
    eval_tokens: int = 41943040
    """validate on this many tokens"""
    sample_every: int = 100
    """steps between continuations of the same three texts; 0 shows them at the end only, -1 never"""

    # --- output
    resume_from_step: int = -1
    """the older name of --resume STEP"""



def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    if flags.resume_from_step >= 0:
        flags.resume = str(flags.resume_from_step)
    from nanochat.train.start import launch

    launch(flags, train)


def train(flags: Flags, rt: "Runtime") -> None:
    from nanochat.data import texts
    from nanochat.tokenizer import Tokenizer
    from nanochat.train import teacher
    from nanochat.train.loop import Evaluation
    from nanochat.train.stage import run_stage
    from nanochat.train.start import begin, open_run
    from scripts._samples import Watched

    tag = f"d{flags.depth}" if flags.model_tag is None else flags.model_tag
    check_tag("model_tag", tag)
    config_of(flags, 1)  # refuses odd shapes before anything is looked for
    with open_run("base", flags, rt, tag) as start:
        flags, rt = start.flags, start.rt
        tokenizer = Tokenizer.load(tokenizer_dir())
        train_source, val_source = (
            texts.text_source(flags.dataset, split, tokenizer, flags.seed) for split in ("train", "val")
        )
        config = config_of(flags, tokenizer.vocab_size)
        horizon, hparams = scaled(flags, start, config)
        lineage = {
            "dataset": " ".join(flags.dataset), "mixture": texts.mixture(flags.dataset),
            "data": train_source.contents() + val_source.contents(),
            "seed": flags.seed, "tokenizer_hash": tokenizer.hash,
        }  # fmt: skip
        taught = teacher.load(flags, tokenizer, hparams.max_seq_len, rt)
        run = begin(start, hparams, lineage, tokenizer, config, taught)
        announce(run, horizon, flags.minutes)
        samples = Evaluation(flags.sample_every, Watched("base_train", run, beginnings(flags.dataset), is_chat=False))
        run_stage(
            "base_train", run, train_source, val_source, num_iterations=horizon.num_iterations, evaluations=[samples]
        )


def config_of(flags: Flags, vocab_size: int) -> "GPTConfig":
    """The architecture that the flags describe. Raises UserError for a shape that no model has."""
    from nanochat import scaling

    shape = flags.max_seq_len, flags.aspect_ratio, flags.head_dim, flags.window_pattern
    return scaling.config_from_depth(flags.depth, vocab_size, *shape)


def scaled(flags: Flags, start: "Start", config: "GPTConfig") -> "tuple[Horizon, Hyperparameters]":
    """The length of the run and its hyperparameters by the scaling rules; what was passed comes first."""
    from nanochat import scaling
    from nanochat.plan.cost import flops_per_token
    from nanochat.train.hyperparameters import Hyperparameters, accumulation

    batch, rows = batch_of(flags, start, config)
    horizon = scaling.horizon(
        config,
        batch,
        flags.num_iterations,
        flags.target_flops,
        flops_per_token(config),
        flags.target_param_data_ratio,
        rows,
        start.rt.world,
    )
    if horizon.rows != flags.device_batch_size != "auto":
        start.rt.print(f"device_batch_size={horizon.rows}, so that a step is {horizon.total_batch_size} tokens")
    hparams = Hyperparameters(
        device_batch_size=horizon.rows,
        total_batch_size=horizon.total_batch_size,
        max_seq_len=flags.max_seq_len,
        eval_tokens=flags.eval_tokens,
        embedding_lr=flags.embedding_lr,
        unembedding_lr=flags.unembedding_lr,
        matrix_lr=flags.matrix_lr,
        scalar_lr=flags.scalar_lr,
        weight_decay=flags.weight_decay * horizon.weight_decay_scale,
        lr_scale=horizon.lr_scale,
    )
    accumulation(hparams, start.rt)  # raises before any work if the batch sizes do not divide
    return horizon, hparams


def batch_of(flags: Flags, start: "Start", config: "GPTConfig") -> tuple[int, int]:
    """--total_batch_size and --device_batch_size; a resumed run keeps its batch if none is passed.

    Its rows are as many as divide that batch over the ranks there are now. Raises UserError if none do.
    """
    from nanochat import scaling
    from nanochat.train.memory import rows_that_fit

    ranks, T = start.rt.world, flags.max_seq_len
    most = flags.device_batch_size
    if most == "auto":
        most = rows_that_fit(config, T, start.rt, bool(flags.compile), flags.recompute)
    batch = start.meta.get("total_batch_size") if start.is_resumed else None
    if flags.total_batch_size > 0 and flags.device_batch_size == "auto":
        most = scaling.shared(flags.total_batch_size, most, T, ranks)[1]
    if batch is None or flags.total_batch_size > 0:
        return flags.total_batch_size, most
    nearest, rows = scaling.shared(batch, most, T, ranks)
    if nearest != batch:
        raise UserError(
            f"{start.folder} holds a run whose steps of {batch} tokens {ranks} ranks cannot share; resume it on a "
            f"number of ranks that divides {batch // T}, or with --total_batch_size={nearest} "
            f"--device_batch_size={rows}"
        )
    return batch, rows


def announce(run: "Run", horizon: "Horizon", minutes: float) -> None:
    from nanochat.gpt import count_parameters
    from nanochat.log import short

    config, rt, batch = run.model.config, run.rt, run.hparams.total_batch_size
    steps = f"{horizon.num_iterations} steps of {batch} tokens ({short(horizon.num_iterations * batch)})"
    if minutes > 0:
        steps = f"{minutes:g} minutes of steps of {batch} tokens"
    rt.print(
        f"base model {run.start.tag}: {short(count_parameters(run.model))} parameters, {config.n_layer} layers of "
        f"width {config.n_embd}, {steps}, {rt.device.type} {str(rt.dtype).removeprefix('torch.')}"
    )
    if run.start.flags.eval_every >= 0:
        rt.print(BPB)


def beginnings(dataset: Sequence[str]) -> tuple[str, ...]:
    """The beginnings of texts that suit a model of these datasets."""
    return LITTLE_WORLD if dataset == [DEFAULT_DATASET] else SAMPLED


if __name__ == "__main__":
    run(main)
