"""How often a model answers correctly: ask it every question of a task, and let the task grade the answers.

Of some questions the answer is one of a few letters: there the most likely one is taken (in evaluations called
categorical). To the others the model writes its answer, or several.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import torch.distributed as dist

from nanochat import chat
from nanochat.engine.engine import Engine
from nanochat.engine.request import Reply, Request
from nanochat.engine.tools import calculator_tools
from nanochat.errors import UserError
from nanochat.log import Progress
from nanochat.tokenizer import Tokenizer

CHOICES_AT_ONCE = 256  # questions with letters between two lines of progress; their logits are held in memory
GRADERS = 4  # threads: programs are graded by running them, while the model goes on

Parts = list[dict[str, str]]


class Task(Protocol):
    """Conversations whose last message is the assistant's reference answer, and a way to grade another answer.

    A conversation with "letters" is answered by one of them. `grade` is called in several threads at once. A task may
    have a `baseline`, the fraction that guessing gets right; otherwise that is 0.
    """

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict: ...

    def grade(self, conversation: dict, answer: str, /) -> bool: ...


@dataclass(frozen=True)
class Example:
    """A conversation, its reference answer included, and a reply as chat.reply_parts gives it."""

    index: int
    """the conversation's place in the task"""
    messages: list[dict]
    reply: Parts
    """the first right one of all that were given, else the first; empty where the question exceeds the context"""
    right: int
    """how many of the replies were right"""
    samples: int = 1
    """how many replies there were"""

    @property
    def correct(self) -> bool:
        return self.right > 0


@dataclass(frozen=True)
class Result:
    """n questions were asked and `correct` of them answered correctly, over all ranks."""

    name: str
    n: int
    correct: float
    """a whole number, unless it is the expected one of k answers drawn from more"""
    examples: list[Example] = field(default_factory=list)
    """of all ranks, in the order of the task"""
    baseline: float = 0.0

    @property
    def accuracy(self) -> float:
        return self.correct / self.n if self.n else math.nan

    @property
    def centred(self) -> float:
        """0 where guessing would do as well, 1 where all is right."""
        return (self.accuracy - self.baseline) / (1 - self.baseline)

    @property
    def interval(self) -> tuple[float, float]:
        return interval(self.correct, self.n)


def chatcore(results: Sequence[Result]) -> float:
    """The mean of the tasks' centred accuracies, a score of chat models as CORE is one of base models."""
    return sum(result.centred for result in results) / len(results)


def pass_at(k: int, samples: int, right: int) -> float:
    """The chance that one of k answers is right, estimated without bias from `samples` answers (Chen et al. 2021).

    It is that of k drawn from them without putting back: 1 - C(samples - right, k) / C(samples, k).
    """
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def interval(correct: float, n: int) -> tuple[float, float]:
    """The 95 % confidence interval of a fraction (Wilson 1927), within [0, 1]; (0, 1) when n is 0.

    Unlike the textbook's p ± 1.96 sqrt(p (1 - p) / n) it is not empty when every answer was right. For the mean of n
    numbers between 0 and 1, as pass@k is one, it is on the safe side: none vary more than zeros and ones do.
    """
    if n == 0:
        return 0.0, 1.0
    z = 1.959963984540054  # the 97.5 % quantile of the normal distribution
    fraction = correct / n
    centre = fraction + z * z / (2 * n)
    spread = z * math.sqrt(fraction * (1 - fraction) / n + z * z / (4 * n * n))
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

    Where the model writes, each is answered `samples` times and counts with the chance that one of k answers is right;
    by default k is `samples`, so that it counts as correct if one of the answers is. What is graded is the visible
    text: tool calls and their output are taken out. The calculator is at hand. A question too long for the context
    counts as answered wrongly. Under torch.distributed every rank must call this; rank r takes conversations r,
    r + world, ..., and all ranks get the result of all.

    Raises UserError if the tokenizer has no chat tokens, or a letter that is not one token.
    """
    k = samples if k is None else k
    assert 1 <= k <= samples
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    total = len(task) if max_problems is None else min(max_problems, len(task))
    conversations = {i: task[i] for i in range(rank, total, world)}
    prompts = {i: chat.prompt(tokenizer, conversations[i]["messages"][:-1]) for i in conversations}
    # Prompts of one length are read in one forward pass, so neighbours in the queue should have one length.
    asked = sorted((i for i in prompts if len(prompts[i]) <= engine.max_len), key=lambda i: len(prompts[i]))
    lettered = [(i, prompts[i], conversations[i]["letters"]) for i in asked if "letters" in conversations[i]]
    tools = calculator_tools(tokenizer)
    stop_ids = chat.stop_ids(tokenizer)
    requests = [
        # The seed is the conversation's, whatever the number of ranks.
        (i, Request(prompts[i], max_tokens, temperature, top_k, seed=(seed << 32) + i, stop_ids=stop_ids, tools=tools))
        for i in asked
        if "letters" not in conversations[i]
    ]
    right: set[int] = set()

    def grade(i: int, reply: Parts) -> bool:
        is_right = task.grade(conversations[i], "".join(part["text"] for part in reply if part["type"] == "text"))
        if is_right:
            right.add(i)
        return is_right

    replies = itertools.chain(_chosen(lettered, engine, tokenizer), _written(requests, samples, engine, tokenizer))
    graded: dict[int, dict[int, tuple[Parts, Future[bool]]]] = {i: {} for i in conversations}
    with (
        Progress(len(lettered) + len(requests) * samples, task.name, "answers", rank == 0) as progress,
        ThreadPoolExecutor(GRADERS) as graders,
    ):
        for done, (i, sample, reply) in enumerate(replies, 1):
            graded[i][sample] = reply, graders.submit(grade, i, reply)
            progress.update(done, right=len(right))
    examples = []
    for i, of_question in graded.items():
        verdicts = [of_question[sample][1].result() for sample in sorted(of_question)]
        shown = of_question[verdicts.index(True) if any(verdicts) else 0][0] if verdicts else []
        messages = conversations[i]["messages"]
        examples.append(Example(i, messages, shown, sum(verdicts), len(verdicts) or samples))
    if world > 1:
        of_ranks: list[list[Example]] = [[] for _ in range(world)]
        dist.all_gather_object(of_ranks, examples)
        examples = sorted(itertools.chain(*of_ranks), key=lambda example: example.index)
    chances = [pass_at(min(k, each.samples), each.samples, each.right) for each in examples]
    correct = sum(chances) if k < samples else sum(map(round, chances))
    return Result(task.name, len(examples), correct, examples, getattr(task, "baseline", 0.0))


def _chosen(
    questions: Sequence[tuple[int, list[int], Sequence[str]]], engine: Engine, tokenizer: Tokenizer
) -> Iterator[tuple[int, int, Parts]]:
    """The most likely letter to follow each prompt: (number, prompt, letters) of a question to (number, 0, reply)."""
    for start in range(0, len(questions), CHOICES_AT_ONCE):
        some = questions[start : start + CHOICES_AT_ONCE]
        logits = engine.next_logits([prompt for _, prompt, _ in some])
        for (number, _, letters), row in zip(some, logits, strict=True):
            scores = row[[_letter_id(tokenizer, letter) for letter in letters]].tolist()
            yield number, 0, [{"type": "text", "text": letters[scores.index(max(scores))]}]


def _written(
    requests: Sequence[tuple[int, Request]], samples: int, engine: Engine, tokenizer: Tokenizer
) -> Iterator[tuple[int, int, Parts]]:
    """What the model writes, as it ends: (number, request) of a question to (number, sample, reply)."""
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
