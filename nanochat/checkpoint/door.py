"""The one door to a model: find it by name, whatever its kind, and load it as one of ours.

    sft, sft:d3, sft:d3:700     checkpoints of a stage, by tag and step
    gpt2 ... gpt2-xl            OpenAI's weights, from the hub or its cache
    user/name                   a repository on the hub
    a folder or file            whatever `recognise` knows
    resume                      the ckpt.pt of a run trained in nanoGPT's way

An adapter, of ours (`lora`) or peft's, is opened with the model that it was trained on, both in one.

The steps: `find` a model by name, read its files and translate them to our architecture and names (`manager`, `hf`,
`nanogpt`), check that its tokenizer fits, and build it.
"""

import dataclasses
import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from nanochat import foreign_tokenizers, gpt2_tokenizer, hub, lora, paths
from nanochat.checkpoint import gpt2, hf, manager, nanogpt, peft, stages
from nanochat.checkpoint.manager import AS_STORED, LoadAs, Loaded
from nanochat.errors import UserError
from nanochat.gpt import GPTConfig
from nanochat.tokenizer import Tokenizer

Kind = Literal["nanochat", "hf", "nanogpt", "peft"]
CHECKPOINT_FILES = (".pt", ".pth")
WEIGHT_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")


@dataclass(frozen=True)
class Found:
    """A model whose weights have not been read yet.

    source is its stage (base, mid, sft, dpo or rl), "" where only the weights can tell; meta is the meta file of a
    nanochat checkpoint, else {}. step is 0 where only the weights can tell. file is the name of a ckpt.pt.
    """

    name: str
    kind: Kind
    folder: Path
    source: str
    tag: str
    step: int
    meta: dict = field(default_factory=dict)
    file: str = ""

    def __str__(self) -> str:
        if self.kind == "nanochat":
            return f"{self.source} {self.tag}, step {self.step} of {self.folder}".lstrip()
        return f"{self.tag}, from {self.folder / self.file}"

    @property
    def of_stage(self) -> bool:
        """Whether it was named as a checkpoint of a stage in the base folder."""
        return self.name.partition(":")[0] in paths.SOURCES

    @property
    def short_name(self) -> str:
        """See the function `short_name`."""
        return short_name(self.name, self.source, self.tag)

    def load(self, load_as: LoadAs = AS_STORED) -> Loaded:
        """Check and read the weights. Raises UserError for damaged files and for models that do not fit."""
        if self.kind == "nanochat":
            return replace(load_step(self.folder, self.tag, self.step, load_as), source=self.source)
        return LOADERS[self.kind](self, load_as)


def short_name(name: str, source: str, tag: str) -> str:
    """A model's name to show to others: with its tag if it names a stage only; of a path the last folder alone."""
    if name in paths.SOURCES:
        return f"{source}:{tag}"
    return name if name.partition(":")[0] in paths.SOURCES or name == "resume" else tag


def open(
    name: str, load_as: LoadAs = AS_STORED, tag: str | None = None, step: int | None = None, out_dir: Path | str = "out"
) -> Loaded:
    """`find` a model and load it."""
    return find(name, tag, step, out_dir).load(load_as)


# ---------------------------------------------------------------- find


def find(name: str, tag: str | None = None, step: int | None = None, out_dir: Path | str = "out") -> Found:
    """The model of a name, its weights unread; what is on the hub only is downloaded.

    tag and step choose among the checkpoints of a stage, step also among those of a folder; "resume" is in out_dir.
    Raises UserError listing what a name can be, and for a tag or step where there is nothing to choose.
    """
    paths.check_name("source", name)
    stage, _, rest = name.partition(":")
    if stage in paths.SOURCES:
        return _of_stage(name, stage, rest, tag, step)
    if tag is not None:
        raise UserError(f"a tag ({tag}) chooses a model of a stage ({', '.join(paths.SOURCES)}), which {name} is not")
    if name in hub.GPT2:
        if step is not None:
            raise _no_step(name, step)
        return _in(hub.fetch(hub.GPT2[name], [*WEIGHT_FILES, *gpt2_tokenizer.FILES]), name, name, None)
    path = Path(out_dir) if name == "resume" else Path(name).expanduser()
    if name == "resume" and not path.exists():
        raise UserError(f"{path} is missing; train a model first, as with scripts.train, or name another --out_dir")
    if path.suffix in CHECKPOINT_FILES and not path.exists():  # no repository has such a name
        beside = ", ".join(sorted(found.name for found in path.parent.glob(f"*{path.suffix}"))[:5])
        hint = f"{path.parent} has {beside}" if beside else "train a model first, or check the path"
        raise UserError(f"the file {name} is missing; {hint}")
    if name == "resume" or path.exists():
        file = path.name if path.exists() and not path.is_dir() else ""
        folder = path.parent if file else path
        return _in(folder, name, Path(os.path.abspath(folder)).name, step, file)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _in(hub.fetch(name), name, name, step)
    raise UserError(
        f"there is no model {name!r}; expected a stage ({', '.join(paths.SOURCES)}, as in sft or sft:d3), "
        f"{', '.join(hub.GPT2)}, a folder or file that exists, or a repository of the hub (user/name)"
    )


