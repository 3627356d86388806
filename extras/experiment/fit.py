"""Scaling laws: score = E + A x^-alpha, fitted to the arms of a ladder (Kaplan et al. 2020, Hoffmann et al. 2022)."""

import math
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from extras.experiment.numbers import interval

SIZES = 4  # three numbers are fitted, so fewer sizes fit exactly, whatever they are
LEAST_R2 = 0.95
STEEPEST = 3.0  # an exponent beyond any that was ever published


@dataclass(frozen=True)
class Law:
    """E + A (x / x0)^-alpha, with x0 the smallest x, and the share of the variance that it explains."""

    E: float
    A: float
    alpha: float
    x0: float
    r2: float

    def __call__(self, x: float) -> float:
        return self.E + self.A * (x / self.x0) ** -self.alpha


@dataclass(frozen=True)
class Fitted:
    """The law of the seeds' means, the interval of alpha over fits to one seed each, and what is wrong with it."""

    law: Law
    low: float
    high: float
    flaws: list[str]


def fit(points: Sequence[tuple[float, float]]) -> Law:
    """Fit a law to points (x, score) by least squares. At least three different x."""
    import numpy as np
    from scipy.optimize import OptimizeWarning, curve_fit

    x0 = min(x for x, _ in points)
    x, y = np.array([x / x0 for x, _ in points]), np.array([y for _, y in points])
    spread = max(float(y.max() - y.min()), 1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # about the covariance, which is not used
        best = None
        for alpha in (0.1, 0.3, 1.0):  # the sum of squares has several minima
            start = [max(float(y.min()) - spread, 0.0), 2 * spread, alpha]
            bounds = [0.0, 0.0, 0.0], [float(y.max()), np.inf, STEEPEST]
            found, _ = curve_fit(lambda x, E, A, a: E + A * x**-a, x, y, start, bounds=bounds, max_nfev=5000)
            error = float(((found[0] + found[1] * x ** -found[2] - y) ** 2).sum())
            if best is None or error < best[0]:
                best = error, found
    assert best is not None
    error, (E, A, alpha) = best
    variance = float(((y - y.mean()) ** 2).sum())
    return Law(float(E), float(A), float(alpha), x0, 1 - error / variance if variance else 0.0)


def fit_seeds(by_seed: Sequence[Sequence[tuple[float, float]]]) -> Fitted | None:
    """Fit the mean of the seeds, each a list of (x, score) in the same order. None with less than three sizes."""
    points = [(statistics.fmean(x for x, _ in each), statistics.fmean(y for _, y in each))
              for each in zip(*by_seed, strict=True)]  # fmt: skip
    if len({x for x, _ in points}) < 3:
        return None
    law = fit(points)
    low, high = interval([fit(each).alpha for each in by_seed])
    flaws = []
    if len(points) < SIZES:
        flaws.append(f"{len(points)} sizes always fit a law of three numbers")
    if law.r2 < LEAST_R2:
        flaws.append(f"it explains {law.r2:.0%} of the variance only")
    if law.E < 1e-6 or law.alpha > 0.99 * STEEPEST or law.alpha < 1e-3 or law.A < 1e-6:
        flaws.append("a number of it is at the edge of what is possible, so these sizes do not determine it")
    if math.isinf(low):
        flaws.append("one seed gives no interval")
    elif low <= 0:
        flaws.append("over the seeds, its exponent cannot be told from 0")
    return Fitted(law, low, high, flaws)
