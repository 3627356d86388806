"""How much memory and time each stage of the real recipe takes, before anything is bought.

Tokens, questions and rows are those of the published data sets; where a number was not counted but read off somebody's
run, the comment says so. What is predicted is meant to be within 15 % for memory and within a third for time. The
known runs that it is held to are those of the original; this code itself has not been measured on such GPUs.
"""

import math
from dataclasses import dataclass, replace

from nanochat.gpt import GPTConfig
from nanochat.plan import cost
from nanochat.plan.cost import Memory
from nanochat.plan.gpus import Accelerator
from nanochat.scaling import SFT_ROWS, config_from_depth, horizon, shared

STAGES = ("base", "mid", "sft", "rl")
PUBLISHED = (32, 34)  # depths of the original's models on the hub, which are classic

# Mid-training once over 460k conversations of SmolTalk, 100k questions of MMLU, 8k of GSM8K, 280k of spelling: 809 to
# 813 steps of 524288 tokens in published reports of the original. That makes 817 tokens of a SmolTalk conversation.
MID_TOKENS = 813 * 524288
# Fine-tuning: 10k of SmolTalk, 7.5k of GSM8K (200 tokens each), 3.4k of ARC (90), 1.6k others (180).
SFT_CONVERSATIONS, SFT_CONVERSATION_TOKENS = 22_439, 458
SFT_PADDED = 1050  # tokens of a row where four conversations are padded to the longest: mostly one is of SmolTalk
TEXT_DOCUMENT = 1000  # tokens of a document of web text
MID_CONVERSATIONS = 850_000
# chat_eval: multiple choice (ARC and MMLU), read only; and questions that are answered (GSM8K, HumanEval, SpellingBee).
CHOICES, CHOICE_TOKENS, ANSWERED, ANSWER_TOKENS = 17_590, 130, 1_739, 200
EVAL_BATCH, PROBE_SLOTS = 8, 32  # what chat_eval and chat_sft answer at the same time by default
CORE_TOKENS = 17e6  # 500 questions of each of the 22 tasks, two to four options, up to ten examples before them
BPB_TOKENS = 2 * 10_485_760  # base_eval, both splits
TOKENIZER_SPEED = 25e6  # characters per second: 80 s for 2 billion in the original's reports
TOKENIZER_CHARACTERS = 2_000_000_000
COMPARISON = 20  # seconds of comparing the tokenizer with others
SHARD_BYTES, DOWNLOAD = 100e6, 100e6  # of the published text, about 250 million characters; and a second, assumed
STARTUP = 90  # seconds of each stage: imports, loading, compiling; assumed
# chat_rl in speedrun.sh: 16 questions a step, 16 answers to each; tokens of a row; questions of GSM8K in all
RL_QUESTIONS, ANSWERS, RL_LENGTH, GSM8K = 16, 256, 512, 7473
ORIGINAL_SFT_STEPS, ORIGINAL_SFT_EXAMPLES = 701, 32


