"""Whatever somebody has as a model, by name or by place, as one of ours: the same GPT, a tokenizer, a description.

    sft, sft:d4, sft:d4:700     our own checkpoints, by stage, tag and step
    gpt2 ... gpt2-xl            OpenAI's weights, from the hub or its cache
    user/name                   a repository of the hub
    a folder or file            what `recognise` knows
    resume                      the ckpt.pt of a training run by nanoGPT's ways
"""

import dataclasses
from pathlib import Path, PurePosixPath
from typing import Literal

import torch

from nanochat import hub, paths, vocabularies
from nanochat.checkpoint import gpt2, hf, manager, nanogpt, repository, torch_file
from nanochat.config import UserError
from nanochat.gpt import GPTConfig
from nanochat.tokenizer import Tokenizer

Kind = Literal["nanochat", "gpt2", "hf_nanochat", "nanogpt"]
CKPT, LAST_CKPT = "ckpt.pt", "ckpt_last.pt"
TOKENIZER_FILES = [name for names in vocabularies.FILES[:2] for name in names]  # as GPT-2's repositories have them
WEIGHT_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
PAD = 64  # to a multiple of it programs round the rows of a vocabulary up
GPT2_VOCABULARIES = (50257, 50304)  # its tokens, and these rounded up as nanoGPT does


def recognise(folder: Path) -> Kind | None:
    """What kind of model lies in a folder, by its files; None for none that is known."""
    if not folder.is_dir():
        return None
    if manager.steps(folder):
        return "nanochat"
    if (folder / CKPT).exists():
        return "nanogpt"
    kinds: dict[str, Kind] = {"gpt2": "gpt2", "nanochat": "hf_nanochat", "nanochat_gpt": "hf_nanochat"}
    return kinds.get(str(_config_json(folder).get("model_type")))


def load(
    name: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    keep_float32: bool = True,
    out_dir: Path | str = "out",
    softcap: float | None = None,
) -> manager.Loaded:
    """Load a model by any of the names above; arguments as in `manager.load`. out_dir is where "resume" looks.

    Its source is the stage that the name, a file of the model, or the folder that it lies in says, if one of them does.

    Raises UserError saying what a name may be, and what `manager.load` and the translations raise.
    """
    source, _, rest = name.partition(":")
    if name == "resume":
        return load_path(Path(out_dir), device, dtype, keep_float32, softcap=softcap)
    if source in paths.SOURCES:
        tag, _, step = rest.partition(":")
        if step and not step.isdecimal():
            raise UserError(f"{name} names no checkpoint; expected stage:tag:step, as in {source}:d4:700")
        chosen = int(step) if step else None
        return manager.load(source, tag or None, chosen, device, dtype, False, keep_float32, softcap)
    if name in hub.GPT2:
        repository = hub.fetch(hub.GPT2[name], [*WEIGHT_FILES, *TOKENIZER_FILES])
    elif Path(name).exists():
        return load_path(Path(name), device, dtype, keep_float32, softcap=softcap)
    elif name.count("/") == 1 and not name.startswith((".", "/", "~")):
        repository = hub.fetch(name)
    else:
        raise UserError(
            f"there is no model {name!r}; expected a stage ({', '.join(paths.SOURCES)}, as in sft or sft:d4), "
            f"{', '.join(hub.GPT2)}, a folder or file that is there, or a repository of the hub (user/name)"
        )
    return load_path(repository, device, dtype, keep_float32, softcap=softcap, name=name)


def load_path(
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    keep_float32: bool = True,
    step: int | None = None,
    softcap: float | None = None,
    name: str = "",
) -> manager.Loaded:
    """Load a folder that `recognise` knows, or a ckpt.pt by itself; name is its tag, by default that of the folder.

    Raises UserError for anything else, and for a step or softcap where there is none to choose.
    """
    kind = "nanogpt" if path.is_file() else recognise(path)
    if kind == "nanochat":
        there = manager.steps(path)
        if step is not None and step not in there:
            raise UserError(f"{path} has no checkpoint of step {step}; there are: {', '.join(map(str, there))}")
        chosen = there[-1] if step is None else step
        loaded = manager.load_step(path, name or path.name, chosen, device, dtype, False, keep_float32, softcap)
        return dataclasses.replace(loaded, source=_stage_of_folder(loaded))
    if kind is not None and (step, softcap) != (None, None):
        flag, wanted = ("--step", "several of nanochat's checkpoints (model_*.pt)")
        if step is None:
            flag, wanted = ("--softcap", "checkpoints of the original nanochat that do not tell theirs")
        raise UserError(f"{flag} is for {wanted}; {path} holds one model that tells all of itself, leave it out")
    if kind == "nanogpt":
        return _load_nanogpt(path if path.is_file() else path / CKPT, name, device, dtype, keep_float32)
    if kind is None:
        there = sorted(entry.name for entry in path.iterdir())[:5] if path.is_dir() else []
        found = f"holds {', '.join(there) or 'nothing'}" if path.is_dir() else "is missing"
        raise UserError(
            f"{path} {found}; expected a folder with model_*.pt and meta_*.json, with ckpt.pt, or with a "
            "config.json of transformers' gpt2 or nanochat"
        )
    place = _tokenizer_place(path)
    tokenizer = Tokenizer.load(place)
    with torch_file.sensible(path / "config.json"):
        if kind == "gpt2":
            config, state = gpt2.from_hf(_config_json(path), hf.tensors(path), path)
        else:
            config, state = hf.read(path)
        manager.check_shape(config)
    said = hf.record(_config_json(path))
    config = _with_tokenizer(config, tokenizer, said.get("tokenizer_hash"), path, place)
    step = said.get("step")
    step = step if type(step) is int and step >= 0 else 0
    source = _known(said.get("source")) or repository.stage_spelled(name or path.name) or ""
    return _loaded(config, state, tokenizer, path, name or path.name, step, {}, source, device, dtype, keep_float32)


