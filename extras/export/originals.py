"""A model in the files of the programs this one grew from: nanoGPT's ckpt.pt, and a checkpoint of classic nanochat.

Both are read back and compared before they count as written, with the conventions of those programs.
"""

import dataclasses
import json
import math
import re
from pathlib import Path

import torch
from torch import Tensor

from extras.export import to_transformers
from extras.nanogpt import ckpt
from nanochat.checkpoint import door, gpt2, manager, nanogpt
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.paths import write_atomically, write_text

NANOGPT_EPS = 1e-5
# What classic nanochat takes for granted, besides `hf.CLASSIC`.
CLASSIC = {"rope_base": 10000.0, "softcap": 15.0}
# Conventions that may differ between the model and the program that will read it.
FREE = ("rope_in_bfloat16", "norm_eps", "activation", "dropout", "window_pattern", "short_window", "long_window")
EXACT = 1e-5


def write_nanogpt(folder: Path, loaded: manager.Loaded) -> list[str]:
    """Write ckpt.pt, and meta.pkl for a model of characters; the results of reading it back, as lines.

    Raises UserError for an architecture other than GPT-2's.
    """
    config, tokenizer = loaded.model.config, loaded.tokenizer
    if not gpt2.is_gpt2(config) or config.norm_eps != NANOGPT_EPS:
        raise UserError("nanoGPT knows GPT-2's architecture only; export this model with --format hf")
    settings, best = dict(loaded.meta.get("user_config") or {}), loaded.meta.get("best_val_loss")
    if tokenizer.pattern is None:  # nanoGPT's sample.py looks for the characters in the dataset's folder
        settings["dataset"] = dataset(loaded)
        write_atomically(folder / "meta.pkl", lambda file: file.write(tokenizer.pickled()))
    else:
        tokenizer.save(folder)
    ckpt.write(
        folder / nanogpt.CKPT, loaded.model, {"steps": 0, "state": {}}, settings, loaded.step,
        math.inf if best is None else best, {"tokenizer_hash": tokenizer.hash, "source": loaded.source},
    )  # fmt: skip
    return _read_back(folder, loaded)


def dataset(loaded: manager.Loaded) -> str:
    """nanoGPT's name of the data that a model of characters was trained on, or one made from its tag."""
    name = (loaded.meta.get("user_config") or {}).get("dataset")
    return str(name) if name else re.sub(r"[^\w.-]", "-", loaded.tag)


def write_classic(folder: Path, loaded: manager.Loaded) -> list[str]:
    """Write model_*.pt, meta_*.json, tokenizer.pkl and token_bytes.pt as published models have them; lines as above.

    Raises UserError for an architecture that classic nanochat does not implement.
    """
    config, tokenizer = loaded.model.config, loaded.tokenizer
    odd = [f"its {name} is {getattr(config, name)}" for name in CLASSIC if getattr(config, name) != CLASSIC[name]]
    if not to_transformers.in_port(config) or tokenizer.pattern is None:
        odd = ["it is not of plain blocks"]
    if odd:
        raise UserError(
            f"the original nanochat of January 2026 does not know this architecture ({odd[0]}); "
            "export the model with --format hf"
        )
    missing = -config.vocab_size % gpt2.PAD  # the original rounds the rows of its vocabulary up
    state = {
        name: torch.cat([tensor, tensor.new_zeros(missing, tensor.size(1))]) if "wte" in name or "lm_head" in name
        else tensor
        for name, tensor in to_transformers.cut(config, loaded.model.state_dict()).items()
    }  # fmt: skip
    shape = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd")
    meta: dict = {"step": loaded.step, "model_config": {name: getattr(config, name) for name in shape}}
    if loaded.source:
        meta["source"] = loaded.source
    write_atomically(folder / "tokenizer.pkl", lambda file: file.write(tokenizer.pickled()))
    manager.save_lengths(folder, tokenizer)
    write_atomically(folder / f"model_{loaded.step:06d}.pt", lambda file: torch.save(state, file))
    write_text(folder / f"meta_{loaded.step:06d}.json", json.dumps(meta, indent=2))
    return _read_back(folder, loaded)


def _read_back(folder: Path, loaded: manager.Loaded) -> list[str]:
    """Compare what was written with the model, first by the model's conventions, then by those of its new home."""
    again = door.open(str(folder))
    if again.tokenizer.hash != loaded.tokenizer.hash:
        raise UserError("the export is not right: its tokenizer is another one when read back")
    config = loaded.model.config
    length = min(config.sequence_len, 256)
    ids = torch.arange(length)[None] * 31 % config.vocab_size
    expected = logits_of(manager.build(config, float32_state(loaded.model), folder), ids)
    there = float((logits_of(again.model, ids) - expected).abs().max())
    translated = dataclasses.replace(again.model.config, **{name: getattr(config, name) for name in FREE})
    same = logits_of(manager.build(translated, again.model.state_dict(), folder), ids)
    distance = float((same - expected).abs().max())
    if not distance <= EXACT:
        raise UserError(f"the export is not right: read back, its logits are up to {distance:.2g} from the model's")
    found = [f"read back: the same tokenizer and the same logits at {length} positions"]
    if there > EXACT:
        found.append(f"the program it is for rounds and approximates otherwise: its logits are up to {there:.2g} away")
    return found


def float32_state(model: GPT) -> dict[str, Tensor]:
    """A model's tensors in float32 on the CPU."""
    return {name: tensor.detach().to("cpu").float() for name, tensor in model.state_dict().items()}


def logits_of(model: GPT, ids: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(ids)
