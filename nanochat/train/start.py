"""Where a training stage starts: at its own last checkpoint, or at the model it is given.

A run is resumed only if it is the same run: the same parent, the same data by content, the same seed and architecture.
Anything else in its output folder is replaced only with --overwrite.
"""

import contextlib
import copy
import dataclasses
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor

from nanochat import lora, runtime
from nanochat.checkpoint import door, manager
from nanochat.checkpoint.manager import LoadAs, Loaded
from nanochat.checkpoint.parts import Ranks
from nanochat.config import as_field, default, given
from nanochat.data import contents
from nanochat.data.batch import Batch
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig
from nanochat.log import strict_json
from nanochat.loss import Rows
from nanochat.paths import SOURCES, alone_in, check_tag, checkpoints_dir
from nanochat.plan.scale import traffic
from nanochat.runtime import Runtime, compute_dtype
from nanochat.tokenizer import Tokenizer
from nanochat.train.flags import LaterFlags, StageLoraFlags, TrainFlags
from nanochat.train.hyperparameters import Hyperparameters
from nanochat.train.loop import TrainState
from nanochat.train.memory import check_memory, needed
from nanochat.train.parallel import REPLICATED, Layout, layout_for
from nanochat.train.teacher import Teacher

Flags = TypeVar("Flags", bound=TrainFlags)

# Flags that set the same thing in different ways: if one of them is passed, the run's values of the others are dropped.
ALTERNATIVES = (
    ("total_batch_size", "target_examples_per_step"), ("eval_tokens", "eval_steps"),
    ("num_iterations", "num_epochs", "target_flops", "target_param_data_ratio", "minutes"),
)  # fmt: skip
# Flags of one command, which a resumed run does not take over.
OF_A_COMMAND = (
    "run", "device_type", "parallel", "collective_minutes", "resume", "overwrite", "dry_run", "source", "model_tag",
    "model_step", "out_tag", "resume_from_step",
)  # fmt: skip

BY_CONTENT = ("parent", "teacher", "dataset", "conversations", "data")  # recorded by name, compared by content


class OtherRun(UserError):
    """The output folder holds another run than the one that the command describes."""


@dataclass
class Start(Generic[Flags]):
    """Where a run starts. `flags` has the run's own values for what was not passed; `rt` its compute dtype.

    loaded: the run's own checkpoint with its optimizer if is_resumed, else the parent's, or None for a new base model.
    parent: what a later stage records of the checkpoint it started from. stale: steps in the folder that the first save
    replaces. notes: what to print once it is clear that the run is the same.
    """

    stage: str
    tag: str
    folder: Path
    flags: Flags
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
        """The numbers it was trained with, without the original's -1 and "auto"."""
        config = dict(self.meta.get("user_config") or {})
        config["total_batch_size"] = self.meta.get("total_batch_size") or config.get("total_batch_size")
        return {name: value for name, value in config.items() if type(value) in (int, float) and value > 0}


@dataclass
class Run:
    """A model to train, and everything that belongs to its run.

    lineage: what must be the same for the run to be resumed. extra: what else goes into its meta files.
    """

    start: Start
    hparams: Hyperparameters
    lineage: dict
    tokenizer: Tokenizer
    model: GPT
    state: TrainState
    saved: Path | dict | None = None  # optimizer and random state of the checkpoint, until they are restored
    extra: dict = field(default_factory=dict)
    loss: Callable[[Batch], Tensor] | None = None  # of a micro-batch, as `Stage` has it
    also: tuple[str, ...] = ()  # what it sums besides, as `Stage` has it
    rows: Rows | None = None  # what computes a chunk of it, compiled
    teacher: Teacher | None = None
    layout: Layout = REPLICATED
    ranks: Ranks | None = None  # that save and load the run together

    @property
    def rt(self) -> Runtime:
        return self.start.rt


def launch(flags: Flags, train: Callable[[Flags, Runtime], None]) -> None:
    """Start the runtime and call `train`, again from the start if --overwrite is to replace another run."""
    with runtime.start(flags.device_type, flags.dtype, flags.seed, flags.collective_minutes) as rt:
        try:
            return train(flags, rt)
        except OtherRun:
            if not flags.overwrite or flags.resume != "auto":
                raise
        anew = copy.copy(flags)
        anew.resume = "never"
        train(anew, rt)


