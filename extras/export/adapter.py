"""An adapter in peft's format, for the export of the model that it was trained on; read back before it is kept.

GPT-2's queries, keys and values are one matrix in transformers. Its adapter has the A of all three stacked and their B
along its diagonal: three times the rank, by peft's patterns, and the very same sum.
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from extras.export import to_transformers
from nanochat import hub, lora
from nanochat.checkpoint import door, gpt2, hf, manager, peft
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.paths import base_dir, write_text

CLOSE = 1e-6  # of a weight, read back


def write(folder: Path, loaded: manager.Loaded, dtype: torch.dtype) -> list[str]:
    """Write an adapter that was loaded without merging; the results, as lines.

    Raises UserError for a model without one.
    """
    model = loaded.model
    adapters = lora.adapters_of(model)
    if adapters is None:
        raise UserError(f"{loaded.folder} holds no adapter but all weights; export it with --format hf")
    tensors = {f"{peft.PREFIX}{name}": tensor.to(dtype).contiguous() for name, tensor in _theirs(model).items()}
    save_file(tensors, folder / peft.WEIGHTS[0], metadata={"format": "pt"})
    write_text(folder / peft.CONFIG, json.dumps(_config(loaded, adapters, tensors), indent=2))
    return [_read_back(folder, model, dtype)]


def base_of(loaded: manager.Loaded) -> str:
    """The name that transformers knows the parent by: on the hub, its own folder, or where scripts.export writes it."""
    parent = loaded.meta["parent"]
    name: str | None = parent.get("name")
    if name is None:
        return str(base_dir() / "exports" / f"{parent['source']}-{parent['tag']}-{parent['step']:06d}-hf")
    if name in hub.GPT2 or not Path(name).exists() or (Path(name) / "config.json").exists():
        return str(hub.GPT2.get(name, name))
    return str(base_dir() / "exports" / f"{parent['tag'].replace('/', '--')}-hf")


def _theirs(model: GPT) -> dict[str, Tensor]:
    """A and B of each matrix, by transformers' names."""
    found: dict[str, Tensor] = {}
    is_gpt2, is_port = gpt2.is_gpt2(model.config), to_transformers.in_port(model.config)
    layers = lora.adapted(model)
    for place, layer in layers.items():
        if is_gpt2 and place.rpartition(".")[2] in gpt2.PARTS:
            continue
        up = layer.lora_B[: model.config.vocab_size] if place == "lm_head" else layer.lora_B
        found |= {f"{place}.lora_A.weight": layer.lora_A.detach(), f"{place}.lora_B.weight": up.detach()}
    for block in range(model.config.n_layer) if is_gpt2 else ():
        found |= _joined(f"transformer.h.{block}.attn.", layers, model.config.n_embd)
    return hf.renamed(found, hf.NAMES) if is_port else found


def _joined(place: str, layers: Mapping[str, lora.Adapted], width: int) -> dict[str, Tensor]:
    """The adapter of c_attn that those of c_q, c_k and c_v make, as far as there are any."""
    parts = [layers.get(f"{place}{part}") for part in gpt2.PARTS]
    there = [part for part in parts if part is not None]
    if not there:
        return {}
    ranks = [0 if part is None else part.lora_A.size(0) for part in parts]
    up = torch.zeros(3 * width, sum(ranks))
    for n, part in enumerate(parts):
        if part is not None:
            up[n * width : (n + 1) * width, sum(ranks[:n]) : sum(ranks[: n + 1])] = part.lora_B.detach()
    down = torch.cat([part.lora_A.detach() for part in there])
    return {f"{place}c_attn.lora_A.weight": down, f"{place}c_attn.lora_B.weight": up}


def _config(loaded: manager.Loaded, adapters: lora.Adapters, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The content of adapter_config.json."""
    ranks: dict[str, int] = {}  # by the end of a matrix' name, which is the same in every layer
    for name, tensor in tensors.items():
        if name.endswith(".lora_A.weight"):
            place = name.removeprefix(peft.PREFIX).removesuffix(".lora_A.weight")
            ranks[place if place == "lm_head" else ".".join(place.split(".")[-2:])] = tensor.size(0)
    other = {place: rank for place, rank in ranks.items() if rank != adapters.rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_of(loaded),
        "r": adapters.rank,
        "lora_alpha": adapters.alpha,
        "rank_pattern": other,
        "alpha_pattern": {place: adapters.scale * rank for place, rank in other.items()},
        "target_modules": list(ranks),
        "fan_in_fan_out": gpt2.is_gpt2(loaded.model.config),  # whose matrices transformers stores (inputs, outputs)
        "lora_dropout": 0.0,
        "bias": "none",
        "modules_to_save": None,
        "inference_mode": True,
    }


def _read_back(folder: Path, model: GPT, dtype: torch.dtype) -> str:
    """Compare what was written with the adapter, matrix by matrix."""
    expected = {f"{place}.weight": layer.delta().detach() for place, layer in lora.adapted(model).items()}
    worst = 0.0
    for name, delta in peft.deltas(folder):
        ours = expected.pop(name, torch.zeros(()))
        worst = max(worst, float((delta - ours[: delta.size(0)] if ours.ndim else delta).abs().max()))
    largest = CLOSE if dtype == torch.float32 else 0.02
    if expected or not worst <= largest:
        what = ", ".join(expected) or "a weight"
        raise UserError(f"the export is not right: read back, {what} differs by {worst:.2g}")
    return f"read back: what it adds to each matrix is within {worst:.1e} of the adapter"


def usage(folder: Path, loaded: manager.Loaded) -> str:
    """What comes next, with the command that writes the model it belongs to where that is needed."""
    parent, base = loaded.meta["parent"], base_of(loaded)
    needed = ""
    if Path(base).is_relative_to(base_dir()) and not Path(base).exists():
        name = parent.get("name") or f"{parent['source']}:{parent['tag']}:{parent['step']}"
        command = f"python -m scripts.export --source={shlex.quote(name)}"
        needed = f"the model that it belongs to is written by\n  {command}\n"
    return (
        f"{needed}in Python, with peft and transformers:\n"
        f"  model = AutoModelForCausalLM.from_pretrained({base!r}, trust_remote_code=True)\n"
        f"  model = PeftModel.from_pretrained(model, {str(folder)!r})\n"
        f"here:\n  python -m scripts.sample --init_from={folder}"
    )


def open_unmerged(found: door.Found) -> manager.Loaded:
    """A checkpoint with its adapter beside the weights. Raises UserError where it is none of a stage or an out_dir."""
    if "lora" not in found.meta:
        raise UserError(f"{found} has no adapter of ours; export it with --format hf")
    return door.load_step(found.folder, found.tag, found.step, merged=False)
