"""Reinforcement learning as a stream: the model's own completions, weighted by how much better than usual they are.

A step takes a few prompts, samples a group of completions of each with the weights as they are now, and grades them.
Every sampled token then weighs its completion's advantage: the reward minus the group's mean. Tokens that were not
sampled (the prompt, tool output, padding) weigh nothing. So the loop's sum of nll * weight / tokens is

    - sum of advantage * log p(token) / number of sampled tokens of the step

which is REINFORCE (Williams 1992) with the baseline of GRPO (Shao et al. 2024, arXiv 2402.03300). The advantage is not
divided by the group's standard deviation, which would favour prompts that are nearly always or nearly never answered
(Liu et al. 2025, arXiv 2503.20783), and all tokens of a step count alike instead of averaging each completion first, by
which long wrong ones would cost less (Yu et al. 2025, arXiv 2503.14476). Each completion is learned from once and by
the very weights that sampled it, so there is no ratio of probabilities, nothing to clip, and no KL term.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat import chat
from nanochat.data.batch import Batch, trained_positions
from nanochat.data.task import Task
from nanochat.engine.cpu_weights import pack
from nanochat.engine.engine import Engine
from nanochat.engine.request import Reply, Request
from nanochat.engine.tools import calculator_tools
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.reduce import whole
from nanochat.tokenizer import Tokenizer

LENGTHS = 16  # rows are a multiple of it long: for each length that oneDNN meets it keeps megabytes of kernels
PROMPTS_AT_ONCE = 64  # in an evaluation, between two looks at whether the run is being stopped


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled. The gradient assumes a temperature of 1 and all tokens (top_k 0)."""

    num_samples: int
    """completions of each prompt"""
    max_new_tokens: int
    """longest completion, without tool output"""
    temperature: float
    top_k: int
    seed: int


@dataclass(frozen=True)
class Completion:
    """A prompt with one completion: sampled[i] is whether the model chose ids[i]; both have the same length."""

    ids: list[int]
    sampled: list[bool]
    reward: float

    @property
    def tokens(self) -> int:
        return sum(self.sampled)


