"""The pictures of a study, as SVG: curves, differences with their intervals, a score over a flag, scaling laws."""

import statistics

from extras.experiment import fit, numbers
from extras.experiment.file import Fit
from extras.experiment.results import Outcome, Study
from nanochat.report import curves

AXES = {"minutes": "minutes of training steps", "steps": "steps", "tokens": "tokens", "flops": "FLOPs"}


def drawn(study: Study) -> list[curves.Picture]:
    """For each score: the mean curves, the differences with their intervals, and the score over a flag that varies."""
    made = []
    for score in study.scores:
        name = score.replace("/", "_")
        shown = _shown(study, score)
        lines = {arm: curve for arm in shown if (curve := study.curve(arm, score))}
        if lines:
            title, x_name = f"{score}, mean of the seeds", AXES[study.axis]
            words = curves.in_words(title, lines, x_name)
            made.append(curves.Picture(f"{name}_curves", words, curves.draw(title, lines, x_name=x_name)))
        made += _differences(study, score, name)
        if points := [(study.varied[arm], statistics.fmean(own.values())) for arm in study.arms
                      if arm in study.varied and (own := study.values(arm, score))]:  # fmt: skip
            title, over = f"{score} by {study.varied_flag}", {"mean of the seeds": sorted(points)}
            words = curves.in_words(title, over, study.varied_flag)
            svg = curves.draw(title, over, x_name=study.varied_flag, log=min(points)[0] > 0)
            made.append(curves.Picture(f"{name}_flag", words, svg))
    return made + [picture for each in study.fits if (picture := _law(study, each))]


def _differences(study: Study, score: str, name: str) -> list[curves.Picture]:
    base = study.baseline
    reference, rows = study.values(base, score), {}
    for arm in list(study.arms)[1:]:
        own = study.values(arm, score)
        if own and reference:
            found = numbers.difference(own, reference, study.rule.test)
            if found.p is not None:
                rows[arm] = found.mean, found.low, found.high
    if not rows:
        return []
    title, x_name = f"{score} minus that of {base}", f"difference, 95 % interval ({study.scores[score]} is better)"
    words, svg = curves.intervals_in_words(title, rows), curves.draw_intervals(title, rows, x_name)
    return [curves.Picture(f"{name}_differences", words, svg)]


def _shown(study: Study, score: str) -> list[str]:
    """The arms to draw: all, or the baseline and the best, as many as there are colours."""
    means = {arm: statistics.fmean(own.values()) for arm in study.arms if (own := study.values(arm, score))}
    base = study.baseline
    ranked = sorted((arm for arm in means if arm != base), key=lambda arm: means[arm],
                    reverse=study.scores[score] == "higher")  # fmt: skip
    best = {base, *ranked[: len(curves.COLOURS) - 1]}
    return [arm for arm in study.arms if arm in best]


def points_of(study: Study, each: Fit) -> list[list[tuple[float, float]]]:
    """(x, score) of every arm, for each seed that all arms have."""
    arms = [{run.seed: run for run in runs if each.score in run.scores} for runs in study.arms.values()]
    seeds = [seed for seed in arms[0] if all(seed in runs for runs in arms[1:])]
    return [[(_x(runs[seed], each), runs[seed].scores[each.score]) for runs in arms] for seed in seeds]


def _x(run: Outcome, each: Fit) -> float:
    if each.against == "parameters" or each.score not in run.curves:
        return float(run.parameters)
    return getattr(run.curves[each.score][-1], each.against)


def _law(study: Study, each: Fit) -> curves.Picture | None:
    points = points_of(study, each)
    found = fit.fit_seeds(points) if points else None
    if found is None:
        return None
    means = sorted((statistics.fmean(x for x, _ in size), statistics.fmean(y for _, y in size))
                   for size in zip(*points, strict=True))  # fmt: skip
    low, high = means[0][0], means[-1][0]
    between = [low * (high / low) ** (n / 40) for n in range(41)]
    lines = {"measured": means, "fit": [(x, found.law(x)) for x in between]}
    title = f"{each.score} by {each.against}"
    name = f"{each.score.replace('/', '_')}_by_{each.against}"
    svg = curves.draw(title, lines, x_name=each.against, log=True)
    return curves.Picture(name, curves.in_words(title, lines, each.against), svg)
