"""Where a training stage starts: at its own last checkpoint, or at the model it is given.

A run is resumed only where it is the same run: the same parent, the same data by content, the same seed and
architecture. Anything else in its output folder is replaced only with --overwrite.
"""

import contextlib
import copy
import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nanochat.checkpoint import door, manager
from nanochat.checkpoint.manager import LoadAs, Loaded
from nanochat.config import as_field, default, given
from nanochat.data import contents
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig
from nanochat.log import strict_json
from nanochat.paths import SOURCES, alone_in, check_tag, checkpoints_dir
from nanochat.runtime import Runtime, compute_dtype
from nanochat.train.flags import Hyperparameters, LaterFlags, TrainFlags
from nanochat.train.loop import TrainState
from nanochat.train.memory import check_memory

Flags = TypeVar("Flags", bound=TrainFlags)

# Flags that say the same in other ways: where one of them is given, the run's values of the others no longer hold.
ALTERNATIVES = (
    ("total_batch_size", "target_examples_per_step"), ("eval_tokens", "eval_steps"),
    ("num_iterations", "num_epochs", "target_flops", "target_param_data_ratio"),
)  # fmt: skip
# Flags of the command, not of the run that it starts or resumes.
OF_A_COMMAND = (
    "run", "device_type", "resume", "overwrite", "dry_run", "source", "model_tag", "model_step", "out_tag",
    "resume_from_step",
)  # fmt: skip

BY_CONTENT = ("parent", "dataset", "conversations", "data")  # what is recorded by name, and compared by content


class OtherRun(UserError):
    """The output folder holds what this command did not write."""


@dataclass
class Start:
    """Where a run starts. `flags` has the run's own values for what was not given; `rt` its compute dtype.

    loaded: the run's own checkpoint with its optimizer where is_resumed, else the parent's, or None for a new base
    model. parent: what a later stage records of the checkpoint it started from. stale: steps in the folder that the
    first save replaces. notes: what to print once it is clear that the run is the same.
    """

    stage: str
    tag: str
    folder: Path
    flags: TrainFlags
    rt: Runtime
    loaded: Loaded | None
    parent: dict | None
    is_resumed: bool
    stale: list[int]
    notes: list[str]
    has_begun: bool = False

    @property
    def meta(self) -> dict:
        """The meta file of `loaded`."""
        return self.loaded.meta if self.loaded else {}

    @property
    def recorded(self) -> dict:
        """The numbers that it was trained with; the original's -1 and "auto" of its flags are none."""
        said = dict(self.meta.get("user_config") or {})
        said["total_batch_size"] = self.meta.get("total_batch_size") or said.get("total_batch_size")
        return {name: value for name, value in said.items() if type(value) in (int, float) and value > 0}


@dataclass
class Begun:
    """A model to train, and what else was restored of an interrupted run."""

    model: GPT
    state: TrainState
    is_resumed: bool
    stale: list[int]
    saved: dict | None = None  # optimizer and random state; dropped once they are restored


def or_anew(flags: Flags, train: Callable[[Flags], None]) -> None:
    """Call `train`; if the output folder holds another run and --overwrite is given, call it again to start over."""
    try:
        return train(flags)
    except OtherRun:
        if not flags.overwrite or flags.resume != "auto":
            raise
    anew = copy.copy(flags)
    anew.resume = "never"
    train(anew)


@contextlib.contextmanager
def opened(stage: str, flags: Flags, rt: Runtime, tag: str | None = None) -> Iterator[tuple[Start, Flags]]:
    """Find what a stage starts from, lock its output folder, and load the model. tag is that of a base model.

    Raises UserError for a missing model or a folder in use, OtherRun for a folder that holds another run.
    """
    _check_numbers(flags)
    found, parent = None, None
    if isinstance(flags, LaterFlags):
        found, parent, tag = _parent(stage, flags)
    assert tag is not None
    folder = checkpoints_dir(stage) / tag
    if found is not None and found.folder.resolve() == folder.resolve():
        raise UserError(f"this run would replace the model it starts from, in {folder}; pass an --out_tag NAME")
    with _locked(folder, flags, rt):
        loaded = _own(stage, folder, tag, flags, rt)
        stale = [step for step in manager.recorded(folder) if loaded is None or step > loaded.step]
        is_resumed, notes = loaded is not None, []
        if loaded is not None:
            flags, notes = _adopted(flags, loaded.meta, rt)
            rt.print(f"resuming from step {loaded.step} of {folder}")
            rt = dataclasses.replace(rt, dtype=loaded.model.dtype)
        elif found is not None:
            loaded = found.load(LoadAs(rt.device, rt.dtype))
            rt.print(f"starting from {loaded}")
        start = Start(stage, tag, folder, flags, rt, loaded, parent, is_resumed, stale, notes)
        try:
            yield start, flags
        except OtherRun:
            raise
        except UserError as error:
            if start.has_begun or not notes:
                raise
            # What was given does not go with the flags of the run that is there, so it may be meant for another.
            kept = f"flags that are not given are those of the run in {folder}; {_advice(stage)}"
            raise OtherRun(f"{error} ({kept})") from error


