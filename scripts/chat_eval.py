"""Ask a model the held-out questions of the tasks and count the correct answers."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from nanochat import report, runtime
from nanochat.config import UserError, alias, changes, parse, run
from nanochat.engine.serving import load
from nanochat.eval.accuracy import Example, Result, Task, evaluate
from tasks import littleworld


@dataclass
class Flags:
    """Measure a chat model's accuracy on held-out questions."""

    source: Annotated[Literal["base", "mid", "sft", "rl"], alias("-i")]
    """which stage's checkpoint"""
    task_name: Annotated[str | None, alias("-a")] = None
    """tasks to evaluate, several joined by |; default: all"""
    dtype: Annotated[str, alias("-d")] = "auto"
    """what the model computes in: auto, float32, bfloat16 or float16"""
    temperature: Annotated[float, alias("-t")] = 0.0
    """0 takes the likeliest token"""
    max_new_tokens: Annotated[int, alias("-m")] = 512
    """longest answer in tokens; the model's context may allow less"""
    num_samples: Annotated[int, alias("-n")] = 1
    """answers to each question, of which one must be correct; needs a temperature"""
    top_k: Annotated[int, alias("-k")] = 50
    """sample from the k likeliest tokens; 0: from all"""
    batch_size: Annotated[int, alias("-b")] = 8
    """questions that are answered at the same time"""
    model_tag: Annotated[str | None, alias("-g")] = None
    """which model of the stage; default: the largest"""
    step: Annotated[int | None, alias("-s")] = None
    """which of its checkpoints; default: the last"""
    max_problems: Annotated[int | None, alias("-x")] = None
    """questions of each task at most; default: all"""
    softcap: float | None = None
    """of the original's checkpoints of early 2026, which do not tell theirs: 20 from March on; default: 15"""
    device_type: str = ""
    """cuda, mps or cpu; default: the best there is"""
    seed: int = 42
    """decides the samples at a temperature above 0"""
    show_errors: int = 1
    """wrong answers of each task to print"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    for name in ("num_samples", "batch_size", "max_new_tokens", "max_problems"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; expected 1 or more")
    tasks = select(flags.task_name)
    started = time.monotonic()
    with runtime.start(flags.device_type, flags.dtype, flags.seed) as rt:
        dtype = str(rt.dtype).removeprefix("torch.")  # "auto" must not mean int8 here: it is the model that is measured
        serving = load(
            flags.source, flags.model_tag, flags.step, rt.device, dtype, flags.batch_size, flags.softcap
        )
        rt.print(serving)
        results = [
            evaluate(
                task, serving.engine, serving.tokenizer, flags.max_new_tokens, flags.max_problems, flags.temperature,
                flags.top_k, flags.num_samples, flags.seed, keep_examples=max(1, flags.show_errors),
            )
            for task in tasks
        ]  # fmt: skip
        for result in results:
            for example in [example for example in result.examples if not example.correct][: flags.show_errors]:
                rt.print(f"\n{result.name}, a wrong answer:\n{dialogue(example)}")
        rt.print("\n" + table(results))
        if rt.is_main and f"chat_eval_{flags.source}" in report.STAGES:
            report.write_section(
                f"chat_eval_{flags.source}",
                {
                    "flags": changes(flags),
                    "seconds": time.monotonic() - started,
                    "source": flags.source,
                    "tag": serving.tag,
                    "step": serving.step,
                    "tasks": {r.name: {"n": r.n, "correct": r.correct, "interval": r.interval} for r in results},
                    "samples": [sample(result) for result in results if result.examples],
                },
            )


def select(names: str | None) -> list[Task]:
    """The tasks that --task_name means. Raises UserError for a name that is not known."""
    kinds = {kind.lower(): kind for kind in littleworld.KINDS}
    chosen = list(kinds) if names is None else [name.strip().lower() for name in names.split("|")]
    for name in chosen:
        if name not in kinds:
            raise UserError(f"--task_name {name!r} is unknown; there are: {', '.join(kinds.values())}")
    return [littleworld.LittleWorld(kinds[name], "test") for name in chosen]


def table(results: Sequence[Result]) -> str:
    """A line a task: correct answers, n, share and its 95 % interval in percent."""
    width = max(len("mean"), *(len(result.name) for result in results))
    lines = [f"{'task':{width}}  correct       n  accuracy  95 % interval"]
    for result in results:
        low, high = (100 * bound for bound in result.interval)
        figures = f"{result.correct:7}  {result.n:6}  {100 * result.accuracy:6.1f} %  {low:5.1f} – {high:.1f} %"
        lines.append(f"{result.name:{width}}  {figures}")
    if len(results) > 1:
        mean = sum(result.accuracy for result in results) / len(results)
        lines.append(f"{'mean':{width}}  {'':7}  {'':6}  {100 * mean:6.1f} %")
    return "\n".join(lines)


def dialogue(example: Example) -> str:
    """A conversation with the reply that was given and the one that was expected."""
    *asked, reference = example.messages
    said = [(message["role"], message["content"]) for message in asked]
    said += [("replied", example.reply), ("expected", reference["content"])]
    return "\n".join(f"  {who:9} {plain(content)}" for who, content in said)


def plain(content: str | list[dict[str, str]]) -> str:
    """A message's text, a calculation as [12*7][= 84]."""
    if isinstance(content, str):
        return content
    shapes = {"text": "{}", "python": "[{}]", "python_output": "[= {}]"}
    return "".join(shapes[part["type"]].format(part["text"]) for part in content)


def sample(result: Result) -> dict:
    """The first conversation of a task, whether it went well or not, for the report."""
    first = min(result.examples, key=lambda example: example.index)
    return {"messages": [*first.messages[:-1], {"role": "assistant", "content": first.reply}]}


if __name__ == "__main__":
    run(main)
