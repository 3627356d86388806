"""Run an experiment: a baseline and arms, several seeds each, compared by a rule that the file has.

python -m scripts.experiment experiments/learning_rate.yaml --dry_run
python -m scripts.experiment experiments/learning_rate.yaml --jobs 2
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from extras.experiment.settings import AgentFlags
from nanochat.config import parse, positional
from nanochat.errors import UserError, run
from nanochat.paths import base_dir

if TYPE_CHECKING:  # imported after the flags were parsed
    from extras.experiment.file import Experiment
    from extras.experiment.runs import Run


STARTING = 15  # seconds of a process until its first step, assumed


@dataclass
class Flags(AgentFlags):
    """Run the baseline and the arms of an experiment, and report what differs; resumes where it was stopped."""

    EXAMPLE: ClassVar = "experiments/learning_rate.yaml --dry_run"

    file: Annotated[Path | None, positional] = None
    """read the experiment from this YAML file"""
    out: Path | None = None
    """write runs and report below this folder; default: experiments/NAME in the base folder"""
    jobs: int = 1
    """run so many runs at a time, which share the machine's cores"""
    dry_run: bool = False
    """print the runs and the predicted time, and stop"""
    report_only: bool = False
    """write the report of the runs that are done, and stop"""


def main(argv: Sequence[str] | None = None) -> int:
    flags = parse(Flags, argv)
    from extras.experiment import agent, proposals, report, results, runs
    from extras.experiment.numbers import quantile

    if flags.jobs < 1:
        raise UserError(f"--jobs is {flags.jobs}; expected 1 or more")
    path, plain = agent.experiment_of(flags.file, flags)
    folder = flags.out or base_dir() / "experiments" / plain.name
    experiment = proposals.extended(plain, folder)
    planned = runs.plan(experiment, folder)
    if flags.dry_run:
        show_plan(experiment, planned, flags.jobs)
        return 0
    quantile(2, 0.05)  # raises now, and not after hours, if scipy is missing
    if flags.agent and not flags.report_only:
        agent.loop(path, plain, folder, flags, flags.jobs)
        return 0
    failed = [] if flags.report_only else runs.run_missing(experiment, folder, flags.jobs)
    study = results.study(experiment, folder)
    report.write(study, folder)
    for verdict in report.verdicts(study):
        print(f"{verdict.arm}: {verdict.decision}; {verdict.reason}")
    for each in failed:
        print(f"{each.arm}, seed {each.seed}, failed: {each.error}; {each.folder / runs.LOG} has all it printed")
    print(f"the report is {folder / 'report.html'}, and report.md beside it")
    return 1 if failed else 0


def show_plan(experiment: "Experiment", planned: "list[Run]", jobs: int) -> None:
    """Print every command, which runs are done, and how long the others will take."""
    from nanochat.log import duration

    for each in planned:
        print(f"{'done' if each.is_done else 'to do'}  {each.arm}, seed {each.seed}")
        for _, words in each.commands:
            print(f"       python {' '.join(words)}")
    missing = [each for each in planned if not each.is_done]
    seconds = [predicted(experiment, each, planned) for each in missing]
    known = sum(value for value in seconds if value is not None)
    unknown = sum(value is None for value in seconds)
    print(f"{len(planned) - len(missing)} of {len(planned)} runs are done")
    print(f"the others take about {duration(known / jobs)}, without what is measured after training"
          + (f"; of {unknown} it is not known before" if unknown else ""))  # fmt: skip


def predicted(experiment: "Experiment", each: "Run", planned: "list[Run]") -> float | None:
    """The seconds of a run, from one of its arm that is done, its budget, or its operations; None if not known."""
    import torch

    from extras.experiment import file, runs
    from nanochat.gpt import GPTConfig
    from nanochat.plan.gpus import accelerator, known
    from scripts._forecast import EVAL_EVERY, Setting, forecast

    if each.arm == runs.SHARED:
        return STARTING * len(each.commands)
    if done := [run.record["seconds"] for run in planned if run.is_done and run.arm == each.arm]:
        return sum(done) / len(done)
    torch.set_num_threads(experiment.threads or torch.get_num_threads())
    on = "cpu" if not torch.cuda.is_available() else known(torch.cuda.get_device_name()) or "cpu"
    usual = {"max_seq_len": 2048, **experiment.shared.get("tok_train", {})}
    seconds, setting = 0.0, Setting(GPTConfig(), accelerator(on), experiment.gpus)
    for stage, flags in file.flags_of(experiment, experiment.arm(each.arm), each.seed).items():
        seconds += STARTING
        if stage in EVAL_EVERY:
            made = forecast(stage, usual | dict(flags), setting)
            setting = made.setting
            seconds += 60 * flags["minutes"] if "minutes" in flags else made.steps * made.step
        elif stage in file.STEPS:
            return None
    return seconds


if __name__ == "__main__":
    run(main)
