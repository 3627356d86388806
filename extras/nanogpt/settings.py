"""nanoGPT's settings with their names, defaults and meanings. Nothing heavy is imported here, for --help."""

import math
from dataclasses import dataclass
from typing import Annotated

from nanochat.config import alias
from nanochat.config_files import BITS
from nanochat.errors import UserError
from nanochat.paths import check_name
from nanochat.train.flags import Compile, LoraFlags, Parallel

MOST_LAYERS = 1000  # more would take hours to build, before their memory is known to be missing
MOST_TOKENS = 1 << 24
AT_LEAST_1 = (
    "gradient_accumulation_steps", "batch_size", "block_size", "n_layer", "n_head", "n_embd", "max_iters",
    "eval_interval", "eval_iters", "log_interval",
)  # fmt: skip
NOT_NEGATIVE = (
    "learning_rate", "min_lr", "weight_decay", "grad_clip", "warmup_iters", "lr_decay_iters", "save_minutes",
)  # fmt: skip
# Settings that no run keeps.
OF_ONE_START = (
    "out_dir", "init_from", "eval_only", "overwrite", "data_path", "val_fraction", "allow_private_urls", "parallel",
    "collective_minutes",
)  # fmt: skip
SHAPE = ("n_layer", "n_head", "n_embd", "bias")  # what a trained model cannot change
ADAPTERS = ("lora_rank", "lora_alpha", "lora_matrices")  # nor these its adapters


@dataclass
class Settings(LoraFlags):
    """nanoGPT's settings, and those of adapters."""

    # --- model
    init_from: str = "scratch"
    """scratch, resume, gpt2 ... gpt2-xl, a folder, a ckpt.pt, user/name, or a stage (base:d3)"""
    n_layer: int = 12
    """layers of a new model"""
    n_head: int = 12
    """attention heads of a new model"""
    n_embd: int = 768
    """width of a new model"""
    bias: bool = False
    """give a new model biases, as in GPT-2"""
    vocab_size: int | None = None
    """pad the vocabulary of a new model to this many tokens; default: a multiple of 64, for characters unpadded"""
    dropout: float = 0.0
    """dropout probability; for fine-tuning try 0.1 or more"""

    # --- data
    dataset: str = "openwebtext"
    """name or folder of token files made by scripts.prepare; a text is prepared first, as with --data_path"""

    # --- batch and length
    batch_size: int = 12
    """windows per micro-batch"""
    block_size: int = 1024
    """context length in tokens; a longer context of a loaded model is cropped"""
    gradient_accumulation_steps: int = 5 * 8
    """micro-batches per step, over all ranks"""
    max_iters: int = 600000
    """stop after this many optimizer steps in all"""

    # --- optimization
    learning_rate: float = 6e-4
    """peak learning rate"""
    min_lr: float = 6e-5
    """final learning rate"""
    decay_lr: bool = True
    """warm up and decay the learning rate; otherwise it is constant"""
    warmup_iters: int = 2000
    """warmup steps"""
    lr_decay_iters: int = 600000
    """step at which the learning rate reaches min_lr"""
    weight_decay: float = 1e-1
    """apply this weight decay to the matrices"""
    beta1: float = 0.9
    """AdamW's beta1"""
    beta2: float = 0.95
    """AdamW's beta2"""
    grad_clip: float = 1.0
    """maximum gradient norm; 0 disables clipping"""

    # --- evaluation
    eval_interval: int = 2000
    """steps between validations, each of which also saves a checkpoint"""
    eval_iters: int = 200
    """batches of each split in a validation"""
    eval_only: bool = False
    """validate once and write nothing"""

    # --- output
    out_dir: str = "out"
    """folder of the checkpoints; init_from=resume also takes the settings that you do not pass from there"""
    always_save_checkpoint: bool = True
    """keep the latest in ckpt.pt, the best in ckpt_best.pt; if off, the best in ckpt.pt, the latest in ckpt_last.pt"""
    save_minutes: float = 10.0
    """save at least every so many minutes of training; 0 saves at validations only"""
    overwrite: bool = False
    """replace the checkpoints of another run in out_dir, at this run's first save"""
    log_interval: int = 1
    """print a line of progress every so many steps"""
    wandb_log: bool = False
    """log to wandb"""
    wandb_project: str = "owt"
    """project of the wandb run"""
    wandb_run_name: str = "gpt2"
    """name of the wandb run"""

    # --- machine
    device: Annotated[str, alias("--device-type")] = ""
    """cuda, cuda:1, mps or cpu; default: the best available"""
    dtype: str = "auto"
    """compute dtype: auto, float32, bfloat16 or float16"""
    compile: Compile = True
    """use torch.compile if there is a compiler; max-autotune: try more kernels at the start, for long runs on GPUs"""
    parallel: Parallel = "auto"
    """on several ranks: replicate the model, shard it (FSDP), or shard it within each node (hybrid); auto: as fits"""
    collective_minutes: float = 30.0
    """on several ranks: end the run, and print where each rank is, when one has waited so long for the others"""
    seed: int = 1337
    """use this seed for the initial weights and the order of the data"""
    backend: str = "nccl"
    """has no effect: ranks use NCCL on GPUs and Gloo elsewhere"""


def check(settings: Settings) -> None:
    """Check the settings before anything is built. Raises UserError."""
    for name in AT_LEAST_1:
        if getattr(settings, name) < 1:
            raise UserError(f"--{name} is {getattr(settings, name)}; expected 1 or more")
    if settings.vocab_size is not None and not 1 <= settings.vocab_size <= MOST_TOKENS:
        raise UserError(f"--vocab_size is {settings.vocab_size}; expected 1 to {MOST_TOKENS}")
    if settings.n_layer > MOST_LAYERS:
        raise UserError(f"--n_layer is {settings.n_layer}; expected {MOST_LAYERS} at most")
    for name in NOT_NEGATIVE:
        if not 0 <= getattr(settings, name) < math.inf:
            raise UserError(f"--{name} is {getattr(settings, name)}; expected 0 or more")
    for name in ("dropout", "beta1", "beta2"):
        if not 0 <= getattr(settings, name) < 1:
            raise UserError(f"--{name} is {getattr(settings, name)}; expected a number from 0 to below 1")
    if settings.seed.bit_length() > BITS:
        raise UserError(f"--seed is a number of {settings.seed.bit_length()} bits; expected {BITS} bits at most")
    if settings.overwrite and settings.init_from == "resume":
        raise UserError("--overwrite starts a new run, --init_from=resume resumes the one in --out_dir; pass only one")
    if settings.lora_rank and settings.init_from == "scratch":
        raise UserError("--lora_rank adapts a trained model; name one with --init_from, such as gpt2")
    for name in ("out_dir", "dataset", "init_from"):
        check_name(name, getattr(settings, name))
