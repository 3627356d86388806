"""The flags of the training stages. Nothing heavy is imported here, so that --help appears at once.

`--help` lists the fields of a group from the last base class to the first: what people change first stands in the last.
"""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

from nanochat.checkpoint.flags import ModelName
from nanochat.config import alias, given
from nanochat.errors import UserError

LORA = ("lora_alpha", "lora_matrices", "lora_lr")
NOT_OF_ADAPTERS = ("embedding_lr", "unembedding_lr", "matrix_lr", "scalar_lr", "init_lr_frac", "weight_decay")

Compile = bool | Literal["max-autotune"]
Rows = int | Literal["auto"]
Parallel = Literal["auto", "replicate", "shard", "hybrid"]


@dataclass
class TrainFlags:
    """Flags of every training stage. Where the default is None, a later stage inherits from its checkpoint."""

    # --- batch and length
    num_iterations: int = -1
    """optimizer steps; -1 lets the stage decide"""
    minutes: float = -1.0
    """train for so many minutes of steps, the schedule following the time, in place of a number of steps; -1 is off"""

    # --- optimization
    warmup_steps: int = 0
    """steps of learning-rate warmup"""
    warmup_ratio: float = 0.0
    """fraction of the run spent in learning-rate warmup"""
    warmdown_ratio: float = 0.65
    """fraction of the run spent in learning-rate warmdown"""
    final_lr_frac: float = 0.05
    """final learning rate as a fraction of the peak"""
    lr_curve: list[float] = field(default_factory=list)
    """factors on the learning rates, evenly spaced over the run, in place of warmup and warmdown; momentum stays"""
    grad_clip: float = 0.0
    """maximum gradient norm; 0 disables clipping"""

    # --- evaluation
    eval_every: int = 250
    """steps between validations; 0 validates at the end only, -1 never"""

    # --- output
    run: str = "dummy"
    """name of the wandb run; dummy logs to files only"""
    save_every: int = -1
    """steps between checkpoints; -1 saves at the end only"""
    save_minutes: float = 10.0
    """save at least every so many minutes of training; 0 disables it"""
    keep_last: int = 2
    """number of recent checkpoints to keep, in addition to the best one; 0 keeps all"""
    resume: str = "auto"
    """auto: resume the run in the output folder, else start one; never: start anew; a number: resume from that step"""
    overwrite: bool = False
    """replace the checkpoints of another run in the output folder, at this run's first save"""
    dry_run: bool = False
    """train and evaluate as usual, but write no checkpoint and no report"""

    # --- machine
    device_type: str = ""
    """cuda, mps or cpu; default: the best available"""
    dtype: str = "auto"
    """compute dtype: auto, float32, bfloat16 or float16"""
    compile: Compile = True
    """use torch.compile if there is a compiler; max-autotune: try more kernels at the start, for long runs on GPUs"""
    recompute: bool = False
    """keep only the blocks' inputs from the forward pass and compute the rest again: less memory, a third more work"""
    parallel: Parallel = "auto"
    """on several ranks: replicate the model, shard it (FSDP), or shard it within each node (hybrid); auto: as fits"""
    collective_minutes: float = 30.0
    """on several ranks: end the run, and print where each rank is, when one has waited so long for the others"""
    fp8: bool = False
    """multiply the blocks' matrices in 8 bits, on GPUs that do (H100, L4, RTX 40 and newer); needs the extra fp8"""
    seed: int = 42
    """use this seed for the initial weights and the order of the data"""

    # --- data
    document_mask: bool = False
    """keep packed documents and conversations from seeing those before them in their row"""

    def check(self) -> None:
        """Raise UserError for what can be seen before anything is loaded."""
        check_numbers(self)
        check_length(self)
        if isinstance(self, StageLoraFlags):
            check_adapters(self)
        if isinstance(self, TeacherFlags):
            check_teacher(self)


@dataclass
class ParentFlags:
    """The model that a later stage starts from, and what it inherits from it."""

    # --- model
    source: ModelName = "mid"
    """model to start from: base, mid, sft, dpo, rl, sft:d3:700, gpt2, a folder, a ckpt.pt or user/name"""
    model_tag: Annotated[str | None, alias("-g", "--tag")] = None
    """tag of the model to start from; default: the deepest d<number>"""
    model_step: Annotated[int | None, alias("-s", "--step")] = None
    """step of the model to start from; default: the last"""

    # --- batch and length
    device_batch_size: Rows | None = None
    """rows per forward pass and rank; auto: as many as fit into memory; default: inherited, else 32"""

    # --- optimization
    init_lr_frac: float = 1.0
    """factor on all learning rates"""
    embedding_lr: float | None = None
    """learning rate of the embeddings; default: inherited, else 0.2"""
    unembedding_lr: float | None = None
    """learning rate of the output layer; default: inherited, else 0.004"""
    matrix_lr: float | None = None
    """learning rate of the blocks' matrices (Muon); default: inherited, else 0.02"""
    scalar_lr: float | None = None
    """learning rate of the residual scalars; default: inherited, else 0.5"""
    weight_decay: float = 0.0
    """apply this weight decay to the blocks' matrices"""

    # --- output
    out_tag: str | None = None
    """tag to write this run under; default: the tag of the model it starts from"""


