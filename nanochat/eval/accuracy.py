"""How often a model answers correctly: ask it every question of a task, and let the task grade the answers.

A multiple-choice question is answered by the most likely of its letters, in one forward pass. To the other questions
the model writes one answer, or several.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch.distributed as dist

from nanochat import chat
from nanochat.data.task import Task
from nanochat.engine.engine import Engine
from nanochat.engine.request import Reply, Request
from nanochat.engine.tools import calculator_tools
from nanochat.errors import UserError
from nanochat.log import Progress
from nanochat.tokenizer import Tokenizer

CHOICES_AT_ONCE = 256  # multiple-choice questions per batch, whose logits are in memory together
GRADERS = 4  # threads that grade answers, perhaps by running programs, while the model generates

Parts = list[dict[str, str]]


@dataclass(frozen=True)
class Example:
    """A conversation, with its reference answer, and the reply as chat.reply_parts gives it."""

    index: int
    """position of the conversation in the task"""
    messages: list[dict]
    reply: Parts
    """the first correct reply, else the first one; empty where the question exceeds the context"""
    right: int
    """number of correct replies"""
    samples: int = 1
    """number of replies"""

    @property
    def correct(self) -> bool:
        return self.right > 0


@dataclass(frozen=True)
class Result:
    """n questions were asked and `correct` of them answered correctly, over all ranks."""

    name: str
    n: int
    correct: float
    """a whole number, or the expected number for k answers drawn from more"""
    examples: list[Example] = field(default_factory=list)
    """those of all ranks, in the order of the task"""
    baseline: float = 0.0

    @property
    def accuracy(self) -> float:
        return self.correct / self.n if self.n else math.nan

    @property
    def centred(self) -> float:
        """0 for guessing, 1 for all correct."""
        return (self.accuracy - self.baseline) / (1 - self.baseline)

    @property
    def interval(self) -> tuple[float, float]:
        return interval(self.correct, self.n)


def chatcore(results: Sequence[Result]) -> float:
    """The mean of the tasks' centred accuracies: for chat models what CORE is for base models."""
    return sum(result.centred for result in results) / len(results)


def pass_at(k: int, samples: int, right: int) -> float:
    """pass@k, estimated without bias from `samples` answers of which `right` are correct (Chen et al. 2021).

    The chance that k of them, drawn without replacement, include a correct one.
    """
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def interval(correct: float, n: int) -> tuple[float, float]:
    """The 95 % confidence interval of the fraction correct / n (Wilson 1927), within [0, 1]; (0, 1) when n is 0.

    Unlike p ± 1.96 sqrt(p (1 - p) / n) it is not empty when all answers are correct. For pass@k, a mean of numbers
    between 0 and 1, it is conservative: none vary more than zeros and ones do.
    """
    if n == 0:
        return 0.0, 1.0
    z = 1.959963984540054  # the 97.5 % quantile of the normal distribution
    p = correct / n
    centre = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if correct == 0 else (centre - spread) / scale  # rounding would leave 1e-17 there
    high = 1.0 if correct == n else (centre + spread) / scale
    return low, high


