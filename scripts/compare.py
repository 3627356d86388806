"""Compare runs that exist, as an experiment compares its own: the first arm is the baseline.

python -m scripts.compare base:d3 base:d3-wide
python -m scripts.compare before=base:a-1,base:a-2,base:a-3 after=base:b-1,base:b-2,base:b-3 --axis steps
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from nanochat.config import parse, positional
from nanochat.errors import UserError, run
from nanochat.paths import SOURCES, base_dir, check_tag, checkpoints_dir

if TYPE_CHECKING:  # imported after the flags were parsed
    from extras.experiment.results import Outcome


@dataclass
class Flags:
    """Compare runs that exist, in groups called arms: their scores, curves and compute, with a report."""

    EXAMPLE: ClassVar = "before=base:d3 after=base:d3-new"

    runs: Annotated[list[str], positional]
    """compare these arms: a folder with a metrics.jsonl, or STAGE:TAG as base:d3; several runs as NAME=RUN,RUN"""
    score: list[str] = field(default_factory=lambda: ["val_bpb"])
    """compare these keys of metrics.jsonl; the first decides"""
    better: Literal["lower", "higher"] = "lower"
    """say which scores are better"""
    axis: Literal["minutes", "steps", "tokens", "flops"] = "minutes"
    """measure compute in this unit"""
    p: float = 0.05
    """take differences with a smaller p-value for real"""
    out: Path | None = None
    """write the report to this folder; default: compare in the base folder"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    if len(flags.runs) < 2:
        raise UserError("one arm cannot be compared; name two or more, such as base:d3 base:d6")
    if not 0 < flags.p < 1:
        raise UserError(f"--p is {flags.p:g}; expected a number between 0 and 1, such as 0.05")
    from extras.experiment import report
    from extras.experiment.file import Rule
    from extras.experiment.results import Study

    arms: dict[str, list[Outcome]] = {}
    for named in flags.runs:
        name, equals, listed = named.partition("=")
        if name in arms:
            raise UserError(f"two arms are called {name}; give one another name, as in NAME={named}")
        found = [folder_of(each) for each in (listed if equals else named).split(",")]
        arms[name] = [outcome(folder, number, flags.score) for number, folder in enumerate(found, 1)]
    study = Study(" and ".join(arms), arms, dict.fromkeys(flags.score, flags.better),
                  Rule(flags.score[0], flags.p), flags.axis)  # fmt: skip
    folder = flags.out or base_dir() / "compare"
    report.write(study, folder)
    for verdict in report.verdicts(study):
        print(f"{verdict.arm}: {verdict.reason}")
    print(f"the report is {folder / 'report.html'}, and report.md beside it")


def folder_of(named: str) -> Path:
    """The folder of a run. Raises UserError where there is no metrics.jsonl."""
    source, _, tag = named.partition(":")
    folder = Path(named)
    if source in SOURCES and tag and not folder.exists():
        check_tag("run", tag)
        folder = checkpoints_dir(source) / tag
    if not (folder / "metrics.jsonl").is_file():
        missing = folder / "metrics.jsonl"
        raise UserError(f"the run {named} has no {missing}; expected the folder of a run, or STAGE:TAG as base:d3")
    return folder


def outcome(folder: Path, number: int, scores: Sequence[str]) -> "Outcome":
    """The scores of a run. Raises UserError where its metrics lack one."""
    from extras.experiment.results import Outcome, curves_of

    found = curves_of(folder / "metrics.jsonl")
    for name in scores:
        if name not in found:
            raise UserError(f"{folder / 'metrics.jsonl'} has no {name}; there are: {', '.join(found) or 'none'}")
    own = {name: found[name] for name in scores}
    return Outcome(number, {name: points[-1].value for name, points in own.items()}, own)


if __name__ == "__main__":
    run(main)