class Prompts:
    """The conversations of several tasks, numbered without end: dealt in turn, each task shuffled for each epoch."""

    def __init__(self, tasks: Sequence[Task], seed: int = 0):
        """Raises UserError for an empty task."""
        for task in tasks:
            if not len(task):
                raise UserError(f"the task {task.name} has no questions to learn from")
        self.tasks = tasks
        self.seed = seed
        self.size = len(tasks) * max(len(task) for task in tasks)  # an epoch: the longest task has been read once
        self._orders: dict[int, tuple[int, list[int]]] = {}  # by task: the latest epoch and its order

    def __getitem__(self, n: int) -> tuple[Task, dict]:
        """Prompt n >= 0: its task and the conversation."""
        number = n % len(self.tasks)
        task = self.tasks[number]
        epoch, place = divmod(n // len(self.tasks), len(task))
        if self._orders.get(number, (-1, []))[0] != epoch:
            order = list(range(len(task)))
            random.Random(f"rl/{self.seed}/{task.name}/{epoch}").shuffle(order)
            self._orders[number] = epoch, order
        return task, task[self._orders[number][1][place]]


class Policy:
    """The model that is being trained, as a sampler of completions."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, slots: int = 64):
        """Raises UserError if the tokenizer has no chat tokens."""
        self.model = model
        self.tokenizer = tokenizer
        self.engine = Engine(for_generating(model), slots)
        self.tools = calculator_tools(tokenizer)
        self.stop_ids = chat.stop_ids(tokenizer)

    def sample(self, prompts: Sequence[tuple[int, Task, dict]], sampling: Sampling) -> list[list[Completion]]:
        """The completions of each prompt, given as (number, task, conversation), by the weights as they are now.

        A prompt's number and the seed decide its random numbers, whatever is sampled beside it. A prompt longer than
        the context gets no completions.
        """
        self.engine.update(for_generating(self.model))
        requests: list[Request] = []
        groups: list[list[Completion]] = [[] for _ in prompts]
        origins: list[int] = []  # requests[j] completes prompts[origins[j]]
        for i, (number, _, conversation) in enumerate(prompts):
            prompt = chat.prompt(self.tokenizer, conversation["messages"][:-1])
            if len(prompt) <= self.engine.max_len:
                one = Request(
                    prompt, sampling.max_new_tokens, sampling.temperature, sampling.top_k,
                    seed=(sampling.seed << 32) + number, stop_ids=self.stop_ids, tools=self.tools,
                )  # fmt: skip
                requests += one.samples(sampling.num_samples)
                origins += [i] * sampling.num_samples
        # Prompts of one length are read in one forward pass, so neighbours in the queue should have one length.
        order = sorted(range(len(requests)), key=lambda j: len(requests[j].prompt))
        replies = self.engine.generate([requests[j] for j in order])
        for j, reply in sorted(zip(order, replies, strict=True), key=lambda pair: pair[0]):
            _, task, conversation = prompts[origins[j]]
            reward = float(task.grade(conversation, chat.reply_text(self.tokenizer, reply.tokens)))
            groups[origins[j]].append(_completion(requests[j].prompt, reply, reward))
        return groups


def _completion(prompt: list[int], reply: Reply, reward: float) -> Completion:
    # The id that ended the reply was sampled too; without its weight the model would never learn to stop.
    end = [] if reply.stop_id is None else [reply.stop_id]
    sampled = [False] * len(prompt) + [not forced for forced in reply.forced] + [True] * len(end)
    return Completion(prompt + reply.tokens + end, sampled, reward)


def for_generating(model: GPT) -> GPT:
    """A copy of the model as it is now, in its compute dtype and laid out for generating.

    It shares the tensors that need no change with the model, so it is out of date after an optimizer step.
    """
    with torch.device("meta"):
        copy = GPT(model.config, model.dtype)
    weights = whole(model.state_dict())  # in main memory, where they lay in parts
    state = {name: tensor.detach().to(model.device, model.dtype) for name, tensor in weights.items()}
    copy.load_state_dict(state, assign=True)
    pack(copy)
    return copy


def advantages(rewards: Sequence[float]) -> list[float]:
    """The rewards of a group minus their mean. A reward that is not finite is unknown: it is left out, and gets 0."""
    known = [reward for reward in rewards if math.isfinite(reward)]
    mean = sum(known) / max(1, len(known))
    if all(reward == known[0] for reward in known):
        return [0.0] * len(rewards)  # three times 0.1 divided by three is not 0.1
    return [reward - mean if math.isfinite(reward) else 0.0 for reward in rewards]


def rollouts(
    prompts: Prompts,
    policy: Policy,
    sampling: Sampling,
    examples_per_step: int,
    rows: int,
    rank: int = 0,
    world: int = 1,
    cursor: dict | None = None,
    few_shapes: bool = False,
) -> Iterator[Batch]:
    """This rank's micro-batches without end, starting at `cursor`: at most `rows` completions of similar length each.

    few_shapes pads them to `rows` rows and a power of two of tokens, so that torch.compile compiles a few shapes only.
    A step takes examples_per_step prompts, dealt over the ranks, and samples when its first micro-batch is requested.
    Completions without an advantage are counted but not computed.
    """
    cursor = cursor or {"question": 0, "sampled": 0}
    while True:
        start = cursor["question"]
        numbers = range(start + rank, start + examples_per_step, world)
        groups = policy.sample([(n, *prompts[n]) for n in numbers], sampling)
        weighed = [pair for group in groups for pair in zip(group, advantages([c.reward for c in group]), strict=True)]
        count = sum(completion.tokens for completion, _ in weighed if math.isfinite(completion.reward))
        metrics = _metrics(groups, policy.engine.model.device)
        cursor = {"question": start + examples_per_step, "sampled": cursor["sampled"] + int(metrics["tokens"])}
        learned = sorted((pair for pair in weighed if pair[1]), key=lambda pair: len(pair[0].ids))
        micro_batches = [learned[i : i + rows] for i in range(0, len(learned), rows)] or [[]]
        for i, pairs in enumerate(micro_batches):
            inputs, targets, weights = _tensors(pairs, rows if few_shapes else 0)
            yield Batch(
                inputs, targets, weights, cursor["question"] / prompts.size, cursor,
                count=count if i == 0 else 0, ends_step=i == len(micro_batches) - 1, metrics=metrics,
                trained=trained_positions(weights),
            )  # fmt: skip


def _tensors(pairs: Sequence[tuple[Completion, float]], fixed_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """inputs, targets, weights (B, T) of completions and their advantages; without any, one row of weight 0.

    With fixed_rows, B is that and T a power of two.
    """
    longest = max((len(completion.ids) - 1 for completion, _ in pairs), default=1)
    T = -(-longest // LENGTHS) * LENGTHS
    B = max(1, len(pairs))
    if fixed_rows:
        B, T = fixed_rows, 1 << (longest - 1).bit_length()
    ids = torch.zeros(B, T + 1, dtype=torch.int64)
    weights = torch.zeros(B, T + 1)
    for row, (completion, advantage) in enumerate(pairs):
        ids[row, : len(completion.ids)] = torch.tensor(completion.ids)
        weights[row, : len(completion.ids)] = torch.tensor(completion.sampled) * advantage
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), weights[:, 1:].contiguous()


def _metrics(groups: Sequence[Sequence[Completion]], device: torch.device) -> dict[str, float]:
    """The metrics of a step over all ranks; completion_tokens is the mean length, tokens are all that were sampled."""
    completions = [completion for group in groups for completion in group]
    rewards = [completion.reward for completion in completions if math.isfinite(completion.reward)]
    n, known, reward, squares, tokens, with_advantage, asked = _over_ranks(
        [
            len(completions), len(rewards), sum(rewards), sum(reward**2 for reward in rewards),
            sum(completion.tokens for completion in completions),
            sum(any(advantages([completion.reward for completion in group])) for group in groups), len(groups),
        ],
        device,
    )  # fmt: skip
    mean = reward / max(1, known)
    return {
        "reward": mean,
        "reward_std": math.sqrt(max(0.0, squares / max(1, known) - mean**2)),
        "frac_with_advantage": with_advantage / max(1, asked),
        "completion_tokens": tokens / max(1, n),
        "tokens": tokens,
    }


def pass_rates(
    task: Task,
    examples: int,
    policy: Policy,
    sampling: Sampling,
    stopping: Callable[[], bool],
    rank: int = 0,
    world: int = 1,
) -> dict[str, float]:
    """pass@1, the fraction of right completions, and pass@k, of prompts with a right one among k = num_samples.

    Takes the task's first `examples` conversations; a reward above a half is right. A collective call; ends early, with
    meaningless rates, once `stopping` is true.
    """
    examples = min(examples, len(task))
    asked, right, passed = 0, 0, 0
    for start in range(0, examples, PROMPTS_AT_ONCE):
        if stopping():
            break
        numbers = range(start + rank, min(start + PROMPTS_AT_ONCE, examples), world)
        for group in policy.sample([(n, task, task[n]) for n in numbers], sampling):
            correct = sum(completion.reward > 0.5 for completion in group)
            asked, right, passed = asked + 1, right + correct, passed + (correct > 0)
    total, right, passed = _over_ranks([asked, right, passed], policy.engine.model.device)
    k = sampling.num_samples
    rates = {"pass@1": right / max(1, total * k)}
    return rates if k == 1 else {**rates, f"pass@{k}": passed / max(1, total)}


def _over_ranks(values: Sequence[float], device: torch.device) -> list[float]:
    """The sums over all ranks."""
    if not dist.is_initialized():
        return list(values)
    summed = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(summed)
    return summed.tolist()
