"""The checkpoints of the stages and of nanoGPT's out folders: size, scores, parents and children, and deletion."""

import contextlib
import functools
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extras.dashboard.runs import METRICS, RunFolder, Runs, finite, read_config
from extras.nanogpt import ckpt
from extras.nanogpt.out_dir import CKPTS
from nanochat.checkpoint import legacy, manager, nanogpt, reading
from nanochat.errors import UserError
from nanochat.gpt import GPTConfig
from nanochat.paths import LOCK, alone_in, check_tag
from nanochat.plan import cost
from nanochat.report import sections

# What training writes into a folder besides checkpoints. Nothing else is ever deleted.
BESIDE = (METRICS, "config.json", "wandb_run.json", "tokenizer.json", "token_bytes.json", "meta.pkl")
FOLDERS = ("tokenizer", "wandb")
# Of a save or a deletion that was killed.
LEFTOVER = re.compile(r"\..+\.tmp|(model_\d{6,}|optim_\d{6,}_rank\d+)\.pt|optim_\d{6,}")
MOST_LAYERS = 1000
UNREADABLE = (AttributeError, KeyError, TypeError, ValueError)  # JSON of another shape


class InUse(UserError):
    """A model that cannot be deleted: a process trains in its folder or needs it, it is served, or lies elsewhere."""

    def __init__(self, message: str, job: str | None = None) -> None:
        super().__init__(message)
        self.job = job


class HasChildren(UserError):
    """A model that others were trained from."""

    def __init__(self, message: str, children: Sequence[str]) -> None:
        super().__init__(message)
        self.children = children


@dataclass
class Models:
    """All models. served: the ids of those that this server serves."""

    runs: Runs
    served: Callable[[], Collection[str]] = tuple
    _known: dict[Path, tuple[object, dict]] = field(default_factory=dict)  # what was read, and of which files

    def summaries(self) -> list[dict]:
        """All models, the newest first."""
        served, found = self.served(), {}
        report = _listing(sections.folder())
        with self.runs.first():
            for place in self.runs.folders():
                if model := self._model(place, report):
                    found[place.id] = {**model, "served": place.id in served, "children": []}
        for id, model in found.items():
            if model["parent"] in found and model["parent"] != id:
                found[model["parent"]]["children"].append(id)
        return sorted(found.values(), key=lambda model: model["modified"], reverse=True)

    def find(self, id: str) -> RunFolder:
        """The folder of a model, or of a run that has saved none. Raises UserError where there is neither."""
        place = next((place for place in self.runs.folders() if place.id == id), None)
        if place is None or not (holds(place.folder) or (place.folder / METRICS).is_file()):
            raise UserError(f"there is no model {id!r:.80}; expected one of the list, such as sft:d3")
        return place

    def _model(self, place: RunFolder, report: object) -> dict | None:
        """A model, read again only if its files or the report have changed; None for a folder without a checkpoint."""
        changed = {name: stat for name, stat in _listing(place.folder).items() if name not in (METRICS, LOCK)}, report
        known = self._known.get(place.folder)
        if known is None or known[0] != changed:
            known = changed, _read(self.runs, place) if holds(place.folder) else {}
            self._known[place.folder] = known
        return {**known[1], "bytes": size_of(place.folder)} if known[1] else None

    # ------------------------------------------------------------ delete and export

    def delete(self, id: str, with_children: bool = False) -> int:
        """Delete a model: its checkpoints, and what its training wrote beside them. Returns the bytes that are freed.

        Raises HasChildren, naming them, for a model that others were trained from, unless with_children deletes those
        as well; and InUse, before anything is deleted, if one of them is served or needed by a process.
        """
        self.find(id)
        models = {model["id"]: model for model in self.summaries()}
        gone = [id]
        for each in gone:  # it grows meanwhile, so that children follow their parents
            gone += [child for child in models.get(each, {}).get("children", []) if child not in gone]
        if len(gone) > 1 and not with_children:
            raise HasChildren(f"{', '.join(gone[1:])} started from {id}; pass with_children=1 to delete all", gone[1:])
        self._check_unused(gone)
        places = [self.find(each) for each in reversed(gone)]  # children first, so that none loses its parent alone
        with contextlib.ExitStack() as locks:
            for place in places:
                if place.folder.is_symlink():
                    raise InUse(f"{place.folder} is a link to another folder; delete the model where it is")
                try:
                    locks.enter_context(alone_in(place.folder, "stop it, or wait until it has finished"))
                except UserError as error:
                    raise InUse(str(error)) from None
            freed = sum(_empty(place.folder) for place in places)
        for place in places:
            with contextlib.suppress(OSError):  # it holds something that training did not write
                place.folder.rmdir()
        return freed

    def _check_unused(self, ids: Collection[str]) -> None:
        for id in ids:
            if id in self.served():
                raise InUse(f"{id} is being served; start the server without it, then delete it")
        for run in self.runs.summaries():
            if run["state"] == "running" and (run["id"] in ids or run["parent"] in ids):
                needed = run["id"] if run["id"] in ids else run["parent"]
                message = f"the run {run['id']} is training and needs {needed}; stop it, or wait until it has finished"
                raise InUse(message, run["job"])

    def export_command(self, id: str, to: str) -> list[str]:
        """What follows `python` to export a model for transformers into exports/<to> of the base folder.

        Raises UserError where there is no such model, and for a name that cannot be that of a folder.
        """
        place = self.find(id)
        check_tag("to", to)
        source = str(place.folder) if place.stage == "train" else place.id
        return ["-m", "scripts.export", f"--source={source}", f"--out={self.runs.base_dir / 'exports' / to}"]


