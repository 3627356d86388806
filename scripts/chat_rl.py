"""Reinforcement learning: a chat model answers questions that can be graded, and learns from its right answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from nanochat.checkpoint.flags import ModelName
from nanochat.config import parse
from nanochat.errors import UserError, run
from nanochat.train.flags import Compile, LaterFlags, Rows

if TYPE_CHECKING:  # imported after the flags were parsed, since torch takes seconds
    from nanochat.data.task import Task
    from nanochat.runtime import Runtime
    from nanochat.train.loop import TrainState
    from nanochat.train.rollouts import Policy, Sampling
    from nanochat.train.start import Run


@dataclass
class Rollouts:
    """What is asked, and how it is answered."""

    # --- data
    task: str = "spelling|counting"
    """tasks to learn: spelling, counting, arithmetic, GSM8K, SpellingBee, ...; several joined by |"""

    # --- batch and length
    examples_per_step: int = 64
    """take this many prompts per optimizer step over all ranks"""
    num_samples: int = 8
    """completions sampled for each prompt"""
    device_batch_size: Rows | None = None
    """rows per forward pass and rank; auto: as many as fit into memory; default: inherited, else 32"""

    # --- generation
    max_new_tokens: int = 256
    """longest completion in tokens; the model's context may allow less"""
    temperature: float = 1.0
    """sampling temperature; the gradient assumes 1"""
    top_k: int = 0
    """sample from the k most likely tokens; 0: from all, as the gradient assumes"""


@dataclass
class Flags(LaterFlags, Rollouts):
    """Reinforcement learning: a chat model learns from its own answers, by which of them are right."""

    EXAMPLE: ClassVar = "--task spelling --num_iterations 60"

    # --- model
    source: ModelName = "sft"
    """model to start from: mid, sft, dpo, rl, sft:d3:700, a folder or user/name"""

    # --- batch and length
    num_iterations: int = 30
    """optimizer steps; -1 makes --num_epochs passes over the prompts"""
    num_epochs: float = 1.0
    """passes over the prompts, if --num_iterations is -1"""

    # --- optimization
    init_lr_frac: float = 0.1
    """factor on all learning rates"""
    warmdown_ratio: float = 0.5
    """fraction of the run spent in learning-rate warmdown"""
    final_lr_frac: float = 0.0
    """final learning rate as a fraction of the peak"""

    # --- evaluation
    eval_every: int = 0
    """steps between evaluations on held-out prompts; 0 evaluates before the first and after the last, -1 never"""
    eval_examples: int = 400
    """evaluate on this many held-out prompts per task"""
    eval_samples: int = 4
    """completions sampled per held-out prompt, for pass@1 and pass@k"""

    # --- output
    save_every: int = 10
    """steps between checkpoints; -1 saves at the end only"""

    # --- machine
    compile: Compile = False
    """use torch.compile for learning, if there is a compiler; sampling takes most of the time"""



def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    from nanochat.train.start import launch

    launch(flags, train)