@contextlib.contextmanager
def open_run(stage: str, flags: Flags, rt: Runtime, tag: str | None = None) -> Iterator[Start[Flags]]:
    """Find what a stage starts from, lock its output folder, and load the model. tag is that of a base model.

    Raises UserError for a missing model or a folder in use, OtherRun for a folder that holds another run.
    """
    flags.check()
    lora.wanted(flags)  # raises for a rank, or names of matrices, that there are not
    found, parent = None, None
    if isinstance(flags, LaterFlags):
        found, parent, tag = _parent(stage, flags)
    assert tag is not None
    folder = checkpoints_dir(stage) / tag
    if found is not None and found.folder.resolve() == folder.resolve():
        raise UserError(f"this run would replace the model it starts from, in {folder}; pass an --out_tag NAME")
    with _locked(folder, flags, rt):
        loaded = _own_checkpoint(stage, folder, tag, flags, rt)
        stale = [step for step in manager.recorded(folder) if loaded is None or step > loaded.step]
        is_resumed, notes = loaded is not None, []
        if loaded is not None:
            flags, notes = _with_own_values(flags, loaded.meta, rt)
            rt.print(f"resuming from step {loaded.step} of {folder}")
            rt = dataclasses.replace(rt, dtype=loaded.model.dtype)
        elif found is not None:
            loaded = found.load(_placed(LoadAs(rt.device, rt.dtype, keep_float32=not lora.wanted(flags)), flags, rt))
            rt.print(f"starting from {loaded}")
        flags = _with_matrices(flags, parent, loaded)
        if found is not None and lora.wanted(flags):
            parent = door.record(found)
        start = Start(stage, tag, folder, flags, rt, loaded, parent, is_resumed, stale, notes)
        try:
            yield start
        except OtherRun:
            raise
        except UserError as error:
            if start.has_begun or not notes:
                raise
            # The flags that were passed do not fit those of the run that is there, so they may be meant for another.
            kept = f"flags that you do not pass are those of the run in {folder}; {_advice(stage)}"
            raise OtherRun(f"{error} ({kept})") from error


