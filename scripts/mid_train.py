"""Continue a base model on text and conversations together, so that it meets dialogue before it is fine-tuned."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from nanochat import runtime
from nanochat.checkpoint import door
from nanochat.checkpoint.manager import LoadAs
from nanochat.config import UserError, parse, run
from nanochat.data import texts, tinyworld
from nanochat.data.shards import DEFAULT_DATASET, Split
from nanochat.data.streams import ConversationSource, MixedSource, Source
from nanochat.paths import dataset_dir
from nanochat.runtime import Runtime
from nanochat.train.stage import ConversationFlags, Run, begin, describe_parent, run_stage, settle
from tasks.catalog import training_conversations


@dataclass
class Flags(ConversationFlags):
    """Continue a base model on text and conversations together."""

    dataset: list[str] = field(default_factory=list)
    """dataset whose text is mixed in, or several by weight: a:0.7 b:0.3; inherited"""
    text_share: float = 0.3
    """share of the documents that are text of the dataset; the others are conversations"""
    eval_every: int = 150
    """steps between validations; 0 validates at the end only, -1 never"""
    warmdown_ratio: float = 0.2
    """share of the run over which the learning rate falls"""
    final_lr_frac: float = 0.0
    """learning rate at the end, as a share"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    with runtime.start(flags.device_type, flags.dtype, flags.seed) as rt:
        loaded = door.open("base", LoadAs(rt.device, rt.dtype), flags.model_tag, flags.model_step)
        rt.print(f"starting from {loaded}")
        h = settle(flags, loaded, rt)
        if not 0 <= flags.text_share <= 1:
            raise UserError(f"--text_share is {flags.text_share}; expected a share between 0 and 1")
        datasets = flags.dataset or (loaded.meta.get("dataset") or DEFAULT_DATASET).split()
        if datasets == [DEFAULT_DATASET] and flags.text_share > 0:
            write_where_missing(rt)
        about = {
            "parent": describe_parent(loaded, "base"), "dataset": " ".join(datasets),
            "conversations": flags.conversations, "data_path": flags.data_path, "text_share": flags.text_share,
            "seed": flags.seed,
        }  # fmt: skip
        begun = begin("mid", loaded.tag, flags.resume, rt, loaded.model.config, lambda: loaded.model, about)

        def source(split: Split) -> Source:
            conversations = training_conversations(flags.conversations, flags.data_path, split, "mid")
            talk = ConversationSource(conversations, loaded.tokenizer, h.max_seq_len + 1, masked=False, order="mid")
            if flags.text_share <= 0:
                return talk
            text = texts.text_source(datasets, split, loaded.tokenizer)
            return MixedSource([(text, flags.text_share), (talk, 1 - flags.text_share)])

        run_stage(
            "mid_train", Run("mid", loaded.tag, flags, h, rt, loaded.tokenizer, begun, about),
            source("train"), source("val"), num_iterations=flags.num_iterations,
        )  # fmt: skip


def write_where_missing(rt: Runtime) -> None:
    """Write the text of the little world, which somebody who comes with weights does not have yet."""
    folder = dataset_dir(DEFAULT_DATASET)
    if rt.is_main and not folder.exists():
        rt.print(f"writing the text of the little world to {folder}, as no --dataset is given")
        tinyworld.write(folder)
    rt.wait()


if __name__ == "__main__":
    run(main)
