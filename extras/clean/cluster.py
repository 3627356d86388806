"""Cleaning on a cluster: the same stages, run by datatrove's Slurm executor."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nanochat
from extras.clean.stages import STAGES, Plan, Step, claimed, prepare
from nanochat.errors import UserError

if TYPE_CHECKING:
    from datatrove.executor import SlurmPipelineExecutor

_ROOT = Path(nanochat.__file__).resolve().parents[1]  # the folder of the packages
_LONGEST_ARRAY = 1000  # jobs in one array; Slurm's default limit


@dataclass(frozen=True)
class Slurm:
    """Resources to request: tasks at once, and the partition, time and memory of each."""

    workers: int
    partition: str
    time: str
    memory: int  # GB
    options: tuple[str, ...] = ()  # further sbatch options, such as account=NAME


def submit(plan: Plan, slurm: Slurm) -> str:
    """Submit all stages, each starting when the one before has succeeded; returns the last job's number.

    The nodes need this machine's files and Python environment. Raises UserError without Slurm or datatrove, and if
    sbatch fails.
    """
    if not shutil.which("sbatch"):
        raise UserError("sbatch was not found; run this on a machine from which Slurm jobs can be submitted")
    last = executors(plan, slurm)[-1]
    with claimed(plan):
        prepare(plan)
        try:
            last.run()
        except subprocess.CalledProcessError as error:
            raise UserError(f"sbatch refused the job (exit status {error.returncode}); see its message above") from None
    return str(last.job_id)


def executors(plan: Plan, slurm: Slurm) -> "list[SlurmPipelineExecutor]":
    """One executor per stage, each depending on the one before. Raises UserError if datatrove is not installed."""
    try:
        from datatrove.executor import SlurmPipelineExecutor
        from datatrove.utils.logging import logger
    except ImportError:
        how = "install it with `uv sync --extra cluster` in a clone, or else `pip install 'nanochat[cluster]'`"
        raise UserError(f"--executor slurm needs datatrove, which is not installed; {how}") from None
    logger.disable("datatrove")  # here; the jobs keep their logs
    programs = Path(sys.executable).parent
    made: list[SlurmPipelineExecutor] = []
    for stage in STAGES:
        if tasks := plan.tasks(stage):
            made.append(
                SlurmPipelineExecutor(
                    [Step(plan, stage)],
                    tasks=tasks,
                    workers=slurm.workers,
                    tasks_per_job=-(-tasks // _LONGEST_ARRAY),  # one array, so that the next stage waits for all of it
                    partition=slurm.partition,
                    time=slurm.time,
                    mem_per_cpu_gb=slurm.memory,
                    qos="",
                    sbatch_args=dict(option.split("=", 1) for option in slurm.options),
                    job_name=f"{stage}-{plan.target.name}",
                    env_command=f'export PATH="{programs}:$PATH" PYTHONPATH="{_ROOT}:$PYTHONPATH"',
                    logging_dir=str(logs(plan) / stage),
                    skip_completed=False,  # finished tasks are recognised by their own files
                    depends=made[-1] if made else None,
                )
            )
    return made


def logs(plan: Plan) -> Path:
    """The folder of the jobs' logs."""
    return plan.target.with_name(f"{plan.target.name}.logs")