def begin(
    start: Start, h: Hyperparameters, about: dict, wanted: GPTConfig | None = None, new: Callable[[], GPT] | None = None
) -> Begun:
    """The model to train: that of the resumed run, the parent's, or what `new` makes for a base model.

    about: what must be the same in a run that is resumed, its "data" by content; wanted: the architecture of a base
    model. Raises OtherRun where they are not the same, UserError for what does not fit into memory.
    """
    config = wanted or (start.loaded.model.config if start.loaded else None)
    assert config is not None
    check_memory(config, h.device_batch_size, h.max_seq_len, start.rt, start.flags.compile)
    if not start.is_resumed:
        model = start.loaded.model if start.loaded else new() if new else None
        assert model is not None
        return Begun(model, TrainState(), False, start.stale)
    loaded = start.loaded
    assert loaded is not None and loaded.optimizer is not None
    if wanted is not None and loaded.model.config != wanted:
        found, asked = dataclasses.asdict(loaded.model.config), dataclasses.asdict(wanted)
        differ = ", ".join(f"{name} {found[name]} (now {asked[name]})" for name in asked if found[name] != asked[name])
        raise _other(start, f"a run with {differ}")
    _check_parent(start)
    about = json.loads(strict_json(about))
    if "data" not in loaded.meta:
        raise _other(start, "a run of an older version, which did not record its data")
    for name, value in about.items():
        if name not in BY_CONTENT and loaded.meta.get(name) != value:
            raise _other(start, f"a run whose {name} is {loaded.meta.get(name)}, not {value}")
    if change := contents.changed(loaded.meta["data"], about["data"]):
        raise _other(start, f"a run on other data: {change}", "put the old data back to resume it, ")
    start.has_begun = True
    for note in start.notes:
        start.rt.print(note)
    meta_path = loaded.folder / f"meta_{loaded.step:06d}.json"
    state = TrainState.restored(loaded.meta.get("loop_state"), meta_path)
    return Begun(loaded.model, state, True, start.stale, loaded.optimizer)


def plain(value: object) -> Any:
    """A flag's value as JSON; a path as an absolute one, so that it means the same wherever the run is resumed."""
    if isinstance(value, Path):
        return os.path.abspath(value)
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else json.loads(strict_json(value))


def described(parent: dict | None) -> str:
    """A parent as a user reads it."""
    parent = parent or {}
    return f"{parent.get('source')} {parent.get('tag')} step {parent.get('step')}, {str(parent.get('sha256'))[:8]}"


