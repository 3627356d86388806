"""nanoGPT's settings with their names, defaults and meanings, and which of them a resumed run keeps."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from nanochat.config import alias, default
from nanochat.config_files import BITS
from nanochat.errors import UserError
from nanochat.paths import check_name
from nanochat.runtime import pick_device

MOST = 1 << 62
# Beyond what any machine can do; building more would run for hours before failing.
LARGEST = {
    "gradient_accumulation_steps": 1_000_000, "batch_size": 1_000_000, "block_size": 100_000_000, "n_layer": 1000,
    "n_head": 10_000, "n_embd": 1_000_000, "max_iters": MOST, "eval_interval": MOST, "eval_iters": MOST,
    "log_interval": MOST,
}  # fmt: skip
OF_ONE_START = ("out_dir", "init_from", "eval_only", "overwrite")  # settings that no run keeps
SHAPE = ("n_layer", "n_head", "n_embd", "bias")  # what a trained model cannot change


@dataclass
class Settings:
    """nanoGPT's settings."""

    out_dir: str = "out"
    """folder of the checkpoints; init_from=resume also takes the settings that you do not pass from there"""
    eval_interval: int = 2000
    """steps between validations, each of which also saves a checkpoint"""
    log_interval: int = 1
    """steps between lines of progress"""
    save_minutes: float = 10.0
    """save whenever more minutes of training than this would be lost; 0 saves at validations only"""
    eval_iters: int = 200
    """batches of each split in a validation"""
    eval_only: bool = False
    """validate once and write nothing"""
    always_save_checkpoint: bool = True
    """latest in ckpt.pt, best in ckpt_best.pt; otherwise best in ckpt.pt, latest in ckpt_last.pt"""
    overwrite: bool = False
    """replace the checkpoints of another run in out_dir, at this run's first save"""
    init_from: str = "scratch"
    """scratch, resume, gpt2 ... gpt2-xl, a folder, a ckpt.pt, user/name, or a stage (base:d4)"""
    wandb_log: bool = False
    """log to wandb"""
    wandb_project: str = "owt"
    """project of the wandb run"""
    wandb_run_name: str = "gpt2"
    """name of the wandb run"""
    dataset: Annotated[str, alias("--data-path")] = "openwebtext"
    """name or folder of token files made by scripts.prepare; a text file is prepared first"""
    gradient_accumulation_steps: int = 5 * 8
    """micro-batches per step, over all ranks"""
    batch_size: int = 12
    """windows per micro-batch"""
    block_size: int = 1024
    """context length in tokens; a longer context of a loaded model is cropped"""
    n_layer: int = 12
    """layers of a new model"""
    n_head: int = 12
    """attention heads of a new model"""
    n_embd: int = 768
    """width of a new model"""
    dropout: float = 0.0
    """dropout probability; for fine-tuning try 0.1 or more"""
    bias: bool = False
    """give a new model biases, as in GPT-2"""
    learning_rate: float = 6e-4
    """peak learning rate"""
    max_iters: int = 600000
    """total optimizer steps"""
    weight_decay: float = 1e-1
    """weight decay of the matrices"""
    beta1: float = 0.9
    """AdamW's beta1"""
    beta2: float = 0.95
    """AdamW's beta2"""
    grad_clip: float = 1.0
    """maximum gradient norm; 0 disables clipping"""
    decay_lr: bool = True
    """warm up and decay the learning rate; otherwise it is constant"""
    warmup_iters: int = 2000
    """warmup steps"""
    lr_decay_iters: int = 600000
    """step at which the learning rate reaches min_lr"""
    min_lr: float = 6e-5
    """final learning rate"""
    backend: str = "nccl"
    """has no effect: ranks speak NCCL on GPUs and Gloo elsewhere"""
    device: Annotated[str, alias("--device-type")] = ""
    """cuda, cuda:1, mps or cpu; default: the best available"""
    dtype: str = "auto"
    """compute dtype: auto, float32, bfloat16 or float16"""
    compile: bool = True
    """use torch.compile where there is a compiler"""
    seed: int = 1337
    """seed of the initial weights and the order of the data"""


S = TypeVar("S", bound=Settings)


def check(settings: Settings) -> None:
    """Check the settings before anything is built. Raises UserError."""
    for name, most in LARGEST.items():
        value = getattr(settings, name)
        if not 1 <= value <= most:
            expected = "1 or more" if value < 1 else f"{most} at most"
            raise UserError(f"--{name} is {value}; expected {expected}")
    if settings.batch_size * settings.block_size > LARGEST["block_size"]:
        raise UserError(
            f"--batch_size {settings.batch_size} x --block_size {settings.block_size} tokens are too many for one "
            f"micro-batch; expected {LARGEST['block_size']} at most, and more --gradient_accumulation_steps instead"
        )
    rates = ("learning_rate", "min_lr", "weight_decay", "grad_clip")
    for name in (*rates, "warmup_iters", "lr_decay_iters", "save_minutes"):
        value = getattr(settings, name)
        if not 0 <= value < math.inf:
            raise UserError(f"--{name} is {value}; expected 0 or more")
    for name in ("dropout", "beta1", "beta2"):
        value = getattr(settings, name)
        if not 0 <= value < 1:
            raise UserError(f"--{name} is {value}; expected a number from 0 to below 1")
    if settings.seed.bit_length() > BITS:
        raise UserError(f"--seed is a number of {settings.seed.bit_length()} bits; expected {BITS} bits at most")
    if settings.overwrite and settings.init_from == "resume":
        raise UserError("--overwrite starts a new run, --init_from=resume resumes the one in --out_dir; pass only one")
    for name in ("out_dir", "dataset", "init_from"):
        check_name(name, getattr(settings, name))


def resumed(given: S, told: Collection[str], own: Mapping[str, Any], where: Path) -> tuple[S, list[str]]:
    """The settings of a resumed run: its own, except those named in `told`; and a list of the changes.

    own: what the checkpoint in `where` holds. A device that this machine lacks is replaced by the best available.
    Raises UserError for a shape that differs from the model's, and for invalid values.
    """
    kept: dict[str, Any] = {}
    changed = []
    for field in fields(Settings):
        if field.name in OF_ONE_START or field.name not in own:
            continue
        name, now = field.name, getattr(given, field.name)
        value = _fitted(own[name], type(default(field)), f"{where}: the {name} of its run")
        if name not in told:
            kept[name] = value
        elif value != now and name in SHAPE:
            raise UserError(
                f"--{name} {now} does not fit the model in {where}, which has {value}; leave it out, or train another "
                "model in another --out_dir"
            )
        elif value != now:
            changed.append(f"{name} {value} -> {now}")
    if not _is_there(str(kept.get("device", ""))):
        changed.append(f"device {kept.pop('device')} (not available) -> {pick_device()}")
        kept.pop("dtype", None)  # it was chosen for that device
    return replace(given, **kept), changed


def _fitted(value: Any, kind: type, what: str) -> Any:
    is_whole = isinstance(value, float) and value.is_integer()
    if kind is float and type(value) is int or kind is int and is_whole:
        value = kind(value)
    if type(value) is not kind:
        raise UserError(f"{what} is {value!r:.40}, not of type {kind.__name__}; the file is damaged, get it again")
    return value


def _is_there(device: str) -> bool:
    try:
        pick_device(device)
    except UserError:
        return False
    return True