def train(flags: Flags, rt: "Runtime") -> None:
    from nanochat.data import contents
    from nanochat.train.hyperparameters import resolve_hyperparameters
    from nanochat.train.loop import Evaluation
    from nanochat.train.rollouts import Prompts, Sampling, rollouts
    from nanochat.train.stage import prepared, run_stream
    from nanochat.train.start import begin, open_run
    from tasks import catalog

    select(flags.task)
    with open_run("rl", flags, rt) as start:
        flags, rt, loaded = start.flags, start.rt, start.loaded
        assert loaded is not None
        check(flags)
        names = select(flags.task)
        tasks = [catalog.task(name, "train") for name in names]
        held_out = [held_out_task(name, flags.eval_examples) for name in names]
        hparams = resolve_hyperparameters(flags, start.recorded, loaded.model.config, rt, start.is_resumed)
        if hparams.device_batch_size < 1:
            raise UserError(f"--device_batch_size is {hparams.device_batch_size}; expected 1 or more")
        lineage = {
            "parent": start.parent, "task": "|".join(names), "seed": flags.seed,
            "dataset": start.meta.get("dataset"), "conversations": start.meta.get("conversations"),
            "data": [entry for task in tasks for entry in contents.of(task, task.name)],
        }  # fmt: skip
        run = prepared(begin(start, hparams, lineage, loaded.tokenizer))
        rows = run.hparams.device_batch_size
        largest = -(-flags.examples_per_step // rt.world) * flags.num_samples  # completions of this rank in a step
        policy = policy_of(run, largest)
        sampling = Sampling(flags.num_samples, flags.max_new_tokens, flags.temperature, flags.top_k, flags.seed)
        stream = rollouts(
            Prompts(tasks, flags.seed), policy, sampling, flags.examples_per_step, rows,
            rt.rank, rt.world, run.state.cursor, few_shapes=bool(flags.compile),
        )  # fmt: skip
        graded = replace(sampling, num_samples=flags.eval_samples)
        evaluation = Evaluation(
            flags.eval_every, lambda stopping: scores(run, policy, held_out, graded, stopping), first=True
        )
        run_stream(
            "chat_rl", run, stream, -(-largest // rows), [evaluation],
            lambda state, meta: results(run, held_out, state, meta), flags.num_iterations, flags.num_epochs,
            best="val_error", shown=("reward", "completion_tokens"), on_policy=True,
        )  # fmt: skip


def policy_of(run: "Run", largest: int) -> "Policy":
    """The run's model as a sampler of up to `largest` completions at once."""
    from nanochat.engine.serving import slots_that_fit
    from nanochat.train.objective import freeze_gates
    from nanochat.train.rollouts import Policy

    model = run.model.eval()  # with dropout, the model that learns would differ from the one that sampled
    freeze_gates(model)
    return Policy(model, run.tokenizer, min(largest, slots_that_fit(model.config, run.rt.dtype, run.rt.device)))


def scores(
    run: "Run", policy: "Policy", held_out: "list[Task]", sampling: "Sampling", stopping: Callable[[], bool]
) -> dict[str, float]:
    """The pass rates of each task, and val_error, by which the best checkpoint is kept."""
    from nanochat.train.rollouts import pass_rates

    found: dict[str, float] = {}
    for task in held_out:
        examples = run.start.flags.eval_examples
        rates = pass_rates(task, examples, policy, sampling, stopping, run.rt.rank, run.rt.world)
        found |= {f"{name}/{task.name}": rate for name, rate in rates.items()}
    first = [rate for name, rate in found.items() if name.startswith("pass@1/")]
    return {**found, "val_error": 1 - sum(first) / len(first)}


def results(run: "Run", held_out: "list[Task]", state: "TrainState", meta: dict) -> dict:
    """The pass rates before and after, which are printed, too, and how many prompts and completions they are of."""
    from nanochat.eval.accuracy import interval

    flags = run.start.flags
    sizes = {task.name: min(flags.eval_examples, len(task)) for task in held_out}
    before, after = (
        {name: rate for name, rate in each.items() if name.startswith("pass@")} for each in (state.before, meta)
    )
    for name, n in sizes.items() if before and after else ():
        was, now = before[f"pass@1/{name}"], after[f"pass@1/{name}"]
        low, high = interval(now * n, n)
        run.rt.print(
            f"chat_rl: {name}: {was:.1%} of the held-out questions right before, {now:.1%} after "
            f"(95 % interval {low:.1%} to {high:.1%}, {n} questions, {flags.eval_samples} answers to each)"
        )
    tokens = state.cursor["sampled"] if state.cursor else 0
    held = {"questions": sizes, "samples": flags.eval_samples} if after else {}
    return {"tokens": tokens, "before": before, "scores": after, **held}


def check(flags: Flags) -> None:
    """Check the flags before anything is loaded. Raises UserError."""
    for name in ("examples_per_step", "num_samples", "max_new_tokens", "eval_examples", "eval_samples"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name} is {getattr(flags, name)}; expected 1 or more")
    if flags.num_samples == 1:
        raise UserError("--num_samples is 1; expected 2 or more, because completions of a prompt are compared")
    if flags.temperature <= 0:
        raise UserError(f"--temperature is {flags.temperature}; expected more than 0, or all completions are the same")
    if flags.num_iterations < 1 and flags.num_epochs <= 0:
        raise UserError(f"--num_epochs is {flags.num_epochs}; expected more than 0")


def select(task: str) -> list[str]:
    """The tasks of --task, by their names in the catalog. Raises UserError for one that cannot be learned from."""
    from tasks import catalog

    every = [name for names in catalog.GRADED.values() for name in names]
    known = {name.lower(): name for name in every if name not in catalog.TEST_ONLY}
    chosen = [name.strip().lower() for name in task.split("|")]
    for name in chosen:
        if name not in known:
            raise UserError(f"--task {name!r} cannot be learned from; choose from: {', '.join(known.values())}")
    return [known[name] for name in dict.fromkeys(chosen)]


def held_out_task(name: str, size: int) -> "Task":
    """A task's held-out questions, which are not the scored ones; the little world makes as many as are wanted."""
    from tasks import catalog
    from tasks.littleworld.conversations import KINDS, LittleWorld

    return LittleWorld(name, "val", size) if name in KINDS else catalog.task(name, "val")


if __name__ == "__main__":
    run(main)
