"""Look inside a model while it reads a text, and change what it computes there, in the model's own forward pass.

The parts of a model are PyTorch modules, so forward hooks see and replace what goes in and out of them. Attention
weights are the exception: no kernel keeps them. `Attention.tap` is given the queries and keys of the very pass, and the
weights are computed from these again. Hooks and taps exist during one call only.

Shapes: T tokens, D channels, H heads, d head size, L layers, V vocabulary. Places, each of a layer l:

    residual.l       the residual stream before layer l, and after the last one as residual.L (T, D)
    attention.l      the attention weights of each head (H, T, T): a row per token that looks back
    heads.l          what each head has read, before c_proj mixes the heads (T, H, d)
    attention_out.l  what attention adds to the residual stream (T, D)
    mlp.l            the MLP's neurons, after their activation (T, 4 D)
    mlp_out.l        what the MLP adds to the residual stream (T, D)
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from nanochat.attention import mixed, weights
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig
from nanochat.runtime import memory_of

Place = Literal["residual", "attention", "heads", "attention_out", "mlp", "mlp_out"]
What = Literal[Place, "logit_lens"]
PLACES: tuple[Place, ...] = get_args(Place)
EVERYTHING: tuple[What, ...] = (*PLACES, "logit_lens")
HAVE_HEADS = ("attention", "heads")


@dataclass(frozen=True)
class Inspection:
    """What a model computed for a text, float32 on the CPU. A list is empty where it was not asked for.

    T is the number of tokens, D that of channels (n_embd), V the size of the vocabulary.

    Attributes:
        ids: The T token ids.
        tokens: The text of each.
        attention: Attention weights, for each layer (heads, T, T): row t holds what token t gives to each earlier one.
        residual: The residual stream before each layer and after the last one, (T, D) each.
        heads: What each head has read, for each layer (T, heads, head size), before c_proj mixes the heads.
        attention_out: What attention adds to the residual stream, for each layer (T, D).
        mlp: The MLP's neurons after their activation, for each layer (T, 4 D).
        mlp_out: What the MLP adds to the residual stream, for each layer (T, D).
        logit_lens: The logits as if each layer were the last, (T, V) each; the last one's are the model's.
    """

    ids: list[int]
    tokens: list[str]
    attention: list[Tensor] = field(default_factory=list)
    residual: list[Tensor] = field(default_factory=list)
    heads: list[Tensor] = field(default_factory=list)
    attention_out: list[Tensor] = field(default_factory=list)
    mlp: list[Tensor] = field(default_factory=list)
    mlp_out: list[Tensor] = field(default_factory=list)
    logit_lens: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Patch:
    """A value for a place, for some positions (all if None) and for one head or all."""

    place: Place
    layer: int
    head: int | None
    positions: list[int] | None
    value: Tensor  # broadcast to what it replaces

    @property
    def name(self) -> str:
        return f"{self.place}.{self.layer}" + ("" if self.head is None else f".{self.head}")

    def put(self, x: Tensor) -> Tensor:
        """x (1, T, ...) with the value in its place; heads, if x has any, are its third axis."""
        positions = list(range(x.size(1))) if self.positions is None else self.positions
        _check_positions(positions, x.size(1), "the text")
        x, value = x.clone(), self.value.to(x)
        at = (0, torch.tensor(positions, device=x.device)) + (() if self.head is None else (self.head,))
        shape = tuple(x[at].shape)
        if value.dim() > len(shape) or any(
            mine not in (1, wanted) for mine, wanted in zip(reversed(value.shape), reversed(shape), strict=False)
        ):
            raise UserError(f"the value for {self.name} has the shape {tuple(value.shape)}; expected {shape}")
        x[at] = value
        return x


def patches(
    config: GPTConfig, changes: Mapping[str, Inspection | Tensor | float], positions: Sequence[int] | int | None
) -> list[Patch]:
    """What `api.Model.patch` is given. Raises UserError for an unknown place and what does not fit there."""
    made = []
    places = None if positions is None else [positions] if isinstance(positions, int) else list(positions)
    for name, value in changes.items():
        place, layer, head = _place(config, name)
        if isinstance(value, Inspection):
            value = _of(value, place, layer, head, places)
        else:
            value = torch.as_tensor(value, dtype=torch.float32)
            value = value.transpose(0, 1) if place == "attention" and value.dim() == 3 else value
        made.append(Patch(place, layer, head, places, value))
    return made


def _place(config: GPTConfig, name: str) -> tuple[Place, int, int | None]:
    place, _, numbers = name.partition(".")
    parts = numbers.split(".")
    last = config.n_layer - (place != "residual")
    if place in PLACES and all(part.isdecimal() for part in parts) and int(parts[0]) <= last:
        if len(parts) == 1:
            return place, int(parts[0]), None
        if len(parts) == 2 and place in HAVE_HEADS and int(parts[1]) < config.n_head:
            return place, int(parts[0]), int(parts[1])
    example = "heads.0.0 (of a head)" if place in HAVE_HEADS else f"{place if place in PLACES else 'residual'}.0"
    raise UserError(
        f"this model has no {name!r}; expected one of {', '.join(PLACES)} with the number of a layer, below "
        f"{config.n_layer}, as in {example}"
    )


def _of(inspection: Inspection, place: Place, layer: int, head: int | None, positions: list[int] | None) -> Tensor:
    """The part of another text's inspection to put in a place."""
    seen = getattr(inspection, place)
    if not seen:
        raise UserError(f"the inspection has no {place}; ask for it, as in inspect(text, what=['{place}'])")
    if layer >= len(seen):
        raise UserError(f"the inspection is of a model with fewer layers, so it has no {place}.{layer}")
    x = seen[layer].transpose(0, 1) if place == "attention" else seen[layer]  # (T, ...)
    if positions is not None:
        _check_positions(positions, len(x), "the inspected text")
        x = x[positions]
    return x if head is None else x[:, head]


