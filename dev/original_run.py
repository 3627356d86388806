"""The rules of the original's pretraining: what `--depth` decides, and how its rates change during a run.

Written from its description, with its defaults: ratio 12, rates for 2^19 tokens a step at depth 12, decay 0.28, 40
steps of warm-up, warm-down over 65 % of the run to 5 % of the rates. Its schedules count steps of a length known
beforehand. A run that is given minutes has none, so progress here is the elapsed share of its time: the warm-down ends
with the last minute, whatever the speed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from dev.original_step import original_step
from nanochat.data.batch import Batch
from nanochat.gpt import GPT, GPTConfig
from nanochat.runtime import Runtime
from nanochat.scaling import config_from_depth, scaling_parameters

REFERENCE_BATCH = 2**19  # tokens of a step at the reference depth, 12
RATIO = 12  # tokens per scaling parameter
WEIGHT_DECAY = 0.28
WARMUP_STEPS, WARMDOWN, FINAL_LR = 40, 0.65, 0.05


@dataclass(frozen=True)
class Rules:
    """What follows from the shape and from the batch, if that is given: tokens per step and factors on the defaults."""

    batch: int
    lr_scale: float
    weight_decay: float


def rules(config: GPTConfig, batch: int = -1) -> Rules:
    """batch in tokens; -1: the power of two that is nearest to the tokens of the run to the power of 0.383."""
    reference = config_from_depth(12, config.vocab_size, config.sequence_len, head_dim=config.head_size)
    share = scaling_parameters(config) / scaling_parameters(reference)  # of the parameters, and so of the tokens
    if batch == -1:
        batch = 2 ** round(math.log2(REFERENCE_BATCH * share**0.383))
    root = math.sqrt(batch / REFERENCE_BATCH)
    return Rules(batch, root, WEIGHT_DECAY * root / share)


def schedule(step: int, progress: float) -> tuple[float, float, float]:
    """Muon's momentum, the factor on all rates and the factor on Muon's decay, for a step that begins at `progress`."""
    left = (1 - progress) / WARMDOWN  # 1 where the warm-down begins, 0 at the end
    lr, momentum = 1.0, 0.97
    if step < WARMUP_STEPS:
        lr = (step + 1) / WARMUP_STEPS
    elif left < 1:
        lr = left + (1 - left) * FINAL_LR
    if step < 400:
        momentum = 0.85 + 0.12 * step / 400
    elif left < 1:
        momentum = 0.90 + 0.07 * left
    return momentum, lr, 0.5 * (1 + math.cos(math.pi * progress))


class Clock(Protocol):
    def elapsed(self) -> float:
        """Stop, and return the elapsed share of the run's time."""
        ...

    def begin(self, model: GPT) -> None:
        """Look at the model, and go on."""
        ...


def train(
    config: GPTConfig, rules: Rules, stream: Iterator[Batch], tokens: int, clock: Clock, compiled: bool, rt: Runtime
) -> GPT:
    """Train on micro-batches of so many tokens until the clock says that the time is over, and return the model."""
    model, steps = GPT(config, rt.dtype), 0
    step, trained = original_step(model, compiled, rules.lr_scale, rules.weight_decay)
    while (progress := clock.elapsed()) < 1:
        model.load_state_dict(trained.state_dict())  # it has the same tensors, and is what is measured
        clock.begin(model)
        batches = [next(stream) for _ in range(rules.batch // tokens)]
        step([(batch.inputs, batch.targets) for batch in batches], *schedule(steps, progress))
        steps += 1
    model.load_state_dict(trained.state_dict())
    return model
