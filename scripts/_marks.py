"""What `scripts.speedrun` notes about a base folder, so that it can be killed at any instant and resumes.

<base>/speedrun/STAGE.KIND is a mark. It holds the recipe's commands up to the stage's own, one per line, so that a
changed command, or another version of what it makes, unmarks its own stage and all later ones; then notes, each on a
line that begins with "# ".

    started   the stage has been started; notes: the checkpoints that this command replaces
    done      the stage has finished; note of tok_train: the tokenizer it made
    left      the checkpoints that were there when a training stage last ended: the script's own, which it may overwrite
    failed    what failed last, and how

Files are compared by checksum, because times change when a folder is copied or a clock is set.
"""

import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from nanochat.paths import write_text


class Marks:
    """The marks of one base folder. `history` is always the recipe's commands up to a stage's own."""

    def __init__(self, base: Path) -> None:
        self.base, self.folder = base, base / "speedrun"

    def text(self, name: str) -> str:
        """The content of a file of the folder; empty if there is none."""
        path = self.folder / name
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def exists(self, stage: str, kind: str) -> bool:
        return (self.folder / f"{stage}.{kind}").exists()

    def holds(self, stage: str, kind: str, history: Sequence[str]) -> bool:
        """Whether this mark exists and records exactly these commands."""
        lines = [line for line in self.text(f"{stage}.{kind}").splitlines() if not line.startswith("# ")]
        return lines == list(history)

    def notes(self, stage: str, kind: str) -> list[str]:
        return [line[2:] for line in self.text(f"{stage}.{kind}").splitlines() if line.startswith("# ")]

    def write(self, stage: str, kind: str, history: Iterable[str], notes: Iterable[str] = ()) -> None:
        """Set a mark. It is renamed into place, so it is there as a whole or not at all."""
        lines = [*history, *(f"# {note}" for note in notes)]
        write_text(self.folder / f"{stage}.{kind}", "".join(f"{line}\n" for line in lines))

    def remove(self, stage: str, kind: str) -> None:
        (self.folder / f"{stage}.{kind}").unlink(missing_ok=True)

    def files(self, pattern: str) -> list[str]:
        """The names, below the base folder, of the files that match."""
        return sorted(str(path.relative_to(self.base)) for path in self.base.glob(pattern))

    def checksums(self, pattern: str) -> list[str]:
        """Checksum, size and name of each file that matches, as the cksum program prints them."""
        names = self.files(pattern)
        if not names:  # without a name, cksum reads its input
            return []
        done = subprocess.run(["cksum", "--", *names], cwd=self.base, capture_output=True, text=True, encoding="utf-8")
        return done.stdout.splitlines()

    def own_files(self, stage: str, found: Sequence[str]) -> bool:
        """Whether the last start of this stage is known to have left all the checkpoints `found`."""
        return not without(found, self.notes(stage, "left"))

    def begin_training(self, stage: str, found: Sequence[str], history: Sequence[str]) -> list[str]:
        """Mark a training stage as started; return the flags that say what it does with the checkpoints `found`.

        It resumes from what its present command has left, and replaces what an earlier command has left.
        """
        replaces: list[str] = []
        own = self.own_files(stage, found)
        if self.holds(stage, "started", history):
            replaces = self.notes(stage, "started")
        else:
            if self.exists(stage, "started") and not (own and self.holds(stage, "left", history)):
                replaces = list(found)
            self.write(stage, "started", history, replaces)
        fresh = without(found, replaces)
        if len(fresh) == len(found):  # nothing to replace; the stage itself refuses to resume another run
            return ["--resume=auto"]
        if fresh:  # killed between its first save and the end of what that replaces
            return [f"--resume={last_step(fresh)}"]
        return ["--resume=never", *(["--overwrite"] if own else [])]


def without(lines: Iterable[str], others: Sequence[str]) -> list[str]:
    return [line for line in lines if line not in others]


def last_step(lines: Sequence[str]) -> int:
    """The highest step among names of meta files, or lines that end with one."""
    return max(int(line.rpartition("meta_")[2].removesuffix(".json")) for line in lines)
