"""Direct preference optimization: of two answers to a question, the one that was chosen becomes the likelier one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from nanochat.checkpoint.flags import ModelName
from nanochat.config import parse
from nanochat.errors import UserError, run
from nanochat.train.flags import LaterFlags, RowFlags

if TYPE_CHECKING:  # imported after the flags were parsed, since torch takes seconds
    from torch import Tensor

    from nanochat.runtime import Runtime
    from nanochat.train.hyperparameters import Hyperparameters
    from nanochat.train.loop import TrainState
    from nanochat.train.preferences import PairSource
    from nanochat.train.start import Run, Start

SCORES = ("val_loss", "val_margin", "val_accuracy", "val_chosen_logp", "val_rejected_logp", "val_drift")


@dataclass
class Preferences:
    """The pairs, and how they are learned."""

    # --- data
    data_path: list[Path] = field(default_factory=list)
    """learn from the pairs in these files, JSONL or a JSON array of {"prompt", "chosen", "rejected"}"""
    val_data_path: list[Path] = field(default_factory=list)
    """validate on the pairs in these files; default: a held-out part of --data_path"""

    # --- optimization
    beta: float = 0.1
    """hold the model to the one it starts from: higher values allow less change"""
    label_smoothing: float = 0.0
    """fraction of the pairs that is taken to be labelled the wrong way round, below 0.5"""
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    """loss of a pair: sigmoid is that of DPO; ipo aims at a margin of 1 / (2 beta) nats and stops there"""

    # --- evaluation
    eval_pairs: int = 1000
    """validate on at most this many held-out pairs"""


@dataclass
class Flags(LaterFlags, RowFlags, Preferences):
    """Direct preference optimization (DPO): learn from pairs of answers, of which one is preferred."""

    EXAMPLE: ClassVar = "--source sft --data_path pairs.jsonl"

    # --- model
    source: ModelName = "sft"
    """model to start from, which is also the reference: mid, sft, dpo, rl, sft:d3:700, a folder or user/name"""

    # --- batch and length
    num_epochs: float = 1.0
    """passes over the pairs, unless --num_iterations is passed"""

    # --- optimization
    init_lr_frac: float = 0.005
    """factor on all learning rates"""
    warmup_ratio: float = 0.1
    """fraction of the run spent in learning-rate warmup"""
    warmdown_ratio: float = 0.9
    """fraction of the run spent in learning-rate warmdown"""
    final_lr_frac: float = 0.0
    """final learning rate as a fraction of the peak"""

    # --- evaluation
    eval_every: int = 100
    """steps between validations, beside one before the first step; 0 validates before and after only, -1 never"""

    # --- data
    document_mask: bool = True
    """keep the two answers of a pair from seeing each other; always on"""



def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    from nanochat.train.start import launch

    launch(flags, train)


def train(flags: Flags, rt: "Runtime") -> None:
    from contextlib import closing

    from nanochat.data.streams import batches_for
    from nanochat.plan.cost import flops_per_token
    from nanochat.train import preferences
    from nanochat.train.hyperparameters import accumulation
    from nanochat.train.loop import Evaluation
    from nanochat.train.objective import freeze_gates
    from nanochat.train.stage import prepared, run_stream
    from nanochat.train.start import begin, open_run

    check(flags)
    with open_run("dpo", flags, rt) as start:
        flags, rt, loaded = start.flags, start.rt, start.loaded
        assert loaded is not None
        hparams = resolved(flags, start)
        train_source, val_source = sources(flags, start, hparams.max_seq_len)
        data = train_source.contents() + val_source.contents()
        lineage = {
            "parent": start.parent, "dataset": start.meta.get("dataset"), "max_seq_len": hparams.max_seq_len,
            "conversations": start.meta.get("conversations"), "pairs": train_source.size, "seed": flags.seed,
            "data": data,
        }  # fmt: skip
        run = prepared(begin(start, hparams, lineage, loaded.tokenizer))
        run.model.eval()  # the reference has no dropout either
        freeze_gates(run.model)
        run.extra = {"data_path": flags.data_path}
        reference = reference_of(run, (train_source, val_source), data)
        objective = preferences.Objective(flags.beta, flags.label_smoothing, flags.loss)
        assert run.rows is not None
        run.loss = preferences.loss_of_pairs(run.model, objective, reference.to(rt.device), run.rows)
        run.also = preferences.FIGURES
        held_out = int((reference[train_source.size :, 2] > 0).sum())
        rows, T, flops = run.hparams.device_batch_size, hparams.max_seq_len, flops_per_token(run.model.config)

        def validate(stopping: Callable[[], bool]) -> dict[str, float]:
            now = preferences.log_probabilities(run.model, val_source, rows, T, rt, stopping)
            return preferences.scores(now, reference[train_source.size :], objective)

        with closing(batches_for(rt, train_source, rows, T, run.state.cursor, flags.seed)) as stream:
            run_stream(
                "chat_dpo", run, preferences.counted(stream), accumulation(run.hparams, rt),
                [Evaluation(flags.eval_every, validate, first=True)],
                lambda state, meta: results(run, held_out, flops, state, meta), flags.num_iterations,
                flags.num_epochs, flops, best="val_loss", shown=("loss", "margin"),
            )  # fmt: skip


def check(flags: Flags) -> None:
    """Check the flags before anything is loaded. Raises UserError."""
    if flags.beta <= 0:
        raise UserError(f"--beta is {flags.beta}; expected more than 0, such as 0.1")
    if not 0 <= flags.label_smoothing < 0.5:
        raise UserError(f"--label_smoothing is {flags.label_smoothing}; expected a fraction from 0 to below 0.5")
    if flags.label_smoothing and flags.loss == "ipo":
        raise UserError("--label_smoothing belongs to --loss sigmoid; leave one of them out")
    if flags.num_epochs <= 0:
        raise UserError(f"--num_epochs is {flags.num_epochs}; expected more than 0")
    if flags.eval_pairs < 1:
        raise UserError(f"--eval_pairs is {flags.eval_pairs}; expected 1 or more")
    if not flags.document_mask:
        raise UserError("--no-document_mask would let the answers of a pair see each other; leave it out")


def resolved(flags: Flags, start: "Start") -> "Hyperparameters":
    """The hyperparameters. A row holds two conversations, so it may be twice as long as the context."""
    from nanochat.scaling import SFT_ROWS
    from nanochat.train.hyperparameters import resolve_hyperparameters

    assert start.loaded is not None
    config = start.loaded.model.config
    longest = config.sequence_len * (1 if config.learned_positions else 2)
    rows = 0 if start.is_resumed else SFT_ROWS
    return resolve_hyperparameters(flags, start.recorded, config, start.rt, start.is_resumed, rows, longest)


def sources(flags: Flags, start: "Start", T: int) -> "tuple[PairSource, PairSource]":
    """The pairs to learn from and those held out, which are numbered after the others."""
    from nanochat.train.preferences import PairSource
    from tasks.pairs import pairs

    assert start.loaded is not None
    tokenizer, context = start.loaded.tokenizer, start.loaded.model.config.sequence_len
    learned = pairs(flags.data_path, flags.val_data_path, "train")
    held_out = pairs(flags.data_path, flags.val_data_path, "val", flags.eval_pairs)
    if held_out.note:
        start.rt.print(held_out.note)
    return (
        PairSource(learned, tokenizer, T + 1, context, "dpo"),
        PairSource(held_out, tokenizer, T + 1, context, "dpo", len(learned)),
    )


def reference_of(run: "Run", sources: "Sequence[PairSource]", data: list[dict]) -> "Tensor":
    """What `log_probabilities` finds with the model that the run started from, (N, 4) for all sources together.

    It is kept in the run's folder. Raises UserError where no pair fits, and where it is missing together with that
    model.
    """
    from nanochat.train.preferences import kept

    rt, T = run.rt, run.hparams.max_seq_len
    sizes = [source.size for source in sources]
    content = [run.start.parent, data, run.tokenizer.hash, T, sizes]
    compute = partial(_read_by_reference, run, sources)
    table = kept(run.start.folder, content, sum(sizes), compute, rt, writes=not run.start.flags.dry_run)
    if long := int((table[: sizes[0], 2] == 0).sum()):
        rt.print(f"{long} of the {sizes[0]} pairs are left out, because they do not fit into {T} tokens")
    return table


def _read_by_reference(run: "Run", sources: "Sequence[PairSource]") -> "Tensor":
    """The tables of all sources by the model that the run started from, which a resumed run loads anew."""
    import torch

    from nanochat.checkpoint import door
    from nanochat.checkpoint.manager import LoadAs
    from nanochat.train.preferences import log_probabilities

    start, rt, model = run.start, run.rt, run.model
    if start.is_resumed:
        flags = start.flags
        try:
            model = door.open(flags.source, LoadAs(rt.device, rt.dtype), flags.model_tag, flags.model_step).model
        except UserError as error:
            raise UserError(
                f"{start.folder} lacks the log-probabilities of the model that this run started from, and it cannot be "
                f"asked again: {error} (or start over with --resume never --overwrite)"
            ) from None
        model.document_bos = run.tokenizer.bos
        model.eval()
    rt.print(f"reading {sum(source.size for source in sources)} pairs once with the model that training starts from")
    rows, T = run.hparams.device_batch_size, run.hparams.max_seq_len
    tables = [log_probabilities(model, source, rows, T, rt) for source in sources]
    if not bool(tables[0].any()):
        raise UserError(
            f"none of the {sources[0].size} pairs fits into {T} tokens with both its answers, each within the model's "
            f"context of {run.model.config.sequence_len}; shorten them, or raise --max_seq_len, up to twice the context"
        )
    return torch.cat(tables)


def results(run: "Run", pairs: int, flops: int, state: "TrainState", meta: dict) -> dict:
    """What the report says; margin and accuracy on the held-out pairs before and after are printed, too."""
    from nanochat.eval.accuracy import interval

    before, after = ({name: each[name] for name in SCORES if name in each} for each in (state.before, meta))
    if before and after:
        low, high = interval(after["val_accuracy"] * pairs, pairs)
        run.rt.print(
            f"chat_dpo: of {pairs} held-out pairs the chosen answer is preferred in {after['val_accuracy']:.1%} "
            f"(95 % interval {low:.1%} to {high:.1%}), by {after['val_margin']:.2f} nats in the mean; "
            f"before, in {before['val_accuracy']:.1%}, by {before['val_margin']:.2f}"
        )
    tokens = state.step * run.hparams.total_batch_size
    held = {"before": before, "scores": after, "pairs": pairs} if after else {}
    return {"tokens": tokens, "flops": tokens * flops, "preference_loss": state.smooth_loss, **held}


if __name__ == "__main__":
    run(main)
