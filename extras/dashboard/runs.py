"""The runs below the base folder and in nanoGPT's out folders: which there are, how far each is, what happened to it.

The list of all runs reads only the end of each metrics.jsonl, and that only when it has changed; curves are read by
`metrics` when somebody looks at them.
"""

import contextlib
import json
import math
import os
import re
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from extras.dashboard.metrics import Metrics, glimpse, number, row_of
from nanochat.errors import UserError
from nanochat.paths import LOCK, SOURCES
from nanochat.report import card, sections

METRICS, CONFIG = "metrics.jsonl", "config.json"
OUT = "out"  # stage of the ids of nanoGPT's out folders
SECTION = {"base": "base_train", "mid": "mid_train", "sft": "chat_sft", "dpo": "chat_dpo", "rl": "chat_rl"}
TAIL, HEAD = 1 << 16, 1 << 12  # bytes at a file's end and beginning that its summary is made from
AT_ONCE = 4 << 20  # bytes that are read before an answer; of more, the first answer is a sample
KEPT = 64  # runs whose curves are kept in memory, 1 to 5 MB each
ALIVE = 600.0  # seconds after a line during which a run on another machine counts as running
SAVED = 50  # events of that kind at most
HOLDER = re.compile(r"process (\d+) on (\S+),")  # what `paths.alone_in` writes into a lock
# What a summary shows, by the key of a line that has it.
LAST = {
    "loss": ("loss", "lr", "grad_norm", "tok_per_second", "mfu"), "val_bpb": ("val_bpb", "val_perplexity"),
    "val_loss": ("val_loss", "val_perplexity"), "memory_bytes": ("memory_bytes",),
}  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes. id is base:d3 for a stage's, out:NAME for an out folder."""

    id: str
    stage: str  # base, mid, sft, rl or train
    tag: str
    folder: Path

    @property
    def kind(self) -> str:
        return "nanogpt" if self.stage == "train" else "stage"


