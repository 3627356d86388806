"""The report of a study: verdicts, tables and pictures, as Markdown and as HTML."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from extras.experiment import fit, numbers, pictures
from extras.experiment.file import Fit
from extras.experiment.pictures import AXES, points_of
from extras.experiment.results import Study
from nanochat.log import duration
from nanochat.report import curves, page
from nanochat.report.card import escaped, table
from nanochat.report.sections import machine
from nanochat.terminal import printable


@dataclass(frozen=True)
class Verdict:
    """keep, discard or undecided, and why; failed where no run of the arm has a score."""

    arm: str
    decision: Literal["keep", "discard", "undecided", "failed"]
    reason: str  # a sentence
    n: int
    mean: float
    difference: float  # to the baseline; below 0 is better where lower is better
    p: float | None  # None where it cannot be computed, as from one seed
    multiplier: float | None  # how much less compute; None where it would be extrapolated


def verdicts(study: Study) -> list[Verdict]:
    """A verdict for each arm but the baseline, by the study's rule, for the rule's score."""
    return [_verdict(study, arm) for arm in list(study.arms)[1:]]


def _verdict(study: Study, arm: str) -> Verdict:
    rule, score = study.rule, study.rule.score
    own, base = study.values(arm, score), study.values(study.baseline, score)
    failed = [each.error for each in study.arms[arm] if each.error]
    if not own:
        return Verdict(arm, "failed", failed[0] if failed else "no run is done", 0, math.nan, math.nan, None, None)
    mean = statistics.fmean(own.values())
    if not base:
        return Verdict(arm, "undecided", "the baseline has no result", len(own), mean, math.nan, None, None)
    found = numbers.difference(own, base, rule.test, rule.p)
    decision, reason = _decide(study, arm, found, min(len(own), len(base)))
    if failed:
        reason += f" ({len(failed)} of {len(study.arms[arm])} runs failed)"
    return Verdict(arm, decision, reason, len(own), mean, found.mean, found.p, study.multiplier(arm, score))


def _decide(
    study: Study, arm: str, found: numbers.Difference, n: int
) -> tuple[Literal["keep", "discard", "undecided"], str]:
    """Apply the rule. Gains are differences with the sign that makes more better."""
    rule, base = study.rule, study.baseline
    lower = study.scores[rule.score] == "lower"
    gain, most = (-found.mean, -found.low) if lower else (found.mean, found.high)
    if found.p is None:
        return "undecided", "one seed gives no p-value" if n < 2 else "the seeds do not vary, so there is no p-value"
    if found.p < rule.p and gain >= max(rule.better_by, 1e-300):
        for other in rule.not_worse:
            beside = numbers.difference(study.values(arm, other), study.values(base, other), rule.test)
            is_worse = (beside.mean > 0) == (study.scores[other] == "lower")
            if beside.p is not None and beside.p < rule.p and is_worse:
                worse = f"{other} is worse by {abs(beside.mean):.4g} (p = {beside.p:.2g})"
                return "discard", f"better by {gain:.4g}, but {worse}"
        return "keep", f"better by {gain:.4g} (p = {found.p:.2g})"
    if most <= rule.better_by:
        by = f"it cannot be better by {rule.better_by:g}" if rule.better_by or gain > 0 else f"worse by {-gain:.4g}"
        return "discard", f"{by} (p = {found.p:.2g})"
    which = "better" if gain > 0 else "worse"
    chance = ", which may be chance" if found.p >= rule.p else f", and less than {rule.better_by:g} is not enough"
    return "undecided", f"{which} by {abs(gain):.4g}{chance} (p = {found.p:.2g})"


# ---------------------------------------------------------------- the text


def write(study: Study, folder: Path) -> str:
    """Write report.md with its pictures, and report.html, to the folder. Returns the Markdown."""
    drawn = pictures.drawn(study)
    text = markdown(study, drawn)
    page.write(folder, text, drawn, study.title)
    return text


def markdown(study: Study, drawn: Sequence[curves.Picture] = ()) -> str:
    """The report, with these pictures."""
    chapters = {
        "Verdicts": _verdicts(study),
        "Scores": "\n\n".join(_scores(study, score) for score in study.scores),
        "Pictures": "\n".join(f"![{escaped(picture.text)}]({picture.name}.svg)" for picture in drawn),
        "Scaling": "\n\n".join(_law(study, each) for each in study.fits),
        "Runs": _runs(study),
        "Proposals": _proposals(study),
        "How it was measured": _method(study),
    }
    parts = [f"# {escaped(study.title)}", *(f"## {name}\n\n{text}" for name, text in chapters.items() if text)]
    return "\n\n".join(parts) + "\n"


def _verdicts(study: Study) -> str:
    rule, base = study.rule, study.baseline
    lines = [f"**{escaped(each.arm)}: {each.decision}.** {escaped(each.reason[:1].upper() + each.reason[1:])}."
             for each in verdicts(study)]  # fmt: skip
    enough = f" by at least {rule.better_by:g}" if rule.better_by else ""
    said = (
        f"The rule: keep an arm if its {rule.score} is better than that of {base}{enough}, with p < {rule.p:g} "
        f"({_TESTS[rule.test]})" + "".join(f", and {other} is not worse at that p" for other in rule.not_worse)
        + "; discard it if it cannot be"
    )  # fmt: skip
    return "\n\n".join([escaped(said) + ".", "\n".join(f"- {line}" for line in lines)])


_TESTS = {"welch": "Welch's t-test", "paired": "t-test of the pairs of a seed"}


def _scores(study: Study, score: str) -> str:
    """A row per arm, and the noise floor."""
    base, rows = study.baseline, []
    reference = study.values(base, score)
    for arm in study.arms:
        own = study.values(arm, score)
        if not own:
            rows.append([arm, "0", "failed" if any(each.error for each in study.arms[arm]) else "not done"])
            continue
        low, high = numbers.interval(list(own.values()))
        row = [arm, str(len(own)), _fixed(statistics.fmean(own.values())), "" if math.isinf(low) else _range(low, high)]
        if arm != base and reference:
            found = numbers.difference(own, reference, study.rule.test)
            compute = study.multiplier(arm, score)
            row += [f"{found.mean:+.4f}", "?" if found.p is None else f"{found.p:.2g}",
                    "?" if compute is None else f"{compute:.2f}"]  # fmt: skip
        rows.append(row)
    title = f"{score} ({study.scores[score]} is better)"
    head = [title, "n", "mean", "95 % interval", f"minus {base}", "p", "compute ×"]
    floor = numbers.detectable(list(reference.values()), max(len(reference), 1), study.rule.p)
    note = (
        f"Noise floor: {len(reference)} seeds of {base} have a standard deviation of "
        f"{statistics.stdev(reference.values()):.4g}, so a difference below about {floor:.4g} cannot be seen with as "
        "many seeds per arm."
        if math.isfinite(floor) else f"Noise floor: unknown, because {base} has {len(reference)} seeds; two are needed."
    )  # fmt: skip
    return table(head, [row + [""] * (len(head) - len(row)) for row in rows]) + "\n\n" + escaped(note)


def _runs(study: Study) -> str:
    head, rows = ["arm", "flags", "seed", *study.scores, "training", "in all", "error"], []
    for arm, outcomes in study.arms.items():
        for each in outcomes:
            trained = max((points[-1].minutes for points in each.curves.values()), default=0.0)
            cells = [_fixed(each.scores[score]) if score in each.scores else "" for score in study.scores]
            times = [duration(60 * trained) if trained else "", duration(each.seconds) if each.seconds else ""]
            rows.append([arm, study.flags.get(arm, ""), each.seed, *cells, *times, each.error])
    return table(head, rows)


def _proposals(study: Study) -> str:
    """The agent's proposals as a table; what has several lines, as a change of a recipe, is below it."""
    if not study.proposals:
        return ""
    head, *rows = study.proposals
    long = [(f"{row[0]}, {name}", cell) for row in rows for name, cell in zip(head, row, strict=False) if "\n" in cell]
    cells = [["see below" if "\n" in cell else cell for cell in row] for row in rows]
    blocks = [f"### {escaped(title)}\n\n" + "\n".join(f"    {printable(line)}" for line in text.split("\n"))
              for title, text in long]  # fmt: skip
    return "\n\n".join([table(head, cells), *blocks])


