"""Writing nanoGPT's ckpt.pt and its checksum: weights, the state of AdamW, and the step of the run.

Beside a ckpt.pt of ours lies ckpt.pt.sha256 in sha256sum's format. While the file is being replaced it lists the
checksums of both the old and the new one, so a kill never leaves a good file without its checksum.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nanochat.checkpoint import gpt2, reading
from nanochat.checkpoint.nanogpt import OURS, Checkpoint, checksum_file, recorded
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig
from nanochat.paths import fsync_folder, sha256, write_atomically, write_text

MOMENTS = ("exp_avg", "exp_avg_sq")


def write(
    path: Path,
    model: GPT,
    optimizer: Mapping,
    settings: Mapping,
    iter_num: int,
    best_val_loss: float,
    ours: Mapping | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a ckpt.pt that nanoGPT's sample.py reads and its train.py resumes, atomically, and its checksum.

    Raises UserError when the disk is full or the folder cannot be written.
    """
    args, state = to_nanogpt(model.config, model.state_dict() if weights is None else weights)
    content = {
        "model": state,
        "optimizer": _to_torch(optimizer, state, settings),
        "model_args": args,
        "iter_num": iter_num,
        "best_val_loss": best_val_loss,
        "config": dict(settings),
        OURS: dict(ours or {}),
    }
    before = _sums(path)
    digest = write_atomically(
        path, lambda file: torch.save(content, file), lambda digest: _record(path, [digest, *before])
    )
    _record(path, [digest])


def move(source: Path, target: Path) -> None:
    """Rename a ckpt.pt and its checksum; a kill at any moment leaves both names right."""
    sums = _sums(source)
    _record(target, [*sums, *_sums(target)])
    source.replace(target)
    fsync_folder(target.parent)
    _record(target, sums)
    checksum_file(source).unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Delete a ckpt.pt, if it is there, and its checksum."""
    path.unlink(missing_ok=True)
    checksum_file(path).unlink(missing_ok=True)


def _sums(path: Path) -> list[str]:
    """The recorded checksums of a file, else the one it has, else []."""
    return recorded(path) or ([sha256(path)] if path.is_file() else [])


def _record(path: Path, sums: list[str]) -> None:
    write_text(checksum_file(path), "".join(f"{digest}  {path.name}\n" for digest in dict.fromkeys(sums)))


def to_nanogpt(config: GPTConfig, state: Mapping[str, Tensor]) -> tuple[dict, dict[str, Tensor]]:
    """`gpt2.from_nanogpt` back, padding rows included: model_args, and the tensors in the order of nanoGPT's files."""
    args = {
        "block_size": config.sequence_len,
        "vocab_size": config.padded_vocab,
        **{name: getattr(config, name) for name in ("n_layer", "n_head", "n_embd", "bias", "dropout")},
    }
    joined = gpt2.join(state)
    names = ["transformer.wte", "transformer.wpe"]
    for layer in range(config.n_layer):
        parts = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
        names += [f"transformer.h.{layer}.{part}" for part in parts]
    names.append("transformer.ln_f")
    keys = [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]
    theirs = {key: joined[key] for key in keys if key in joined}
    return args, {**theirs, "lm_head.weight": joined["transformer.wte.weight"]}


def _numbered(state: Mapping[str, Tensor]) -> list[str]:
    """nanoGPT's names in the order in which its AdamW numbers them: matrices, then vectors.

    The output layer is left out: it is one parameter with the embedding.
    """
    names = [name for name in state if name != "lm_head.weight"]
    return sorted(names, key=lambda name: state[name].ndim < 2)


def optimizer_of(read: Checkpoint, path: Path) -> dict | None:
    """The state of nanoGPT's AdamW as that of our Optimizer; None if the file, which was read from path, has none.

    Raises UserError if it does not fit the model.
    """
    with reading.sensible(path):
        if not read.optimizer:
            return None
        state = read.optimizer.get("state", {})
        if not state:
            return {"steps": 0, "state": {}}
        names = _numbered(to_nanogpt(read.config, read.state)[1])
        if sorted(state) != list(range(len(names))):
            raise UserError(
                f"{path} is damaged: its optimizer has a state for {len(state)} parameters, its model has {len(names)}"
            )
        moments = {moment: gpt2.split({name: state[i][moment] for i, name in enumerate(names)}) for moment in MOMENTS}
        ours = {name: {moment: moments[moment][name] for moment in MOMENTS} for name in moments[MOMENTS[0]]}
        steps = int(state[0]["step"])
        pairs = [(moment, read.state[name]) for name in ours for moment in ours[name].values()]
        fits = all(moment.shape == weight.shape and moment.is_floating_point() for moment, weight in pairs)
        if not fits or steps < 0:
            raise UserError(f"{path} is damaged: the state of its optimizer does not fit its weights")
        return {"steps": steps, "state": ours}


def _to_torch(saved: Mapping, state: Mapping[str, Tensor], settings: Mapping) -> dict:
    """`optimizer_of` back, with the settings of the two groups."""
    names = _numbered(state)
    matrices = sum(state[name].ndim >= 2 for name in names)
    moments = {moment: gpt2.join({name: s[moment] for name, s in saved["state"].items()}) for moment in MOMENTS}
    step = torch.tensor(float(saved["steps"]))
    betas = (settings.get("beta1", 0.9), settings.get("beta2", 0.95))
    plain = torch.optim.AdamW([torch.zeros(1)], settings.get("learning_rate", 6e-4), betas, weight_decay=0.0)
    group = plain.state_dict()["param_groups"][0]
    return {
        "state": {
            i: {"step": step.clone(), **{moment: moments[moment][name] for moment in MOMENTS}}
            for i, name in enumerate(names)
            if name in moments[MOMENTS[0]]
        },
        "param_groups": [
            {**group, "weight_decay": settings.get("weight_decay", 0.1), "params": list(range(matrices))},
            {**group, "params": list(range(matrices, len(names)))},
        ],
    }