def _of_stage(name: str, stage: str, rest: str, tag: str | None, step: int | None) -> Found:
    """A checkpoint of the base folder, as in sft, sft:d3 or sft:d3:700; rest is what follows the stage."""
    named_tag, _, named_step = rest.partition(":")
    if named_step and not named_step.isdecimal():
        raise UserError(f"{name} names no checkpoint; expected stage:tag:step, as in {stage}:d3:700")
    if (named_tag and tag is not None) or (named_step and step is not None):
        raise UserError(f"{name} already names its tag or step; leave out the separate one")
    folder, tag, step = manager.find(stage, named_tag or tag, int(named_step) if named_step else step)
    return Found(name, "nanochat", folder, stage, tag, step, manager.read_meta(folder, step))


def recognise(folder: Path) -> Kind | None:
    """The kind of model in a folder, by its files; None if it is not known."""
    if not folder.is_dir():
        return None
    if manager.steps(folder):
        return "nanochat"
    if (folder / nanogpt.CKPT).exists():
        return "nanogpt"
    if (folder / peft.CONFIG).exists():
        return "peft"
    return "hf" if hf.read_config(folder).get("model_type") in ("gpt2", hf.PORT, hf.OWN) else None


def _in(folder: Path, name: str, tag: str, step: int | None, file: str = "") -> Found:
    """The model in a folder, or in one of its files."""
    kind = "nanogpt" if file else recognise(folder)
    if kind == "nanochat":
        step = manager.choose_step(folder, step)
        meta = manager.read_meta(folder, step)
        return Found(name, kind, folder, _stage_of_folder(meta, folder, tag), tag, step, meta)
    if step is not None:
        raise _no_step(name, step)
    if kind == "nanogpt":
        return Found(name, kind, folder, "", tag, 0, file=file or nanogpt.CKPT)
    if kind is None:
        there = sorted(entry.name for entry in folder.iterdir())[:5] if folder.is_dir() else []
        found = f"holds {', '.join(there) or 'nothing'}" if folder.is_dir() else "is missing"
        raise UserError(
            f"{folder} {found}; expected a folder with model_*.pt and meta_*.json, with {nanogpt.CKPT}, with a "
            f"config.json of transformers' gpt2 or nanochat, or with an {peft.CONFIG}"
        )
    recorded = hf.record(hf.read_config(folder))
    source = _known(recorded.get("source")) or stages.stage_spelled(tag) or ""
    step = recorded.get("step")
    return Found(name, kind, folder, source, tag, step if type(step) is int and step >= 0 else 0)


def _no_step(name: str, step: int) -> UserError:
    return UserError(f"a step ({step}) chooses among nanochat's checkpoints (model_*.pt); {name} is a single model")


# ---------------------------------------------------------------- the stage


def _stage_of_folder(meta: dict, folder: Path, tag: str) -> str:
    """The stage of a checkpoint in our format, by its meta file, else by its folder's place or name."""
    settings = meta.get("user_config") or {}
    if stage := _known(meta.get("source")) or _stage_trained_from(settings):
        return stage
    if stage := stages.layout(PurePosixPath(folder.absolute()))[0]:
        return stage
    # scripts.train records what it started from, which here was a model without a stage.
    return "" if "init_from" in settings else stages.stage_of(meta, tag) or ""