def gpt2_tokenizer() -> Tokenizer:
    """GPT-2's tokenizer, from the files of its repository on the hub. Raises what `hub.fetch` raises."""
    return Tokenizer.load(hub.fetch(hub.GPT2["gpt2"], TOKENIZER_FILES))


def is_gpt2s(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer is GPT-2's: one that splits as it and has as many tokens is taken for it."""
    return tokenizer.pattern == vocabularies.GPT2_PATTERN and tokenizer.vocab_size == GPT2_VOCABULARIES[0]


def data_dirs(dataset: str) -> list[Path]:
    """Where the token files of a dataset are looked for: as nanoGPT has it, then in our base folder."""
    return [Path("data") / dataset, paths.base_dir() / "tokens" / dataset]


def _load_nanogpt(
    path: Path, name: str, device: torch.device | str, dtype: torch.dtype, keep_float32: bool
) -> manager.Loaded:
    read = nanogpt.read(path)
    ours = read.ours if isinstance(read.ours, dict) else {}
    tokenizer, place = _tokenizer_of_run(path, read)
    said, rows = ours.get("tokenizer_hash"), read.config.vocab_size
    # nanoGPT has that many rows for all data without a meta.pkl, so any tokenizer but one of characters may be meant.
    is_untold = not said and rows == GPT2_VOCABULARIES[1] and place is not None and tokenizer.pattern is not None
    config = _with_tokenizer(read.config, tokenizer, said, path, place, any_size=is_untold)
    note = ""
    if is_untold and tokenizer.vocab_size < GPT2_VOCABULARIES[0]:
        note = f"it does not say which of its {rows} rows are tokens; {tokenizer.vocab_size}, as in {place}, are taken"
    about = {"best_val_loss": read.best_val_loss, "user_config": read.settings, "dataset": read.settings.get("dataset")}
    source = _known(ours.get("source")) or _stage_trained_from(read.settings)
    loaded = _loaded(config, read.state, tokenizer, path.parent, name or path.parent.name, read.iter_num, about, source,
                     device, dtype, keep_float32)  # fmt: skip
    return dataclasses.replace(loaded, note=note)


def _tokenizer_of_run(path: Path, read: nanogpt.Checkpoint) -> tuple[Tokenizer, Path | None]:
    """ckpt.pt does not hold its tokenizer: it lies beside it, with the dataset, or is GPT-2's. None: from the hub."""
    places = [path.parent, *data_dirs(str(read.settings.get("dataset") or "openwebtext"))]
    place = next((place for place in places if vocabularies.holds(place)), None)
    rows = read.config.vocab_size
    if place is None and rows not in GPT2_VOCABULARIES:
        raise UserError(
            f"{path} has {rows} tokens, and there is no tokenizer for it; expected tokenizer.json or meta.pkl in one "
            f"of {', '.join(map(str, places))}"
        )
    return (Tokenizer.load(place) if place else gpt2_tokenizer()), place


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
    fits = tokens <= rows if said or any_size else tokens <= rows <= -(-tokens // PAD) * PAD
    if not fits:
        raise UserError(
            f"{path} has {rows} tokens, but the tokenizer in {where} has {tokens}: they do not belong together; "
            "put the right one there"
        )
    return config if rows == tokens else gpt2.with_tokenizer(config, tokens)


def _stage_of_folder(loaded: manager.Loaded) -> str:
    """The stage of a checkpoint in our format: what its meta file, else its place or its name says."""
    settings = loaded.meta.get("user_config")
    said = _known(loaded.meta.get("source")) or _stage_trained_from(settings)
    placed = repository.layout(PurePosixPath(loaded.folder.absolute()))[0]
    if said or placed:
        return said or placed or ""
    by_nanogpts_ways = isinstance(settings, dict) and "init_from" in settings  # from what is no stage
    return "" if by_nanogpts_ways else repository.stage_of(loaded.meta, loaded.tag) or ""


def _stage_trained_from(settings: object) -> str:
    """The stage of what was trained on texts by nanoGPT's ways: that of the model it began with."""
    origin = str(settings.get("init_from", "")) if isinstance(settings, dict) else ""
    return "base" if origin in ("scratch", *hub.GPT2) else _known(origin.partition(":")[0])


def _known(stage: object) -> str:
    return stage if isinstance(stage, str) and stage in paths.SOURCES else ""


def _tokenizer_place(folder: Path) -> Path:
    place = next((place for place in (folder, folder / "tokenizer") if vocabularies.holds(place)), None)
    if place is None:
        raise UserError(f"{folder} has no tokenizer; expected tokenizer.json, or vocab.json with merges.txt, beside it")
    return place


def _loaded(
    config: GPTConfig, state: dict, tokenizer: Tokenizer, folder: Path, tag: str, step: int, about: dict, source: str,
    device: torch.device | str, dtype: torch.dtype, keep_float32: bool,
) -> manager.Loaded:  # fmt: skip
    model = manager.build(config, state, folder, device, dtype, keep_float32)
    meta = {**about, "model_config": dataclasses.asdict(config), "tokenizer_hash": tokenizer.hash}
    return manager.Loaded(model, tokenizer, meta, folder, tag, step, source=source)


def _config_json(folder: Path) -> dict:
    path = folder / "config.json"
    return paths.read_json(path) if path.exists() else {}
