"""What a model costs: parameters, floating-point operations, memory and time.

Memory is counted tensor by tensor for this code's model, optimizer and loop, on a device that computes in bfloat16 and
holds weights in float32. Time is that of the operations at an assumed fraction of the device's peak, and of the bytes
that have to be moved besides. Letters: B rows, T tokens per row, D channels, H heads, K key/value heads, V vocabulary.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import torch

from nanochat import lora
from nanochat.gpt import GPT, GPTConfig, count_parameters
from nanochat.lora import Adapters
from nanochat.loss import chunk_rows
from nanochat.optim import parameter_groups
from nanochat.plan.gpus import Accelerator
from nanochat.reduce import Exchange
from nanochat.scaling import config_from_depth, horizon

CONTEXT = 1.0e9  # bytes: CUDA's context (0.5), cuBLAS's workspaces and the compiled kernels
NCCL = 0.7e9  # bytes: buffers for talking to other GPUs
GAPS = 0.06  # of what comes and goes: blocks that the caching allocator holds and cannot use
USABLE = 0.97  # of a GPU's memory
# Bytes per logit of a chunk of the loss: compiled the product and its gradient in bfloat16; otherwise there are float32
# temporaries. The gradient of the chunk before is still there. Without gradients, float32 logits three times.
COMPILED_LOGIT, EAGER_LOGIT, LAST_LOGIT, VALIDATION_LOGIT = 4, 18, 2, 12
EAGER_CAP = 4  # more of them with a softcap, for its slope
TAUGHT_LOGIT = 2  # a teacher's product in bfloat16, beside the student's
# Bytes per element of the matrices that Muon works on together: stacked weights, gradients and update in float32, and
# the temporaries of Polar Express. These two were counted with a dispatch mode that follows every storage of a training
# step on fake GPUs (tests/fakes/steps.py).
MUON_ELEMENT = 25
# Bytes moved per parameter besides the products: per micro-batch weights become bfloat16 and gradients are added up in
# float32; per step the optimizer reads and writes its state and its temporaries.
MICRO_BATCH_TRAFFIC, STEP_TRAFFIC = 26, 120
BANDWIDTH = 0.8  # fraction of the memory's bandwidth that simple kernels reach
EAGER = 0.7  # relative speed without torch.compile
GPT2_DEPTH, GPT2_RATIO, GPT2_ROWS = 24, 8.0, 16  # see seconds_to_gpt2
LAUNCHES, LAUNCH = 40, 6e-6  # kernels per layer when a token is generated, and seconds until one is started


def flops_per_token(config: GPTConfig, adapters: Adapters | None = None) -> int:
    """Operations of a training step per token, forward and backward (Chowdhery et al. 2022, appendix B).

    6 per weight of every matrix product, and 12 * d per head and visible key for the two products of attention.
    Weights beside which `adapters` learn have no gradient of their own, so they take 4, and the adapters 6.
    """
    D, d = config.n_embd, config.head_size
    block = 2 * D * config.n_head * d + 2 * D * config.n_kv_head * d + 8 * D * D
    matrices = config.n_layer * block + config.padded_vocab * D
    keys = sum(min(config.window(layer) or config.sequence_len, config.sequence_len) for layer in range(config.n_layer))
    products = 6 * matrices if adapters is None else 4 * matrices + 6 * lora.count(config, adapters)
    return products + 12 * config.n_head * d * keys


class Sizes(NamedTuple):
    """Numbers of parameters; group is the most that Muon works on together, rest is lm_head and scalars.

    Of the embeddings, looked_up are those that no product reads, and table those of one layer's value embeddings.
    """

    all: int
    matrices: int
    embeddings: int
    rest: int
    group: int
    looked_up: int
    table: int


@lru_cache(maxsize=16)
def sizes(config: GPTConfig) -> Sizes:
    with torch.device("meta"):
        model = GPT(config)
    _, muon = parameter_groups(model, 1, 1, 1, 1, 0)
    groups = [sum(matrix.numel() for matrix in group.parameters.values()) for group in muon]
    tables = (".wte", ".wpe", "value_embeds", "bigram")
    embeddings = sum(p.numel() for name, p in model.named_parameters() if any(table in name for table in tables))
    values = [p.numel() for name, p in model.named_parameters() if name.startswith("value_embeds.")]
    looked_up = sum(values) + (0 if model.lm_head is None else model.transformer.wte.weight.numel())
    whole = count_parameters(model)
    rest = whole - sum(groups) - embeddings
    return Sizes(whole, sum(groups), embeddings, rest, max(groups), looked_up, max(values, default=0))


# ---------------------------------------------------------------- memory: bytes on a device, by part


def fits(memory: Mapping[str, float], on: Accelerator) -> bool:
    return sum(memory.values()) <= USABLE * on.memory


def activation_bytes(
    config: GPTConfig, rows: int, length: int, itemsize: int = 2, compiled: bool = True, recompute: bool = False,
    adapters: Adapters | None = None,
) -> float:  # fmt: skip
    """What is kept from forward to backward for rows of `length` tokens, without the loss and copies of weights.

    Of a layer, in numbers per token: its input and that of the MLP, each before and after the norm (4 D); queries, keys
    and values (D + 2 K d), queries and keys once more before their norm; what attention gives (D); the MLP's 4 D before
    and behind its activation. Lambdas keep the layer's input unscaled, where it is not compiled, and value embeddings
    the vectors looked up. In float32: the norms' factors and attention's sums. This is with a kernel for attention (see
    attention.backend_for); in blocks windows keep their keys and values twice or three times.

    With recompute a layer keeps its input only, and in the backward pass one layer at a time has the rest.

    A matrix that is frozen needs its input for its adapter only, of which the `rank` numbers between A and B are kept;
    lambdas, gates and what comes before the first block need nothing.
    """
    c = config
    D, kv = c.n_embd, c.n_kv_head * c.head_size
    if adapters is not None:
        return _adapters_activations(config, rows * length, itemsize, recompute, adapters)
    layer = 4 * D + (D + 2 * kv) + (D + kv) * c.qk_norm + D + 8 * D + D * (c.lambdas and not compiled)
    value = kv + 2 * c.n_kv_head
    small = 4 * (c.n_head + (c.n_head + c.n_kv_head) * c.qk_norm + 2 * (1 + c.layer_norm))
    ends = (2 + c.embed_norm + 2 * c.smear) * D
    if recompute:
        return rows * length * (itemsize * (c.n_layer * D + layer + value + ends) + small)
    values = value * sum(c.has_value_embed(i) for i in range(c.n_layer))
    return rows * length * (itemsize * (c.n_layer * layer + values + ends) + c.n_layer * small)


def _adapters_activations(config: GPTConfig, tokens: int, itemsize: int, recompute: bool, adapters: Adapters) -> float:
    c, there = config, set(adapters.matrices)
    D, kv = c.n_embd, c.n_kv_head * c.head_size
    # As above, but what norms and the activation give only where an adapter reads it.
    qkv = bool(there & {"attn.c_q", "attn.c_k", "attn.c_v"})
    read = D * (qkv + ("mlp.c_fc" in there) + 4 * ("mlp.c_proj" in there))
    between = adapters.rank * len(there - {"lm_head"})
    layer = 2 * D + (D + 2 * kv) + (D + kv) * c.qk_norm + D + 4 * D + read + between
    value = kv + c.n_kv_head
    small = 4 * (c.n_head + (c.n_head + c.n_kv_head) * c.qk_norm + 2 * (1 + c.layer_norm))
    ends = 2 * D + ("lm_head" in there) * (D + adapters.rank)
    if recompute:
        return tokens * (itemsize * ((c.n_layer - 1) * D + layer + value + ends) + small)
    values = value * sum(c.has_value_embed(i) for i in range(1, c.n_layer))
    # Nothing is kept of what comes before the first adapter of all, as it needs no gradient.
    first = D + (0 if qkv else (D + 2 * kv) + (D + kv) * c.qk_norm)
    first += 0 if qkv or "attn.c_proj" in there else 2 * D + (0 if "mlp.c_fc" in there else 4 * D)
    return tokens * (itemsize * (c.n_layer * layer - first + values + ends) + c.n_layer * small)


def loss_bytes(
    config: GPTConfig, rows: int, length: int, compiled: bool = True, adapters: Adapters | None = None
) -> float:
    """What the loss holds: the gradients of its input and of the output matrix, the matrix in 16 bits, a chunk.

    A frozen matrix is in 16 bits already and has no gradient, unless an adapter makes it one of `factors`.
    """
    N, V, D = rows * length, config.padded_vocab, config.n_embd
    chunk = chunk_rows(N, V, torch.device("cuda"))
    eager = EAGER_LOGIT + EAGER_CAP * (config.softcap > 0)
    logit = (COMPILED_LOGIT if compiled else eager) + LAST_LOGIT * (chunk < N)
    if adapters is None:
        return 2 * N * D + 6 * V * D + chunk * V * logit
    width = D + adapters.rank
    head = 2 * N * width + 6 * V * width if "lm_head" in adapters.matrices else 2 * N * D
    return head + chunk * V * logit


def predicted_bytes(config: GPTConfig, rows: int, length: int, compiled: bool = True) -> float:
    """What a teacher holds while the student's loss is computed: what its output layer reads, and a chunk's logits.

    Two softmaxes over the chunk are float32 temporaries where nothing is compiled. Its blocks' own activations come
    and go before the student's are there.
    """
    N, V = rows * length, config.padded_vocab
    logit = TAUGHT_LOGIT if compiled else EAGER_LOGIT
    return 2.0 * N * config.n_embd + chunk_rows(N, V, torch.device("cuda")) * V * logit


def unlearned_bytes(config: GPTConfig, rows: int, length: int) -> float:
    """The logits of a chunk without gradients, as validations compute them."""
    V = config.padded_vocab
    return float(chunk_rows(rows * length, V, torch.device("cuda")) * V * VALIDATION_LOGIT)


def training_memory(
    config: GPTConfig,
    rows: int,
    length: int,
    compiled: bool = True,
    ranks: int = 1,
    muon: bool = True,
    recompute: bool = False,
    adapters: Adapters | None = None,
    teacher: GPTConfig | None = None,
    parts: int = 1,
) -> dict[str, float]:
    """On each of `ranks` GPUs that train on `rows` rows of `length` tokens at a time, when it is fullest.

    That is in a micro-batch after the first, when the gradients are there; a step of one micro-batch takes less.
    Without muon all parameters belong to AdamW, as in nanoGPT's way of training. With adapters these alone do, and
    have gradients, and the weights are frozen in 16 bits. A teacher's weights are there all the time; what it predicts
    for a micro-batch is there while the student computes its loss. parts: the ranks that the weights are divided among.
    """
    size = sizes(config)
    trained = size.all if adapters is None else lora.count(config, adapters)
    rounded = size.matrices if adapters is None else trained
    muon = muon and adapters is None
    shares = parts if parts > 1 else ranks  # of the optimizer; nodes that have all parts have all of it
    moments = [
        {
            "weights in 16 bits": 2.0 * (0 if recompute or parts > 1 else rounded),
            "activations": activation_bytes(config, rows, length, 2, compiled, recompute, adapters),
            "loss": float(loss_bytes(config, rows, length, compiled, adapters)),
        },
        # Not compiled, one layer at a time.
        {"logits of the validation": unlearned_bytes(config, rows, length)},
    ]
    if teacher is not None:
        moments[0]["the teacher's predictions"] = predicted_bytes(teacher, rows, length, compiled)
    if muon:
        moments.append({"Muon's workspace": MUON_ELEMENT * size.group / shares})
    # Each rank keeps the state of its part. Beside the step, its new weights are on their way in buffers of their own.
    state = (4.0 * size.matrices + 8.0 * (size.all - size.matrices) if muon else 8.0 * trained) / shares
    if muon and ranks > 1 and parts == 1:
        moments[-1]["weights on their way"] = 4.0 * size.matrices
    if parts > 1:
        # Tables are there while they are looked up, blocks one by one, the next one while one computes, and all else
        # until the backward pass ends. Of a block and its table there are also the gradients, as they are computed and,
        # one of the two at a time, in float32, to be summed.
        block, table = size.matrices / config.n_layer, size.table
        again = table if recompute else 0
        moments[0]["gathered weights"] = 2.0 * (size.all - size.matrices - size.looked_up + 2 * block + again)
        if adapters is None:
            moments[0]["gradients on their way"] = 2.0 * (block + table) + 4.0 * max(block, table)
    fullest = max(moments, key=lambda parts: sum(parts.values()))
    return {
        "weights": (4.0 * trained + 2.0 * size.all * (adapters is not None)) / parts,
        "gradients": 4.0 * trained / parts,
        "optimizer state": state,
        **({} if teacher is None else {"the teacher's weights": 2.0 * sizes(teacher).all}),
        "context and workspaces": CONTEXT + NCCL * (ranks > 1),
        **fullest,
        "gaps": GAPS * sum(fullest.values()),
    }


def cache_bytes(config: GPTConfig, length: int) -> int:
    """Keys and values of one sequence of `length` tokens, in bfloat16."""
    return 2 * config.n_layer * length * config.n_kv_head * config.head_size * 2


def serving_memory(config: GPTConfig, slots: int) -> dict[str, float]:
    """On a GPU whose Engine answers `slots` requests of full length at a time, in bfloat16."""
    return {
        "weights": 2.0 * sizes(config).all,
        "keys and values": float(slots * cache_bytes(config, config.sequence_len)),
        "context and workspaces": CONTEXT,
        "logits": float(slots * config.padded_vocab * VALIDATION_LOGIT),
    }


# ---------------------------------------------------------------- time, in seconds


class Communication(NamedTuple):
    """Of a step: bytes that a rank sends, seconds that takes, and how many of them no computing hides."""

    sent: float
    seconds: float
    exposed: float


def communication(
    config: GPTConfig, on: Accelerator, tokens: float, ranks: int, compiled: bool = True,
    adapters: Adapters | None = None,
) -> Communication:  # fmt: skip
    """Gradients to their owners and new weights to everyone, once each in a step, for a last micro-batch of `tokens`.

    Gradients leave while the backward pass still runs, except those of the input's tables, which come at its end.
    New weights of the blocks arrive while the next forward pass runs; the others are waited for.
    """
    sent = float(sum(replicated_traffic(config, ranks, adapters).values()))
    if adapters is not None:  # so few that it makes no difference what hides them
        return Communication(sent, sent / on.link, sent / on.link)
    size = sizes(config)
    share = 4 * (ranks - 1) / ranks / on.link  # seconds per parameter
    forward = tokens * flops_per_token(config) / 3 / (on.peak * on.mfu * (1 if compiled else EAGER))
    last = (config.padded_vocab + config.bigram_rows) * config.n_embd
    gradients = share * last + max(0.0, share * (size.all - last) - 2 * forward)
    weights = share * (size.all - size.matrices) + max(0.0, share * size.matrices - forward)
    return Communication(sent, sent / on.link, gradients + weights)


@lru_cache(maxsize=16)
def replicated_traffic(config: GPTConfig, ranks: int, adapters: Adapters | None = None) -> dict[str, int]:
    """The bytes that a rank sends in a step, by kind, when each holds all weights (`Exchange.traffic`)."""
    if adapters is not None:
        each = 4 * lora.count(config, adapters) * (ranks - 1) // ranks
        return {"gradients": each, "weights": each}
    with torch.device("meta"):
        model = GPT(config)
    adamw, muon = parameter_groups(model, 1, 1, 1, 1, 0)
    others = {name: parameter for group in adamw for name, parameter in group.parameters.items()}
    return Exchange([group.parameters for group in muon], others, 0, ranks).traffic()


def muon_flops(config: GPTConfig) -> float:
    """Operations of the five iterations of Polar Express on all matrices of the blocks."""
    D, kv = config.n_embd, config.n_kv_head * config.head_size
    shapes = [(D, D), (D, D), (kv, D), (kv, D), (4 * D, D), (D, 4 * D)]
    small = ((min(shape), max(shape)) for shape in shapes)
    return config.n_layer * sum(5 * (4 * m * m * n + 2 * m**3) for m, n in small)


def step_seconds(
    config: GPTConfig,
    on: Accelerator,
    tokens: float,
    accumulation: int = 1,
    ranks: int = 1,
    compiled: bool = True,
    muon: bool = True,
    adapters: Adapters | None = None,
) -> float:
    """An optimizer step of `accumulation` micro-batches of `tokens` tokens on each of `ranks` devices of a node.

    `scale.step` has other ways for a model to lie on them, and several nodes.
    """
    compute = compute_seconds(config, on, tokens, accumulation, ranks, compiled, muon, adapters)
    return compute + communication(config, on, tokens, ranks, compiled, adapters).exposed


def compute_seconds(
    config: GPTConfig,
    on: Accelerator,
    tokens: float,
    accumulation: int = 1,
    shares: int = 1,
    compiled: bool = True,
    muon: bool = True,
    adapters: Adapters | None = None,
) -> float:
    """The same without communication, on a device that owns one of so many shares of the optimizer."""
    speed = on.peak * on.mfu * (1 if compiled else EAGER)
    compute = accumulation * tokens * flops_per_token(config, adapters) / speed
    compute += (muon and adapters is None) * muon_flops(config) / shares / speed
    parameters = sizes(config).all if adapters is None else lora.count(config, adapters)
    moved = (accumulation * MICRO_BATCH_TRAFFIC + STEP_TRAFFIC / shares) * parameters / (on.bandwidth * BANDWIDTH)
    return compute + moved


def seconds_to_gpt2(on: Accelerator, ranks: int = 8) -> float:
    """Base training of a model with GPT-2's score in CORE (0.2565), without compiling, validating and saving.

    Nothing here was measured: that GPT2_DEPTH layers reach it after GPT2_RATIO tokens per scaling parameter is what
    the original's leaderboard is remembered to say, and on.mfu is assumed until a GPU has measured it; pass
    `replace(on, mfu=...)` then. With 8-bit products count their gain into mfu.
    """
    config = config_from_depth(GPT2_DEPTH, 32768, 2048)
    run = horizon(config, param_data_ratio=GPT2_RATIO, rows=GPT2_ROWS, ranks=ranks)
    tokens = run.rows * config.sequence_len
    accumulation = run.total_batch_size // (tokens * ranks)
    return run.num_iterations * step_seconds(config, on, tokens, accumulation, ranks)


def forward_seconds(config: GPTConfig, on: Accelerator, tokens: float) -> float:
    """Reading `tokens` tokens on one device, without gradients and not compiled."""
    return tokens * flops_per_token(config) / 3 / (on.peak * on.mfu * EAGER)


def decode_seconds(config: GPTConfig, on: Accelerator) -> float:
    """A step of generating, for however few: the weights are read once, and each kernel has to be started."""
    return 2 * sizes(config).all / (on.bandwidth * BANDWIDTH) + config.n_layer * LAUNCHES * LAUNCH + 3e-3