def evaluate(
    task: Task,
    engine: Engine,
    tokenizer: Tokenizer,
    max_tokens: int | None = None,
    max_problems: int | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    samples: int = 1,
    seed: int = 0,
    k: int | None = None,
) -> Result:
    """Ask the first `max_problems` (None: all) conversations of a task and count the correct answers.

    Unless it is multiple choice, each is answered `samples` times and scored by pass@k; by default k is `samples`, so
    one correct answer is enough. The model may use the calculator; only the text around its calls is graded. A question
    too long for the context counts as wrong. Under torch.distributed every rank must call this; rank r takes
    conversations r, r + world, ..., and all ranks get the result of all.

    Raises UserError if the tokenizer has no chat tokens, or for a letter that is not one token.
    """
    k = samples if k is None else k
    assert 1 <= k <= samples
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    total = len(task) if max_problems is None else min(max_problems, len(task))
    conversations = {i: task[i] for i in range(rank, total, world)}
    prompts = {i: chat.prompt(tokenizer, conversations[i]["messages"][:-1]) for i in conversations}
    # Prompts of equal length are read in one forward pass, so they should be neighbours in the queue.
    asked = sorted((i for i in prompts if len(prompts[i]) <= engine.max_len), key=lambda i: len(prompts[i]))
    choices = [(i, prompts[i], conversations[i]["letters"]) for i in asked if "letters" in conversations[i]]
    tools, stop_ids = calculator_tools(tokenizer), chat.stop_ids(tokenizer)
    requests = [
        # The seed depends on the conversation only, not on the number of ranks.
        (i, Request(prompts[i], max_tokens, temperature, top_k, seed=(seed << 32) + i, stop_ids=stop_ids, tools=tools))
        for i in asked
        if "letters" not in conversations[i]
    ]
    replies = itertools.chain(_choose(choices, engine, tokenizer), _write(requests, samples, engine, tokenizer))
    count = len(choices) + len(requests) * samples
    examples = _graded(task, conversations, replies, count, samples, rank == 0)
    if world > 1:
        of_ranks: list[list[Example]] = [[] for _ in range(world)]
        dist.all_gather_object(of_ranks, examples)
        examples = sorted(itertools.chain(*of_ranks), key=lambda example: example.index)
    chances = [pass_at(min(k, each.samples), each.samples, each.right) for each in examples]
    correct = sum(chances) if k < samples else sum(map(round, chances))
    return Result(task.name, len(examples), correct, examples, getattr(task, "baseline", 0.0))


def _graded(
    task: Task, conversations: dict[int, dict], replies: Iterator[tuple[int, int, Parts]], count: int, samples: int,
    is_main: bool,
) -> list[Example]:  # fmt: skip
    """Grade `count` replies (index of the conversation, sample, reply) in threads while they are generated."""
    right: set[int] = set()

    def grade(i: int, reply: Parts) -> bool:
        text = "".join(part["text"] for part in reply if part["type"] == "text")
        if is_right := task.grade(conversations[i], text) > 0:
            right.add(i)
        return is_right

    graded: dict[int, dict[int, tuple[Parts, Future[bool]]]] = {i: {} for i in conversations}
    with (
        Progress(count, task.name, "answers", is_main) as progress,
        ThreadPoolExecutor(GRADERS) as graders,
    ):
        for done, (i, sample, reply) in enumerate(replies, 1):
            graded[i][sample] = reply, graders.submit(grade, i, reply)
            progress.update(done, right=len(right))
    examples = []
    for i, answers in graded.items():
        verdicts = [answers[sample][1].result() for sample in sorted(answers)]
        shown = answers[verdicts.index(True) if any(verdicts) else 0][0] if verdicts else []
        examples.append(Example(i, conversations[i]["messages"], shown, sum(verdicts), len(verdicts) or samples))
    return examples


def _choose(
    questions: Sequence[tuple[int, list[int], Sequence[str]]], engine: Engine, tokenizer: Tokenizer
) -> Iterator[tuple[int, int, Parts]]:
    """Answer questions (index, prompt, letters) by the most likely letter; yields (index, 0, reply)."""
    for start in range(0, len(questions), CHOICES_AT_ONCE):
        batch = questions[start : start + CHOICES_AT_ONCE]
        logits = engine.next_logits([prompt for _, prompt, _ in batch])
        for (i, _, letters), row in zip(batch, logits, strict=True):
            scores = row[[_letter_id(tokenizer, letter) for letter in letters]].tolist()
            yield i, 0, [{"type": "text", "text": letters[scores.index(max(scores))]}]


def _write(
    requests: Sequence[tuple[int, Request]], samples: int, engine: Engine, tokenizer: Tokenizer
) -> Iterator[tuple[int, int, Parts]]:
    """Generate `samples` replies to each (index, request); yields (index, sample, reply) as they finish."""
    replies = [Reply() for _ in range(len(requests) * samples)]
    for j, event in engine.stream([each for _, request in requests for each in request.samples(samples)]):
        replies[j].add(event)
        if event.finish:
            yield requests[j // samples][0], j % samples, chat.reply_parts(tokenizer, replies[j].tokens)


def _letter_id(tokenizer: Tokenizer, letter: str) -> int:
    ids = tokenizer.encode(letter)
    if len(ids) != 1:
        raise UserError(f"the answer {letter!r} is not one token of this tokenizer; its model cannot be scored on it")
    return ids[0]