def _stage_trained_from(settings: dict) -> str:
    """The stage of a model trained on texts in nanoGPT's way, which is that of the model it started from."""
    origin = str(settings.get("init_from", ""))
    return "base" if origin in ("scratch", *hub.GPT2) else _known(origin.partition(":")[0])


def _known(stage: object) -> str:
    return stage if isinstance(stage, str) and stage in paths.SOURCES else ""


# ---------------------------------------------------------------- read, translate, check, build


def _load_hf(found: Found, load_as: LoadAs) -> Loaded:
    path = found.folder
    place = next((place for place in (path, path / "tokenizer") if foreign_tokenizers.holds(place)), None)
    if place is None:
        raise UserError(f"{path} has no tokenizer; expected tokenizer.json, or vocab.json with merges.txt, beside it")
    tokenizer = Tokenizer.load(place)
    config, state = hf.read(path)
    recorded = hf.record(hf.read_config(path)).get("tokenizer_hash")
    return _built(found, _with_tokenizer(config, tokenizer, recorded, path, place), state, tokenizer, load_as)


def _load_nanogpt(found: Found, load_as: LoadAs) -> Loaded:
    path = found.folder / found.file
    read = nanogpt.read(path)
    ours = read.ours if isinstance(read.ours, dict) else {}
    tokenizer, place = _tokenizer_of_run(path, read)
    recorded, rows = ours.get("tokenizer_hash"), read.config.vocab_size
    if not isinstance(recorded, str | None):
        raise UserError(f"{path} is damaged: the hash of its tokenizer is not a string; restore it from a copy")
    # nanoGPT gives all data without a meta.pkl this many rows, so any tokenizer but one of characters may be meant.
    any_size = not recorded and place is not None and tokenizer.pattern is not None
    any_size = any_size and rows == gpt2_tokenizer.VOCABULARIES[1]
    config = _with_tokenizer(read.config, tokenizer, recorded, path, place, any_size)
    note = ""
    if any_size and tokenizer.vocab_size < gpt2_tokenizer.VOCABULARIES[0]:
        note = f"how many of its {rows} rows are tokens is not recorded; {tokenizer.vocab_size} assumed, as in {place}"
    meta = {"best_val_loss": read.best_val_loss, "user_config": read.settings, "dataset": read.settings.get("dataset")}
    source = _known(ours.get("source")) or _stage_trained_from(read.settings)
    found = replace(found, source=source, step=read.iter_num, meta=meta)
    return replace(_built(found, config, read.state, tokenizer, load_as), note=note)


def _tokenizer_of_run(path: Path, read: nanogpt.Checkpoint) -> tuple[Tokenizer, Path | None]:
    """The tokenizer of a ckpt.pt, which lies beside it or with its dataset, else is GPT-2's from the hub (None)."""
    places = [path.parent, *nanogpt.data_dirs(str(read.settings.get("dataset") or "openwebtext"))]
    place = next((place for place in places if foreign_tokenizers.holds(place)), None)
    rows = read.config.vocab_size
    if place is None and rows not in gpt2_tokenizer.VOCABULARIES:
        raise UserError(
            f"{path} has {rows} tokens, and there is no tokenizer for it; expected tokenizer.json or meta.pkl in one "
            f"of {', '.join(map(str, places))}"
        )
    return (Tokenizer.load(place) if place else gpt2_tokenizer.load()), place