def _check_numbers(flags: TrainFlags) -> None:
    """Raise UserError for a number that no run can be trained with."""
    for field in dataclasses.fields(flags):
        value = getattr(flags, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{field.name} is {value}; expected a finite number")
        if field.name.endswith("_lr") and value is not None and value < 0:
            raise UserError(f"--{field.name} is {value}; expected 0 or more")


def _parent(stage: str, flags: LaterFlags) -> tuple[door.Found | None, dict, str]:
    """The model that a later stage starts from, its record for the meta file, and the output tag.

    A run needs its own checkpoints only, so the parent may be gone when its run is resumed.
    """
    for name in ("model_tag", "out_tag"):
        if getattr(flags, name) is not None:
            check_tag(name, getattr(flags, name))
    source, _, rest = flags.source.partition(":")
    try:
        found = door.find(flags.source, flags.model_tag, flags.model_step)
    except UserError:
        tag = flags.out_tag or flags.model_tag or rest.partition(":")[0]
        there = manager.steps(checkpoints_dir(stage) / tag) if tag and flags.resume != "never" else []
        if not there:
            raise
        parent = manager.read_meta(checkpoints_dir(stage) / tag, there[-1]).get("parent") or {}
        asked = {"source": source, "tag": flags.model_tag, "step": flags.model_step}
        if source not in SOURCES:
            asked = {"name": flags.source}
        if any(value not in (None, parent.get(name)) for name, value in asked.items()):
            raise
        return None, parent, tag
    tag = found.tag.rpartition("/")[2] if flags.out_tag is None else flags.out_tag
    check_tag("out_tag", tag)
    record = manager.record_of(found.meta, found.source, found.tag, found.step)
    return found, record if source in SOURCES else {**record, "name": flags.source}, tag


@contextlib.contextmanager
def _locked(folder: Path, flags: TrainFlags, rt: Runtime) -> Iterator[None]:
    """Rank 0 keeps other processes out of the output folder, before any rank looks at what is in it."""
    with contextlib.ExitStack() as stack:
        if rt.is_main and not flags.dry_run:
            stack.enter_context(alone_in(folder, "wait until it has finished, stop it, or write elsewhere"))
        rt.wait()
        yield


def _own(stage: str, folder: Path, tag: str, flags: TrainFlags, rt: Runtime) -> Loaded | None:
    """The checkpoint of the output folder that --resume means, with its optimizer; None where a run starts.

    `auto` takes the newest that is whole.
    """
    if flags.resume not in ("auto", "never") and not flags.resume.isdecimal():
        raise UserError(f"--resume is {flags.resume!r}; expected auto, never or the number of a step")
    there = manager.recorded(folder)
    if flags.resume.isdecimal():
        return _loaded(folder, tag, manager.find(stage, tag, int(flags.resume))[2], flags, rt)
    if flags.resume == "never":
        if there and not flags.overwrite:
            raise OtherRun(f"{folder} holds the checkpoints of step {', '.join(map(str, there))}; {_advice(stage)}")
        return None
    errors: list[UserError] = []
    for step in reversed(there):
        try:
            loaded = _loaded(folder, tag, step, flags, rt)
        except manager.Damaged as error:
            errors.append(error)
            continue
        except UserError as error:  # it is whole, so nothing may take its place
            raise OtherRun(f"{error}; {_advice(stage)}") from None
        for error in errors:
            rt.print(error)
        return loaded
    if errors:
        raise OtherRun(f"{errors[0]}; {_advice(stage)}")
    return None


def _loaded(folder: Path, tag: str, step: int, flags: TrainFlags, rt: Runtime) -> Loaded:
    """A checkpoint with its optimizer, in the run's own dtype unless another is given."""
    name = flags.dtype if "dtype" in given(flags) else manager.read_meta(folder, step).get("dtype") or flags.dtype
    load_as = LoadAs(rt.device, compute_dtype(name, rt.device))
    return manager.load_step(folder, tag, step, load_as, with_optimizer=True)


def _adopted(flags: Flags, meta: dict, rt: Runtime) -> tuple[Flags, list[str]]:
    """The flags, with the run's own values where none were given; and notes on these and on those that now differ."""
    own = meta.get("changed_flags") or {}
    adopted, kept, changed = copy.copy(flags), [], []
    settled = {name for names in ALTERNATIVES if given(flags) & {*names} for name in names} | given(flags)
    for field in dataclasses.fields(flags):
        if field.name in OF_A_COMMAND:
            continue
        now, then = plain(getattr(flags, field.name)), own.get(field.name, plain(default(field)))
        if now == then:
            continue
        if field.name in settled:
            changed.append(f"--{field.name} {then} -> {now}")
            continue
        try:
            setattr(adopted, field.name, as_field(type(flags), field.name, then))
            kept.append(f"{field.name}={then}")
        except TypeError:
            raise UserError(f"the run recorded {field.name}={then!r}, which is not a value of that flag") from None
    usual, dtype = str(rt.dtype).removeprefix("torch."), meta.get("dtype")
    if "dtype" not in given(flags) and flags.dtype == adopted.dtype and dtype not in (None, usual):
        kept.append(f"dtype={dtype} (this machine and environment would take {usual})")
    notes = [f"as the run was started: {', '.join(kept)}"] if kept else []
    return adopted, notes + ([f"changed from here on: {', '.join(changed)}"] if changed else [])


def _check_parent(start: Start) -> None:
    """Raise OtherRun where a run started from another checkpoint, compared by content, else by name."""
    if start.parent is None:
        return
    was, now = start.meta.get("parent") or {}, start.parent
    keys = ("sha256",) if was.get("sha256") and now.get("sha256") else ("source", "tag", "step")
    if any(was.get(key) != now.get(key) for key in keys):
        is_other_step = all(was.get(key) == now.get(key) for key in ("source", "tag"))
        remedy = f"give --model_step {was.get('step')} to resume it, " if is_other_step else ""
        raise _other(start, f"a run that started from {described(was)}, not from {described(now)}", remedy)


def _other(start: Start, what: str, remedy: str = "") -> OtherRun:
    return OtherRun(f"{start.folder} holds {what}; {remedy}{_advice(start.stage)}")


def _advice(stage: str) -> str:
    tag = "--model_tag" if stage == "base" else "--out_tag"
    return f"write this run elsewhere with {tag} NAME, or replace that one with --overwrite"
