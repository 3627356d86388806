"""Ask a model the held-out questions of the tasks and count the correct answers."""

import contextlib
import dataclasses
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from nanochat.checkpoint.flags import ServingFlags
from nanochat.config import alias, changes, parse
from nanochat.errors import UserError, run
from nanochat.paths import base_dir, write_text

if TYPE_CHECKING:
    from nanochat.data.task import Task
    from nanochat.engine.serving import Serving
    from nanochat.eval.accuracy import Example, Result

# Flags that change what a model answers, or how much it is asked.
ANSWERED_WITH = ("max_problems", "num_samples", "pass_k", "max_new_tokens", "temperature", "top_k", "dtype")


@dataclass
class Flags(ServingFlags):
    """Measure a chat model's accuracy on held-out questions."""

    EXAMPLE: ClassVar = "--source sft:d3 --max_problems 100"

    # --- evaluation
    task_name: Annotated[str | None, alias("-a")] = None
    """tasks to evaluate, several joined by |; default: those of the little world, or else of the real recipe"""
    max_problems: Annotated[int | None, alias("-x")] = None
    """maximum questions per task; default: all"""
    batch_size: Annotated[int, alias("-b")] = 8
    """questions to answer at the same time"""
    num_samples: Annotated[int, alias("-n")] = 1
    """answers per question, at least one of which must be correct; needs a temperature"""
    pass_k: int | None = None
    """score the chance that one of this many answers is correct, estimated from all --num_samples; default: of all"""
    show_errors: int = 1
    """wrong answers to print per task"""
    unsafe_code: bool = False
    """run HumanEval even where this machine cannot fully isolate model-written programs"""

    # --- generation
    max_new_tokens: Annotated[int, alias("-m")] = 512
    """maximum tokens per answer; the model's context may allow less"""
    temperature: Annotated[float, alias("-t")] = 0.0
    """sampling temperature; 0 takes the most likely token"""
    top_k: Annotated[int, alias("-k")] = 50
    """sample from the k most likely tokens; 0: from all"""
    seed: int = 42
    """seed of the samples at a temperature above 0"""

    # --- machine
    dtype: Annotated[str, alias("-d")] = "auto"
    """compute dtype: auto, float32, bfloat16 or float16"""



def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    _check(flags)
    from nanochat import chat, runtime
    from nanochat.engine.serving import serve_model
    from nanochat.engine.tools import permit_code
    from nanochat.eval.accuracy import evaluate
    from tasks import catalog

    names = None if flags.task_name is None else select(flags.task_name)
    started = time.monotonic()
    with runtime.start(flags.device_type, flags.dtype, flags.seed) as rt:
        dtype = str(rt.dtype).removeprefix("torch.")  # never int8, which "auto" may be elsewhere: the model is measured
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
        asked = tasks(names, serving.meta)
        results = [
            evaluate(
                task, serving.engine, serving.tokenizer, flags.max_new_tokens, flags.max_problems, flags.temperature,
                flags.top_k, flags.num_samples, flags.seed, flags.pass_k,
            )
            for task in asked
        ]  # fmt: skip
        for result in results:
            for example in [example for example in result.examples if not example.correct][: flags.show_errors]:
                rt.print(f"\n{result.name}, a wrong answer:\n{dialogue(example)}")
        rt.print("\n" + table(results))
        for task, result in zip(asked, results, strict=True):
            if note := getattr(task, "note", None):
                rt.print(note(result.examples))
        if rt.is_main:
            _save(flags, serving, results, time.monotonic() - started, found.source if found.of_stage else None)