def _method(study: Study) -> str:
    rule, arms = study.rule, len(study.arms) - 1
    here = machine()
    which = (
        "Welch's test compares the means of both; it assumes neither equal variances nor that seeds pair up. A seed "
        "gives all arms the same order of data; where their scores go up and down together for that reason, the paired "
        "test is sharper, although it has fewer degrees of freedom." if rule.test == "welch" else
        "The paired test compares the arms seed by seed: the file says that a seed's scores go up and down together."
    )  # fmt: skip
    chance = (
        f"With {arms} arms that change nothing, {arms * rule.p:.2g} would be significant at p < {rule.p:g} by chance; "
        "p-values are not corrected for that."
    )
    compute = (
        f"Compute × is the {AXES[study.axis]} of the baseline, divided by those that the arm needed for the "
        "baseline's final value, read off the running best of the mean curves; ? stands where it would be "
        "extrapolated. In the middle of its schedule an arm is worse than a shorter run would be, so the number is "
        "too low rather than too high."
    )
    where = f"Measured on {here['CPU']} ({here['cores']} cores), GPU: {here['GPU']}, torch {here['torch']}."
    times = "A step that took ten times the median was compiling, and counts as the median."
    parts = [which, chance * (arms > 1), compute, times, where, *study.notes]
    return "\n\n".join(escaped(text) for text in parts if text)


def _fixed(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"


def _range(low: float, high: float) -> str:
    return f"{_fixed(low)} … {_fixed(high)}"


def _law(study: Study, each: Fit) -> str:
    points = points_of(study, each)
    found = fit.fit_seeds(points) if points else None
    if found is None:
        return escaped(f"{each.score} against {each.against} is not fitted: that takes three sizes with equal seeds.")
    law = found.law
    shown = "" if math.isinf(found.low) else f" (95 % interval over the seeds {found.low:.3f} to {found.high:.3f})"
    text = (
        f"{each.score} = {law.E:.4g} + {law.A:.4g} × ({each.against} / {law.x0:.4g})^−{law.alpha:.3f}: the exponent is "
        f"{law.alpha:.3f}{shown}; R² = {law.r2:.4f} over {len(points[0])} sizes and {len(points)} seeds."
    )
    flaws = f"\n\n**Do not rely on this fit:** {escaped('; '.join(found.flaws))}." if found.flaws else ""
    return escaped(text) + flaws
