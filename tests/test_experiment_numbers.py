"""The statistics of experiments, against published values, scipy's own tests, and what must hold for all curves."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from extras.experiment import fit, numbers

# Hours of sleep gained with each of two drugs by ten patients (Student 1908). R prints in the help of t.test:
# Welch t = -1.8608, df = 17.776, p = 0.07939, interval -3.3654832 to 0.2054832; paired t = -4.0621, p = 0.002833,
# interval -2.4598858 to -0.7001142.
FIRST = dict(enumerate([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]))
SECOND = dict(enumerate([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]))


def test_differences_are_those_of_student_and_welch():
    welch = numbers.difference(FIRST, SECOND, "welch")
    assert (welch.p, welch.low, welch.high) == pytest.approx((0.07939, -3.3654832, 0.2054832), rel=1e-4)
    paired = numbers.difference(FIRST, SECOND, "paired")
    assert (paired.p, paired.low, paired.high) == pytest.approx((0.002833, -2.4598858, -0.7001142), rel=1e-3)


samples = st.lists(st.floats(-100, 100), min_size=2, max_size=8).filter(lambda x: max(x) - min(x) > 1e-3)


@given(samples, samples)
def test_differences_are_those_of_scipy(one, other):
    found = numbers.difference(dict(enumerate(one)), dict(enumerate(other)), "welch", 0.1)
    expected = stats.ttest_ind(one, other, equal_var=False)
    interval = expected.confidence_interval(0.9)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-6)
    n = min(len(one), len(other))
    pairs = numbers.difference(dict(enumerate(one)), dict(enumerate(other)), "paired")
    if pairs.p is not None:
        assert pairs.p == pytest.approx(stats.ttest_rel(one[:n], other[:n]).pvalue, rel=1e-5, abs=1e-9)
    low, high = numbers.interval(one)
    error = stats.sem(one)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, len(one) - 1, sum(one) / len(one), error), abs=1e-6)


def test_one_seed_and_equal_seeds_have_no_p_value():
    for one, other in (({1: 1.0}, FIRST), (FIRST, {1: 1.0}), ({1: 2.0, 2: 2.0}, {1: 1.0, 2: 1.0})):
        found = numbers.difference(one, other, "welch")
        assert found.p is None and math.isinf(found.low) and math.isinf(found.high)
    assert numbers.interval([1.0]) == (-math.inf, math.inf) and math.isinf(numbers.detectable([1.0], 3))


def test_what_can_be_detected_is_just_significant():
    baseline = {1: 1.0, 2: 1.2, 3: 1.1}
    floor = numbers.detectable(list(baseline.values()), 3)
    shifted = {seed: value + floor for seed, value in baseline.items()}
    assert numbers.difference(shifted, baseline, "welch").p == pytest.approx(0.05)


# ---------------------------------------------------------------- the compute multiplier

values = st.lists(st.integers(1, 1000).map(lambda n: n / 100), min_size=1, max_size=12)


@st.composite
def curves(draw) -> list[tuple[float, float]]:
    ys = draw(values)
    gaps = draw(st.lists(st.integers(1, 50), min_size=len(ys), max_size=len(ys)))
    return [(float(sum(gaps[: n + 1])), y) for n, y in enumerate(ys)]


@given(curves(), curves(), st.booleans())
def test_a_multiplier_is_read_off_and_never_extrapolated(arm, baseline, lower):
    found = numbers.multiplier(arm, baseline, lower)
    (spent, target), best = numbers.running_best(baseline, lower)[-1], numbers.running_best(arm, lower)
    reaches = any(value == target or (value < target) == lower for _, value in best)
    starts_better = best[0][1] != target and (best[0][1] < target) == lower
    assert (found is None) == (not reaches or starts_better)
    if found is not None:
        assert arm[0][0] * (1 - 1e-9) <= spent / found <= arm[-1][0] * (1 + 1e-9)


@given(curves(), curves(), st.booleans())
def test_a_better_curve_has_no_smaller_multiplier(arm, baseline, lower):
    sign = -0.05 if lower else 0.05
    before = numbers.multiplier(arm, baseline, lower)
    after = numbers.multiplier([(x, y + sign) for x, y in arm], baseline, lower)
    if before is not None and after is not None:
        assert after >= before * (1 - 1e-9)


@given(curves(), st.integers(2, 9), st.booleans())
def test_the_same_curve_with_less_compute_has_its_ratio(arm, ratio, lower):
    """Where it still improves in the end: else the value is reached before."""
    best = numbers.running_best(arm, lower)
    quicker = [(x / ratio, y) for x, y in arm]
    found = numbers.multiplier(quicker, arm, lower)
    assert found is not None and found >= ratio * (1 - 1e-9)
    if len(best) == 1 or best[-1][1] != best[-2][1]:
        assert found == pytest.approx(ratio)
    assert [y for _, y in best] == sorted((y for _, y in best), reverse=lower)


def test_mean_curves_end_where_the_runs_do():
    one, other = [(1.0, 4.0), (2.0, 3.0), (3.0, 2.0)], [(2.0, 5.0), (5.0, 1.0)]
    assert numbers.mean_curve([one, other], [[5, 10, 13], [5, 9]]) == [(1.5, 4.5), (4.0, 1.5)]
    assert numbers.mean_curve([one], [[5, 10, 13]]) == one


# ---------------------------------------------------------------- scaling laws


@given(st.floats(0.3, 2), st.floats(0.1, 2), st.floats(0.1, 1))
def test_a_law_is_found_again(E, A, alpha):
    points = [(x, E + A * (x / 1e5) ** -alpha) for x in (1e5, 4e5, 2e6, 1e7, 1e8)]
    law = fit.fit(points)
    assert law.r2 > 0.999 and all(law(x) == pytest.approx(y, rel=2e-2) for x, y in points)


def test_a_law_of_few_sizes_is_none_or_not_to_be_relied_on():
    points = [(1e5, 2.0), (1e6, 1.5), (1e7, 1.3)]
    assert fit.fit_seeds([points[:2]]) is None
    found = fit.fit_seeds([points, points])
    assert found is not None and "3 sizes" in found.flaws[0]
    alone = fit.fit_seeds([[*points, (1e8, 1.2)]])
    assert alone is not None and "one seed gives no interval" in alone.flaws