def _check(flags: Flags) -> None:
    for name in ("num_samples", "pass_k", "batch_size", "max_new_tokens", "max_problems"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; expected 1 or more")
    if flags.pass_k is not None and flags.pass_k > flags.num_samples:
        raise UserError(f"--pass_k {flags.pass_k} needs as many answers, but --num_samples is {flags.num_samples}")


def select(names: str) -> list[str]:
    """The names of the tasks that --task_name means. Raises UserError for an unknown one."""
    from tasks import catalog

    known = {name.lower(): name for names in catalog.GRADED.values() for name in names}
    chosen = [name.strip().lower() for name in names.split("|")]
    for name in chosen:
        if name not in known:
            raise UserError(f"--task_name {name!r} is unknown; there are: {', '.join(known.values())}")
    return [known[name] for name in chosen]


def tasks(names: Sequence[str] | None, meta: dict) -> "list[Task]":
    """The tasks of these names, by default all that suit a model with this meta file; fetched before any is asked."""
    from tasks import catalog

    return [catalog.task(name, "test") for name in names or catalog.GRADED[catalog.recipe_of(meta)]]


def is_chatcore(results: "Sequence[Result]") -> bool:
    """Whether these are the tasks whose mean is ChatCORE."""
    from tasks import catalog

    return {result.name for result in results} == set(catalog.GRADED["real"])


def _save(flags: Flags, serving: "Serving", results: "Sequence[Result]", seconds: float, stage: str | None) -> None:
    """Write all questions with their answers, and the report's section if the model is one of `stage`."""
    from nanochat.checkpoint.manager import record_of
    from nanochat.eval.accuracy import chatcore
    from nanochat.report.sections import read_sections, write_section
    from tasks import catalog

    folder = base_dir() / "eval" / f"{serving.source}_{serving.tag.replace('/', '--')}_{serving.step:06d}"
    for result in results:
        lines = [json.dumps(dataclasses.asdict(example), ensure_ascii=False) for example in result.examples]
        write_text(folder / f"{result.name}.jsonl", "".join(f"{line}\n" for line in lines))
    print(f"all questions with their answers are in {folder}")
    if stage is None:
        return
    section = {
        "flags": changes(flags),
        "seconds": seconds,
        **record_of(serving.meta, stage, serving.tag, serving.step),
        "tasks": {
            r.name: {"n": r.n, "correct": r.correct, "interval": r.interval, "asks": catalog.ASKS.get(r.name, "")}
            for r in results
        },
        "chatcore": chatcore(results) if is_chatcore(results) else None,
        "samples": [sample(result) for result in results if result.examples],
        "examples": worth_asking(results),
    }
    name = f"chat_eval_{stage}"
    before: Mapping = {}
    with contextlib.suppress(UserError):  # a damaged one, which this one replaces
        before = read_sections().get(name, {})
    whole = joined(section, before)
    if whole is None:
        print("the report card keeps its scores of more tasks, which this model answered with other settings")
        return
    write_section(name, whole)


def joined(section: dict, before: Mapping) -> dict | None:
    """A section of the report with the tasks that it lacks, where the one before has them of the same model.

    None where those were answered with other settings: one task at a higher temperature is no reason to lose them.
    """
    tasks, known = section["tasks"], before.get("tasks") or {}
    if before.get("sha256") != section["sha256"] or section["sha256"] is None or not known.keys() - tasks.keys():
        return section
    if any(section["flags"].get(name) != before.get("flags", {}).get(name) for name in ANSWERED_WITH):
        return None
    same = all(tasks[name] == known.get(name) for name in tasks)
    kept = {
        key: [each for each in before.get(key) or [] if each["task"] not in tasks] for key in ("samples", "examples")
    }
    return {
        **section, "flags": before["flags"], "tasks": {**known, **tasks},
        "chatcore": before.get("chatcore") if same else None,
        **{key: [*kept[key], *section[key]] for key in kept},
    }  # fmt: skip


def table(results: "Sequence[Result]") -> str:
    """One line per task: correct answers, n, accuracy and its 95 % interval in percent; their mean, and ChatCORE."""
    from nanochat.eval.accuracy import chatcore

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


def dialogue(example: "Example") -> str:
    """A conversation with the reply that was given and the one that was expected."""
    *asked, reference = example.messages
    turns = [(message["role"], message["content"]) for message in asked]
    turns += [("replied", example.reply), ("expected", reference["content"])]
    return "\n".join(f"  {who:9} {plain(content)}" for who, content in turns)


def plain(content: str | list[dict[str, str]]) -> str:
    """A message's text, a calculation as [12*7][= 84]."""
    if isinstance(content, str):
        return content
    shapes = {"text": "{}", "python": "[{}]", "python_output": "[= {}]"}
    return "".join(shapes[part["type"]].format(part["text"]) for part in content)


def sample(result: "Result") -> dict:
    """The first conversation of a task, right or wrong, for the report."""
    first = result.examples[0]
    answered = [*first.messages[:-1], {"role": "assistant", "content": first.reply}]
    expected = first.messages[-1]["content"]
    return {"task": result.name, "messages": answered, "right": first.correct, "expected": expected}


def worth_asking(results: "Sequence[Result]") -> list[dict]:
    """For each task a question that the model answered right, and those before it: [{"task", "questions"}].

    The page offers them to try, first those of catalog.FIRST_TO_TRY. Preferred are short and well-written ones with as
    many questions as is usual for the task.
    """
    from nanochat.report.sections import questions
    from tasks.catalog import FIRST_TO_TRY

    found = {}
    for result in results:
        asked = [questions(example.messages) for example in result.examples if example.correct]
        if known := [each for each in asked if each]:
            usual = statistics.mode(map(len, known))
            found[result.name] = min(known, key=lambda each: (len(each) != usual, not all(map(_reads_well, each))))
    order = sorted(found, key=lambda name: FIRST_TO_TRY.index(name) if name in FIRST_TO_TRY else len(FIRST_TO_TRY))
    return [{"task": name, "questions": found[name]} for name in order]


def _reads_well(question: str) -> bool:
    return len(question) <= 60 and question[:1].isupper() and question[-1:] in ".?!"


if __name__ == "__main__":
    run(main)