@dataclass
class LoraFlags:
    """Low-rank adapters in place of all weights."""

    # --- adapters (LoRA)
    lora_rank: int = 0
    """train adapters of this rank (LoRA) and leave all weights as they are; 0 trains all weights"""
    lora_alpha: float = 16.0
    """multiply what the adapters add by this, divided by their rank"""
    lora_matrices: list[str] = field(default_factory=list)
    """adapt these matrices: attn, mlp, c_q, mlp.c_proj, lm_head ...; default: attn mlp, on a base model also lm_head"""


@dataclass
class LaterFlags(TrainFlags, ParentFlags):
    """Flags of the stages that start from a model."""


@dataclass
class TeacherFlags:
    """A larger model that is learned from besides the data."""

    # --- teacher (distillation)
    teacher: ModelName | None = None
    """model of the same tokenizer to learn from as well, such as base:d12 or sft:d20 (distillation)"""
    teacher_weight: float = 0.5
    """fraction of the loss that the teacher's predictions are; the rest is the data's"""
    teacher_temperature: float = 1.0
    """divide the logits of teacher and student by this; above 1, unlikely tokens count for more"""


@dataclass
class ConversationData:
    """The conversations of a stage."""

    # --- data
    data_path: list[Path] = field(default_factory=list)
    """train on your own conversations from these files, JSONL or a JSON array"""
    val_data_path: list[Path] = field(default_factory=list)
    """validate on conversations from these files; default: a held-out part of --data_path if that is all there is"""
    conversations: str | None = None
    """littleworld, real (SmolTalk, MMLU, ...) or none; default: littleworld if the model descends from it, else real"""


@dataclass
class StageLoraFlags(LoraFlags):
    """The same, with a rate of their own."""

    # --- adapters (LoRA)
    lora_lr: float = 2e-3
    """learning rate of the adapters, whatever the batch; --init_lr_frac and the other rates have no effect on them"""


@dataclass
class RowFlags:
    """How long the rows of a stage are, and how many of them make a step."""

    # --- batch and length
    device_batch_size: Rows | None = None
    """rows per forward pass and rank; auto: as many as fit into memory; default: inherited, else 32"""
    total_batch_size: int | None = None
    """tokens per optimizer step over all ranks; default: inherited (chat_sft and chat_dpo: 32 rows)"""
    max_seq_len: int | None = None
    """context length in tokens; default: inherited, else the model's"""


@dataclass
class ConversationFlags(LaterFlags, StageLoraFlags, TeacherFlags, RowFlags, ConversationData):
    """Flags of the stages that learn from given conversations."""

    # --- evaluation
    eval_tokens: int | None = None
    """tokens per validation; default: inherited, else 10485760"""
    sample_every: int = 100
    """steps between answers to the same three questions; 0 shows them at the end only, -1 never"""


def check_numbers(flags: TrainFlags) -> None:
    """Raise UserError for a number that no run can be trained with."""
    for entry in fields(flags):
        value = getattr(flags, entry.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{entry.name} is {value}; expected a finite number")
        if entry.name.endswith("_lr") and value is not None and value < 0:
            raise UserError(f"--{entry.name} is {value}; expected 0 or more")
    if any(not 0 <= factor < math.inf for factor in flags.lr_curve):
        raise UserError(f"--lr_curve has {min(flags.lr_curve)} to {max(flags.lr_curve)}; expected factors of 0 or more")
    if flags.resume not in ("auto", "never") and not flags.resume.isdecimal():
        raise UserError(f"--resume is {flags.resume!r}; expected auto, never or the number of a step")


def check_length(flags: TrainFlags) -> None:
    """Raise UserError for minutes that no run can last, or beside another length of the run."""
    if flags.minutes == -1:
        return
    if flags.minutes <= 0:
        raise UserError(f"--minutes is {flags.minutes:g}; expected more than 0, or -1 to train for a number of steps")
    for name in ("num_iterations", "num_epochs", "target_flops"):
        if name in given(flags) and getattr(flags, name) > 0:
            raise UserError(f"--minutes and --{name} both set how long to train; pass only one of them")


def check_adapters(flags: "StageLoraFlags") -> None:
    """Raise UserError for flags that do not belong together, of which one is about adapters."""
    passed, adapting = given(flags), flags.lora_rank != 0
    if not adapting and (unused := sorted(passed & {*LORA})):
        raise UserError(f"--{unused[0]} belongs to adapters; pass a --lora_rank, such as 8, with it")
    if adapting and (unused := sorted(passed & {*NOT_OF_ADAPTERS})):
        raise UserError(f"--{unused[0]} has no effect on adapters, whose rate is --lora_lr; leave it out")
    if adapting and getattr(flags, "fp8", False):
        raise UserError("--fp8 multiplies weights that learn, and with --lora_rank none does; leave one of them out")


def check_teacher(flags: TeacherFlags) -> None:
    """Raise UserError for numbers that are no weight or temperature."""
    if not 0 <= flags.teacher_weight <= 1:
        raise UserError(f"--teacher_weight is {flags.teacher_weight}; expected a fraction from 0 to 1")
    if flags.teacher_temperature <= 0:
        raise UserError(f"--teacher_temperature is {flags.teacher_temperature}; expected more than 0")
