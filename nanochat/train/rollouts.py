"""Reinforcement learning as a stream: the model's own answers, weighted by how much better than usual they are.

A step asks a few questions, samples a group of answers to each with the weights as they are now, and grades them. Every
sampled token then weighs its answer's advantage: the reward less the group's mean. What was not sampled (the prompt,
what a tool said, padding) weighs nothing. So the loop's sum of nll * weight / tokens is

    - sum of advantage * log p(token) / number of sampled tokens of the step

which is REINFORCE (Williams 1992) with the baseline of GRPO (Shao et al. 2024, arXiv 2402.03300). The advantage is not
divided by the group's standard deviation, which would make most of the questions that are nearly always or nearly
never answered (Liu et al. 2025, arXiv 2503.20783), and all tokens of a step count alike instead of each answer's being
averaged first, by which long wrong answers would cost less (Yu et al. 2025, arXiv 2503.14476). Each answer is learned
from once and by the very weights that gave it, so there is no ratio of probabilities, nothing to clip, and no KL term.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat import chat
from nanochat.data.batch import Batch
from nanochat.data.task import Task
from nanochat.engine.cpu_weights import pack
from nanochat.engine.engine import Engine
from nanochat.engine.request import Reply, Request
from nanochat.engine.tools import calculator_tools
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.tokenizer import Tokenizer

LENGTHS = 16  # rows are a multiple of it long: for each length that oneDNN meets it keeps megabytes of kernels
PROBED_AT_ONCE = 64  # questions of a measurement between two looks at whether the run is being stopped


@dataclass(frozen=True)
class Sampling:
    """How answers are sampled. The gradient takes them for the model's own: a temperature of 1, from all tokens."""

    num_samples: int
    """answers to a question"""
    max_new_tokens: int
    """of an answer, without what tools say"""
    temperature: float
    top_k: int
    """0: from all tokens"""
    seed: int


@dataclass(frozen=True)
class Answer:
    """A prompt with the answer to it: sampled[i] says whether the model chose ids[i]; both have the same length."""

    ids: list[int]
    sampled: list[bool]
    reward: float

    @property
    def tokens(self) -> int:
        return sum(self.sampled)


