"""How much memory and time each stage of the real recipe (`scripts.speedrun`) takes, before anything is bought.

Tokens, questions and rows are those of the published data sets; where a number was read off somebody's run, the comment
says so. Memory is meant to be within 15 %, time within a third (tests/test_plan.py compares with published runs).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nanochat.checkpoint import gpt2
from nanochat.gpt import GPTConfig
from nanochat.lora import Adapters
from nanochat.plan import cost, scale
from nanochat.plan.gpus import Accelerator
from nanochat.plan.scale import NETWORK, Layout
from nanochat.scaling import SFT_ROWS, config_from_depth, horizon, shared

ADAPTING = ("mid_train", "chat_sft")  # the stages that --lora_rank is for
TAUGHT = ("base_train", "mid_train", "chat_sft")  # the stages that --teacher is for
# Steps; the stages that have a loss to validate.
EVAL_EVERY = {"base_train": 250, "mid_train": 150, "chat_sft": 100, "chat_dpo": 100}
# Mid-training once over 460k conversations of SmolTalk, 100k questions of MMLU, 8k of GSM8K and 280k of spelling takes
# 809 to 813 steps of 524288 tokens in published reports.
MID_TOKENS, MID_CONVERSATIONS = 813 * 524288, 850_000
TEXT_DOCUMENT = 1000  # tokens of a document of web text
SFT_TOKENS = 22_439 * 458  # 10k of SmolTalk, 7.5k of GSM8K (200 tokens each), 3.4k of ARC (90), 1.6k others (180)
# UltraFeedback's binarized pairs; how long they are with both answers is assumed.
PAIRS, PAIR_TOKENS, EVAL_PAIRS = 61_135, 1000, 1000
# chat_eval: multiple choice (ARC and MMLU), read only; and questions that are answered (GSM8K, HumanEval, SpellingBee).
CHOICE_TOKENS, ANSWERED, ANSWER_TOKENS = 17_590 * 130, 1_739, 200
EVAL_SLOTS, PROBE_SLOTS = 8, 32  # what chat_eval and chat_sft answer at the same time by default
CORE_TOKENS = 17_000_000  # 500 questions of each of the 22 tasks, two to four options, up to ten examples before them
BPB_TOKENS = 2 * 10_485_760  # base_eval, both splits
TOKENIZER_SPEED = 25e6  # characters per second: 80 s for 2 billion in published reports
COMPARISON = 20  # seconds of tok_eval
SHARD_BYTES, DOWNLOAD = 100e6, 100e6  # of a shard of 250 million characters; per second, assumed
STARTUP = 90  # seconds per stage for imports, loading and compiling; assumed
PLAIN_STARTUP = 10  # the same without compiling
# The little world, on 2 cores of an Ice Lake at 2.8 GHz: seconds of a document of its text, of the tokenizer, of
# comparing that, of samples; and as many tokens as could be read in the time of one question.
DOCUMENT, LITTLE_TOKENIZER, LITTLE_COMPARISON, LITTLE_SAMPLES, QUESTION = 2.5e-4, 5, 4, 15, 130
RL_QUESTIONS, RL_ANSWERS, RL_LENGTH, GSM8K = 16, 256, 512, 7473  # of a step, tokens per row, questions in all


@dataclass(frozen=True)
class Setting:
    """A model on `gpus` devices: `rows` in a forward pass on each, total_batch tokens per optimizer step.

    Later stages inherit it. A total_batch of -1 follows from the model's size. parallel is that of training.
    """

    config: GPTConfig
    on: Accelerator
    gpus: int = 1
    rows: int = 32
    total_batch: int = -1
    eval_tokens: int = 41_943_040
    compiled: bool = True
    adapters: Adapters | None = None  # of the stages that can be trained with them
    teacher: GPTConfig | None = None  # of the stages that can have one
    parallel: str = "replicate"

    @property
    def layouts(self) -> dict[str, Layout]:
        """How the model can lie on the devices, with as many in a node as `NETWORK` has; all, or the one asked for."""
        possible = scale.layouts(self.gpus, min(self.gpus, NETWORK.per_node))
        if self.gpus == 1 or self.parallel == "auto":
            return possible
        return {self.parallel: possible[self.parallel]}

    def layout(self, stage: str, rows: int | None = None) -> Layout:
        """The one that training takes, as `train.parallel.layout_for` chooses it."""

        def fits(parts: int) -> bool:
            return cost.fits(self._training(stage, self.rows if rows is None else rows, parts), self.on)

        def sent(layout: Layout) -> float:
            batches = self._micro_batches(stage, self.rows if rows is None else rows)
            return sum(scale.traffic(self.config, batches, self.gpus, layout, True, self.adapted(stage)).values())

        return scale.automatic(self.layouts, fits, None if stage in gpt2.SIZES else sent)

    def _micro_batches(self, stage: str, rows: int) -> int:
        """Of a step."""
        is_rl = stage == "chat_rl"
        length, batch = (RL_LENGTH, RL_ANSWERS * RL_LENGTH) if is_rl else (self.config.sequence_len, self.total_batch)
        return max(1, -(-batch // (rows * length * self.gpus)))

    def adapted(self, stage: str) -> Adapters | None:
        """The adapters of a stage; None where all weights are trained."""
        return self.adapters if stage in (*ADAPTING, *gpt2.SIZES) else None

    def memory(self, stage: str, rows: int, layout: Layout | None = None) -> dict[str, float]:
        """Bytes on a GPU while a training stage works on `rows` rows at a time, in a layout or in that it takes."""
        memory = self._training(stage, rows, (layout or self.layout(stage, rows)).parts)
        if stage == "chat_dpo" and self.compiled:  # without compiling the loss itself takes more than that
            memory["reading the answers"] = cost.unlearned_bytes(self.config, rows, self.config.sequence_len)
        if stage == "chat_rl":
            serving = cost.serving_memory(self.config, min(-(-RL_ANSWERS // self.gpus), self.slots))
            memory |= {"weights to answer with": serving["weights"], "keys and values": serving["keys and values"]}
        return memory

    def _training(self, stage: str, rows: int, parts: int) -> dict[str, float]:
        """The part of it that decides the layout."""
        if stage == "chat_rl":
            return cost.training_memory(self.config, rows, RL_LENGTH, False, self.gpus, parts=parts)
        muon, length, adapters = stage not in gpt2.SIZES, self.config.sequence_len, self.adapted(stage)
        return cost.training_memory(
            self.config, rows, length, self.compiled, self.gpus, muon, adapters=adapters,
            teacher=self.teacher if stage in TAUGHT else None, parts=parts,
        )  # fmt: skip

    def largest_rows(self, stage: str) -> int:
        """The largest power of two of rows that fits the device and is no more than a step; 0 if none fits.

        In the layout with the least traffic in which one row fits.
        """
        step = RL_ANSWERS if stage == "chat_rl" else max(self.total_batch, 1) // self.config.sequence_len
        layout, found, rows = self.layout(stage, 1), 0, 1
        while (rows == 1 or rows * self.gpus <= step) and cost.fits(self.memory(stage, rows, layout), self.on):
            found, rows = rows, 2 * rows
        return found

    def step(self, stage: str) -> scale.Step:
        """An optimizer step of a stage that trains, in the layout that it takes."""
        is_rl = stage == "chat_rl"
        tokens = self.rows * (RL_LENGTH if is_rl else self.config.sequence_len)
        return scale.step(
            self.config, self.on, tokens, self._micro_batches(stage, self.rows), self.gpus, self.layout(stage),
            self.compiled and not is_rl, stage not in gpt2.SIZES, self.adapted(stage),
        )  # fmt: skip

    @property
    def slots(self) -> int:
        """How many sequences the Engine holds: a quarter of the memory that the weights leave (engine.serving)."""
        free = self.on.memory - cost.CONTEXT - 2 * cost.sizes(self.config).all
        return max(1, min(64, int(free / 4 // cost.cache_bytes(self.config, self.config.sequence_len))))


@dataclass(frozen=True)
class Forecast:
    """A stage: seconds in all, tokens, operations, bytes on a GPU by part, optimizer steps, seconds per step."""

    stage: str
    setting: Setting
    seconds: float
    tokens: int = 0
    flops: float = 0.0
    memory: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0
    step: float = 0.0


def config_of(depth: int, classic: bool, vocab_size: int | None = None, sequence_len: int = 2048) -> GPTConfig:
    """A model of this depth as base_train makes it, or classic, as nanochat's first generation was."""
    if not classic:
        return config_from_depth(depth, vocab_size or 32768, sequence_len)
    width = 64 * depth
    heads = min((n for n in range(1, width + 1) if width % n == 0), key=lambda n: (abs(n - max(1, width // 128)), -n))
    return GPTConfig(
        sequence_len, vocab_size or 65536, depth, heads, heads, width, window_pattern="L", rope_base=10000.0,
        rope_in_bfloat16=True, qk_scale=1.0, lambdas=False, value_embeds=False, smear=False, backout=False,
    )  # fmt: skip


def resolve(stage: str, flags: Mapping[str, Any], setting: Setting) -> Setting:
    """The setting of a stage: what its flags say, and else what the stages before it had."""
    config = setting.config
    if "vocab_size" in flags:
        config = replace(config, vocab_size=flags["vocab_size"])
    if "depth" in flags:
        head_dim = flags.get("head_dim", 128)
        config = config_from_depth(flags["depth"], config.vocab_size, flags["max_seq_len"], head_dim=head_dim)
    rows, batch = flags.get("device_batch_size", setting.rows), flags.get("total_batch_size", setting.total_batch)
    if stage in ("chat_sft", "chat_dpo"):
        batch = flags.get("target_examples_per_step", SFT_ROWS) * config.sequence_len
    if stage in EVAL_EVERY:
        if batch < 1:
            ratio = flags.get("target_param_data_ratio", 12)
            batch = horizon(config, param_data_ratio=ratio).total_batch_size
        batch, rows = shared(batch, rows, config.sequence_len, setting.gpus)
    return replace(
        setting, config=config, rows=rows, total_batch=batch, compiled=flags.get("compile", setting.compiled),
        eval_tokens=flags.get("eval_tokens", setting.eval_tokens),
    )  # fmt: skip


def forecast(stage: str, flags: Mapping[str, Any], before: Setting) -> Forecast:
    """What a stage with these flags takes, and its setting; nothing for one that takes no time worth planning."""
    setting = resolve(stage, flags, before)
    if stage in EVAL_EVERY:
        return _training(stage, flags, setting)
    if stage == "chat_rl":
        return _rl(flags, setting)
    if stage == "base_eval":
        return _evaluation(stage, BPB_TOKENS + CORE_TOKENS, 0, 1, setting)
    if stage.startswith("chat_eval"):
        return _evaluation(stage, CHOICE_TOKENS, ANSWERED, flags.get("batch_size", EVAL_SLOTS), setting)
    seconds = flags.get("num_shards", 0) * SHARD_BYTES / DOWNLOAD
    if stage == "tok_train":
        seconds = flags.get("max_chars", 2e9) / TOKENIZER_SPEED
    return Forecast(stage, setting, COMPARISON if stage == "tok_eval" else seconds)


def fine_tuning(name: str, steps: int, length: int, setting: Setting) -> Forecast:
    """Fine-tuning a GPT-2 with scripts.train on rows of `length` tokens: the `stage` is its name.

    `setting` gives the accelerators, the tokens of a step, and the rows of a forward pass; 0 takes the most that fit.
    """
    config = replace(gpt2.published(name), sequence_len=length)
    total = max(setting.total_batch, length * setting.gpus)
    setting = replace(setting, config=config, total_batch=total)
    rows = setting.rows or max(setting.largest_rows(name), 1)
    accumulation = max(1, round(total / (rows * length * setting.gpus)))
    setting = replace(setting, rows=rows, total_batch=accumulation * rows * length * setting.gpus)
    step = setting.step(name).seconds
    tokens = steps * setting.total_batch
    flops = tokens * cost.flops_per_token(config, setting.adapters)
    return Forecast(name, setting, STARTUP + steps * step, tokens, flops, setting.memory(name, rows), steps, step)


def little_world(stage: str, flags: Mapping[str, Any], setting: Setting) -> float:
    """Seconds of a stage of the tiny recipe that does not train, on a processor."""
    if stage == "data":
        return DOCUMENT * flags["num_documents"]
    if stage in ("tok_train", "tok_eval"):
        return LITTLE_TOKENIZER if stage == "tok_train" else LITTLE_COMPARISON
    if stage == "base_eval":
        reading = cost.forward_seconds(setting.config, setting.on, 2 * flags["eval_tokens"])
        return PLAIN_STARTUP + LITTLE_SAMPLES + reading
    from tasks import catalog

    asked = sum(min(len(task), flags["max_problems"]) for task in catalog.graded_tasks("littleworld", "test"))
    return PLAIN_STARTUP + cost.forward_seconds(setting.config, setting.on, asked * QUESTION)


def _training(stage: str, flags: Mapping[str, Any], setting: Setting) -> Forecast:
    """Training with a validation every so many steps and at the end."""
    config, on = setting.config, setting.on
    steps = flags.get("num_iterations", -1)
    if stage == "base_train":
        ratio = flags.get("target_param_data_ratio", 12)
        steps = horizon(config, setting.total_batch, steps, param_data_ratio=ratio).num_iterations
    elif steps < 1:
        fraction = flags.get("text_share", 0)  # of the documents of mid-training
        text = MID_CONVERSATIONS * fraction / (1 - fraction) * TEXT_DOCUMENT
        once = {"mid_train": MID_TOKENS + text, "chat_sft": SFT_TOKENS, "chat_dpo": PAIRS * PAIR_TOKENS}[stage]
        steps = max(1, math.ceil(once / setting.total_batch))
    tokens = steps * setting.total_batch
    step = setting.step(stage).seconds
    if setting.teacher is not None and stage in TAUGHT:
        step += cost.forward_seconds(setting.teacher, on, setting.total_batch / setting.gpus)
    every = flags.get("eval_every", EVAL_EVERY[stage])
    validations = 0 if every < 0 else 1 if every == 0 else 1 + (steps - 1) // every
    seconds = (STARTUP if setting.compiled else PLAIN_STARTUP) + steps * step
    read = validations * setting.eval_tokens
    if stage == "chat_dpo":  # all pairs once by the reference, and held-out ones
        read = (PAIRS + validations * EVAL_PAIRS) * PAIR_TOKENS
    seconds += cost.forward_seconds(config, on, read / setting.gpus)
    if stage == "chat_sft" and flags.get("eval_metrics_every", 0) >= 0:  # accuracies at the end
        seconds += _answering(2 * 1024, PROBE_SLOTS, setting)
    memory = setting.memory(stage, setting.rows)
    flops = tokens * cost.flops_per_token(config, setting.adapted(stage))
    return Forecast(stage, setting, seconds, tokens, flops, memory, steps, step)


def _rl(flags: Mapping[str, Any], setting: Setting) -> Forecast:
    """Reinforcement learning on GSM8K: answers are sampled, then learned from; measured before and after."""
    config, gpus = setting.config, setting.gpus
    steps = flags.get("num_iterations", -1)
    if steps < 0:  # once over its questions
        steps = -(-GSM8K // RL_QUESTIONS)
    mine = -(-RL_ANSWERS // gpus)
    slots = min(mine, setting.slots)
    step = setting.step("chat_rl").seconds
    step += _answering(-(-mine // slots), 1, setting)
    seconds = STARTUP + steps * step + _answering(2 * 400 * 4, slots * gpus, setting)
    tokens = steps * RL_ANSWERS * RL_LENGTH
    memory = setting.memory("chat_rl", setting.rows)
    return Forecast("chat_rl", setting, seconds, tokens, tokens * cost.flops_per_token(config), memory, steps, step)


def _evaluation(stage: str, read: int, answered: int, slots: int, setting: Setting) -> Forecast:
    """Reading so many tokens, and answering so many questions, `slots` at the same time on each GPU."""
    seconds = STARTUP + cost.forward_seconds(setting.config, setting.on, read / setting.gpus)
    seconds += _answering(answered, slots * setting.gpus, setting)
    tokens = read + answered * ANSWER_TOKENS
    return Forecast(stage, setting, seconds, tokens, tokens * cost.flops_per_token(setting.config) / 3)


def _answering(questions: int, slots: int, setting: Setting) -> float:
    """Seconds in which questions are answered, `slots` at the same time."""
    return questions * ANSWER_TOKENS / slots * cost.decode_seconds(setting.config, setting.on)
