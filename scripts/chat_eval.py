"""Ask a model the held-out questions of the tasks and count the correct answers."""

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from nanochat import chat, runtime
from nanochat.checkpoint.flags import ServingFlags
from nanochat.config import alias, changes, parse
from nanochat.engine.serving import serve_model
from nanochat.engine.tools import permit_code
from nanochat.errors import UserError, run
from nanochat.eval.accuracy import Example, Result, Task, chatcore, evaluate
from nanochat.paths import base_dir, write_text
from nanochat.report import sections as report
from tasks import catalog


@dataclass
class Flags(ServingFlags):
    """Measure a chat model's accuracy on held-out questions."""

    task_name: Annotated[str | None, alias("-a")] = None
    """tasks to evaluate, several joined by |; default: those of the little world, or else of the real recipe"""
    dtype: Annotated[str, alias("-d")] = "auto"
    """compute dtype: auto, float32, bfloat16 or float16"""
    temperature: Annotated[float, alias("-t")] = 0.0
    """0 takes the likeliest token"""
    max_new_tokens: Annotated[int, alias("-m")] = 512
    """longest answer in tokens; the model's context may allow less"""
    num_samples: Annotated[int, alias("-n")] = 1
    """answers to each question, of which one must be correct; needs a temperature"""
    pass_k: int | None = None
    """score the chance that one of so many answers is correct, estimated from all --num_samples; default: of all"""
    top_k: Annotated[int, alias("-k")] = 50
    """sample from the k most likely tokens; 0: from all"""
    batch_size: Annotated[int, alias("-b")] = 8
    """questions that are answered at the same time"""
    max_problems: Annotated[int | None, alias("-x")] = None
    """questions of each task at most; default: all"""
    seed: int = 42
    """seed of the samples at a temperature above 0"""
    show_errors: int = 1
    """wrong answers of each task to print"""
    unsafe_code: bool = False
    """grade HumanEval even where this machine cannot fully isolate model-written programs"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    for name in ("num_samples", "pass_k", "batch_size", "max_new_tokens", "max_problems"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; expected 1 or more")
    if flags.pass_k is not None and flags.pass_k > flags.num_samples:
        raise UserError(f"--pass_k {flags.pass_k} needs as many answers; --num_samples is {flags.num_samples}")
    names = None if flags.task_name is None else select(flags.task_name)
    started = time.monotonic()
    with runtime.start(flags.device_type, flags.dtype, flags.seed) as rt:
        dtype = str(rt.dtype).removeprefix("torch.")  # "auto" must not mean int8 here: it is the model that is measured
        found = flags.find()
        serving = serve_model(found, rt.device, dtype, flags.batch_size)
        if not chat.can_chat(serving.tokenizer):
            serving.check_chat()
        rt.print(serving)
        names = names or list(catalog.GRADED[catalog.recipe_of(serving.meta)])
        if "HumanEval" in names:
            others = "|".join(name for name in names if name != "HumanEval")
            instead = f"leave HumanEval out (--task_name '{others}')" if others else "evaluate other tasks"
            rt.print(permit_code("HumanEval", flags.unsafe_code, instead))
        results = [
            evaluate(
                task, serving.engine, serving.tokenizer, flags.max_new_tokens, flags.max_problems, flags.temperature,
                flags.top_k, flags.num_samples, flags.seed, flags.pass_k,
            )
            for task in tasks(names, serving.meta)
        ]  # fmt: skip
        for result in results:
            for example in [example for example in result.examples if not example.correct][: flags.show_errors]:
                rt.print(f"\n{result.name}, a wrong answer:\n{dialogue(example)}")
        rt.print("\n" + table(results))
        if not rt.is_main:
            return
        folder = base_dir() / "eval" / f"{serving.source}_{serving.tag.replace('/', '--')}_{serving.step:06d}"
        save_examples(results, folder)
        print(f"all questions with their answers are in {folder}")
        if found.of_stage:
            report.write_section(
                f"chat_eval_{found.source}",
                {
                    "flags": changes(flags),
                    "seconds": time.monotonic() - started,
                    "source": found.source,
                    "tag": serving.tag,
                    "step": serving.step,
                    "tasks": {r.name: {"n": r.n, "correct": r.correct, "interval": r.interval} for r in results},
                    "chatcore": chatcore(results) if is_chatcore(results) else None,
                    "samples": [sample(result) for result in results if result.examples],
                },
            )


def select(names: str) -> list[str]:
    """The names of the tasks that --task_name means. Raises UserError for one that is not known."""
    known = {name.lower(): name for names in catalog.GRADED.values() for name in names}
    chosen = [name.strip().lower() for name in names.split("|")]
    for name in chosen:
        if name not in known:
            raise UserError(f"--task_name {name!r} is unknown; there are: {', '.join(known.values())}")
    return [known[name] for name in chosen]


def tasks(names: Sequence[str] | None, meta: dict) -> list[Task]:
    """The tasks of these names, else all that suit a model with this meta file; made before any is evaluated."""
    return [catalog.task(name, "test") for name in names or catalog.GRADED[catalog.recipe_of(meta)]]


def is_chatcore(results: Sequence[Result]) -> bool:
    """Whether these are the tasks that ChatCORE is the mean of."""
    return {result.name for result in results} == set(catalog.GRADED["real"])


def save_examples(results: Sequence[Result], folder: Path) -> None:
    """Write <task>.jsonl for each task, a question a line: messages, the reply, how many of how many were right."""
    for result in results:
        lines = [json.dumps(dataclasses.asdict(example), ensure_ascii=False) for example in result.examples]
        write_text(folder / f"{result.name}.jsonl", "".join(f"{line}\n" for line in lines))


def table(results: Sequence[Result]) -> str:
    """A line a task: correct answers, n, share and its 95 % interval in percent; their mean, and ChatCORE."""
    width = max(len("ChatCORE"), *(len(result.name) for result in results))
    lines = [f"{'task':{width}}  correct       n  accuracy  95 % interval"]
    for result in results:
        low, high = (100 * bound for bound in result.interval)
        correct = round(result.correct, 1)
        figures = f"{correct:7}  {result.n:6}  {100 * result.accuracy:6.1f} %  {low:5.1f} – {high:.1f} %"
        lines.append(f"{result.name:{width}}  {figures}")
    if len(results) > 1:
        mean = sum(result.accuracy for result in results) / len(results)
        lines.append(f"{'mean':{width}}  {'':7}  {'':6}  {100 * mean:6.1f} %")
    if is_chatcore(results):
        lines.append(f"{'ChatCORE':{width}}  {'':7}  {'':6}  {100 * chatcore(results):6.1f} %")
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
    first = result.examples[0]
    return {"messages": [*first.messages[:-1], {"role": "assistant", "content": first.reply}]}


if __name__ == "__main__":
    run(main)
