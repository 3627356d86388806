"""Continue a base model on text and conversations together, so that it meets dialogue before it is fine-tuned."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from nanochat import runtime
from nanochat.checkpoint.flags import ModelName
from nanochat.config import parse
from nanochat.data import texts
from nanochat.data.shards import DEFAULT_DATASET, Split
from nanochat.data.streams import MixedSource, Source
from nanochat.errors import UserError, run
from nanochat.paths import dataset_dir
from nanochat.runtime import Runtime
from nanochat.train.flags import ConversationFlags, settle
from nanochat.train.stage import Run, run_stage
from nanochat.train.start import begin, opened, or_anew
from tasks import recipes
from tasks.littleworld import corpus

TEXT_SHARE = 0.3


@dataclass
class Flags(ConversationFlags):
    """Continue a base model on text and conversations together."""

    source: ModelName = "base"
    """model to start from: base, mid, sft, rl, base:d4:700, gpt2, a folder, a ckpt.pt or user/name"""
    dataset: list[str] = field(default_factory=list)
    """dataset whose text is mixed in, or several by weight in tokens: a:0.7 b:0.3; default: the model's"""
    text_share: float | None = None
    """fraction of documents (not tokens) that are text; default: 0.3, but 0 without a dataset or in the real recipe"""
    eval_every: int = 150
    """steps between validations; 0 validates at the end only, -1 never"""
    warmdown_ratio: float = 0.2
    """fraction of the run spent in learning-rate warmdown"""
    final_lr_frac: float = 0.0
    """final learning rate as a fraction of the peak"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    with runtime.start(flags.device_type, flags.dtype, flags.seed) as rt:
        or_anew(flags, lambda flags: train(flags, rt))


def train(flags: Flags, rt: Runtime) -> None:
    with opened("mid", flags, rt) as (start, flags):
        rt, loaded = start.rt, start.loaded
        assert loaded is not None
        tokenizer = loaded.tokenizer
        if flags.text_share == 1 and (flags.data_path or flags.conversations not in (None, "none")):
            raise UserError("--text_share=1 leaves no room for conversations; lower it, or leave them out")
        recipe = "none" if flags.text_share == 1 and flags.conversations is None else recipes.choose(flags, start)
        datasets = flags.dataset or (start.meta.get("dataset") or "").split()
        if not datasets and recipe == "littleworld":
            datasets = [DEFAULT_DATASET]
        text_share = flags.text_share
        if text_share is None:
            text_share = 0.0 if not datasets or (recipe == "real" and not flags.dataset) else TEXT_SHARE
        if not 0 <= text_share <= 1:
            raise UserError(f"--text_share is {text_share}; expected a fraction between 0 and 1")
        if text_share > 0 and not datasets:
            raise UserError(f"--text_share is {text_share}, but the model records no dataset; name one with --dataset")
        T = loaded.model.config.sequence_len
        h = settle(flags, start.recorded, T, rt, start.is_resumed)
        if datasets == [DEFAULT_DATASET] and text_share > 0:
            write_where_missing(rt)

        passes = 1.0  # over the conversations

        def source(split: Split) -> Source:
            nonlocal passes
            if text_share == 1:
                return texts.text_source(datasets, split, tokenizer, flags.seed)
            talk = recipes.conversations(flags, recipe, split, "mid", tokenizer, h, start)
            if text_share == 0:
                return talk
            text = texts.text_source(datasets, split, tokenizer, flags.seed)
            mixed = MixedSource([(text, text_share), (talk, 1 - text_share)])
            if split == "train":  # an epoch ends with the longer part, when the shorter has been read several times
                passes = mixed.size * (1 - text_share) / talk.size
            return mixed

        train_source, val_source = source("train"), source("val")
        about = {
            "parent": start.parent, "conversations": recipe,
            "dataset": " ".join(datasets) if text_share else start.meta.get("dataset"),
            "mixture": texts.mixture(datasets) if text_share else None, "text_share": text_share,
            "max_seq_len": h.max_seq_len, "seed": flags.seed,
            "data": train_source.contents() + val_source.contents(),
        }  # fmt: skip
        begun = begin(start, h, about)
        own = recipes.count_own(flags, recipe, tokenizer, h, start, passes, text_share > 0)
        run_stage(
            "mid_train", Run(start, flags, h, tokenizer, begun, {**about, "data_path": flags.data_path, **own}),
            train_source, val_source, num_iterations=flags.num_iterations,
        )  # fmt: skip


def write_where_missing(rt: Runtime) -> None:
    """Write the text of the little world, which somebody who comes with weights does not have yet."""
    folder = dataset_dir(DEFAULT_DATASET)
    if rt.is_main and not folder.exists():
        rt.print(f"writing the text of the little world to {folder}, as no --dataset is given")
        corpus.write(folder)
    rt.wait()


if __name__ == "__main__":
    run(main)