class Questions:
    """The conversations of several tasks, numbered without end: dealt in turn, each task's shuffled for each epoch."""

    def __init__(self, tasks: Sequence[Task], seed: int = 0):
        """Raises UserError for a task that is empty."""
        for task in tasks:
            if not len(task):
                raise UserError(f"the task {task.name} has no questions to learn from")
        self.tasks = tasks
        self.seed = seed
        self.size = len(tasks) * max(len(task) for task in tasks)  # an epoch: the longest task has been read once
        self._orders: dict[int, tuple[int, list[int]]] = {}  # of each task: the latest epoch and its order

    def __getitem__(self, n: int) -> tuple[Task, dict]:
        """Question n >= 0: its task and the conversation."""
        number = n % len(self.tasks)
        task = self.tasks[number]
        epoch, place = divmod(n // len(self.tasks), len(task))
        if self._orders.get(number, (-1, []))[0] != epoch:
            order = list(range(len(task)))
            random.Random(f"rl/{self.seed}/{task.name}/{epoch}").shuffle(order)
            self._orders[number] = epoch, order
        return task, task[self._orders[number][1][place]]


class Respondent:
    """Answers questions with a model that is being trained, in groups of samples."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, slots: int = 64):
        """Raises UserError if the tokenizer has no chat tokens."""
        self.model = model
        self.tokenizer = tokenizer
        self.engine = Engine(for_generating(model), slots)
        self.tools = calculator_tools(tokenizer)
        self.stop_ids = chat.stop_ids(tokenizer)

    def answers(self, asked: Sequence[tuple[int, Task, dict]], sampling: Sampling) -> list[list[Answer]]:
        """The answers to each question, given as (number, task, conversation), by the weights as they are now.

        A question's number and the seed decide its random numbers, whatever is asked beside it. One whose prompt is
        longer than the context gets no answers.
        """
        self.engine.model = for_generating(self.model)
        self.engine.forget()
        requests: list[Request] = []
        groups: list[list[Answer]] = [[] for _ in asked]
        of: list[int] = []  # of[j] is the question that requests[j] answers
        for i, (number, _, conversation) in enumerate(asked):
            prompt = chat.prompt(self.tokenizer, conversation["messages"][:-1])
            if len(prompt) <= self.engine.max_len:
                one = Request(
                    prompt, sampling.max_new_tokens, sampling.temperature, sampling.top_k,
                    seed=(sampling.seed << 32) + number, stop_ids=self.stop_ids, tools=self.tools,
                )  # fmt: skip
                requests += one.samples(sampling.num_samples)
                of += [i] * sampling.num_samples
        # Prompts of one length are read in one forward pass, so neighbours in the queue should have one length.
        order = sorted(range(len(requests)), key=lambda j: len(requests[j].prompt))
        replies = self.engine.generate([requests[j] for j in order])
        for j, reply in sorted(zip(order, replies, strict=True), key=lambda pair: pair[0]):
            _, task, conversation = asked[of[j]]
            reward = float(task.grade(conversation, chat.reply_text(self.tokenizer, reply.tokens)))
            groups[of[j]].append(_answer(requests[j].prompt, reply, reward))
        return groups


def _answer(prompt: list[int], reply: Reply, reward: float) -> Answer:
    # The id that ended the reply was sampled too; without its weight nobody would learn to stop.
    end = [] if reply.stop_id is None else [reply.stop_id]
    sampled = [False] * len(prompt) + [not forced for forced in reply.forced] + [True] * len(end)
    return Answer(prompt + reply.tokens + end, sampled, reward)


def for_generating(model: GPT) -> GPT:
    """A copy of the model as it is now, in its compute dtype and laid out for generating.

    It shares the tensors that need no change with the model, so it is out of date after an optimizer step.
    """
    with torch.device("meta"):
        copy = GPT(model.config, model.dtype)
    state = {name: tensor.detach().to(model.dtype) for name, tensor in model.state_dict().items()}
    copy.load_state_dict(state, assign=True)
    pack(copy)
    return copy


def advantages(rewards: Sequence[float]) -> list[float]:
    """How much better than their mean the rewards of a group are. One that is not finite is left out, and gets 0."""
    known = [reward for reward in rewards if math.isfinite(reward)]
    mean = sum(known) / max(1, len(known))
    if all(reward == known[0] for reward in known):
        return [0.0] * len(rewards)  # three times 0.1 divided by three is not 0.1
    return [reward - mean if math.isfinite(reward) else 0.0 for reward in rewards]


def rollouts(
    questions: Questions,
    respondent: Respondent,
    sampling: Sampling,
    examples_per_step: int,
    rows: int,
    rank: int = 0,
    world: int = 1,
    cursor: dict | None = None,
    few_shapes: bool = False,
) -> Iterator[Batch]:
    """The micro-batches of this rank without end, from `cursor` on: at most `rows` answers each, about as long.

    few_shapes pads them to `rows` rows of a power of two of tokens, so that compiling them ends.
    A step asks examples_per_step questions, which the ranks deal between them, and samples when its first micro-batch
    is asked for. Answers without an advantage are counted but not computed. The figures of a step: "reward" and
    "reward_std" over all answers, "learnable", the share of questions whose answers differ in worth, "answer_tokens",
    the mean length, and "tokens", all that were sampled.
    """
    cursor = cursor or {"question": 0, "sampled": 0}
    while True:
        start = cursor["question"]
        numbers = range(start + rank, start + examples_per_step, world)
        groups = respondent.answers([(n, *questions[n]) for n in numbers], sampling)
        weighed = [pair for group in groups for pair in zip(group, advantages([a.reward for a in group]), strict=True)]
        count = sum(answer.tokens for answer, _ in weighed if math.isfinite(answer.reward))
        figures = _figures(groups, respondent.engine.model.device)
        cursor = {"question": start + examples_per_step, "sampled": cursor["sampled"] + int(figures["tokens"])}
        learned = sorted((pair for pair in weighed if pair[1]), key=lambda pair: len(pair[0].ids))
        micro_batches = [learned[i : i + rows] for i in range(0, len(learned), rows)] or [[]]
        for i, pairs in enumerate(micro_batches):
            inputs, targets, weights = _tensors(pairs, rows if few_shapes else 0)
            yield Batch(
                inputs, targets, weights, cursor["question"] / questions.size, cursor,
                count=count if i == 0 else 0, ends_step=i == len(micro_batches) - 1, figures=figures,
            )  # fmt: skip


def _tensors(pairs: Sequence[tuple[Answer, float]], fixed_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """inputs, targets, weights (B, T) of answers and their advantages; of none, a single row without weight.

    With fixed_rows, B is that and T a power of two.
    """
    longest = max((len(answer.ids) - 1 for answer, _ in pairs), default=1)
    T = -(-longest // LENGTHS) * LENGTHS
    B = max(1, len(pairs))
    if fixed_rows:
        B, T = fixed_rows, 1 << (longest - 1).bit_length()
    ids = torch.zeros(B, T + 1, dtype=torch.int64)
    weights = torch.zeros(B, T + 1)
    for row, (answer, advantage) in enumerate(pairs):
        ids[row, : len(answer.ids)] = torch.tensor(answer.ids)
        weights[row, : len(answer.ids)] = torch.tensor(answer.sampled) * advantage
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), weights[:, 1:].contiguous()


def _figures(groups: Sequence[Sequence[Answer]], device: torch.device) -> dict[str, float]:
    """What a step's log says of the answers of all ranks."""
    answers = [answer for group in groups for answer in group]
    rewards = [answer.reward for answer in answers if math.isfinite(answer.reward)]
    n, known, reward, squares, tokens, learnable, asked = _over_ranks(
        [
            len(answers), len(rewards), sum(rewards), sum(reward**2 for reward in rewards),
            sum(answer.tokens for answer in answers),
            sum(any(advantages([answer.reward for answer in group])) for group in groups), len(groups),
        ],
        device,
    )  # fmt: skip
    mean = reward / max(1, known)
    return {
        "reward": mean,
        "reward_std": math.sqrt(max(0.0, squares / max(1, known) - mean**2)),
        "learnable": learnable / max(1, asked),
        "answer_tokens": tokens / max(1, n),
        "tokens": tokens,
    }


def pass_rates(
    task: Task,
    questions: int,
    respondent: Respondent,
    sampling: Sampling,
    stopping: Callable[[], bool],
    rank: int = 0,
    world: int = 1,
) -> dict[str, float]:
    """{"pass@1": the share of right answers, "pass@k": of questions with a right one among k} of k = num_samples.

    Of the task's first `questions` conversations; right is what is worth more than half. A collective call; cut short,
    and meaningless, once `stopping` says so.
    """
    questions = min(questions, len(task))
    asked, right, passed = 0, 0, 0
    for start in range(0, questions, PROBED_AT_ONCE):
        if stopping():
            break
        numbers = range(start + rank, min(start + PROBED_AT_ONCE, questions), world)
        for group in respondent.answers([(n, task, task[n]) for n in numbers], sampling):
            correct = sum(answer.reward > 0.5 for answer in group)
            asked, right, passed = asked + 1, right + correct, passed + (correct > 0)
    total, right, passed = _over_ranks([asked, right, passed], respondent.engine.model.device)
    k = sampling.num_samples
    shares = {"pass@1": right / max(1, total * k)}
    return shares if k == 1 else {**shares, f"pass@{k}": passed / max(1, total)}


def _over_ranks(values: Sequence[float], device: torch.device) -> list[float]:
    """The sums over all ranks."""
    if not dist.is_initialized():
        return list(values)
    summed = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(summed)
    return summed.tolist()
