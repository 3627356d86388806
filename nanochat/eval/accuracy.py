"""How often a model answers correctly: generate an answer to every conversation of a task and let the task grade it."""

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.distributed as dist

from nanochat import chat
from nanochat.engine.engine import Engine
from nanochat.engine.request import Reply, Request
from nanochat.engine.tools import calculator_tools
from nanochat.log import Progress
from nanochat.tokenizer import Tokenizer


class Task(Protocol):
    """Conversations whose last message is the assistant's reference answer, and a way to grade another answer."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict: ...

    def grade(self, conversation: dict, answer: str, /) -> bool: ...


@dataclass(frozen=True)
class Example:
    """A conversation, its reference answer included, and the reply as chat.reply_parts gives it."""

    index: int
    """the conversation's place in the task"""
    messages: list[dict]
    reply: list[dict[str, str]]
    correct: bool


@dataclass(frozen=True)
class Result:
    """n conversations were asked and `correct` of them answered correctly, over all ranks."""

    name: str
    n: int
    correct: int
    examples: list[Example] = field(default_factory=list)
    """of this rank, right ones first"""

    @property
    def accuracy(self) -> float:
        return self.correct / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        return interval(self.correct, self.n)


def interval(correct: int, n: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share (Wilson 1927), within [0, 1]; (0, 1) when n is 0.

    Unlike the textbook's p ± 1.96 sqrt(p (1 - p) / n) it is not empty when every answer was right.
    """
    if n == 0:
        return 0.0, 1.0
    z = 1.959963984540054  # the 97.5 % quantile of the normal distribution
    share = correct / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
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
    keep_examples: int = 0,
) -> Result:
    """Ask the first `max_problems` (None: all) conversations of a task and count the correct answers.

    Each is answered `samples` times and counts as correct if one of the answers is. The answer that is graded is the
    visible text: tool calls and their output are taken out. The calculator is at hand. A question too long for the
    context counts as answered wrongly. Under torch.distributed every rank must call this; rank r takes conversations
    r, r + world, ..., and the counts are summed. Up to `keep_examples` right and as many wrong answers come back.

    Raises UserError if the tokenizer has no chat tokens.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    total = len(task) if max_problems is None else min(max_problems, len(task))
    conversations = [task[i] for i in range(rank, total, world)]
    tools = calculator_tools(tokenizer)
    stop_ids = chat.stop_ids(tokenizer)
    asked: list[int] = []  # asked[j] is the conversation that requests[j] answers
    requests: list[Request] = []
    for i, conversation in enumerate(conversations):
        prompt = chat.prompt(tokenizer, conversation["messages"][:-1])
        if len(prompt) <= engine.max_len:
            own_seed = (seed << 32) + i * world + rank  # the conversation's, whatever the number of ranks
            one = Request(prompt, max_tokens, temperature, top_k, seed=own_seed, stop_ids=stop_ids, tools=tools)
            requests += one.samples(samples)
            asked += [i] * samples
    # Prompts of one length are read in one forward pass, so neighbours in the queue should have one length.
    order = sorted(range(len(requests)), key=lambda j: len(requests[j].prompt))
    replies = [Reply() for _ in requests]
    right: dict[int, Reply] = {}  # by conversation
    wrong: dict[int, Reply] = {}
    done = 0
    with Progress(len(requests), task.name, unit="answers", is_main=rank == 0) as progress:
        for k, event in engine.stream([requests[j] for j in order]):
            j = order[k]
            replies[j].add(event)
            if event.finish:
                conversation = conversations[asked[j]]
                answer = chat.reply_text(tokenizer, replies[j].tokens)
                graded = right if task.grade(conversation, answer) else wrong
                graded.setdefault(asked[j], replies[j])
                done += 1
                progress.update(done, right=len(right))
    counts = torch.tensor([len(conversations), len(right)], device=engine.model.device)
    if world > 1:
        dist.all_reduce(counts)
    n, correct = counts.tolist()
    wrong = {i: reply for i, reply in wrong.items() if i not in right}
    examples = []
    for graded in (right, wrong):
        for i in sorted(graded)[:keep_examples]:
            reply = chat.reply_parts(tokenizer, graded[i].tokens)
            examples.append(Example(i * world + rank, conversations[i]["messages"], reply, graded is right))
    return Result(task.name, n, correct, examples)