def _with_tokenizer(
    config: GPTConfig, tokenizer: Tokenizer, recorded: object, path: Path, place: Path | None, any_size: bool = False
) -> GPTConfig:
    """The architecture, with the rows beyond the tokenizer's tokens as padding.

    recorded is the hash of the tokenizer the model was trained with, if its file has one. Raises UserError for another
    tokenizer; without a hash, for one whose size rounded up to a multiple of PAD is less than the rows.
    """
    where, rows, tokens = place or hub.GPT2["gpt2"], config.vocab_size, tokenizer.vocab_size
    if recorded and recorded != tokenizer.hash:
        raise UserError(
            f"{path} was trained with the tokenizer {str(recorded)[:12]}, but {where} holds {tokenizer.hash[:12]}; "
            "put the right one there"
        )
    most = rows if recorded or any_size else -(-tokens // gpt2.PAD) * gpt2.PAD
    if not tokens <= rows <= most:
        raise UserError(
            f"{path} has {rows} tokens, but the tokenizer in {where} has {tokens}: they do not belong together; "
            "put the right one there"
        )
    return config if rows == tokens else gpt2.with_tokenizer(config, tokens)


def _built(found: Found, config: GPTConfig, state: dict, tokenizer: Tokenizer, load_as: LoadAs) -> Loaded:
    model = manager.build(config, state, found.folder, load_as)
    meta = {**found.meta, "model_config": dataclasses.asdict(config), "tokenizer_hash": tokenizer.hash}
    return Loaded(model, tokenizer, meta, found.folder, found.tag, found.step, source=found.source)


# ---------------------------------------------------------------- adapters


def load_step(
    folder: Path, tag: str, step: int, load_as: LoadAs = AS_STORED, with_optimizer: bool = False, merged: bool = True
) -> Loaded:
    """`manager.load_step`, where an adapter comes with its parent: as one model, or not merged, to be trained further.

    Raises UserError besides for a parent that is missing or has other weights than the adapter was trained with.
    """
    meta = manager.read_meta(folder, step)
    if "lora" not in meta:
        return manager.load_step(folder, tag, step, load_as, with_optimizer)
    parent = _parent_of(meta, f"{folder}, step {step},")
    # Sums are float32, and in main memory, where both fit.
    onto = LoadAs("cpu", load_as.dtype) if merged else replace(load_as, keep_float32=False)
    loaded = manager.load_step(folder, tag, step, onto, with_optimizer, parent.load(onto).model)
    note = f"{lora.adapters_of(loaded.model)}, of {parent}"
    if not merged:
        return replace(loaded, note=note)
    model = manager.placed(lora.merge(loaded.model), load_as)
    return replace(loaded, model=model, meta={key: meta[key] for key in meta if key != "lora"}, note=note)


def record(found: Found) -> dict:
    """What an adapter keeps of its parent: how to find it again, and by which content it is known."""
    recorded = manager.record_of(found.meta, found.source, found.tag, found.step)
    if not found.of_stage:
        is_here = Path(found.name).expanduser().exists()
        recorded["name"] = str(found.folder.absolute() / found.file) if is_here else found.name
    return {**recorded, "sha256": recorded["sha256"] or _content(found)}


def _content(found: Found) -> str:
    """The sha256 of a model's weights, where no meta file records it; of several files that of their sums."""
    pattern = f"model_{found.step:06d}.pt" if found.kind == "nanochat" else found.file or "*.safetensors"
    sums = [paths.sha256(path) for path in sorted(found.folder.glob(pattern)) or sorted(found.folder.glob("*.bin"))]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def _parent_of(meta: dict, what: str) -> Found:
    """The model that an adapter was trained on. Raises UserError where it is missing or changed."""
    parent = meta.get("parent") or {}
    name = parent.get("name") or f"{parent.get('source')}:{parent.get('tag')}:{parent.get('step')}"
    try:
        found = find(name)
        if found.kind == "nanochat" and found.step != parent.get("step"):
            found = find(name, step=parent.get("step"))
    except UserError as error:
        raise UserError(f"{what} is an adapter of {name}, which cannot be opened: {error}") from None
    now, then = record(found)["sha256"], parent.get("sha256")
    if now != then:
        raise UserError(
            f"{what} is an adapter of {name} with the weights {str(then)[:8]}, but that has {now[:8]} now; put the old "
            "ones back, or train the adapter again"
        )
    return found


def _load_peft(found: Found, load_as: LoadAs) -> Loaded:
    """An adapter of peft's, merged into the model that it names."""
    name, path = peft.base_name(found.folder), found.folder / peft.CONFIG
    try:
        parent = find(name)
    except UserError as error:
        raise UserError(f"{path} names the model {name}, which cannot be opened: {error}") from None
    if parent.kind == "peft":
        raise UserError(f"{path} names {name}, which is an adapter itself; write there which model it belongs to")
    loaded = parent.load(LoadAs("cpu", load_as.dtype))
    peft.merge(found.folder, loaded.model)
    manager.placed(loaded.model, load_as)
    note = f"an adapter of peft's, on {parent}"
    return replace(loaded, folder=found.folder, tag=found.tag, step=0, note=note, source=parent.source)


LOADERS = {"hf": _load_hf, "nanogpt": _load_nanogpt, "peft": _load_peft}
