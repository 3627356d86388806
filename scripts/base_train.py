"""Train a base model on the text of a dataset."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from nanochat import runtime, scaling
from nanochat.config import alias, parse
from nanochat.data import texts
from nanochat.data.shards import DEFAULT_DATASET
from nanochat.errors import UserError, run
from nanochat.eval.samples import write_samples
from nanochat.gpt import GPT, GPTConfig, count_parameters
from nanochat.log import short
from nanochat.paths import check_tag, tokenizer_dir
from nanochat.plan import cost
from nanochat.runtime import Runtime
from nanochat.tokenizer import Tokenizer
from nanochat.train.flags import Hyperparameters, TrainFlags, accumulation
from nanochat.train.loop import Evaluation
from nanochat.train.stage import Run, run_stage
from nanochat.train.start import Start, begin, opened, or_anew

SAMPLED = ("", "Once upon a time", "The capital of", "My name is")


@dataclass
class Flags(TrainFlags):
    """Train a base model on the text of a dataset; --depth sets everything that is not given."""

    model_tag: Annotated[str | None, alias("--out_tag")] = None
    """tag to write the model under; default: d<depth>"""
    dataset: list[str] = field(default_factory=lambda: [DEFAULT_DATASET])
    """name of the dataset, as given to add_data; several are mixed by weight in tokens: a:0.7 b:0.3"""
    depth: int = 20
    """layers of the model; shape, batch and length follow from it"""
    aspect_ratio: int = 64
    """width per layer"""
    head_dim: int = 128
    """size of an attention head"""
    window_pattern: str = "SSSL"
    """short and long attention windows, tiled over the layers"""
    max_seq_len: int = 2048
    """context in tokens"""
    target_flops: float = -1.0
    """train for this many floating-point operations; -1 is off"""
    target_param_data_ratio: float = 12.0
    """train on this many tokens per scaling parameter"""
    device_batch_size: int = 32
    """rows per forward pass and rank; lower it when memory runs out"""
    total_batch_size: int = -1
    """tokens per optimizer step over all ranks; -1 follows the scaling rule"""
    embedding_lr: float = 0.3
    """learning rate of the embeddings"""
    unembedding_lr: float = 0.008
    """learning rate of the output layer"""
    matrix_lr: float = 0.02
    """learning rate of the blocks' matrices (Muon)"""
    scalar_lr: float = 0.5
    """learning rate of the residual scalars"""
    weight_decay: float = 0.28
    """weight decay of the blocks' matrices, before the scaling rule"""
    warmup_steps: int = 40
    """steps of learning-rate warmup"""
    eval_tokens: int = 41943040
    """tokens of a validation"""
    sample_every: int = 2000
    """steps between samples; 0 samples at the end only, -1 never"""
    resume_from_step: int = -1
    """the older name of --resume STEP"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    if flags.resume_from_step >= 0:
        flags.resume = str(flags.resume_from_step)
    with runtime.start(flags.device_type, flags.dtype, flags.seed) as rt:
        or_anew(flags, lambda flags: train(flags, rt))


def train(flags: Flags, rt: Runtime) -> None:
    tag = f"d{flags.depth}" if flags.model_tag is None else flags.model_tag
    check_tag("model_tag", tag)
    config_of(flags, 1)  # refuses odd shapes before anything is looked for
    with opened("base", flags, rt, tag) as (start, flags):
        rt = start.rt
        tokenizer = Tokenizer.load(tokenizer_dir())
        train_source, val_source = (
            texts.text_source(flags.dataset, split, tokenizer, flags.seed) for split in ("train", "val")
        )
        config = config_of(flags, tokenizer.vocab_size)
        batch, rows = as_begun(flags, start)
        horizon = scaling.horizon(
            config,
            batch,
            flags.num_iterations,
            flags.target_flops,
            cost.flops_per_token(config),
            flags.target_param_data_ratio,
            rows,
            rt.world,
        )
        if horizon.rows != flags.device_batch_size:
            rt.print(f"device_batch_size={horizon.rows}, so that a step is {horizon.total_batch_size} tokens")
        h = Hyperparameters(
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
        accumulation(h, rt)  # complains before any work where the sizes do not divide

        def new() -> GPT:
            return GPT(config, rt.dtype).to(rt.device)

        about = {
            "dataset": " ".join(flags.dataset), "mixture": texts.mixture(flags.dataset),
            "data": train_source.contents() + val_source.contents(),
            "seed": flags.seed, "tokenizer_hash": tokenizer.hash,
        }  # fmt: skip
        begun = begin(start, h, about, config, new)
        parameters = short(count_parameters(begun.model))
        tokens = short(horizon.num_iterations * h.total_batch_size)
        rt.print(
            f"base model {tag}: {parameters} parameters, {config.n_layer} layers of width {config.n_embd}, "
            f"{horizon.num_iterations} steps of {h.total_batch_size} tokens ({tokens}), {rt.device.type} "
            f"{str(rt.dtype).removeprefix('torch.')}"
        )

        def samples(_: Callable[[], bool]) -> dict[str, float]:
            if rt.is_main:
                write_samples(begun.model, tokenizer, SAMPLED)
            return {}

        run_stage(
            "base_train", Run(start, flags, h, tokenizer, begun, about), train_source, val_source,
            num_iterations=horizon.num_iterations, evaluations=[Evaluation(flags.sample_every, samples)],
        )  # fmt: skip


def config_of(flags: Flags, vocab_size: int) -> GPTConfig:
    """The architecture that the flags describe. Raises UserError for a shape that no model has."""
    shape = flags.max_seq_len, flags.aspect_ratio, flags.head_dim, flags.window_pattern
    return scaling.config_from_depth(flags.depth, vocab_size, *shape)


def as_begun(flags: Flags, start: Start) -> tuple[int, int]:
    """--total_batch_size and --device_batch_size; a run that is resumed keeps its batch where none is given.

    Its rows are as many as share that batch on the ranks there are now. Raises UserError where none do.
    """
    ranks, T = start.rt.world, flags.max_seq_len
    batch = start.meta.get("total_batch_size") if start.is_resumed else None
    if batch is None or flags.total_batch_size > 0:
        return flags.total_batch_size, flags.device_batch_size
    nearest, rows = scaling.shared(batch, flags.device_batch_size, T, ranks)
    if nearest != batch:
        raise UserError(
            f"{start.folder} holds a run whose steps of {batch} tokens {ranks} ranks cannot share; resume it on a "
            f"number of ranks that divides {batch // T}, or with --total_batch_size={nearest} "
            f"--device_batch_size={rows}"
        )
    return batch, rows


if __name__ == "__main__":
    run(main)
