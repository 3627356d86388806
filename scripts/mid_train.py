"""Continue a base model on text and conversations together, so that it meets dialogue before it is fine-tuned."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from nanochat.checkpoint.flags import ModelName
from nanochat.config import parse
from nanochat.errors import UserError, run
from nanochat.paths import DEFAULT_DATASET, dataset_dir
from nanochat.train.flags import ConversationFlags

if TYPE_CHECKING:  # imported after the flags were parsed, since torch takes seconds
    from nanochat.data.shards import Split
    from nanochat.data.streams import Source
    from nanochat.runtime import Runtime
    from nanochat.train.start import Start

TEXT_FRACTION = 0.3  # of the documents


@dataclass
class Text:
    """The text that is mixed in."""

    # --- data
    dataset: list[str] = field(default_factory=list)
    """dataset whose text is mixed in, or several by weight in tokens: a:0.7 b:0.3; default: the model's"""
    text_share: float | None = None
    """fraction of documents (not tokens) that are text; default: 0.3, but 0 without a dataset or in the real recipe"""


@dataclass
class Flags(ConversationFlags, Text):
    """Continue a base model on text and conversations together."""

    EXAMPLE: ClassVar = "--source base:d12 --text_share 0.5"

    source: ModelName = "base"
    """model to start from: base, mid, sft, dpo, rl, base:d3:700, gpt2, a folder, a ckpt.pt or user/name"""
    eval_every: int = 150
    """steps between validations; 0 validates at the end only, -1 never"""
    warmdown_ratio: float = 0.2
    """fraction of the run spent in learning-rate warmdown"""
    final_lr_frac: float = 0.0
    """final learning rate as a fraction of the peak"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    from nanochat.train.start import launch

    launch(flags, train)


def train(flags: Flags, rt: "Runtime") -> None:
    from nanochat.data import texts
    from nanochat.data.streams import MixedSource
    from nanochat.train import teacher
    from nanochat.train.hyperparameters import resolve_hyperparameters
    from nanochat.train.loop import Evaluation
    from nanochat.train.stage import run_stage
    from nanochat.train.start import begin, open_run
    from scripts._samples import Watched
    from tasks import recipes

    with open_run("mid", flags, rt) as start:
        flags, rt, loaded = start.flags, start.rt, start.loaded
        assert loaded is not None
        tokenizer, config = loaded.tokenizer, loaded.model.config
        recipe, datasets, text_share = mixed(flags, start)
        hparams = resolve_hyperparameters(flags, start.recorded, config, rt, start.is_resumed)
        if datasets == [DEFAULT_DATASET] and text_share > 0:
            write_where_missing(rt)
        passes = 1.0  # over the conversations

        def source(split: "Split") -> "Source":
            nonlocal passes
            if text_share == 1:
                return texts.text_source(datasets, split, tokenizer, flags.seed)
            talk = recipes.conversations(flags, recipe, split, "mid", tokenizer, hparams, start)
            if text_share == 0:
                return talk
            text = texts.text_source(datasets, split, tokenizer, flags.seed)
            both = MixedSource([(text, text_share), (talk, 1 - text_share)])
            if split == "train":  # an epoch ends with the longer part, when the shorter has been read several times
                passes = both.size * (1 - text_share) / talk.size
            return both

        train_source, val_source = source("train"), source("val")
        lineage = {
            "parent": start.parent, "conversations": recipe,
            "dataset": " ".join(datasets) if text_share else start.meta.get("dataset"),
            "mixture": texts.mixture(datasets) if text_share else None, "text_share": text_share,
            "max_seq_len": hparams.max_seq_len, "seed": flags.seed,
            "data": train_source.contents() + val_source.contents(),
        }  # fmt: skip
        taught = teacher.load(flags, tokenizer, hparams.max_seq_len, rt)
        run = begin(start, hparams, lineage, tokenizer, teacher=taught)
        own = recipes.count_own(flags, recipe, tokenizer, hparams, start, passes, text_share > 0)
        run.extra = {"data_path": flags.data_path, **own}
        watched = Watched("mid_train", run, recipes.questions(recipe, val_source), is_chat=text_share < 1)
        run_stage(
            "mid_train", run, train_source, val_source, num_iterations=flags.num_iterations,
            evaluations=[Evaluation(flags.sample_every, watched)],
        )  # fmt: skip


def mixed(flags: Flags, start: "Start") -> tuple[str, list[str], float]:
    """The recipe of the conversations, the datasets of the text, and the fraction of documents that are text."""
    from tasks import recipes

    if flags.text_share == 1 and (flags.data_path or flags.conversations not in (None, "none")):
        raise UserError("--text_share=1 leaves no room for conversations; lower it, or leave them out")
    recipe = "none" if flags.text_share == 1 and flags.conversations is None else recipes.choose(flags, start)
    datasets = flags.dataset or str(start.meta.get("dataset") or "").split()
    if not datasets and recipe == "littleworld":
        datasets = [DEFAULT_DATASET]
    text_share = flags.text_share
    if text_share is None:
        text_share = 0.0 if not datasets or (recipe == "real" and not flags.dataset) else TEXT_FRACTION
    if not 0 <= text_share <= 1:
        raise UserError(f"--text_share is {text_share}; expected a fraction between 0 and 1")
    if text_share > 0 and not datasets:
        raise UserError(f"--text_share is {text_share}, but the model records no dataset; name one with --dataset")
    return recipe, datasets, text_share


def write_where_missing(rt: "Runtime") -> None:
    """Write the text of the little world if it is missing, as for a model that was not trained on this machine."""
    from tasks.littleworld import corpus

    folder = dataset_dir(DEFAULT_DATASET)
    if rt.is_main and not folder.exists():
        rt.print(f"writing the text of the little world to {folder}, because no --dataset was passed")
        corpus.write(folder)
    rt.wait()


if __name__ == "__main__":
    run(main)
