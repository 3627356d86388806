"""CORE: how well a model answers from context alone, one number for 22 tasks (DCLM, Li et al. 2024).

A question is asked as a text to be continued, after a few others with their answers. What guessing scores is taken
out of each task's accuracy, and CORE is the mean of what is left: 0 for guessing, 1 for knowing everything.

    multiple_choice    one context, several continuations: the one with the lowest mean nll is the answer
    schema             several contexts, one continuation: the context after which it is most likely
    language_modeling  right where the most likely tokens, one by one, are the continuation

The items that are asked, the examples before them, and what counts as the continuation are as in the original
nanochat. What is longer than the context is not: here the oldest tokens behind the first one are left out, for every
model, and a continuation that does not fit even alone counts as wrong; there its own models read the whole prompt,
also beyond the context that they were trained with, and only one with a fixed limit, GPT-2, has it cut, the first token
too. So scores compare with those that are published for it where the prompts fit; on few-shot tasks with long texts,
or with a short context, only roughly.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist

from nanochat import chat
from nanochat.engine.engine import Engine
from nanochat.engine.request import Request
from nanochat.eval.bundle import Item, Kind, Task
from nanochat.log import Progress
from nanochat.tokenizer import Tokenizer

ORDER_SEED, EXAMPLES_SEED = 1337, 1234  # the original's
AT_ONCE = 32  # questions that are handed to the Engine together


class Prompt(NamedTuple):
    """The ids of a text; from `start` >= 1 on they are the continuation that is judged."""

    ids: list[int]
    start: int


@dataclass(frozen=True)
class TaskScore:
    """n questions were asked and `correct` of them answered rightly, over all ranks.

    too_long: those, counted as wrong, whose continuation alone exceeds the context.
    """

    label: str
    kind: Kind
    shots: int
    baseline: float
    n: int
    correct: int
    too_long: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.n

    @property
    def centered(self) -> float:
        """The accuracy, stretched so that guessing is 0."""
        return (self.accuracy - self.baseline) / (1 - self.baseline)


def core_metric(scores: Sequence[TaskScore]) -> float:
    return sum(score.centered for score in scores) / len(scores)


def evaluate(engine: Engine, tokenizer: Tokenizer, task: Task, max_items: int = 0) -> TaskScore:
    """Ask `max_items` questions of a task, drawn with a fixed seed, or all (0).

    Under torch.distributed every rank must call this; rank r takes questions r, r + world, ..., and the counts are
    summed.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    items = list(task.items)
    random.Random(ORDER_SEED).shuffle(items)
    items = items[: max_items or None]
    mine = range(rank, len(items), world)
    correct = too_long = 0
    with Progress(len(mine), task.label, unit="questions", is_main=rank == 0) as progress:
        for first in range(0, len(mine), AT_ONCE):
            chosen = mine[first : first + AT_ONCE]
            asked = {i: fitting(prompts(task, items, i, tokenizer), engine.max_len) for i in chosen}
            fit = {i: options for i, options in asked.items() if options}
            too_long += len(asked) - len(fit)
            if task.kind == "language_modeling":
                correct += sum(are_greedy(engine, [prompt for [prompt] in fit.values()]))
            else:
                answers = most_likely(engine, list(fit.values()))
                correct += sum(answer == items[i].gold for i, answer in zip(fit, answers, strict=True))
            progress.update(first + len(chosen), right=correct)
    counts = torch.tensor([correct, too_long], device=engine.model.device)
    if world > 1:
        dist.all_reduce(counts)
    correct, too_long = counts.tolist()
    return TaskScore(task.label, task.kind, task.shots, task.baseline, len(items), correct, too_long)


def prompts(task: Task, items: Sequence[Item], index: int, tokenizer: Tokenizer) -> list[Prompt]:
    """What is judged for a question: a prompt for each of its options, however long.

    The examples before it are drawn from the other items, as many as there are where the task wants more. A text is
    encoded whole, so that a token may reach over the end of the context. The continuation is what the options do not
    share: behind their common beginning in a multiple choice, in a schema their common end.
    """
    others = [i for i in range(len(items)) if i != index]
    drawn = random.Random(EXAMPLES_SEED + index).sample(others, min(task.shots, len(others)))
    before = "".join(f"{_text(task, items[i], items[i].gold)}\n\n" for i in drawn)
    item = items[index]
    texts = [before + _text(task, item, option) for option in range(len(item.contexts))]
    if task.kind == "language_modeling":  # what its continuation does not share with the question alone
        texts.append((before + item.contexts[0] + task.delimiter).rstrip())
    begin = chat.text_prompt(tokenizer, "")
    encoded = [begin + ids for ids in tokenizer.encode_batch(texts)]
    if task.kind == "schema":
        alike = _alike([ids[:0:-1] for ids in encoded])
        return [Prompt(ids, len(ids) - alike) for ids in encoded]
    options = encoded[: len(item.contexts)]
    # At least one token is judged, also of an option with which another one begins.
    alike = min(_alike(encoded), min(map(len, options)) - 1)
    return [Prompt(ids, alike) for ids in options]


def fitting(options: Sequence[Prompt], context: int, kept: int = 1) -> list[Prompt] | None:
    """The prompts without as much, behind their first `kept` ids, as exceeds the context.

    None where a continuation does not fit with what is kept, and at least one id, before it.
    """
    fit = []
    for ids, start in options:
        extra = max(0, len(ids) - context)
        if start - extra < max(kept, 1):
            return None
        fit.append(Prompt(ids[:kept] + ids[kept + extra :], start - extra))
    return fit


def most_likely(engine: Engine, questions: Sequence[Sequence[Prompt]]) -> list[int | None]:
    """Which prompt of each question has the lowest mean nll over its continuation; None where one is not a number."""
    nll = iter(engine.score([prompt.ids for options in questions for prompt in options]))
    answers = []
    for options in questions:
        means = [next(nll)[prompt.start - 1 :].mean().item() for prompt in options]
        answers.append(means.index(min(means)) if all(map(math.isfinite, means)) else None)
    return answers


def are_greedy(engine: Engine, prompts: Sequence[Prompt]) -> list[bool]:
    """Whether the most likely token, one after another, is that of each prompt's continuation."""
    found = [True] * len(prompts)
    matched = [0] * len(prompts)
    requests = [Request(ids[:start], len(ids) - start, temperature=0.0) for ids, start in prompts]
    for i, event in engine.stream(requests):
        if event.token is None:
            continue
        if event.token != prompts[i].ids[prompts[i].start + matched[i]]:
            found[i] = False
            engine.cancel(event.request_id)  # there is no more to learn from it
        matched[i] += 1
    return found


def _text(task: Task, item: Item, option: int) -> str:
    return item.contexts[option] + task.delimiter + item.continuations[option]


def _alike(sequences: Sequence[list[int]]) -> int:
    """How many ids all begin with alike."""
    for i, ids in enumerate(zip(*sequences, strict=False)):
        if len(set(ids)) > 1:
            return i
    return min(map(len, sequences))