@dataclass
class Runs:
    """All runs. Any thread may call its methods.

    out_dirs: folders that are the out_dir of a run of scripts.train, or hold several. jobs: of runs by their ids.
    """

    base_dir: Path
    out_dirs: Callable[[], Sequence[Path]] = tuple
    jobs: Callable[[], Mapping[str, str]] = dict
    _metrics: OrderedDict[Path, Metrics] = field(default_factory=OrderedDict)
    _summaries: dict[Path, tuple[tuple, dict]] = field(default_factory=dict)  # with what tells that files changed
    _reading: set[Path] = field(default_factory=set)  # files that are being read in the background
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _one_reader: threading.Lock = field(default_factory=threading.Lock)
    _asked: int = 0  # questions that are being answered

    # ------------------------------------------------------------ which there are

    def folders(self) -> Iterator[RunFolder]:
        """The folders in which a run can be: the stages' by tag, and those of scripts.train."""
        for stage, name in SOURCES.items():
            root = self.base_dir / name
            if not root.is_dir():
                continue
            for entry in os.scandir(root):
                if not entry.name.startswith(".") and entry.is_dir():
                    yield RunFolder(f"{stage}:{entry.name}", stage, entry.name, root / entry.name)
        tags: dict[str, Path] = {}
        for folder in dict.fromkeys(Path(os.path.abspath(each)) for each in self.out_dirs()):
            here = [folder] if is_out_dir(folder) else sorted(folder.iterdir()) if folder.is_dir() else []
            for out in here:
                if out.name.startswith(".") or out in tags.values() or not is_out_dir(out):
                    continue
                same = sum(out.name == taken.name for taken in tags.values())
                tag = f"{out.name}~{same + 1}" if same else out.name
                tags[tag] = out
                yield RunFolder(f"{OUT}:{tag}", "train", tag, out)

    def find(self, id: str) -> RunFolder:
        """A run by its id. Raises UserError if it does not exist."""
        stage, _, tag = id.partition(":")
        root = self.base_dir / SOURCES[stage] if stage in SOURCES else None
        if root and tag and not tag.startswith(".") and "/" not in tag and (root / tag / METRICS).is_file():
            return RunFolder(id, stage, tag, root / tag)
        found = next((run for run in self.folders() if run.id == id), None) if stage == OUT else None
        if found is None or not (found.folder / METRICS).is_file():
            raise UserError(f"there is no run {id!r:.80}; expected one of the list, such as base:d3")
        return found

    def summaries(self) -> list[dict]:
        """The summaries of all runs, the newest first."""
        with self.first():
            held, jobs = locked_inodes(), self.jobs()
            found = [self._summary(run, held, jobs) for run in self.folders()]
        return sorted((each for each in found if each), key=lambda each: each["updated"], reverse=True)

    def summary(self, run: RunFolder) -> dict:
        """A run in short. Raises UserError where its metrics have gone."""
        with self.first():
            found = self._summary(run, locked_inodes(), self.jobs())
        if found is None:
            raise UserError(f"the run {run.id} has gone: {run.folder / METRICS} is missing")
        return found

    def _summary(self, run: RunFolder, held: set[int] | None, jobs: Mapping[str, str]) -> dict | None:
        path = run.folder / METRICS
        try:
            now, config = path.stat(), _stat(run.folder / CONFIG)
            changed = now.st_ino, now.st_size, now.st_mtime_ns, config.st_mtime_ns if config else 0
            known = self._summaries.get(path)
            if known is None or known[0] != changed:
                known = changed, self._read_summary(run, path)
                self._summaries[path] = known
        except FileNotFoundError:  # no run, or one that is being deleted
            return None
        found = {**known[1], "updated": now.st_mtime, "job": jobs.get(run.id)}
        progress, left = found.pop("progress"), found["last"]["seconds_left"]
        running = in_use(run.folder, now.st_mtime, held)
        found["state"] = "running" if running else "finished" if progress >= 1 else "stopped"
        found["last"] = {**found["last"], "seconds_left": left if running else None}
        return found

    def _read_summary(self, run: RunFolder, path: Path) -> dict:
        """What the beginning and the end of a metrics.jsonl tell, and the parent in its config."""
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            head = os.pread(file.fileno(), HEAD, 0)
            tail = os.pread(file.fileno(), TAIL, max(0, size - TAIL))
        tail = tail[tail.find(b"\n") + 1 if size > TAIL else 0 : tail.rfind(b"\n") + 1]
        first = row_of(head[: head.find(b"\n") + 1]) or {}
        newest, trained = _last(tail, b'"step"'), _last(tail, b'"progress"')
        values: dict[str, float | None] = dict.fromkeys(name for names in LAST.values() for name in names)
        for key, names in LAST.items():
            row = _last(tail, f'"{key}"'.encode())
            values |= {name: finite(number(row[name])) for name in names if name in row}
        progress = number(trained.get("progress", 0))
        step = newest.get("step", 0)
        return {
            "id": run.id, "stage": run.stage, "tag": run.tag, "folder": str(run.folder), "kind": run.kind,
            "step": step, "total_steps": round(trained["step"] / progress) if progress > 1e-12 else None,
            "started": finite(number(first.get("time"))), "parent": self.parent_of(read_config(run.folder)),
            "last": {**values, "seconds_left": _seconds_left(tail, trained, progress)}, "progress": progress,
        }  # fmt: skip

    def parent_of(self, config: Mapping) -> str | None:
        """The id of the model that a run started from, by its config or meta file; None for one from elsewhere."""
        parent, settings = config.get("parent"), config.get("settings") or config.get("user_config")
        if isinstance(parent, dict) and parent.get("source") in SOURCES and isinstance(parent.get("tag"), str):
            return f"{parent['source']}:{parent['tag']}"
        origin = settings.get("init_from") if isinstance(settings, dict) else None
        if not isinstance(origin, str):
            return None
        stage, _, rest = origin.partition(":")
        if stage in SOURCES and rest:
            return f"{stage}:{rest.partition(':')[0]}"
        where = os.path.abspath(origin)
        return next((run.id for run in self.folders() if run.stage == "train" and where in
                     (os.path.abspath(run.folder), os.path.abspath(run.folder / "ckpt.pt"))), None)  # fmt: skip

    # ------------------------------------------------------------ one of them

    def metrics(self, run: RunFolder) -> Metrics:
        """The curves of a run as far as they have been read; nothing is read here."""
        path = run.folder / METRICS
        with self._lock:
            found = self._metrics.setdefault(path, Metrics(path))
            self._metrics.move_to_end(path)
            while len(self._metrics) > KEPT:
                self._metrics.popitem(last=False)
        return found

    def look(self, run: RunFolder) -> tuple[Metrics, bool]:
        """The curves of a run, and whether they are exact: of a long file that was not read yet they are a sample.

        The rest of such a file is then read in the background.
        """
        with self.first():
            metrics = self.metrics(run)
            if self.is_near(metrics):
                metrics.advance()
                return metrics, True
            return glimpse(metrics.path), False

    def is_near(self, metrics: Metrics) -> bool:
        """Whether little of a file is unread; if not, that is read in the background."""
        if abs(metrics.behind()) <= AT_ONCE:
            return True
        self._read_on(metrics)
        return False

    def _read_on(self, metrics: Metrics) -> None:
        with self._lock:
            if metrics.path in self._reading:
                return
            self._reading.add(metrics.path)
        # A daemon: a server that ends does not wait for a file of gigabytes.
        threading.Thread(target=self._read_all, args=[metrics], daemon=True, name="metrics").start()

    def _read_all(self, metrics: Metrics) -> None:
        try:
            with self._one_reader:
                while not metrics.advance(1):
                    time.sleep(0.001)  # others get their turn, and the lock
                    while self._asked:
                        time.sleep(0.005)
        finally:
            with self._lock:
                self._reading.discard(metrics.path)

    @contextlib.contextmanager
    def first(self) -> Iterator[None]:
        """Nothing is read in the background meanwhile.

        Python runs one thread at a time, and takes 5 ms to change to one that has waited for a file. Who reads 1,000
        files beside a thread that computes would wait for seconds.
        """
        with self._lock:
            self._asked += 1
        try:
            yield
        finally:
            with self._lock:
                self._asked -= 1

    def detail(self, run: RunFolder) -> dict:
        """All that is known of a run, but its curves."""
        metrics, exact = self.look(run)
        with metrics.lock:
            keys, events = list(metrics.columns), list(metrics.events)
        config = read_config(run.folder)
        found = [{name: value for name, value in asdict(each).items() if name != "line"} for each in events]
        found = sorted(found + saved(run, metrics), key=lambda event: (event["step"], event["time"]))
        own = _own_sections(run)
        return {
            **self.summary(run), "config": config, "keys": keys, "exact": exact, "events": found,
            "changed_flags": config.get("changed_flags") or config.get("changed_settings") or {},
            "samples": _samples(own), "report": card.markdown(own, {}, {}, None) if own else None,
        }  # fmt: skip

    def differs(self, run: RunFolder, other: RunFolder) -> list[dict]:
        """The settings in which two runs differ, by name; None where one has no such setting."""
        these, those = (settings_of(read_config(each.folder)) for each in (run, other))
        names = sorted(name for name in {*these, *those} if these.get(name) != those.get(name))
        return [{"name": name, "this": these.get(name), "other": those.get(name)} for name in names]