@dataclass(frozen=True)
class Setting:
    """A model on `gpus` devices: `rows` of length T each at a time, total_batch tokens in an optimizer step."""

    config: GPTConfig
    on: Accelerator
    gpus: int = 1
    rows: int = 1
    total_batch: int = 524288
    classic: bool = False
    compiled: bool = True
    eval_tokens: int = 41_943_040
    """of a validation; later stages inherit them"""

    @property
    def length(self) -> int:
        return self.config.sequence_len

    @property
    def accumulation(self) -> int:
        return max(1, self.total_batch // (self.rows * self.length * self.gpus))

    @property
    def embedding_bytes(self) -> int:
        return 2 if self.classic else 4

    @property
    def step_seconds(self) -> float:
        tokens = self.rows * self.length
        return cost.step_seconds(self.config, self.on, tokens, self.accumulation, self.gpus, self.compiled)

    def memory(self, rows: int | None = None) -> Memory:
        return cost.training_memory(
            self.config, rows or self.rows, self.length, self.compiled, self.gpus, self.embedding_bytes
        )


@dataclass(frozen=True)
class Forecast:
    """A stage: seconds of everything, tokens in all, operations, bytes on a GPU, optimizer steps, seconds of a step."""

    seconds: float
    tokens: int = 0
    flops: float = 0.0
    memory: Memory | None = None
    steps: int = 0
    step: float = 0.0


def classic_config(depth: int, vocab_size: int = 65536, sequence_len: int = 2048) -> GPTConfig:
    """The shape and the switches of the original nanochat of 2025."""
    width = 64 * depth
    wanted = max(1, round(width / 128))
    divisors = [n for n in range(1, width + 1) if width % n == 0]
    heads = min(divisors, key=lambda n: (abs(n - wanted), -n))
    return GPTConfig(
        sequence_len, vocab_size, depth, heads, heads, width, window_pattern="L", rope_base=10000.0,
        rope_in_bfloat16=True, qk_scale=1.0, lambdas=False, value_embeds=False, smear=False, backout=False,
    )  # fmt: skip


def largest_rows(setting: Setting) -> int:
    """The largest power of two of rows that fits the device and is not more than a step; 0 if not even one fits."""
    rows, found = 1, 0
    while (rows == 1 or rows * setting.length * setting.gpus <= setting.total_batch) and setting.memory(rows).fits(
        setting.on
    ):
        found, rows = rows, 2 * rows
    return found


def training(setting: Setting, tokens: float, eval_every: int = 0, other: float = 0.0) -> Forecast:
    """Training on `tokens` tokens with a validation every so many steps and at the end; `other`: seconds besides."""
    steps = max(1, math.ceil(tokens / setting.total_batch))
    validations = 1 + ((steps - 1) // eval_every if eval_every > 0 else 0)
    reading = cost.forward_seconds(setting.config, setting.on, validations * setting.eval_tokens / setting.gpus)
    whole = steps * setting.total_batch
    flops = float(whole * cost.flops_per_token(setting.config))
    step = setting.step_seconds
    return Forecast(STARTUP + steps * step + reading + other, whole, flops, setting.memory(), steps, step)


def base(setting: Setting, ratio: float = -1) -> Forecast:
    """Base training; `ratio` tokens per parameter, else 20 of all parameters (classic) or 12 of those that scale."""
    if setting.classic:
        tokens = (20 if ratio <= 0 else ratio) * cost.sizes(setting.config).all
    else:
        length = horizon(setting.config, setting.total_batch, param_data_ratio=12 if ratio <= 0 else ratio)
        tokens = length.num_iterations * setting.total_batch
    return training(setting, tokens, 250)


def mid(setting: Setting, text_share: float = 0.0) -> Forecast:
    """Mid-training once over the conversations, and as much text as makes it this share, below 1, of the documents."""
    documents = MID_CONVERSATIONS * text_share / (1 - text_share)
    return training(setting, MID_TOKENS + documents * TEXT_DOCUMENT, 150)


def for_sft(setting: Setting) -> Setting:
    """The setting with the default batch of fine-tuning, which inherits none."""
    batch, rows = shared(SFT_ROWS * setting.length, setting.rows, setting.length, setting.gpus)
    return replace(setting, total_batch=batch, rows=rows)


def sft(setting: Setting) -> Forecast:
    """Fine-tuning once over the conversations, packed into rows, with the accuracies at the end."""
    answering = 2 * 1024 * ANSWER_TOKENS / PROBE_SLOTS * cost.decode_seconds(setting.config, setting.on)
    return training(setting, SFT_CONVERSATIONS * SFT_CONVERSATION_TOKENS, 100, answering)


def rl(setting: Setting, steps: int = -1) -> Forecast:
    """Reinforcement learning on GSM8K: answers are sampled, then learned from; measured before and after.

    steps -1 is once over its questions.
    """
    if steps < 0:
        steps = -(-GSM8K // RL_QUESTIONS)
    mine = -(-ANSWERS // setting.gpus)
    slots = min(mine, slots_that_fit(setting))
    token = cost.decode_seconds(setting.config, setting.on)
    sampling = -(-mine // slots) * ANSWER_TOKENS * token
    accumulation = -(-mine // setting.rows)
    learning = cost.step_seconds(
        setting.config, setting.on, setting.rows * RL_LENGTH, accumulation, setting.gpus, compiled=False
    )
    measuring = 2 * 400 * 4 * ANSWER_TOKENS / (slots * setting.gpus) * token
    tokens = steps * ANSWERS * RL_LENGTH
    flops = float(tokens * cost.flops_per_token(setting.config))
    step = sampling + learning
    memory = rl_memory(setting, setting.rows)
    return Forecast(STARTUP + steps * step + measuring, tokens, flops, memory, steps, step)


def rl_memory(setting: Setting, rows: int) -> Memory:
    slots = min(-(-ANSWERS // setting.gpus), slots_that_fit(setting))
    return cost.rl_memory(setting.config, rows, RL_LENGTH, slots, setting.gpus, setting.embedding_bytes)


def chat_eval(setting: Setting, slots: int = EVAL_BATCH) -> Forecast:
    """The six tasks of the real recipe, all questions, `slots` at the same time on each GPU."""
    read, written = CHOICES * CHOICE_TOKENS, ANSWERED * ANSWER_TOKENS
    answering = written / (slots * setting.gpus) * cost.decode_seconds(setting.config, setting.on)
    seconds = STARTUP + cost.forward_seconds(setting.config, setting.on, read / setting.gpus) + answering
    flops = (read + written) * cost.flops_per_token(setting.config) / 3
    return Forecast(seconds, read + written, flops, cost.serving_memory(setting.config, slots))


def base_eval(setting: Setting) -> Forecast:
    """Bits per byte of both splits, CORE, and samples."""
    tokens = int(BPB_TOKENS + CORE_TOKENS)
    seconds = STARTUP + cost.forward_seconds(setting.config, setting.on, tokens / setting.gpus)
    memory = cost.reading_memory(setting.config, setting.rows, setting.length)
    return Forecast(seconds, tokens, tokens * cost.flops_per_token(setting.config) / 3, memory)


def download(shards: int) -> Forecast:
    """Fetching shards of text."""
    return Forecast(shards * SHARD_BYTES / DOWNLOAD)


def tokenizer(characters: float = TOKENIZER_CHARACTERS) -> Forecast:
    """Training a tokenizer on this many characters, on a processor."""
    return Forecast(characters / TOKENIZER_SPEED)


def slots_that_fit(setting: Setting, most: int = 64) -> int:
    """How many sequences the Engine holds: a quarter of the memory that the weights leave, as engine.serving has it."""
    free = setting.on.memory - cost.CONTEXT - 2 * cost.sizes(setting.config).all
    return max(1, min(most, int(free / 4 // cost.cache_bytes(setting.config, setting.length))))


# ---------------------------------------------------------------- the original's own programs


def original_sft(setting: Setting, rows: int = 4) -> tuple[Memory, Memory, float]:
    """The original's chat_sft, which pads one conversation a row and does not compile.

    Its memory where conversations are as long as the mean and where they fill the context, and its seconds. The 40 GB
    that are known of d34 are the former; how long the conversations were by then nobody wrote down.
    """
    typical, fullest = (
        cost.training_memory(setting.config, rows, length, False, setting.gpus, setting.embedding_bytes, original=True)
        for length in (SFT_CONVERSATION_TOKENS, setting.length)
    )
    accumulation = max(1, ORIGINAL_SFT_EXAMPLES // (rows * setting.gpus))
    step = cost.step_seconds(setting.config, setting.on, rows * SFT_PADDED, accumulation, setting.gpus, compiled=False)
    # Every 100 steps 100 batches are validated, every 200 steps 1024 questions of two tasks.
    reading = 8 * 100 * rows * SFT_PADDED + 4 * 2 * 1024 * CHOICE_TOKENS / setting.gpus
    seconds = STARTUP + ORIGINAL_SFT_STEPS * step + cost.forward_seconds(setting.config, setting.on, reading)
    return typical, fullest, seconds


def original_serving(setting: Setting) -> Memory:
    """The original's chat_web: float32 weights, bfloat16 copies of them, one conversation, and all its logits."""
    size = cost.sizes(setting.config)
    fixed = {
        "weights": 4.0 * (size.matrices + size.rest) + setting.embedding_bytes * size.embeddings,
        "weights in bfloat16": 2.0 * (size.matrices + size.rest),
        "keys and values": float(cost.cache_bytes(setting.config, setting.length)),
        "context and workspaces": cost.CONTEXT,
    }
    logits = float(setting.length * setting.config.padded_vocab * cost.VALIDATION_LOGIT)
    return Memory(fixed, {"prompt": {"logits": logits}})


def default_batch(config: GPTConfig, classic: bool) -> int:
    return 524288 if classic else horizon(config).total_batch_size


def config_of(depth: int, classic: bool, vocab_size: int | None = None, sequence_len: int = 2048) -> GPTConfig:
    """A model of this depth: classic, or what base_train makes."""
    if classic:
        return classic_config(depth, vocab_size or 65536, sequence_len)
    return config_from_depth(depth, vocab_size or 32768, sequence_len)
