"""The one door to a model: find it by name, of whatever kind, and load it as one of ours.

    sft, sft:d4, sft:d4:700     checkpoints of a stage, by tag and step
    gpt2 ... gpt2-xl            OpenAI's weights, from the hub or its cache
    user/name                   a repository of the hub
    a folder or file            what `recognise` knows
    resume                      the ckpt.pt of a training run in nanoGPT's way
"""

import dataclasses
import os
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from nanochat import foreign_tokenizers, gpt2_tokenizer, hub, paths
from nanochat.checkpoint import gpt2, hf, manager, nanogpt, repository
from nanochat.checkpoint.manager import AS_STORED, LoadAs, Loaded
from nanochat.errors import UserError
from nanochat.gpt import GPTConfig
from nanochat.tokenizer import Tokenizer

Kind = Literal["nanochat", "gpt2", "hf_nanochat", "nanogpt"]
WEIGHT_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")


@dataclass(frozen=True)
class Found:
    """A model whose weights have not been read yet.

    source is its stage (base, mid, sft or rl), or "" where only the weights can tell it; meta is the content of the
    meta file of a nanochat checkpoint, else {}. step is 0 where only the weights can tell it. file is the name of a
    ckpt.pt in the folder.
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
        """Whether it was named as a checkpoint of a stage of the base folder."""
        return self.name.partition(":")[0] in paths.SOURCES

    @property
    def short_name(self) -> str:
        """The name, with the tag that was chosen where it names a stage only."""
        return f"{self.source}:{self.tag}" if self.name in paths.SOURCES else self.name

    def load(self, load_as: LoadAs = AS_STORED) -> Loaded:
        """Check and read the weights. Raises UserError for damaged files and for models that do not fit."""
        if self.kind == "nanochat":
            return replace(manager.load_step(self.folder, self.tag, self.step, load_as), source=self.source)
        return _load_nanogpt(self, load_as) if self.kind == "nanogpt" else _load_hf(self, load_as)


def open(
    name: str, load_as: LoadAs = AS_STORED, tag: str | None = None, step: int | None = None, out_dir: Path | str = "out"
) -> Loaded:
    """`find` a model and load it."""
    return find(name, tag, step, out_dir).load(load_as)


def find(name: str, tag: str | None = None, step: int | None = None, out_dir: Path | str = "out") -> Found:
    """The model of a name, its weights unread; what is on the hub only is downloaded.

    tag and step choose among the checkpoints of a stage, step also among those of a folder; out_dir is where "resume"
    looks. Raises UserError listing what a name can be, and for a tag or step where there is nothing to choose.
    """
    paths.check_name("source", name)
    stage, _, rest = name.partition(":")
    if stage in paths.SOURCES:
        named_tag, _, named_step = rest.partition(":")
        if named_step and not named_step.isdecimal():
            raise UserError(f"{name} names no checkpoint; expected stage:tag:step, as in {stage}:d4:700")
        if (named_tag and tag is not None) or (named_step and step is not None):
            raise UserError(f"{name} already names its tag or step; leave out the separate one")
        folder, tag, step = manager.find(stage, named_tag or tag, int(named_step) if named_step else step)
        return Found(name, "nanochat", folder, stage, tag, step, manager.read_meta(folder, step))
    if tag is not None:
        raise UserError(f"a tag ({tag}) chooses a model of a stage ({', '.join(paths.SOURCES)}), which {name} is not")
    if name in hub.GPT2:
        if step is not None:
            raise _no_step(name, step)
        return _in(hub.fetch(hub.GPT2[name], [*WEIGHT_FILES, *gpt2_tokenizer.FILES]), name, name, None)
    path = Path(out_dir) if name == "resume" else Path(name).expanduser()
    if name == "resume" or path.exists():
        file = path.name if path.exists() and not path.is_dir() else ""
        folder = path.parent if file else path
        return _in(folder, name, Path(os.path.abspath(folder)).name, step, file)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _in(hub.fetch(name), name, name, step)
    raise UserError(
        f"there is no model {name!r}; expected a stage ({', '.join(paths.SOURCES)}, as in sft or sft:d4), "
        f"{', '.join(hub.GPT2)}, a folder or file that exists, or a repository of the hub (user/name)"
    )


def recognise(folder: Path) -> Kind | None:
    """The kind of model in a folder, by its files; None if it is not known."""
    if not folder.is_dir():
        return None
    if manager.steps(folder):
        return "nanochat"
    if (folder / nanogpt.CKPT).exists():
        return "nanogpt"
    kinds: dict[str, Kind] = {"gpt2": "gpt2", "nanochat": "hf_nanochat", "nanochat_gpt": "hf_nanochat"}
    return kinds.get(str(hf.read_config(folder).get("model_type")))


def _in(folder: Path, name: str, tag: str, step: int | None, file: str = "") -> Found:
    """The model in a folder, or in one of its files."""
    kind = "nanogpt" if file else recognise(folder)
    if kind == "nanochat":
        there = manager.steps(folder)
        if step is not None and step not in there:
            raise UserError(f"{folder} has no checkpoint of step {step}; there are: {', '.join(map(str, there))}")
        step = there[-1] if step is None else step
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
            f"{folder} {found}; expected a folder with model_*.pt and meta_*.json, with {nanogpt.CKPT}, or with a "
            "config.json of transformers' gpt2 or nanochat"
        )
    said = hf.record(hf.read_config(folder))
    source = _known(said.get("source")) or repository.stage_spelled(tag) or ""
    step = said.get("step")
    return Found(name, kind, folder, source, tag, step if type(step) is int and step >= 0 else 0)


def _no_step(name: str, step: int) -> UserError:
    return UserError(f"a step ({step}) chooses among nanochat's checkpoints (model_*.pt); {name} is a single model")


def _load_hf(found: Found, load_as: LoadAs) -> Loaded:
    path = found.folder
    place = next((place for place in (path, path / "tokenizer") if foreign_tokenizers.holds(place)), None)
    if place is None:
        raise UserError(f"{path} has no tokenizer; expected tokenizer.json, or vocab.json with merges.txt, beside it")
    tokenizer = Tokenizer.load(place)
    config, state = hf.read(path)
    config = _with_tokenizer(config, tokenizer, hf.record(hf.read_config(path)).get("tokenizer_hash"), path, place)
    return _loaded(found, config, state, tokenizer, load_as)


def _load_nanogpt(found: Found, load_as: LoadAs) -> Loaded:
    path = found.folder / found.file
    read = nanogpt.read(path)
    ours = read.ours if isinstance(read.ours, dict) else {}
    tokenizer, place = _tokenizer_of_run(path, read)
    said, rows = ours.get("tokenizer_hash"), read.config.vocab_size
    # nanoGPT has that many rows for all data without a meta.pkl, so any tokenizer but one of characters may be meant.
    is_untold = not said and place is not None and tokenizer.pattern is not None
    is_untold = is_untold and rows == gpt2_tokenizer.VOCABULARIES[1]
    config = _with_tokenizer(read.config, tokenizer, said, path, place, any_size=is_untold)
    note = ""
    if is_untold and tokenizer.vocab_size < gpt2_tokenizer.VOCABULARIES[0]:
        note = f"how many of its {rows} rows are tokens is not recorded; {tokenizer.vocab_size} assumed, as in {place}"
    meta = {"best_val_loss": read.best_val_loss, "user_config": read.settings, "dataset": read.settings.get("dataset")}
    source = _known(ours.get("source")) or _stage_trained_from(read.settings)
    found = replace(found, source=source, step=read.iter_num, meta=meta)
    return replace(_loaded(found, config, read.state, tokenizer, load_as), note=note)


def _tokenizer_of_run(path: Path, read: nanogpt.Checkpoint) -> tuple[Tokenizer, Path | None]:
    """ckpt.pt does not hold its tokenizer: it lies beside it, with the dataset, or is GPT-2's. None: from the hub."""
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
    config: GPTConfig, tokenizer: Tokenizer, said: object, path: Path, place: Path | None, any_size: bool = False
) -> GPTConfig:
    """The architecture with the rows that no token of its tokenizer has as padding.

    said: the hash of the tokenizer that the model was trained with, where a file tells it. Raises UserError for another
    tokenizer, and where no hash proves it for one whose size, rounded up to a multiple of PAD, is less than the rows.
    """
    where, rows, tokens = place or hub.GPT2["gpt2"], config.vocab_size, tokenizer.vocab_size
    if said and said != tokenizer.hash:
        raise UserError(
            f"{path} was trained with the tokenizer {str(said)[:12]}, but {where} holds {tokenizer.hash[:12]}; "
            "put the right one there"
        )
    fits = tokens <= rows if said or any_size else tokens <= rows <= -(-tokens // gpt2.PAD) * gpt2.PAD
    if not fits:
        raise UserError(
            f"{path} has {rows} tokens, but the tokenizer in {where} has {tokens}: they do not belong together; "
            "put the right one there"
        )
    return config if rows == tokens else gpt2.with_tokenizer(config, tokens)


def _stage_of_folder(meta: dict, folder: Path, tag: str) -> str:
    """The stage of a checkpoint in our format: what its meta file, else its place or its name says."""
    settings = meta.get("user_config")
    said = _known(meta.get("source")) or _stage_trained_from(settings)
    placed = repository.layout(PurePosixPath(folder.absolute()))[0]
    if said or placed:
        return said or placed or ""
    by_nanogpts_ways = isinstance(settings, dict) and "init_from" in settings  # from what is no stage
    return "" if by_nanogpts_ways else repository.stage_of(meta, tag) or ""


def _stage_trained_from(settings: object) -> str:
    """The stage of what was trained on texts by nanoGPT's ways: that of the model it began with."""
    origin = str(settings.get("init_from", "")) if isinstance(settings, dict) else ""
    return "base" if origin in ("scratch", *hub.GPT2) else _known(origin.partition(":")[0])


def _known(stage: object) -> str:
    return stage if isinstance(stage, str) and stage in paths.SOURCES else ""


def _loaded(found: Found, config: GPTConfig, state: dict, tokenizer: Tokenizer, load_as: LoadAs) -> Loaded:
    model = manager.build(config, state, found.folder, load_as)
    meta = {**found.meta, "model_config": dataclasses.asdict(config), "tokenizer_hash": tokenizer.hash}
    return Loaded(model, tokenizer, meta, found.folder, found.tag, found.step, source=found.source)