def is_out_dir(folder: Path) -> bool:
    """Whether scripts.train, or nanoGPT, has written to a folder."""
    return (folder / METRICS).is_file() or (folder / "ckpt.pt").is_file()


# ---------------------------------------------------------------- locks


def locked_inodes() -> set[int] | None:
    """The inodes of the files that processes have locked (Linux); None where the system does not tell.

    Trying a lock would take it for a moment, in which a run that starts would be refused.
    """
    try:
        with open("/proc/locks", encoding="ascii") as file:
            return {int(line.split()[5].split(":")[2]) for line in file if " FLOCK " in line and " -> " not in line}
    except (OSError, ValueError, LookupError):
        return None


def in_use(folder: Path, updated: float, held: set[int] | None) -> bool:
    """Whether a process trains in a folder. held: see `locked_inodes`; updated: when it last wrote, seconds since 1970.

    Locks of other machines do not show here: a run of theirs counts for ALIVE seconds after its last line.
    """
    try:
        with open(folder / LOCK, encoding="utf-8", errors="replace") as file:
            holder, inode = HOLDER.match(file.read(300)), os.fstat(file.fileno()).st_ino
    except OSError:
        return False
    if held is not None and inode in held:
        return True
    if holder is None:
        return False
    if holder[2] != socket.gethostname():
        return time.time() - updated < ALIVE
    return held is None and _lives(int(holder[1]))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True


