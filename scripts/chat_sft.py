"""Fine-tune on conversations: only what the assistant says is learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nanochat import runtime
from nanochat.checkpoint import manager
from nanochat.config import parse, run
from nanochat.data.shards import Split
from nanochat.data.streams import ConversationSource
from nanochat.train.stage import LaterFlags, begin, describe_parent, run_stage, settle
from tasks.catalog import training_conversations


@dataclass
class Flags(LaterFlags):
    """Fine-tune a base or mid-trained model on conversations."""

    source: Literal["base", "mid"] = "mid"
    """stage to start from"""
    num_epochs: float = 1.0
    """passes over the conversations, where --num_iterations is not given"""
    init_lr_frac: float = 0.02
    """factor on all learning rates"""
    eval_every: int = 100
    """steps between validations; 0 validates at the end only, -1 never"""
    warmdown_ratio: float = 1.0
    """share of the run over which the learning rate falls"""
    final_lr_frac: float = 0.0
    """learning rate at the end, as a share"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    with runtime.start(flags.device_type, flags.dtype, flags.seed) as rt:
        loaded = manager.load(flags.source, flags.model_tag, flags.model_step, rt.device, rt.dtype)
        rt.print(f"starting from step {loaded.step} of {loaded.folder}")
        h = settle(flags, loaded, rt)
        parent = describe_parent(loaded, flags.source)
        begun = begin("sft", loaded.tag, flags.resume, rt, loaded.model.config, lambda: loaded.model, parent)

        def source(split: Split) -> ConversationSource:
            conversations = training_conversations(flags.conversations, flags.data_path, split)
            return ConversationSource(conversations, loaded.tokenizer, h.max_seq_len + 1, masked=True, order="sft")

        run_stage(
            "chat_sft", "sft", loaded.tag, flags, h, rt, loaded.tokenizer, begun, source("train"), source("val"),
            num_iterations=flags.num_iterations, num_epochs=flags.num_epochs,
            about={"dataset": loaded.meta.get("dataset"), "parent": parent},
        )  # fmt: skip


if __name__ == "__main__":
    run(main)
