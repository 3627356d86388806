"""How learning rate, momentum and weight decay change during a run: pure functions of progress and step."""

from collections.abc import Sequence


def lr_multiplier(
    progress: float,
    step: int,
    warmup_steps: int = 0,
    warmup_ratio: float = 0.0,
    warmdown_ratio: float = 0.0,
    final_lr_frac: float = 0.0,
) -> float:
    """Linear warm-up (in steps or as a fraction of the run, whichever lasts longer), constant, linear warm-down.

    progress in [0, 1] is the fraction of the run that is done before this step.
    """
    warmup = min(1.0, (step + 1) / (warmup_steps + 1))
    if warmup_ratio > 0:
        # The first step must not be wasted by a multiplier of zero.
        warmup = min(warmup, max(progress / warmup_ratio, 1e-2))
    remaining = 1.0 - progress
    if remaining >= warmdown_ratio:
        return warmup
    fraction = remaining / warmdown_ratio
    return warmup * (fraction + (1 - fraction) * final_lr_frac)


def on_curve(progress: float, curve: Sequence[float]) -> float:
    """The factor at a progress in [0, 1], on straight lines through factors at evenly spaced points from 0 to 1."""
    if len(curve) == 1:
        return curve[0]
    place = min(max(progress, 0.0), 1.0) * (len(curve) - 1)
    left = min(int(place), len(curve) - 2)
    return curve[left] + (place - left) * (curve[left + 1] - curve[left])


def muon_momentum(step: int, progress: float, warmdown_ratio: float = 0.0) -> float:
    """0.85 rising to 0.97 over 400 steps, then falling to 0.90 during the warm-down (values of modern nanochat)."""
    momentum = 0.85 + 0.12 * min(1.0, step / 400)
    if warmdown_ratio > 0 and 1.0 - progress < warmdown_ratio:
        fraction = (1.0 - progress) / warmdown_ratio
        momentum = min(momentum, 0.90 + 0.07 * fraction)
    return momentum


def weight_decay_multiplier(progress: float) -> float:
    """Linear to zero: late in a run decay only shrinks weights that cannot be learned again."""
    return 1.0 - progress
