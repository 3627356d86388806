"""Let a chat model answer questions that can be graded, and learn from which of its answers were right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from nanochat import runtime
from nanochat.checkpoint.flags import ModelName
from nanochat.config import parse
from nanochat.data import contents
from nanochat.engine.serving import slots_that_fit
from nanochat.errors import UserError, run
from nanochat.eval.accuracy import interval
from nanochat.runtime import Runtime
from nanochat.train.flags import LaterFlags, settle
from nanochat.train.loop import Evaluation, TrainState
from nanochat.train.rollouts import Questions, Respondent, Sampling, pass_rates, rollouts
from nanochat.train.stage import Run, run_stream
from nanochat.train.start import begin, opened, or_anew
from tasks import catalog
from tasks.littleworld.conversations import KINDS, LittleWorld


@dataclass
class Flags(LaterFlags):
    """Reinforcement learning: a chat model learns from its own answers, by which of them are right."""

    source: ModelName = "sft"
    """model to start from: mid, sft, rl, sft:d4:700, a folder or user/name"""
    task: str = "spelling|counting"
    """tasks to learn: spelling, counting, arithmetic, GSM8K, SpellingBee, ...; several joined by |"""
    examples_per_step: int = 64
    """questions per optimizer step over all ranks"""
    num_samples: int = 8
    """answers to each question"""
    max_new_tokens: int = 256
    """longest answer in tokens; the model's context may allow less"""
    temperature: float = 1.0
    """sampling temperature of the answers; the gradient assumes 1"""
    top_k: int = 0
    """sample from the k most likely tokens; 0: from all, as the gradient assumes"""
    num_iterations: int = 30
    """optimizer steps; -1 makes --num_epochs passes over the questions"""
    num_epochs: float = 1.0
    """passes over the questions, where --num_iterations is -1"""
    init_lr_frac: float = 0.1
    """factor on all learning rates"""
    warmdown_ratio: float = 0.5
    """fraction of the run spent in learning-rate warmdown"""
    final_lr_frac: float = 0.0
    """final learning rate as a fraction of the peak"""
    compile: bool = False
    """use torch.compile for learning, if there is a compiler; answering takes most of the time"""
    eval_every: int = 0
    """steps between measurements on held-out questions; 0 measures before the first and after the last, -1 never"""
    eval_examples: int = 400
    """held-out questions of each task in such a measurement"""
    eval_samples: int = 4
    """answers to each of them, for pass@1 and pass@k"""
    save_every: int = 10
    """steps between checkpoints; -1 saves at the end only"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    with runtime.start(flags.device_type, flags.dtype, flags.seed) as rt:
        or_anew(flags, lambda flags: train(flags, rt))


def train(flags: Flags, rt: Runtime) -> None:
    select(flags.task)
    with opened("rl", flags, rt) as (start, flags):
        check(flags)
        names = select(flags.task)
        asked = [catalog.task(name, "train") for name in names]
        held_out = [held_out_task(name, flags.eval_examples) for name in names]
        rt, loaded = start.rt, start.loaded
        assert loaded is not None
        T = loaded.model.config.sequence_len
        h = settle(flags, start.recorded, T, rt, start.is_resumed)
        if h.device_batch_size < 1:
            raise UserError(f"--device_batch_size is {h.device_batch_size}; expected 1 or more")
        about = {
            "parent": start.parent, "task": "|".join(names), "seed": flags.seed,
            "dataset": start.meta.get("dataset"), "conversations": start.meta.get("conversations"),
            "data": [entry for task in asked for entry in contents.of(task, task.name)],
        }  # fmt: skip
        begun = begin(start, h, about)
        model = begun.model.eval()  # with dropout another model would learn than the one that answered
        # Their rate, which no flag lowers, is for a model that is new: here a step of it costs more than many gain.
        for name, parameter in model.named_parameters():
            if name.startswith(("smear_", "backout_")):
                parameter.requires_grad_(False)
        mine = -(-flags.examples_per_step // rt.world) * flags.num_samples
        slots = min(mine, slots_that_fit(model.config, rt.dtype, rt.device))
        respondent = Respondent(model, loaded.tokenizer, slots)
        sampling = Sampling(flags.num_samples, flags.max_new_tokens, flags.temperature, flags.top_k, flags.seed)
        questions = Questions(asked, flags.seed)
        sizes = {task.name: min(flags.eval_examples, len(task)) for task in held_out}

        def measure(stopping: Callable[[], bool]) -> dict[str, float]:
            scores: dict[str, float] = {}
            probing = replace(sampling, num_samples=flags.eval_samples)
            for task in held_out:
                shares = pass_rates(task, flags.eval_examples, respondent, probing, stopping, rt.rank, rt.world)
                scores |= {f"{name}/{task.name}": share for name, share in shares.items()}
            first = [share for name, share in scores.items() if name.startswith("pass@1/")]
            return {**scores, "val_error": 1 - sum(first) / len(first)}

        def results(state: TrainState, scores: dict) -> dict:
            """The shares of right answers before and after, and of how many questions and answers to each they are."""
            before, after = (
                {name: share for name, share in each.items() if name.startswith("pass@")}
                for each in (state.before, scores)
            )
            for task in held_out if before and after else []:
                was, now, n = before[f"pass@1/{task.name}"], after[f"pass@1/{task.name}"], sizes[task.name]
                low, high = interval(now * n, n)
                rt.print(
                    f"chat_rl: {task.name}: {was:.1%} of the held-out questions right before, {now:.1%} after "
                    f"(95 % interval {low:.1%} to {high:.1%}, {n} questions, {flags.eval_samples} answers to each)"
                )
            tokens = state.cursor["sampled"] if state.cursor else 0
            held = {"questions": sizes, "samples": flags.eval_samples} if after else {}
            return {"tokens": tokens, "before": before, "scores": after, **held}

        run_stream(
            "chat_rl", Run(start, flags, h, loaded.tokenizer, begun, about),
            rollouts(
                questions, respondent, sampling, flags.examples_per_step, h.device_batch_size, rt.rank, rt.world,
                begun.state.cursor, few_shapes=flags.compile,
            ),
            -(-mine // h.device_batch_size), [Evaluation(flags.eval_every, measure, first=True)], results,
            flags.num_iterations, flags.num_epochs, best="val_error", shown=("reward", "answer_tokens"),
        )  # fmt: skip


def check(flags: Flags) -> None:
    """Check the flags before anything is loaded. Raises UserError."""
    for name in ("examples_per_step", "num_samples", "max_new_tokens", "eval_examples", "eval_samples"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name} is {getattr(flags, name)}; expected 1 or more")
    if flags.num_samples == 1:
        raise UserError("--num_samples is 1; expected 2 or more, since answers to one question are compared")
    if flags.temperature <= 0:
        raise UserError(f"--temperature is {flags.temperature}; expected more than 0, or all answers are the same")
    if flags.num_iterations < 1 and flags.num_epochs <= 0:
        raise UserError(f"--num_epochs is {flags.num_epochs}; expected more than 0")


def select(task: str) -> list[str]:
    """The tasks that --task means, by their names in the catalog. Raises UserError for one to which there is none."""
    # HumanEval has no problems but those that are scored.
    known = {name.lower(): name for names in catalog.GRADED.values() for name in names if name != "HumanEval"}
    chosen = [name.strip().lower() for name in task.split("|")]
    for name in chosen:
        if name not in known:
            raise UserError(f"--task {name!r} cannot be learned from; there are: {', '.join(known.values())}")
    return [known[name] for name in dict.fromkeys(chosen)]


def held_out_task(name: str, size: int) -> catalog.Task:
    """A task's held-out questions, which are not those that are scored; the little world has as many as one likes."""
    return LittleWorld(name, "val", size) if name in KINDS else catalog.task(name, "val")


if __name__ == "__main__":
    run(main)