def _check_positions(positions: Sequence[int], T: int, text: str) -> None:
    if outside := [position for position in positions if not -T <= position < T]:
        raise UserError(f"position {outside[0]} is outside {text}, which has {T} tokens; expected {-T} to {T - 1}")


def inspect(
    model: GPT, ids: Sequence[int], what: Collection[str] = EVERYTHING, changes: Sequence[Patch] = ()
) -> dict[str, list[Tensor]]:
    """What the model computes for T token ids, with these changes, by name; see `Inspection`.

    Raises UserError for a name that is not in EVERYTHING, and where there is not enough memory for so many tokens.
    """
    _check(model, len(ids), what)
    seen: dict[str, list[Tensor]] = {name: [] for name in EVERYTHING if name in what}
    if "logit_lens" in what:
        seen.setdefault("residual", [])
    with torch.no_grad(), watched(model, changes, seen):
        logits = model(torch.tensor([ids], device=model.device))
    if "logit_lens" in what:
        after, half = seen["residual"][1:], model.config.n_layer // 2
        with torch.no_grad():
            lens = [model.lens(x[None], None if layer < half else after[half][None])[0]
                    for layer, x in enumerate(after[:-1])]  # fmt: skip
        seen["logit_lens"] = [*lens, logits[0]]
    return {name: [x.float().cpu() for x in seen[name]] for name in EVERYTHING if name in what}


def _check(model: GPT, T: int, what: Collection[str]) -> None:
    c = model.config
    if unknown := [name for name in what if name not in EVERYTHING]:
        raise UserError(f"what has {unknown[0]!r}; expected some of {', '.join(EVERYTHING)}")
    sizes = {"attention": c.n_head * T, "mlp": 4 * c.n_embd, "logit_lens": c.vocab_size}  # numbers for each token
    needed = 4 * T * c.n_layer * sum(sizes.get(name, c.n_embd) for name in what)
    if 0 < (most := memory_of(torch.device("cpu"))) < needed:
        raise UserError(
            f"{', '.join(what)} of {T} tokens take {needed / 1e9:.1f} GB, and this machine has {most / 1e9:.1f} GB; "
            "shorten the text, or ask for less, as in what=['attention']"
        )


class Glance(NamedTuple):
    """What a page shows of N tokens: weights (H, N, T) of one layer; each layer's top predictions, (L, N, top) both."""

    weights: Tensor
    probabilities: Tensor
    ids: Tensor


