"""Whatever somebody has as a model, by name or by place, as one of ours: the same GPT, a tokenizer, a description.

    sft, sft:d4, sft:d4:700     our own checkpoints, by stage, tag and step
    gpt2 ... gpt2-xl            OpenAI's weights, from the hub or its cache
    user/name                   a repository of the hub
    a folder or file            what `recognise` knows
    resume                      the ckpt.pt of a training run by nanoGPT's ways
"""

import dataclasses
from pathlib import Path
from typing import Literal

import torch

from nanochat import hub, paths, vocabularies
from nanochat.checkpoint import gpt2, hf, manager, nanogpt, torch_file
from nanochat.config import UserError
from nanochat.gpt import GPTConfig
from nanochat.tokenizer import Tokenizer

Kind = Literal["nanochat", "gpt2", "hf_nanochat", "nanogpt"]
CKPT, LAST_CKPT = "ckpt.pt", "ckpt_last.pt"
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")
WEIGHT_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
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

    Raises UserError saying what a name may be, and what `manager.load` and the translations raise.
    """
    source, _, rest = name.partition(":")
    if name == "resume":
        return load_path(Path(out_dir), device, dtype, keep_float32)
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
    return dataclasses.replace(load_path(repository, device, dtype, keep_float32, softcap=softcap), tag=name)


def load_path(
    path: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    keep_float32: bool = True,
    step: int | None = None,
    softcap: float | None = None,
) -> manager.Loaded:
    """Load a folder that `recognise` knows, or a ckpt.pt by itself. Raises UserError for anything else."""
    if path.is_file():
        return _load_nanogpt(path, device, dtype, keep_float32)
    kind = recognise(path)
    if kind == "nanochat":
        there = manager.steps(path)
        if step is not None and step not in there:
            raise UserError(f"{path} has no checkpoint of step {step}; there are: {', '.join(map(str, there))}")
        return manager.load_step(
            path, path.name, there[-1] if step is None else step, device, dtype, False, keep_float32, softcap
        )
    if kind == "nanogpt":
        return _load_nanogpt(path / CKPT, device, dtype, keep_float32)
    if kind is None:
        there = sorted(entry.name for entry in path.iterdir())[:5] if path.is_dir() else []
        found = f"holds {', '.join(there) or 'nothing'}" if path.is_dir() else "is missing"
        raise UserError(
            f"{path} {found}; expected a folder with model_*.pt and meta_*.json, with ckpt.pt, or with a "
            "config.json of transformers' gpt2 or nanochat"
        )
    tokenizer = Tokenizer.load(_tokenizer_place(path))
    with torch_file.sensible(path / "config.json"):
        if kind == "gpt2":
            config, state = gpt2.from_hf(_config_json(path), hf.tensors(path), path)
        else:
            config, state = hf.read(path)
        manager.check_shape(config)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"the tokenizer in {path} has {tokenizer.vocab_size} tokens, its model {config.vocab_size}; "
            "they do not belong together"
        )
    if tokenizer.vocab_size < config.vocab_size:
        config = gpt2.with_tokenizer(config, tokenizer.vocab_size)
    return _loaded(config, state, tokenizer, path, path.name, 0, {}, device, dtype, keep_float32)


def gpt2_tokenizer() -> Tokenizer:
    """GPT-2's tokenizer, from the files of its repository on the hub. Raises what `hub.fetch` raises."""
    return Tokenizer.load(hub.fetch(hub.GPT2["gpt2"], list(TOKENIZER_FILES)))


def data_dirs(dataset: str) -> list[Path]:
    """Where the token files of a dataset are looked for: as nanoGPT has it, then in our base folder."""
    return [Path("data") / dataset, paths.base_dir() / "tokens" / dataset]


def _load_nanogpt(
    path: Path, device: torch.device | str, dtype: torch.dtype, keep_float32: bool
) -> manager.Loaded:
    read = nanogpt.read(path)
    tokenizer = _tokenizer_of_run(path, read)
    config = gpt2.with_tokenizer(read.config, tokenizer.vocab_size)
    about = {"best_val_loss": read.best_val_loss, "user_config": read.settings, "dataset": read.settings.get("dataset")}
    return _loaded(config, read.state, tokenizer, path.parent, path.parent.name, read.iter_num, about, device, dtype,
                   keep_float32)  # fmt: skip


def _tokenizer_of_run(path: Path, read: nanogpt.Checkpoint) -> Tokenizer:
    """ckpt.pt does not hold its tokenizer: it lies beside it, with the dataset, or is GPT-2's."""
    places = [path.parent, *data_dirs(str(read.settings.get("dataset") or "openwebtext"))]
    place = next((place for place in places if vocabularies.holds(place)), None)
    rows = read.config.vocab_size
    if place is None and rows not in GPT2_VOCABULARIES:
        raise UserError(
            f"{path} has {rows} tokens, and there is no tokenizer for it; expected tokenizer.json or meta.pkl in one "
            f"of {', '.join(map(str, places))}"
        )
    tokenizer = Tokenizer.load(place) if place else gpt2_tokenizer()
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"{path} has {rows} tokens, but the tokenizer in {place} has {tokenizer.vocab_size}; "
            "put the right one there"
        )
    return tokenizer


def _tokenizer_place(folder: Path) -> Path:
    place = next((place for place in (folder, folder / "tokenizer") if vocabularies.holds(place)), None)
    if place is None:
        raise UserError(f"{folder} has no tokenizer; expected tokenizer.json, or vocab.json with merges.txt, beside it")
    return place


def _loaded(
    config: GPTConfig, state: dict, tokenizer: Tokenizer, folder: Path, tag: str, step: int, about: dict,
    device: torch.device | str, dtype: torch.dtype, keep_float32: bool,
) -> manager.Loaded:  # fmt: skip
    model = manager.build(config, state, folder, device, dtype, keep_float32)
    meta = {**about, "model_config": dataclasses.asdict(config), "tokenizer_hash": tokenizer.hash}
    return manager.Loaded(model, tokenizer, meta, folder, tag, step)


def _config_json(folder: Path) -> dict:
    path = folder / "config.json"
    return paths.read_json(path) if path.exists() else {}
