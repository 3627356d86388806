"""The statistics of an experiment: intervals, Welch's and the paired t-test, and the compute multiplier.

With a handful of seeds nothing is known of a score's distribution, so all of it assumes the normal one (Student 1908).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nanochat.errors import UserError

INSTALL = "install it with `uv sync --extra experiment` in a clone, or else `pip install 'nanochat[experiment]'`"

Curve = Sequence[tuple[float, float]]  # (compute, value), in the order of the compute
Values = Mapping[int, float]  # seed -> score


@dataclass(frozen=True)
class Difference:
    """The mean of an arm minus the mean of the baseline, with an interval at 1 - p, and the p-value of no difference.

    p is None, and the interval infinite, where it cannot be computed: from one seed, or where nothing varies.
    """

    mean: float
    low: float
    high: float
    p: float | None


def interval(values: Sequence[float], p: float = 0.05) -> tuple[float, float]:
    """Student's interval of a mean, at 1 - p; infinite for a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return -math.inf, math.inf
    half = quantile(len(values) - 1, p) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def quantile(df: float, p: float) -> float:
    """The t that a two-sided test at p compares with."""
    return float(_stats().t.ppf(1 - p / 2, df))


def difference(arm: Values, baseline: Values, test: Literal["welch", "paired"], p: float = 0.05) -> Difference:
    """Compare an arm with the baseline.

    Welch's test (1947) does not assume that both vary alike. The paired test uses the seeds that both have: it is
    sharper only if the scores of a seed go up and down together, and has half the degrees of freedom.
    """
    if test == "paired":
        each = [arm[seed] - baseline[seed] for seed in arm if seed in baseline]
        mean = statistics.fmean(each) if each else math.nan
        variance, df = (statistics.variance(each) / len(each), len(each) - 1.0) if len(each) > 1 else (0.0, 0.0)
    else:
        mean = statistics.fmean(arm.values()) - statistics.fmean(baseline.values())
        variance, df = _welch(list(arm.values()), list(baseline.values()))
    if variance <= 0:
        return Difference(mean, -math.inf, math.inf, None)
    error = math.sqrt(variance)
    half = quantile(df, p) * error
    return Difference(mean, mean - half, mean + half, float(2 * _stats().t.sf(abs(mean) / error, df)))


def _welch(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """The variance of the difference of two means, and its degrees of freedom (Satterthwaite 1946)."""
    if min(len(one), len(other)) < 2:
        return 0.0, 0.0
    parts = [(statistics.variance(values) / len(values), len(values) - 1) for values in (one, other)]
    total = sum(part for part, _ in parts)
    return (total, total**2 / sum(part**2 / df for part, df in parts)) if total > 0 else (0.0, 0.0)


def detectable(baseline: Sequence[float], n: int, p: float = 0.05) -> float:
    """The smallest difference of two means of n seeds that is significant at p, if both vary as the baseline does."""
    if len(baseline) < 2 or n < 2:
        return math.inf
    return quantile(2 * n - 2, p) * statistics.stdev(baseline) * math.sqrt(2 / n)


def running_best(curve: Curve, lower: bool) -> list[tuple[float, float]]:
    """The curve made monotone: the best value so far."""
    best, found = math.inf if lower else -math.inf, []
    for compute, value in curve:
        best = min(best, value) if lower else max(best, value)
        found.append((compute, best))
    return found


def multiplier(arm: Curve, baseline: Curve, lower: bool) -> float | None:
    """How many times less compute the arm needs for the baseline's last best value.

    None where that would have to be extrapolated: if the arm never reaches it, or is better at its first point.
    """
    if not arm or not baseline:
        return None
    spent, target = running_best(baseline, lower)[-1]
    before: tuple[float, float] | None = None
    for compute, value in running_best(arm, lower):
        if value == target or (before is not None and (value < target) == lower):
            reached = compute
            if value != target and before is not None:
                reached = before[0] + (compute - before[0]) * (target - before[1]) / (value - before[1])
            return spent / reached if reached > 0 else None
        if (value < target) == lower:
            return None
        before = compute, value
    return None


def mean_curve(curves: Sequence[Curve], steps: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """The mean of runs' curves: at the steps that all have, and at last of their ends, which may be at other steps.

    steps: those of each curve's points.
    """
    at = [dict(zip(each[:-1], curve[:-1], strict=True)) for curve, each in zip(curves, steps, strict=True)]
    shared = [step for step in at[0] if all(step in other for other in at[1:])]
    rows = [[points[step] for points in at] for step in shared] + [[curve[-1] for curve in curves]]
    return [(statistics.fmean(x for x, _ in row), statistics.fmean(y for _, y in row)) for row in rows]


def _stats():
    """scipy.stats, which is optional and slow to import."""
    try:
        from scipy import stats
    except ImportError:
        raise UserError(f"experiments need scipy, which is not installed; {INSTALL}") from None
    return stats
