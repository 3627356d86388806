"""Fine-tune on conversations: only what the assistant says is learned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nanochat import runtime
from nanochat.checkpoint import door
from nanochat.checkpoint.manager import LoadAs
from nanochat.config import UserError, parse, run
from nanochat.data.shards import Split
from nanochat.data.streams import ConversationSource
from nanochat.engine.engine import Engine
from nanochat.eval.accuracy import evaluate
from nanochat.train.loop import Probe
from nanochat.train.stage import ConversationFlags, Run, begin, describe_parent, run_stage, settle
from tasks.catalog import graded_tasks, training_conversations


@dataclass
class Flags(ConversationFlags):
    """Fine-tune a base or mid-trained model on conversations."""

    source: Literal["base", "mid"] = "mid"
    """stage to start from"""
    num_epochs: float = 1.0
    """passes over the conversations, where --num_iterations is not given"""
    target_examples_per_step: int | None = None
    """rows per optimizer step: the older way to say --total_batch_size"""
    eval_steps: int | None = None
    """batches of a validation: the older way to say --eval_tokens"""
    init_lr_frac: float = 0.02
    """factor on all learning rates"""
    eval_metrics_every: int = 200
    """steps between measurements of the accuracy; 0 measures at the end only, -1 never"""
    eval_metrics_max_problems: int = 1024
    """questions of each task in such a measurement"""
    eval_every: int = 100
    """steps between validations; 0 validates at the end only, -1 never"""
    warmdown_ratio: float = 1.0
    """share of the run over which the learning rate falls"""
    final_lr_frac: float = 0.0
    """learning rate at the end, as a share"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    with runtime.start(flags.device_type, flags.dtype, flags.seed) as rt:
        loaded = door.open(flags.source, LoadAs(rt.device, rt.dtype), flags.model_tag, flags.model_step)
        rt.print(f"starting from {loaded}")
        if flags.target_examples_per_step is not None:
            T = flags.max_seq_len or loaded.model.config.sequence_len
            flags.total_batch_size = flags.target_examples_per_step * T
        h = settle(flags, loaded, rt)
        if flags.eval_steps is not None:
            h = replace(h, eval_tokens=flags.eval_steps * h.device_batch_size * h.max_seq_len * rt.world)
        if flags.num_epochs <= 0:
            raise UserError(f"--num_epochs is {flags.num_epochs}; expected more than 0")
        about = {
            "parent": describe_parent(loaded, flags.source), "dataset": loaded.meta.get("dataset"),
            "conversations": flags.conversations, "data_path": flags.data_path, "seed": flags.seed,
        }  # fmt: skip
        begun = begin("sft", loaded.tag, flags.resume, rt, loaded.model.config, lambda: loaded.model, about)

        def source(split: Split) -> ConversationSource:
            conversations = training_conversations(flags.conversations, flags.data_path, split)
            return ConversationSource(conversations, loaded.tokenizer, h.max_seq_len + 1, masked=True, order="sft")

        def accuracies(stopping: Callable[[], bool]) -> dict[str, float]:
            scores: dict[str, float] = {}
            engine = Engine(begun.model, slots=32)
            for task in graded_tasks(flags.conversations, "val"):
                if stopping():
                    break
                most = flags.eval_metrics_max_problems
                scores[f"accuracy/{task.name}"] = evaluate(task, engine, loaded.tokenizer, max_problems=most).accuracy
            return scores

        run_stage(
            "chat_sft", Run("sft", loaded.tag, flags, h, rt, loaded.tokenizer, begun, about),
            source("train"), source("val"), num_iterations=flags.num_iterations, num_epochs=flags.num_epochs,
            probes=[Probe(flags.eval_metrics_every, accuracies)],
        )  # fmt: skip


if __name__ == "__main__":
    run(main)