def holds(folder: Path) -> bool:
    """Whether a folder has a checkpoint."""
    return bool(manager.steps(folder)) or any((folder / name).is_file() for name in CKPTS)


def _read(runs: Runs, place: RunFolder) -> dict:
    """What a model's files tell. Of several checkpoints that is the last one."""
    steps, meta = manager.steps(place.folder), read_config(place.folder)
    newest = place.folder / f"meta_{steps[-1]:06d}.json" if steps else next(
        path for name in CKPTS if (path := place.folder / name).is_file())  # fmt: skip
    with contextlib.suppress(UserError):  # a damaged file; loading it reports the error
        if steps:
            meta = manager.read_meta(place.folder, steps[-1])
        else:
            steps = [nanogpt.iter_num(newest)]
    val_bpb = meta.get("val_bpb")
    return {
        "id": place.id, "stage": place.stage, "tag": place.tag, "steps": steps, "step": steps[-1] if steps else 0,
        "scores": _scores(place), "val_bpb": finite(val_bpb) if isinstance(val_bpb, float) else None,
        "parent": runs.parent_of(meta), "modified": newest.stat().st_mtime,
        "parameters": parameters(json.dumps(meta.get("model_config"))),
    }  # fmt: skip


def _scores(place: RunFolder) -> dict[str, float]:
    """The fractions that a model answered correctly, by task, and its CORE, as the report card has them."""
    found: dict[str, float] = {}
    with contextlib.suppress(UserError):  # a damaged section, which scripts.report names
        for name, section in sections.read_sections().items():
            if name not in (f"chat_eval_{place.stage}", f"{place.stage}_eval") or section.get("tag") != place.tag:
                continue
            with contextlib.suppress(*UNREADABLE):
                tasks = section.get("tasks") or {}
                found |= {name: task["correct"] / task["n"] for name, task in tasks.items() if task["n"]}
                found |= {"CORE": float(section["core"]["core"])} if section.get("core") else {}
                found |= {"ChatCORE": float(section["chatcore"])} if section.get("chatcore") is not None else {}
    return found


@functools.lru_cache(maxsize=1024)
def parameters(config: str) -> int | None:
    """How many parameters a model of this config, as JSON, has; None for an older nanochat's, which leaves some out."""
    known: Any = json.loads(config)
    if not isinstance(known, dict) or not legacy.is_ours(known):
        return None
    try:
        shape = GPTConfig(**known)
        reading.check_shape(shape)
        return cost.sizes(shape).all if shape.n_layer <= MOST_LAYERS else None
    except UNREADABLE:
        return None


# ---------------------------------------------------------------- files


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """The files of a folder and of those in it, with their sizes; what vanishes meanwhile is left out."""
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                yield os.path.join(root, name), os.lstat(os.path.join(root, name))


def size_of(folder: Path) -> int:
    return sum(stat.st_size for _, stat in _files(folder))


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    """The files of a folder, each with what tells that it was changed."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file():
                    found[entry.name] = entry.stat().st_size, entry.stat().st_mtime_ns
    return found


def _empty(folder: Path) -> int:
    """Delete what training writes to a folder. Returns how many bytes that were.

    Of each checkpoint the meta file goes first: what a kill leaves half deleted no longer counts as a model.
    """
    before = size_of(folder)
    manager.delete(folder, manager.recorded(folder))
    for name in CKPTS:
        ckpt.remove(folder / name)
    for path in folder.iterdir():
        is_ours = path.name in BESIDE or LEFTOVER.fullmatch(path.name)
        if is_ours and not path.is_dir():
            path.unlink()
        elif (is_ours or path.name in FOLDERS) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
    return before - size_of(folder)
