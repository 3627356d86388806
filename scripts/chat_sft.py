"""Fine-tune on conversations: only what the assistant says is learned."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from nanochat.config import parse
from nanochat.errors import UserError, run
from nanochat.train.flags import ConversationFlags

if TYPE_CHECKING:  # imported after the flags were parsed, since torch takes seconds
    from nanochat.data.task import Task
    from nanochat.runtime import Runtime
    from nanochat.train.hyperparameters import Hyperparameters
    from nanochat.train.start import Run, Start


@dataclass
class Flags(ConversationFlags):
    """Fine-tune a base, mid-trained or fine-tuned model on conversations."""

    EXAMPLE: ClassVar = "--source base --out_tag mine --data_path my.jsonl --conversations none"

    # --- batch and length
    num_epochs: float = 1.0
    """passes over the conversations, unless --num_iterations is passed"""
    target_examples_per_step: int | None = None
    """rows per optimizer step, the older form of --total_batch_size; default: 32"""

    # --- optimization
    init_lr_frac: float = 0.02
    """factor on all learning rates"""
    warmdown_ratio: float = 1.0
    """fraction of the run spent in learning-rate warmdown"""
    final_lr_frac: float = 0.0
    """final learning rate as a fraction of the peak"""

    # --- evaluation
    eval_every: int = 100
    """steps between validations; 0 validates at the end only, -1 never"""
    eval_metrics_every: int = 200
    """steps between measurements of the accuracy; 0 measures at the end only, -1 never"""
    eval_metrics_max_problems: int = 1024
    """ask this many questions per task in those measurements"""
    eval_steps: int | None = None
    """validate on this many batches, the older form of --eval_tokens"""



def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    from nanochat.train.start import launch

    launch(flags, train)


def train(flags: Flags, rt: "Runtime") -> None:
    from nanochat.train import teacher
    from nanochat.train.loop import Evaluation
    from nanochat.train.stage import run_stage
    from nanochat.train.start import begin, open_run
    from scripts._samples import Watched
    from tasks import recipes
    from tasks.catalog import graded_tasks

    with open_run("sft", flags, rt) as start:
        flags, loaded = start.flags, start.loaded
        assert loaded is not None
        tokenizer, recipe = loaded.tokenizer, recipes.choose(flags, start)
        hparams = resolved(flags, start)
        train_source, val_source = (
            recipes.conversations(flags, recipe, split, "sft", tokenizer, hparams, start) for split in ("train", "val")
        )
        with recipes.other_ways():
            graded = graded_tasks(recipe, "val") if flags.eval_metrics_every >= 0 else []
        lineage = {
            "parent": start.parent, "dataset": start.meta.get("dataset"), "conversations": recipe,
            "max_seq_len": hparams.max_seq_len, "seed": flags.seed,
            "data": train_source.contents() + val_source.contents(),
        }  # fmt: skip
        taught = teacher.load(flags, tokenizer, hparams.max_seq_len, rt)
        run = begin(start, hparams, lineage, tokenizer, teacher=taught)
        own = recipes.count_own(flags, recipe, tokenizer, hparams, start, flags.num_epochs)
        run.extra = {"data_path": flags.data_path, **own}
        accuracy = Evaluation(flags.eval_metrics_every, lambda stopping: accuracies(run, graded, stopping))
        watched = Watched("chat_sft", run, recipes.questions(recipe, val_source), is_chat=True)
        run_stage(
            "chat_sft", run, train_source, val_source, num_iterations=flags.num_iterations,
            num_epochs=flags.num_epochs, evaluations=[accuracy, Evaluation(flags.sample_every, watched)],
        )  # fmt: skip


def resolved(flags: Flags, start: "Start") -> "Hyperparameters":
    """The hyperparameters, after checking the flags that set the same thing in different ways."""
    from nanochat.scaling import SFT_ROWS
    from nanochat.train.hyperparameters import resolve_hyperparameters

    if flags.num_epochs <= 0:
        raise UserError(f"--num_epochs is {flags.num_epochs}; expected more than 0")
    for name, older in (("total_batch_size", "target_examples_per_step"), ("eval_tokens", "eval_steps")):
        if None not in (getattr(flags, name), getattr(flags, older)):
            raise UserError(f"--{name} and --{older} set the same thing; pass only one of them")
    if flags.target_examples_per_step is not None and flags.target_examples_per_step < 1:
        raise UserError(f"--target_examples_per_step is {flags.target_examples_per_step}; expected 1 or more")
    assert start.loaded is not None
    config, rows = start.loaded.model.config, flags.target_examples_per_step
    rows = rows or (0 if start.is_resumed else SFT_ROWS)
    hparams = resolve_hyperparameters(flags, start.recorded, config, start.rt, start.is_resumed, rows)
    if flags.eval_steps is None:
        return hparams
    tokens = flags.eval_steps * hparams.device_batch_size * hparams.max_seq_len * start.rt.world
    return replace(hparams, eval_tokens=tokens)


def accuracies(run: "Run", tasks: "Sequence[Task]", stopping: Callable[[], bool]) -> dict[str, float]:
    """The fraction of right answers in each task."""
    from nanochat.engine.engine import Engine
    from nanochat.eval.accuracy import evaluate

    scores: dict[str, float] = {}
    engine = Engine(run.model, slots=32)
    for task in tasks:
        if stopping():
            break
        most = run.start.flags.eval_metrics_max_problems
        scores[f"accuracy/{task.name}"] = evaluate(task, engine, run.tokenizer, max_problems=most).accuracy
    return scores


if __name__ == "__main__":
    run(main)
