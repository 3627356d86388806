"""Fine-tune on conversations: only what the assistant says is learned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from nanochat import runtime
from nanochat.config import parse
from nanochat.engine.engine import Engine
from nanochat.errors import UserError, run
from nanochat.eval.accuracy import evaluate
from nanochat.runtime import Runtime
from nanochat.scaling import SFT_ROWS
from nanochat.train.flags import ConversationFlags, settle
from nanochat.train.loop import Evaluation
from nanochat.train.stage import Run, run_stage
from nanochat.train.start import begin, opened, or_anew
from tasks import recipes
from tasks.catalog import graded_tasks


@dataclass
class Flags(ConversationFlags):
    """Fine-tune a base, mid-trained or fine-tuned model on conversations."""

    num_epochs: float = 1.0
    """passes over the conversations, unless --num_iterations is given"""
    target_examples_per_step: int | None = None
    """rows per optimizer step, the older form of --total_batch_size; default: 32"""
    eval_steps: int | None = None
    """batches per validation, the older form of --eval_tokens"""
    init_lr_frac: float = 0.02
    """factor on all learning rates"""
    eval_metrics_every: int = 200
    """steps between measurements of the accuracy; 0 measures at the end only, -1 never"""
    eval_metrics_max_problems: int = 1024
    """questions of each task in such a measurement"""
    eval_every: int = 100
    """steps between validations; 0 validates at the end only, -1 never"""
    warmdown_ratio: float = 1.0
    """fraction of the run spent in learning-rate warmdown"""
    final_lr_frac: float = 0.0
    """final learning rate as a fraction of the peak"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    with runtime.start(flags.device_type, flags.dtype, flags.seed) as rt:
        or_anew(flags, lambda flags: train(flags, rt))


def train(flags: Flags, rt: Runtime) -> None:
    with opened("sft", flags, rt) as (start, flags):
        rt, loaded = start.rt, start.loaded
        assert loaded is not None
        tokenizer, T = loaded.tokenizer, loaded.model.config.sequence_len
        recipe = recipes.choose(flags, start)
        if flags.num_epochs <= 0:
            raise UserError(f"--num_epochs is {flags.num_epochs}; expected more than 0")
        for name, older in (("total_batch_size", "target_examples_per_step"), ("eval_tokens", "eval_steps")):
            if None not in (getattr(flags, name), getattr(flags, older)):
                raise UserError(f"--{name} and --{older} say the same; give one of them")
        if flags.target_examples_per_step is not None and flags.target_examples_per_step < 1:
            raise UserError(f"--target_examples_per_step is {flags.target_examples_per_step}; expected 1 or more")
        rows = flags.target_examples_per_step or (0 if start.is_resumed else SFT_ROWS)
        h = settle(flags, start.recorded, T, rt, start.is_resumed, rows)
        if flags.eval_steps is not None:
            h = replace(h, eval_tokens=flags.eval_steps * h.device_batch_size * h.max_seq_len * rt.world)
        train_source, val_source = (
            recipes.conversations(flags, recipe, split, "sft", tokenizer, h, start) for split in ("train", "val")
        )
        with recipes.other_ways():
            graded = graded_tasks(recipe, "val") if flags.eval_metrics_every >= 0 else []
        about = {
            "parent": start.parent, "dataset": start.meta.get("dataset"), "conversations": recipe,
            "max_seq_len": h.max_seq_len, "seed": flags.seed,
            "data": train_source.contents() + val_source.contents(),
        }  # fmt: skip
        begun = begin(start, h, about)
        own = recipes.count_own(flags, recipe, tokenizer, h, start, flags.num_epochs)

        def accuracies(stopping: Callable[[], bool]) -> dict[str, float]:
            scores: dict[str, float] = {}
            engine = Engine(begun.model, slots=32)
            for task in graded:
                if stopping():
                    break
                most = flags.eval_metrics_max_problems
                scores[f"accuracy/{task.name}"] = evaluate(task, engine, tokenizer, max_problems=most).accuracy
            return scores

        run_stage(
            "chat_sft", Run(start, flags, h, tokenizer, begun, {**about, "data_path": flags.data_path, **own}),
            train_source, val_source, num_iterations=flags.num_iterations, num_epochs=flags.num_epochs,
            evaluations=[Evaluation(flags.eval_metrics_every, accuracies)],
        )  # fmt: skip


if __name__ == "__main__":
    run(main)
