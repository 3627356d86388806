"""From one GPU to many nodes: how a model lies on them, what they send each other, and how long that takes.

Bytes are those that the code sends (tests/test_scale.py counts them). Time has not been measured on GPUs: it follows
from the assumptions of `Network`, as in NCCL's own model of a ring, by which NCCL chooses its algorithms: bytes over
bandwidth, and a latency for each hop. A ring over several nodes leaves each by all of its network cards together.

M micro-batches in a step, R ranks on N nodes, P parts.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from nanochat import lora
from nanochat.gpt import GPTConfig
from nanochat.lora import Adapters
from nanochat.plan import cost
from nanochat.plan.gpus import Accelerator
from nanochat.reduce import BUCKET_BYTES, traffic_in_parts


class Layout(NamedTuple):
    """How a model lies on the ranks: replicate, shard or hybrid, and in how many parts."""

    mode: str = "replicate"
    parts: int = 1


REPLICATED = Layout()
WASTE = 2.0  # below it the two take about as long (dev/LOG.md)


def layouts(ranks: int, here: int) -> dict[str, Layout]:
    """The possible ones, the least traffic (but for padding) first, when `here` of the ranks are on this node."""
    if ranks == 1:
        return {"replicate": REPLICATED}
    has_nodes = 1 < here < ranks and ranks % here == 0
    hybrid = {"hybrid": Layout("hybrid", here)} if has_nodes else {}
    return {"replicate": REPLICATED, **hybrid, "shard": Layout("shard", ranks)}


def automatic(
    possible: dict[str, Layout], fits: Callable[[int], bool], sent: Callable[[Layout], float] | None = None
) -> Layout:
    """What --parallel auto takes: the first whose number of parts fits, else the last.

    But hybrid in place of replicate if that sends more than WASTE times as much. With more ranks than Muon has matrices
    of a shape, replicate's buckets are mostly padding. sent: the bytes that a rank sends in a step, if they matter.
    """
    *_, last = possible.values()
    chosen = next((layout for layout in possible.values() if fits(layout.parts)), last)
    hybrid = possible.get("hybrid")
    if sent is None or hybrid is None or chosen.mode != "replicate" or not fits(hybrid.parts):
        return chosen
    return hybrid if sent(chosen) > WASTE * sent(hybrid) else chosen


# ---------------------------------------------------------------- the network


@dataclass(frozen=True)
class Network:
    """Assumptions about a cluster: those of nodes with 8 H100s, NVLink (the GPU's own `link`), and 8 cards of 400 Gb/s.

    Bytes per second and seconds. `reached` is the fraction of a card's bandwidth that large messages get.
    """

    per_node: int = 8
    card: float = 50e9  # of each GPU, to other nodes
    reached: float = 0.8
    launch: float = 10e-6  # of a collective
    hop: float = 2e-6  # from GPU to GPU in a node
    hop_between: float = 10e-6  # from node to node
    host: float = 40e9  # from a GPU to main memory
    storage: float = 2e9  # of each node, to a file system that all nodes see

    def nodes(self, ranks: int) -> int:
        return -(-ranks // self.per_node)

    def ring(self, size: float, ranks: int, on: Accelerator, calls: int = 1) -> float:
        """Seconds in which neighbouring ranks gather `size` bytes, or sum and scatter them, in so many collectives."""
        nodes = self.nodes(ranks)
        bandwidth = on.link if nodes == 1 else min(on.link, self.per_node * self.card * self.reached)
        hops = (ranks - nodes) * self.hop + (nodes - 1) * self.hop_between
        return (ranks - 1) / ranks * size / bandwidth + calls * (self.launch + hops) * (ranks > 1)

    def sums(self, size: float, nodes: int, calls: int = 1) -> float:
        """Seconds in which GPUs with the same place on each node sum `size` bytes of each, all places at once."""
        share = 2 * (nodes - 1) / nodes
        latency = self.launch + 2 * (nodes - 1) * self.hop_between
        return share * size / (self.card * self.reached) + calls * latency * (nodes > 1)

    def swap(self, size: float, ranks: int, on: Accelerator, calls: int = 1) -> float:
        """Seconds in which each of the ranks sends every other one its piece of `size` bytes (all-to-all)."""
        piece, here = size / ranks, min(ranks, self.per_node)
        inside, outside = (here - 1) * piece / on.link, (ranks - here) * piece / (self.card * self.reached)
        latency = self.launch + (self.hop_between if ranks > here else self.hop)
        return max(inside, outside) + calls * latency * (ranks > 1)

    def in_words(self, on: Accelerator) -> str:
        return (
            f"nodes of {self.per_node} GPUs; {on.link / 1e9:.0f} GB/s reached per GPU and direction in a node, "
            f"{self.card / 1e9:.0f} GB/s per GPU between nodes, of which {self.reached:.0%} are reached; latencies of "
            f"{1e6 * self.launch:.0f} us per collective, {1e6 * self.hop:.0f} us per hop in a node, "
            f"{1e6 * self.hop_between:.0f} us between nodes; {self.host / 1e9:.0f} GB/s to main memory, "
            f"{self.storage / 1e9:.0f} GB/s from a node to storage; {on.mfu:.0%} of {on.peak / 1e12:.0f} TFLOP/s while "
            "computing"
        )


NETWORK = Network()


# ---------------------------------------------------------------- a step


class Step(NamedTuple):
    """Of an optimizer step: bytes that a rank sends, seconds of computing and of communication, and of the latter those
    that no computing hides."""

    sent: float
    compute: float
    communication: float
    exposed: float

    @property
    def seconds(self) -> float:
        return self.compute + self.exposed

    @property
    def hidden(self) -> float:
        return self.communication - self.exposed


def step(
    config: GPTConfig, on: Accelerator, tokens: float, accumulation: int = 1, ranks: int = 1,
    layout: Layout = REPLICATED, compiled: bool = True, muon: bool = True, adapters: Adapters | None = None,
    network: Network = NETWORK,
) -> Step:  # fmt: skip
    """A step of `accumulation` micro-batches of `tokens` tokens on each rank."""
    shares = ranks if layout.parts == 1 else layout.parts
    compute = cost.compute_seconds(config, on, tokens, accumulation, shares, compiled, muon, adapters)
    sent = sum(traffic(config, accumulation, ranks, layout, muon, adapters).values())
    if layout.parts == 1:
        found = cost.communication(config, with_latency(on, ranks, network), tokens, ranks, compiled, adapters)
        return Step(sent, compute, found.seconds, found.exposed)
    forward = compute_of_forward(config, on, tokens, compiled)
    seconds, exposed = _of_micro_batch(config, on, forward, ranks, layout, adapters, network)
    updates = _of_muon(config, on, layout, network) if muon and adapters is None else 0.0
    return Step(sent, compute, accumulation * seconds + updates, accumulation * exposed + updates)


def with_latency(on: Accelerator, ranks: int, network: Network) -> Accelerator:
    """A GPU whose link is as fast as `ranks` exchange buckets of gradients and weights, their latency included."""
    if ranks == 1:
        return on
    return replace(on, link=(ranks - 1) / ranks * BUCKET_BYTES / network.ring(BUCKET_BYTES, ranks, on))


def compute_of_forward(config: GPTConfig, on: Accelerator, tokens: float, compiled: bool = True) -> float:
    """Seconds of a micro-batch's forward pass; the backward pass takes twice as long."""
    return tokens * cost.flops_per_token(config) / 3 / (on.peak * on.mfu * (1 if compiled else cost.EAGER))


def traffic(
    config: GPTConfig, accumulation: int, ranks: int, layout: Layout, muon: bool = True,
    adapters: Adapters | None = None, itemsize: int = 2,
) -> dict[str, float]:  # fmt: skip
    """The bytes that a rank sends in a step when rings carry them, by kind; "sums" are those of gradients over nodes.

    itemsize: bytes of a gathered weight.
    """
    if layout.parts == 1:
        return dict(cost.replicated_traffic(config, ranks, adapters))
    size = cost.sizes(config)
    trained = size.all if adapters is None else lora.count(config, adapters)
    matrices = size.matrices if muon and adapters is None else 0
    kinds = traffic_in_parts(size.all, size.matrices, matrices, layout.parts, itemsize, trained)
    nodes = ranks // layout.parts
    sums = 2 * (nodes - 1) / nodes * 4 * trained / layout.parts
    often = {"weights": kinds["weights"], "gradients": kinds["gradients"], "sums": sums}
    return {**{kind: accumulation * size for kind, size in often.items()}, "muon": kinds["muon"], "norm": kinds["norm"]}


def _of_micro_batch(
    config: GPTConfig, on: Accelerator, forward: float, ranks: int, layout: Layout, adapters: Adapters | None,
    network: Network,
) -> tuple[float, float]:  # fmt: skip
    """Seconds of communication of a model in parts, and how many of them nothing hides.

    A pass waits for the weights it begins with, and for the gradients it ends with: those of what is not in blocks.
    Between these, blocks arrive and gradients leave while others compute. Sums over nodes take another way than what is
    sent within a node.
    """
    size, parts, nodes = cost.sizes(config), layout.parts, ranks // layout.parts
    L, tables = config.n_layer, sum(config.has_value_embed(layer) for layer in range(config.n_layer))
    per_block = size.matrices / L
    ends = size.all - size.matrices - tables * size.table  # embedding, output layer and scalars: two groups

    def ring(weights: float, calls: int) -> float:
        return network.ring(weights, parts, on, calls)

    first = ring(2 * ends, 2) + ring(2 * per_block, 1)
    others = ring(2 * (size.all - ends - per_block), L - 1 + tables)
    again_first, again = ring(2 * per_block, 1), ring(2 * (size.matrices - per_block), L - 1)
    if adapters is None:
        last, leaving = ring(4 * ends, 2), ring(4 * (size.all - ends), L + tables)
        last_sums = network.sums(4 * ends / parts, nodes, 2)
        sums = network.sums(4 * (size.all - ends) / parts, nodes, L + tables)
    else:
        last, last_sums = 0.0, 0.0
        leaving = ring(4 * lora.count(config, adapters), L)
        sums = network.sums(4 * lora.count(config, adapters) / parts, nodes, L)
    exposed = first + max(0.0, others - forward)
    exposed += again_first + max(0.0, max(again + leaving, sums) - 2 * forward) + last + last_sums
    return first + others + again_first + again + leaving + last + sums + last_sums, exposed


def _of_muon(config: GPTConfig, on: Accelerator, layout: Layout, network: Network) -> float:
    """Seconds in which gradients of matrices reach their owners, and updates come back, a bucket at a time."""
    size = cost.sizes(config)
    buckets = max(1, round(4 * size.matrices / BUCKET_BYTES))
    return 2 * network.swap(4 * size.matrices / layout.parts, layout.parts, on, buckets)


# ---------------------------------------------------------------- checkpoints


class Saving(NamedTuple):
    """A checkpoint with its optimizer: bytes, and seconds to copy, write and read it."""

    size: float
    copy: float  # to main memory, for which a step waits
    write: float
    load: float


def saving(config: GPTConfig, ranks: int, layout: Layout, network: Network = NETWORK) -> Saving:
    """When all ranks copy and write equal shares, and each node reads what its ranks hold."""
    size, nodes = cost.sizes(config), network.nodes(ranks)
    weights, state = 4.0 * size.all, 4.0 * size.matrices + 8.0 * (size.all - size.matrices)
    whole = weights + state
    read = {"replicate": weights + state / nodes, "hybrid": whole, "shard": whole / nodes}[layout.mode]
    return Saving(whole, whole / ranks / network.host, whole / nodes / network.storage, read / network.storage)
