"""CORE: how well a base model answers from context alone, one number for 22 tasks (DCLM, Li et al. 2024).

A question is asked as a text to be continued, after a few others with their answers. What guessing scores is taken
out of each task's accuracy, and CORE is the mean of the rest: 0 for guessing, 1 for knowing everything.

    multiple_choice    one context, several continuations: the one with the lowest mean nll per token is the answer
    schema             several contexts, one continuation: the context after which it is most likely is the answer
    language_modeling  right if the most likely tokens, one after another, are the continuation

Questions, examples and judged continuations are the original nanochat's. Texts longer than the context are not: here,
for every model, the oldest tokens after the first one are left out, and a continuation that does not fit even alone
counts as wrong. The original lets its own models read the whole prompt, beyond the context they were trained with, and
cuts it for GPT-2 only. So scores compare with published ones where prompts fit into the context, and only roughly on
few-shot tasks with long texts.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist

from nanochat import chat
from nanochat.data.task import CoreTask, Item, Kind
from nanochat.engine.engine import Engine
from nanochat.engine.request import Request
from nanochat.log import Progress
from nanochat.tokenizer import Tokenizer

ORDER_SEED, EXAMPLES_SEED = 1337, 1234  # the original's
AT_ONCE = 32  # questions per call of the Engine


class Prompt(NamedTuple):
    """The ids of a text; those from `start` >= 1 on are the continuation that is judged."""

    ids: list[int]
    start: int


@dataclass(frozen=True)
class TaskScore:
    """n questions were asked and `correct` of them answered correctly, over all ranks.

    too_long counts those whose continuation alone exceeds the context; they are wrong.
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
        """The accuracy, rescaled so that guessing is 0."""
        return (self.accuracy - self.baseline) / (1 - self.baseline)


def core_metric(scores: Sequence[TaskScore]) -> float:
    return sum(score.centered for score in scores) / len(scores)


def evaluate(engine: Engine, tokenizer: Tokenizer, task: CoreTask, max_items: int = 0) -> TaskScore:
    """Ask `max_items` questions of a task, drawn with a fixed seed; 0 asks all.

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


def prompts(task: CoreTask, items: Sequence[Item], index: int, tokenizer: Tokenizer) -> list[Prompt]:
    """A prompt for each option of a question, however long.

    The examples before it are drawn from the other items, or are all of them if the task wants more. A text is encoded
    as a whole, so a token may span the end of the context. The continuation is what the options do not have in common:
    what follows their common beginning in a multiple choice; in a schema, their common end.
    """
    others = [i for i in range(len(items)) if i != index]
    drawn = random.Random(EXAMPLES_SEED + index).sample(others, min(task.shots, len(others)))
    before = "".join(f"{_text(task, items[i], items[i].gold)}\n\n" for i in drawn)
    item = items[index]
    texts = [before + _text(task, item, option) for option in range(len(item.contexts))]
    if task.kind == "language_modeling":  # the question alone, to find where its continuation begins
        texts.append((before + item.contexts[0] + task.delimiter).rstrip())
    begin = chat.text_prompt(tokenizer, "")
    encoded = [begin + ids for ids in tokenizer.encode_batch(texts)]
    if task.kind == "schema":
        common = _common([ids[:0:-1] for ids in encoded])
        return [Prompt(ids, len(ids) - common) for ids in encoded]
    options = encoded[: len(item.contexts)]
    # At least one token is judged, also of an option that is the beginning of another one.
    common = min(_common(encoded), min(map(len, options)) - 1)
    return [Prompt(ids, common) for ids in options]


def fitting(options: Sequence[Prompt], context: int, kept: int = 1) -> list[Prompt] | None:
    """The prompts cut to the context, after their first `kept` ids.

    None if a continuation does not fit with the kept ids, and at least one, before it.
    """
    fit = []
    for ids, start in options:
        extra = max(0, len(ids) - context)
        if start - extra < max(kept, 1):
            return None
        fit.append(Prompt(ids[:kept] + ids[kept + extra :], start - extra))
    return fit


def most_likely(engine: Engine, questions: Sequence[Sequence[Prompt]]) -> list[int | None]:
    """The prompt of each question with the lowest nll per token of its continuation; None if one is not finite."""
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
            engine.cancel(event.request_id)  # the answer is known
        matched[i] += 1
    return found


def _text(task: CoreTask, item: Item, option: int) -> str:
    return item.contexts[option] + task.delimiter + item.continuations[option]


def _common(sequences: Sequence[list[int]]) -> int:
    """How many ids all have in common at their beginning."""
    for i, ids in enumerate(zip(*sequences, strict=False)):
        if len(set(ids)) > 1:
            return i
    return min(map(len, sequences))