def begin(
    start: Start,
    hparams: Hyperparameters,
    lineage: dict,
    tokenizer: Tokenizer,
    config: GPTConfig | None = None,
    teacher: Teacher | None = None,
) -> Run:
    """The run to train: resumed, from the parent's model, or for a base model a new one of this config.

    lineage: what must be the same in a run that is resumed, its "data" by content. Raises OtherRun if it is not,
    UserError for what does not fit into memory.
    """
    loaded, rt = start.loaded, start.rt
    shape = config or (loaded.model.config if loaded else None)
    assert shape is not None
    flags = start.flags
    adapters = lora.wanted(flags)
    size = (shape, hparams.device_batch_size, hparams.max_seq_len, rt, bool(flags.compile), flags.recompute)
    besides = {"adapters": adapters, "teacher": teacher and teacher.model.config}

    def sent(layout: Layout) -> float:
        batches = max(1, hparams.total_batch_size // (hparams.device_batch_size * hparams.max_seq_len * rt.world))
        return sum(traffic(shape, batches, rt.world, layout, adapters=adapters).values())

    compared = None if flags.fp8 else sent  # 8 bits are for replicas only
    layout = layout_for(flags.parallel, rt, lambda parts: needed(*size, **besides, parts=parts), compared)
    check_memory(*size, **besides, parts=layout.parts)
    if loaded is not None and layout.parts == 1:
        loaded.model.to(rt.device)
    if teacher is not None:
        lineage = {**lineage, "teacher": teacher.record}
    if not start.is_resumed:
        model = loaded.model if loaded else GPT(shape, rt.dtype).to(rt.device)
        if adapters is not None:
            rt.print(lora.summary(lora.attach(model, adapters)))
        return Run(start, hparams, lineage, tokenizer, model, TrainState(), teacher=teacher, layout=layout)
    assert loaded is not None and loaded.optimizer is not None
    _check_same_run(start, loaded, lineage, config)
    start.has_begun = True
    for note in start.notes:
        rt.print(note)
    meta_path = loaded.folder / f"meta_{loaded.step:06d}.json"
    state = TrainState.restored(loaded.meta.get("loop_state"), meta_path)
    model, saved = loaded.model, loaded.optimizer
    return Run(start, hparams, lineage, tokenizer, model, state, saved, teacher=teacher, layout=layout)


def as_json(value: object) -> Any:
    """A flag's value as JSON; a path as an absolute one, so that it means the same wherever the run is resumed."""
    if isinstance(value, Path):
        return os.path.abspath(value)
    return [as_json(item) for item in value] if isinstance(value, (list, tuple)) else json.loads(strict_json(value))


def _with_matrices(flags: Flags, parent: dict | None, loaded: Loaded | None) -> Flags:
    """The flags with the names of the matrices that get an adapter, where none are passed.

    A base model has never predicted the tokens of a chat, and with a frozen output layer it cannot learn to.
    """
    if loaded is None or not isinstance(flags, StageLoraFlags) or lora.wanted(flags) is None or flags.lora_matrices:
        return flags
    chosen, is_base = copy.copy(flags), (parent or {}).get("source") == "base"
    chosen.lora_matrices = list(lora.MATRICES if is_base and not loaded.model.config.tied else lora.BLOCKS)
    return chosen


def _parent(stage: str, flags: LaterFlags) -> tuple[door.Found | None, dict, str]:
    """The model that a later stage starts from, its record for the meta file, and the output tag.

    A resumed run needs its own checkpoints only, so its parent may be gone.
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
        wanted = {"source": source, "tag": flags.model_tag, "step": flags.model_step}
        if source not in SOURCES:
            wanted = {"name": flags.source}
        if any(value not in (None, parent.get(name)) for name, value in wanted.items()):
            raise
        return None, parent, tag
    tag = found.tag.rpartition("/")[2] if flags.out_tag is None else flags.out_tag
    check_tag("out_tag", tag)
    record = manager.record_of(found.meta, found.source, found.tag, found.step)
    return found, record if source in SOURCES else {**record, "name": flags.source}, tag


@contextlib.contextmanager
def _locked(folder: Path, flags: TrainFlags, rt: Runtime) -> Iterator[None]:
    """Rank 0 locks the output folder before any rank looks at what is in it."""
    with contextlib.ExitStack() as stack:
        if rt.is_main and not flags.dry_run:
            stack.enter_context(alone_in(folder, "wait until it has finished, stop it, or write elsewhere"))
        rt.wait()
        yield


def _own_checkpoint(stage: str, folder: Path, tag: str, flags: TrainFlags, rt: Runtime) -> Loaded | None:
    """The checkpoint of the output folder to resume, with its optimizer; None if a new run starts.

    --resume auto takes the newest that is whole.
    """
    there = manager.recorded(folder)
    if flags.resume.isdecimal():
        return _load(folder, tag, manager.find(stage, tag, int(flags.resume))[2], flags, rt)
    if flags.resume == "never":
        if there and not flags.overwrite:
            raise OtherRun(f"{folder} holds the checkpoints of step {', '.join(map(str, there))}; {_advice(stage)}")
        return None
    errors: list[UserError] = []
    for step in reversed(there):
        try:
            loaded = _load(folder, tag, step, flags, rt)
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


def _load(folder: Path, tag: str, step: int, flags: TrainFlags, rt: Runtime) -> Loaded:
    """A checkpoint with its optimizer, in the run's own dtype unless another is passed."""
    name = flags.dtype if "dtype" in given(flags) else manager.read_meta(folder, step).get("dtype") or flags.dtype
    load_as = _placed(LoadAs(rt.device, compute_dtype(name, rt.device)), flags, rt)
    return door.load_step(folder, tag, step, load_as, with_optimizer=True, merged=False)


def _placed(load_as: LoadAs, flags: TrainFlags, rt: Runtime) -> LoadAs:
    """The same, or mapped, where the model may be too large for one device: `begin` decides, `divide` takes parts."""
    return dataclasses.replace(load_as, mapped=rt.world > 1 and flags.parallel != "replicate")


def adopt(
    flags: Any, own: Mapping[str, Any], passed: Collection[str], skip: Collection[str] = ()
) -> tuple[Any, dict, dict[str, tuple]]:
    """The flags of a resumed run: its `own` values, except for those that were passed.

    Returns also the values that were kept, by name, and those that were passed and differ, as {name: (then, now)}.
    """
    adopted, kept, changed = copy.copy(flags), {}, {}
    for entry in dataclasses.fields(flags):
        name = entry.name
        now, then = as_json(getattr(flags, name)), own.get(name, as_json(default(entry)))
        if name in skip or now == then:
            continue
        try:
            value = as_field(type(flags), name, then)
        except TypeError:
            raise UserError(f"the run recorded {name}={then!r:.40}, which is not a value of that flag") from None
        if name in passed:
            changed[name] = then, now
        else:
            setattr(adopted, name, value)
            kept[name] = then
    return adopted, kept, changed


def _with_own_values(flags: Flags, meta: dict, rt: Runtime) -> tuple[Flags, list[str]]:
    """`adopt` what a stage has recorded; and what to print of it."""
    passed = {name for names in ALTERNATIVES if given(flags) & {*names} for name in names} | given(flags)
    adopted, kept, changed = adopt(flags, meta.get("changed_flags") or {}, passed, OF_A_COMMAND)
    shown = [f"{name}={value}" for name, value in kept.items()]
    usual, dtype = str(rt.dtype).removeprefix("torch."), meta.get("dtype")
    if "dtype" not in given(flags) and "dtype" not in kept and dtype not in (None, usual):
        shown.append(f"dtype={dtype} (this machine and environment would take {usual})")
    notes = [f"as the run was started: {', '.join(shown)}"] if shown else []
    differ = [f"--{name} {then} -> {now}" for name, (then, now) in changed.items()]
    return adopted, notes + ([f"changed from here on: {', '.join(differ)}"] if differ else [])


def _check_same_run(start: Start, loaded: Loaded, lineage: dict, config: GPTConfig | None) -> None:
    """Raise OtherRun if the checkpoint to resume is of a run with another architecture, parent, seed or data."""
    if config is not None and loaded.model.config != config:
        found, wanted = dataclasses.asdict(loaded.model.config), dataclasses.asdict(config)
        differ = [f"{name} {found[name]} (now {wanted[name]})" for name in wanted if found[name] != wanted[name]]
        raise _other_run(start, f"a run with {', '.join(differ)}")
    there, adapters = lora.adapters_of(loaded.model), lora.wanted(start.flags)
    if there != adapters:
        raise _other_run(start, f"a run of {there or 'all weights'}, not of {adapters or 'all weights'}")
    if start.parent is not None:
        _check_parent(start, start.meta.get("parent") or {}, start.parent)
    if "teacher" in lineage:
        _check_parent(start, start.meta.get("teacher") or {}, lineage["teacher"], "learned from")
    lineage = json.loads(strict_json(lineage))
    if "data" not in loaded.meta:
        raise _other_run(start, "a run of an older version, which did not record its data")
    for name, value in lineage.items():
        if name not in BY_CONTENT and loaded.meta.get(name) != value:
            raise _other_run(start, f"a run whose {name} is {loaded.meta.get(name)}, not {value}")
    if change := contents.changed(loaded.meta["data"], lineage["data"]):
        raise _other_run(start, f"a run on other data: {change}", "put the old data back to resume it, ")


def _check_parent(start: Start, was: dict, now: dict, did: str = "started from") -> None:
    """Raise OtherRun if the run started, or learned, from another checkpoint, compared by content, else by name."""
    keys = ("sha256",) if was.get("sha256") and now.get("sha256") else ("source", "tag", "step")
    if all(was.get(key) == now.get(key) for key in keys):
        return
    before, after = (
        f"{parent.get('source')} {parent.get('tag')} step {parent.get('step')}, {str(parent.get('sha256'))[:8]}"
        for parent in (was, now)
    )
    is_other_step = all(was.get(key) == now.get(key) for key in ("source", "tag"))
    remedy = f"pass --model_step {was.get('step')} to resume it, " if is_other_step and did == "started from" else ""
    raise _other_run(start, f"a run that {did} {before}, not from {after}", remedy)


def _other_run(start: Start, what: str, remedy: str = "") -> OtherRun:
    return OtherRun(f"{start.folder} holds {what}; {remedy}{_advice(start.stage)}")


def _advice(stage: str) -> str:
    tag = "--model_tag" if stage == "base" else "--out_tag"
    return f"write this run elsewhere with {tag} NAME, or replace that one with --overwrite"