def glance(model: GPT, ids: Sequence[int], layer: int, last: int, top: int) -> Glance:
    """Attention of one layer and the logit lens for the last N of T token ids, in far less memory than `inspect`."""
    seen: dict[str, list[Tensor]] = {"residual": []}
    shares: list[Tensor] = []
    attention = model.transformer.blocks[layer].attn

    def tap(q: Tensor, k: Tensor, v: Tensor, y: Tensor) -> Tensor:
        shares.append(weights(q[:, -last:], k, attention.window)[0])
        return y

    best = []
    with torch.no_grad(), watched(model, (), seen):
        attention.tap = tap
        try:
            model(torch.tensor([ids], device=model.device), last_only=True)
        finally:
            attention.tap = None
        after, half = [x[None, -last:] for x in seen["residual"][1:]], model.config.n_layer // 2
        for number, x in enumerate(after):
            logits = model.lens(x, None if number < half else after[half])[0]
            best.append(logits.softmax(-1).topk(min(top, logits.size(-1))))
    probabilities, chosen = (torch.stack(each).cpu() for each in zip(*best, strict=True))
    return Glance(shares[0].cpu(), probabilities, chosen)


@contextmanager
def watched(
    model: GPT, changes: Sequence[Patch] = (), seen: Mapping[str, list[Tensor]] | None = None
) -> Iterator[None]:
    """Within it, a forward pass over one text has the changes, and appends to `seen` what is in the places it names.

    `seen` gets tensors of the model's dtype and device, without the axis of rows, layer by layer.
    """
    seen = seen or {}
    with ExitStack() as stack:
        for place in PLACES:
            for layer in range(model.config.n_layer + (place == "residual")):
                own = [change for change in changes if (change.place, change.layer) == (place, layer)]
                if own or place in seen:
                    _watch(stack, model, place, layer, own, seen.get(place))
        yield


def _watch(
    stack: ExitStack, model: GPT, place: Place, layer: int, changes: list[Patch], seen: list[Tensor] | None
) -> None:
    """Change what is in a place, and append it to `seen`, until the stack closes."""
    heads = model.config.n_head, model.config.head_size

    def see(x: Tensor) -> Tensor:  # (1, T, ...)
        for change in changes:
            x = change.put(x)
        if seen is not None:
            seen.append(x[0])
        return x

    def tap(q: Tensor, k: Tensor, v: Tensor, y: Tensor) -> Tensor:
        shares = see(weights(q, k, model.config.window(layer)).transpose(1, 2)).transpose(1, 2)  # (1, H, T, T)
        if seen is not None:
            seen[-1] = shares[0]
        if not changes:
            return y
        new = mixed(shares, v)
        changed = [any(change.head in (None, head) for change in changes) for head in range(heads[0])]
        return torch.where(torch.tensor(changed, device=y.device)[:, None], new, y)

    if place == "attention":
        attention = model.transformer.blocks[layer].attn
        attention.tap = tap
        stack.callback(setattr, attention, "tap", None)
    elif place == "heads":
        _hook(stack, model, place, layer, lambda x: see(x.unflatten(-1, heads)).flatten(-2))
    else:
        _hook(stack, model, place, layer, see)


def _hook(stack: ExitStack, model: GPT, place: Place, layer: int, see: Callable[[Tensor], Tensor]) -> None:
    """Put what `see` makes of it into a place, until the stack closes."""

    def pre(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return see(inputs[0]), *inputs[1:]

    def post(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return see(output)

    blocks = model.transformer.blocks
    if place == "residual":
        # Where there is one, the block before, so that what the model keeps of its result for the end changes as well.
        handle = (
            blocks[layer - 1].register_forward_hook(post) if layer else blocks[0].register_forward_pre_hook(pre)
        )
    elif place in ("heads", "mlp"):
        part = blocks[layer].attn if place == "heads" else blocks[layer].mlp
        handle = part.c_proj.register_forward_pre_hook(pre)
    else:
        part = blocks[layer].attn if place == "attention_out" else blocks[layer].mlp
        handle = part.register_forward_hook(post)
    stack.callback(handle.remove)