# ---------------------------------------------------------------- what its files tell


def read_config(folder: Path) -> dict:
    """The config.json of a run; {} if it is missing or damaged."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"), parse_constant=str)
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def settings_of(config: Mapping) -> dict[str, Any]:
    """The settings of a run by name, of a stage or of scripts.train; those of its model begin with "model."."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if name in ("changed_flags", "changed_settings"):  # they are among the settings
            continue
        prefix = {"user_config": "", "settings": "", "model_config": "model."}.get(name, f"{name}.")
        if isinstance(value, dict):
            flat |= {f"{prefix}{key}": item for key, item in value.items()}
        else:
            flat[name] = value
    return flat


def saved(run: RunFolder, metrics: Metrics) -> list[dict]:
    """The checkpoints that are there, as events. A ckpt.pt was saved at the step of its time."""
    found = []
    for entry in os.scandir(run.folder):
        if match := re.fullmatch(r"meta_(\d{6,})\.json", entry.name):
            place = metrics.place("step", int(match[1]))
            found.append((int(match[1]), entry.stat().st_mtime, place, "saved"))
        elif re.fullmatch(r"ckpt(_last|_best)?\.pt", entry.name):
            place = metrics.place("time", entry.stat().st_mtime)
            found.append((place.step, entry.stat().st_mtime, place, f"{entry.name} saved"))
    newest = sorted(found, key=lambda each: each[:2])[-SAVED:]
    return [{"step": step, "time": when, "tokens": place.tokens, "seconds": place.seconds, "kind": "saved",
             "text": text} for step, when, place, text in newest]  # fmt: skip


def _own_sections(run: RunFolder) -> dict[str, dict]:
    """The sections of the report card that are about a run."""
    if run.stage not in SECTION:
        return {}
    names = {SECTION[run.stage], f"{run.stage}_eval", f"chat_eval_{run.stage}"}
    try:
        found = sections.read_sections()
    except UserError:  # a damaged one, which scripts.report names
        return {}
    return {name: section for name, section in found.items() if name in names and section.get("tag") == run.tag}


def _samples(own: Mapping[str, dict]) -> list[dict]:
    """What a model wrote when it was evaluated: the last message of a conversation, and what came before it."""
    found = []
    for section in own.values():
        for sample in section.get("samples") or []:
            try:
                if "messages" in sample:
                    *before, last = (card.content(message["content"]) for message in sample["messages"])
                    prompt, text = "\n\n".join(before), last
                else:
                    prompt, text = str(sample["prompt"]), str(sample["text"])
            except card.UNREADABLE:  # of another version
                continue
            found.append({"step": section.get("step"), "prompt": prompt, "text": text})
    return found


def _last(tail: bytes, key: bytes) -> dict:
    """The last line that has a key, {} where none has."""
    end = len(tail)
    while (place := tail.rfind(key, 0, end)) >= 0:
        begin = tail.rfind(b"\n", 0, place) + 1
        if (row := row_of(tail[begin : tail.find(b"\n", place)])) and key[1:-1].decode() in row:
            return row
        end = begin
    return {}


def _seconds_left(tail: bytes, trained: Mapping, progress: float) -> float | None:
    """How long the rest of a run takes at the speed of its last lines, evaluations included."""
    place = tail.find(b'"progress"')
    begin = tail.rfind(b"\n", 0, max(0, place)) + 1
    earlier = row_of(tail[begin : tail.find(b"\n", begin)]) or {}
    done = progress - number(earlier.get("progress"))
    seconds = number(trained.get("time")) - number(earlier.get("time"))
    return finite((1 - progress) * seconds / done) if done > 0 else None


def finite(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return value if math.isfinite(value) else None


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
