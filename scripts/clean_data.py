"""Remove duplicates, personal data, profanity and text that is not prose from a dataset: shards in, shards out."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from nanochat.config import parse
from nanochat.errors import UserError, run
from nanochat.paths import dataset_dir

if TYPE_CHECKING:  # slow to import, so not before the flags are known
    from extras.clean.rules import Rules
    from extras.clean.stages import Plan
    from nanochat.data.stores import Remote


@dataclass
class Flags:
    """Write a cleaned copy of a dataset; each rule has a flag that turns it on."""

    EXAMPLE: ClassVar = "--dataset mine --name mine-clean --dedup --pii mask"

    # --- data
    dataset: str = ""
    """dataset to clean: its name, a folder of shards, or the URL of one (s3://...)"""
    name: str = ""
    """name of the cleaned dataset, later given as --dataset NAME"""
    overwrite: bool = False
    """replace an existing dataset of the same name"""
    dedup: bool = False
    """drop exact and near-duplicates; keeps the first one, and validation comes before training"""
    similarity: float = 0.7
    """similarity of near-duplicates: fraction of runs of five words that both share; 1 drops exact duplicates only"""
    pii: Literal["mask", "drop"] | None = None
    """mask e-mail addresses, phone and card numbers, IBANs, IP addresses and keys, or drop the document"""
    profanity: bool = False
    """drop documents with a word from nanochat's list"""
    profanity_words: Path | None = None
    """word list to use instead, one word or phrase per line"""
    lang: list[str] = field(default_factory=list)
    """languages to keep, such as en de; drops documents in others"""
    min_chars: int = 0
    """drop documents with fewer characters"""
    quality: list[Literal["gopher", "c4"]] = field(default_factory=list)
    """drop text that is not prose by the rules of Gopher or C4 (which also removes lines), or both"""

    # --- machine
    workers: int = 0
    """number of processes, or of parallel jobs on the cluster (0: one per core, or 64)"""
    executor: Literal["local", "slurm"] = "local"
    """place to run: this machine, or a Slurm cluster (needs datatrove)"""
    partition: str = ""
    """Slurm partition"""
    time: str = "24:00:00"
    """Slurm time limit per task"""
    memory: int = 4
    """memory per task on Slurm, in GB"""
    sbatch: list[str] = field(default_factory=list)
    """further sbatch options, such as account=NAME"""



def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, _pii_alone(sys.argv[1:] if argv is None else argv))
    if flags.workers < 0:
        raise UserError(f"--workers is {flags.workers}; expected 1 or more, or 0 for one per core")

    from extras.clean import workers
    from extras.clean.stages import plan
    from nanochat.data import shards

    source, target = _folders(flags)
    rules = _rules(flags)
    if target.exists() and not flags.overwrite:
        raise UserError(f"{target} already exists; choose another --name, or replace it with --overwrite")
    made = plan(source, target, rules, flags.overwrite)
    documents = sum(piece.documents for piece in made.pieces)
    print(f"clean_data: {documents:,} documents of {source}")
    if flags.executor == "slurm":
        _submit(flags, made)
        return
    workers.clean(made, flags.workers or os.cpu_count() or 1)
    for line in summary(json.loads(made.report.read_text(encoding="utf-8"))):
        print(line)
    print(f"written to {target}, the report to {made.report}; {shards.how_to_train(flags.name)}")


def _pii_alone(argv: Sequence[str]) -> list[str]:
    """`--pii` without a value masks."""
    pairs = zip(argv, [*argv[1:], "--"], strict=False)
    return [f"{arg}=mask" if arg == "--pii" and following.startswith("--") else arg for arg, following in pairs]


def _folders(flags: Flags) -> "tuple[Path | Remote, Path]":
    if not flags.dataset:
        raise UserError("no data given; name a dataset, or a folder of shards: clean_data --dataset NAME --name NEW")
    from nanochat.data import shards, stores

    shards.check_name(flags.name)
    target = dataset_dir(flags.name).resolve()
    named, folder = stores.dataset(flags.dataset), Path(flags.dataset).expanduser()
    if isinstance(named, stores.Remote):
        return named, target
    source = (folder if folder.is_dir() and not named.is_dir() else named).resolve()
    if source == target:
        raise UserError(f"--name {flags.name} is the dataset to clean; give the cleaned one another name")
    return source, target


def _rules(flags: Flags) -> "Rules":
    """The rules that the flags ask for. Raises UserError where one needs a package that is not installed."""
    from extras.clean.language import Language
    from extras.clean.rules import Rules
    from extras.clean.sketches import Sketcher
    from extras.clean.words import LIST, load

    if not 0 < flags.similarity <= 1:
        raise UserError(f"--similarity must lie above 0 and at most at 1, not {flags.similarity}; 0.7 is usual")
    if flags.lang:
        Language(flags.lang)  # raises for an unknown language before any work is done
    if flags.dedup:
        Sketcher()
    words: tuple[str, ...] = ()
    if flags.profanity or flags.profanity_words:
        words = load(flags.profanity_words or LIST)
    rules = Rules(flags.min_chars, tuple(sorted(set(flags.lang))), tuple(sorted(set(flags.quality))), words, flags.pii,
                  flags.dedup, flags.similarity)  # fmt: skip
    if rules == Rules(similarity=flags.similarity):
        raise UserError("nothing to do; pass --dedup, --pii, --profanity, --lang, --min_chars or --quality")
    return rules


def _submit(flags: Flags, made: "Plan") -> None:
    from extras.clean import cluster
    from extras.clean.stages import STAGES

    if not flags.partition:
        raise UserError("--executor slurm needs --partition; sinfo lists them")
    malformed = [option for option in flags.sbatch if "=" not in option]
    if malformed:
        raise UserError(f"--sbatch {malformed[0]} is not an sbatch option; write it as account=NAME")
    slurm = cluster.Slurm(flags.workers or 64, flags.partition, flags.time, flags.memory, tuple(flags.sbatch))
    job = cluster.submit(made, slurm)
    tasks = ", ".join(f"{made.tasks(stage)} of {stage}" for stage in STAGES if made.tasks(stage))
    print(f"submitted: tasks {tasks}; the last job is {job}, see squeue --me")
    print(f"the dataset will be {made.target}, the report {made.report}, logs are in {cluster.logs(made)}")


def summary(report: dict) -> list[str]:
    """The report in lines for people."""
    lines = []
    for split, counts in report["splits"].items():
        before, after = counts["before"], counts["after"]
        lines.append(
            f"{split:5} {before['documents']:>12,} documents -> {after['documents']:>12,}"
            f"   {before['characters']:>15,} characters -> {after['characters']:>15,}"
        )
        for name, rule in sorted(counts["rules"].items()):
            lines.append(f"      {rule['documents']:>12,} {rule['action']:8} {name}  ({rule['times']:,} in total)")
    for name, rule in sorted(report["splits"]["train"]["rules"].items()):
        shown = rule["examples"][0]
        lines += [f"{name}, as in {shown['document']}:", f"  - {_line(shown['before'])}"]
        if shown["after"] is not None:
            lines.append(f"  + {_line(shown['after'])}")
        if "like" in shown:
            like = shown["like"]
            lines.append(f"  = {_line(like['text'])} ({like['stays']}, similarity {like['similarity']})")
    return lines


def _line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    run(main)
