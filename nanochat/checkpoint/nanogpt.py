"""nanoGPT's ckpt.pt, both ways: weights, the state of AdamW, and where the run stands.

What our own training needs besides to go on exactly stands under the key "nanochat", which nanoGPT does not look at.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from nanochat.checkpoint import gpt2, torch_file
from nanochat.config import UserError
from nanochat.gpt import GPT, GPTConfig
from nanochat.paths import base_dir, write_atomically

CKPT, LAST_CKPT = "ckpt.pt", "ckpt_last.pt"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Checkpoint:
    """A ckpt.pt under our names. optimizer is what `Optimizer.state_dict` gives; settings are nanoGPT's."""

    config: GPTConfig
    state: dict[str, Tensor]
    optimizer: dict | None
    iter_num: int
    best_val_loss: float
    settings: dict = field(default_factory=dict)
    ours: dict | None = None


def data_dirs(dataset: str) -> list[Path]:
    """Where the token files of a dataset are looked for: as nanoGPT has it, then in our base folder."""
    return [Path("data") / dataset, base_dir() / "tokens" / dataset]


def read(path: Path) -> Checkpoint:
    """Read a ckpt.pt, nanoGPT's own or one of ours. Raises UserError for anything else."""
    content = torch_file.read(path)
    if not isinstance(content, dict) or not {"model", "model_args"} <= content.keys():
        raise UserError(f"{path} is no checkpoint of nanoGPT: it lacks model and model_args")
    with torch_file.sensible(path):
        config, state = gpt2.from_nanogpt(content["model_args"], content["model"], path)
        torch_file.check_layers(config.n_layer, state, path)
        saved = content.get("optimizer")
        return Checkpoint(
            config=config,
            state=state,
            optimizer=_from_torch(saved, _numbered(gpt2.to_nanogpt(config, state)[1]), path) if saved else None,
            iter_num=int(content.get("iter_num", 0)),
            best_val_loss=float(content.get("best_val_loss", float("inf"))),
            settings=dict(content.get("config") or {}),
            ours=content.get("nanochat"),
        )


def iter_num(path: Path) -> int:
    """How many steps a ckpt.pt has behind it. Raises UserError for what is none."""
    content = torch_file.read(path, lazily=True)
    with torch_file.sensible(path):
        return int(content["iter_num"])


def write(
    path: Path,
    model: GPT,
    optimizer: Mapping,
    settings: Mapping,
    iter_num: int,
    best_val_loss: float,
    ours: Mapping | None = None,
) -> None:
    """Write a ckpt.pt that nanoGPT's sample.py reads and its train.py resumes, whole or not at all.

    Raises UserError when the disk is full or the folder cannot be written.
    """
    args, state = gpt2.to_nanogpt(model.config, model.state_dict())
    content = {
        "model": state,
        "optimizer": _to_torch(optimizer, state, settings),
        "model_args": args,
        "iter_num": iter_num,
        "best_val_loss": best_val_loss,
        "config": dict(settings),
        "nanochat": dict(ours or {}),
    }
    write_atomically(path, lambda file: torch.save(content, file))


def _numbered(state: Mapping[str, Tensor]) -> list[str]:
    """nanoGPT's names in the order in which its AdamW numbers them: matrices, then vectors.

    The output layer is left out: it is one parameter with the embedding.
    """
    names = [name for name in state if name != "lm_head.weight"]
    return sorted(names, key=lambda name: state[name].ndim < 2)


def _from_torch(saved: Mapping, names: list[str], path: Path) -> dict:
    """The state dict of torch.optim.AdamW -> that of our Optimizer."""
    state = saved.get("state", {})
    if not state:
        return {"steps": 0, "state": {}}
    if sorted(state) != list(range(len(names))):
        raise UserError(
            f"{path} is damaged: its optimizer has a state for {len(state)} parameters, its model has {len(names)}"
        )
    moments = {moment: gpt2.split({name: state[i][moment] for i, name in enumerate(names)}) for moment in MOMENTS}
    ours = {name: {moment: moments[moment][name] for moment in MOMENTS} for name in moments[MOMENTS[0]]}
    return {"steps": int(state[0]["step"]), "state": ours}


def _to_torch(saved: Mapping, state: Mapping[str, Tensor], settings: Mapping) -> dict:
    """`_from_torch` back, with the settings of the two groups."""
    names = _numbered(state)
    matrices = sum(state[name].ndim >= 2 for name in names)
    moments = {moment: gpt2.join({name: s[moment] for name, s in saved["state"].items()}) for moment in MOMENTS}
    step = torch.tensor(float(saved["steps"]))
    shared = {
        "lr": settings.get("learning_rate", 6e-4),
        "betas": (settings.get("beta1", 0.9), settings.get("beta2", 0.95)),
        "eps": 1e-8, "amsgrad": False, "maximize": False, "foreach": None, "capturable": False,
        "differentiable": False, "fused": None, "decoupled_weight_decay": True,
    }  # fmt: skip
    return {
        "state": {
            i: {"step": step.clone(), **{moment: moments[moment][name] for moment in MOMENTS}}
            for i, name in enumerate(names)
            if name in moments[MOMENTS[0]]
        },
        "param_groups": [
            {"weight_decay": settings.get("weight_decay", 0.1), **shared, "params": list(range(matrices))},
            {"weight_decay": 0.0, **shared, "params": list(range(matrices, len(names)))},
        ],
    }
