"""What a run will take: memory by part, time and price of a model of some depth, or of all that speedrun.sh will do.

python -m scripts.plan                                                         what bash speedrun.sh will do here
python -m scripts.plan --depth 34 --gpu h100 --stage mid                       a stage, with its memory by part
python -m scripts.plan --init_from gpt2 --init_from gpt2-xl --gpu t4           fine-tuning GPT-2
"""

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from nanochat import hub, paths
from nanochat.config import alias, changes, given, parse
from nanochat.errors import UserError, run
from nanochat.log import duration, short
from nanochat.terminal import columns
from nanochat.train.flags import LoraFlags
from scripts import _screen as screen
from scripts import speedrun
from scripts._marks import Marks

if TYPE_CHECKING:
    from nanochat.gpt import GPTConfig
    from nanochat.plan.gpus import Accelerator
    from scripts._forecast import Forecast, Setting

FOR_A_RECIPE = ("recipe", "depth", "gpu", "gpus", "price_per_gpu_hour", "brief", "seconds_file")
STAGES = {"base": "base_train", "mid": "mid_train", "sft": "chat_sft", "dpo": "chat_dpo", "rl": "chat_rl"}
ALL = ("tok_train", "base_train", "base_eval", "mid_train", "chat_eval_mid", "chat_sft", "chat_eval_sft")
GB = 1e9
ROWS = (1, 2, 4, 8, 16, 32)  # device_batch_size, one column each
PUBLISHED = (32, 34)  # depths of the models of nanochat's first generation that are on the hub
HOW = """\
Tokens and FLOPs are counted. Memory is counted tensor by tensor, plus an allowance for CUDA and the allocator.
Time assumes a fraction of the GPU's peak, and 100 MB/s for downloads.
Both agree with published runs of this kind of model within 15 % (tests/test_plan.py); no GPU has run this version."""


@dataclass
class Flags(LoraFlags):
    """Predict memory by part, time and price of a model, or of everything that speedrun.sh will do."""

    EXAMPLE: ClassVar = "--depth 20 --gpu h100 --gpus 8"

    # --- model
    depth: int | None = None
    """plan for a model with this many layers, or the recipe with it; 32 and 34 mean the published models"""
    source: Annotated[list[str], alias("-i", "--init-from")] = field(default_factory=list)
    """plan for a checkpoint of base, mid, sft, dpo or rl; or for fine-tuning gpt2 ... gpt2-xl, repeat for several"""
    model_tag: str | None = None
    """tag of the checkpoint to plan for; default: the deepest of --source"""
    architecture: Literal["auto", "modern", "classic"] = "auto"
    """modern is what base_train makes, classic the first generation of 2025; auto: as published, else modern"""
    vocab_size: int | None = None
    """tokens in the vocabulary; default: 32768, classic 65536"""
    teacher_depth: int | None = None
    """have a teacher with this many layers beside the model in training (--teacher)"""

    # --- recipe
    stage: Literal["all", "base", "mid", "sft", "dpo", "rl", "serve"] = "all"
    """plan all stages in brief, or one of them with its memory by part"""
    recipe: Literal["auto", "tiny", "real"] | None = None
    """recipe of speedrun.sh to plan: tiny, real, or auto (what this machine can do); default if no model is named"""
    text_share: float = 0.0
    """fraction of the documents of mid-training that are text"""

    # --- batch and length
    max_seq_len: int = 2048
    """context length in tokens; GPT-2 has at most 1024"""
    device_batch_size: int | None = None
    """rows per forward pass and GPU; default: as many as fit, at most 32"""
    total_batch_size: int | None = None
    """tokens per optimizer step; default: as the stages choose, 32768 for GPT-2"""
    num_iterations: int = 1000
    """optimizer steps to fine-tune GPT-2"""
    target_param_data_ratio: float = 12.0
    """tokens of base training per parameter that scales"""

    # --- machine
    gpu: str | None = None
    """h100, h200, a100, a100-40, l40s, rtx4090, l4, a10g, t4, v100, v100-32, rtx3090, b200 or cpu; default: as here"""
    gpus: int | None = None
    """number of accelerators; default: all in this machine; more than 8 are nodes of 8"""
    parallel: Literal["auto", "replicate", "shard", "hybrid"] = "auto"
    """how the model lies on several GPUs, as in training, also what auto takes"""
    price_per_gpu_hour: float | None = None
    """dollars for an hour of one GPU; default: $NANOCHAT_PRICE_PER_GPU_HOUR, else a typical price"""
    compile: bool = True
    """use torch.compile"""
    brief: bool = False
    """print what a recipe's stages are for in place of their commands"""
    seconds_file: Path | None = None
    """write the predicted seconds of a recipe's stages to this file, as JSON"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    for option in ("depth", "gpus", "vocab_size", "max_seq_len", "device_batch_size", "total_batch_size",
                   "num_iterations", "teacher_depth"):  # fmt: skip
        if (value := getattr(flags, option)) is not None and value < 1:
            raise UserError(f"--{option} is {value}; expected 1 or more")
    if not 0 <= flags.text_share < 1:
        raise UserError(f"--text_share is {flags.text_share}; expected a fraction below 1")
    names_model = flags.depth is not None or flags.source or flags.model_tag is not None
    if flags.recipe is None and any(name in hub.GPT2 for name in flags.source):
        plan_gpt2(flags)
    elif flags.recipe is None and names_model:
        plan_model(flags)
    elif others := [name for name in changes(flags) if name not in FOR_A_RECIPE]:
        raise UserError(
            f"--{others[0]} belongs to the plan of one model; leave out --recipe, and name one with --depth"
        )
    else:
        plan_recipe(flags)


def _accelerator(flags: Flags) -> tuple["Accelerator", int, str]:
    """The accelerator to plan for, how many there are, and what nvidia-smi calls it if that is not known."""
    from nanochat.plan import gpus
    from nanochat.report import sections

    here = str(sections.machine()["GPU"])
    count, found = sum(map(int, re.findall(r"(\d+) x ", here))), gpus.known(here)
    unknown = here if flags.gpu is None and count and found is None else ""
    on = gpus.accelerator("h100" if unknown else flags.gpu or found or "cpu")
    price = sections.price(flags.price_per_gpu_hour)
    is_here = unknown or flags.gpu in (None, found)
    return (on if price is None else replace(on, price=price)), flags.gpus or (is_here and count) or 1, unknown


def _known_accelerator(flags: Flags) -> tuple["Accelerator", int]:
    """The same. Raises UserError for a GPU here that is not known."""
    on, count, unknown = _accelerator(flags)
    if unknown:
        raise UserError(f"the GPU here, {unknown}, is not known; name one that is like it with --gpu")
    return on, count


# ---------------------------------------------------------------- a model


def plan_gpt2(flags: Flags) -> None:
    """Print what fine-tuning GPT-2s with scripts.train takes: a line per size."""
    from nanochat import lora
    from nanochat.gpt import GPTConfig
    from nanochat.plan import cost
    from scripts._forecast import Setting, fine_tuning

    ours = {"source", "gpu", "gpus", "price_per_gpu_hour", "max_seq_len", "device_batch_size", "total_batch_size",
            "num_iterations", "compile", "parallel", "lora_rank", "lora_alpha", "lora_matrices"}  # fmt: skip
    if others := [name for name in given(flags) if name not in ours]:
        raise UserError(f"--{others[0]} does not belong to the plan of fine-tuning GPT-2; leave it out")
    if unknown := [name for name in flags.source if name not in hub.GPT2]:
        raise UserError(f"--source {unknown[0]!r} is not a GPT-2; plan for {', '.join(hub.GPT2)}, or for it alone")
    on, count = _known_accelerator(flags)
    length = min(flags.max_seq_len, 1024)
    setting = Setting(
        GPTConfig(), on, count, flags.device_batch_size or 0, flags.total_batch_size or 32768, compiled=flags.compile,
        adapters=lora.wanted(flags), parallel=_parallel(flags, count),
    )  # fmt: skip
    plans = [fine_tuning(name, flags.num_iterations, length, setting) for name in flags.source]
    print(f"fine-tuning with scripts.train on {_described(setting)}\n")
    _table(plans, in_all=False)
    print()
    for made in plans:
        rows, config = made.setting.rows, made.setting.config
        accumulation = round(made.setting.total_batch / (rows * length))  # nanoGPT's: over all GPUs
        flags_of_train = f"--batch_size={rows} --gradient_accumulation_steps={accumulation} --block_size={length}"
        flags_of_train += f" --lora_rank={flags.lora_rank}" if flags.lora_rank else ""
        train_with = f"train with {flags_of_train}; " if cost.fits(made.memory, on) else ""
        print(
            f"{made.stage}: {short(cost.sizes(config).all)} parameters; {train_with}to generate text "
            f"{_gb(cost.serving_memory(config, 1))} GB"
        )


def plan_model(flags: Flags) -> None:
    """Print the plan for a model of some depth, or for a checkpoint."""
    from nanochat.plan import cost
    from scripts._forecast import forecast, resolve

    setting, name = _setting(flags)
    config = setting.config
    print(
        f"{name}: {short(cost.sizes(config).all)} parameters, {config.n_layer} layers of width {config.n_embd}, "
        f"vocabulary {config.vocab_size}, context {config.sequence_len}\non {_described(setting)}\n"
    )
    if flags.stage == "serve":
        return _plan_serving(setting)
    asked = {"target_param_data_ratio": flags.target_param_data_ratio, "text_share": flags.text_share}
    if flags.total_batch_size:
        asked["target_examples_per_step"] = max(1, flags.total_batch_size // config.sequence_len)
    stage = STAGES.get(flags.stage, "base_train")
    largest = resolve(stage, asked, setting).largest_rows(stage)
    setting = replace(setting, rows=flags.device_batch_size or min(max(largest, 1), ROWS[-1]))
    plans = [forecast(name, asked, setting) for name in (ALL if flags.stage == "all" else [stage])]
    if flags.stage != "all":
        setting = plans[0].setting
        layout = setting.layout(stage)
        _columns("GB at device_batch_size", ROWS, [setting.memory(stage, rows, layout) for rows in ROWS], setting)
        print(f"\nthe largest that fits: {largest}\n" if largest else "\nnot even one row fits\n")
    _table(plans)
    print(f"\nwith --device_batch_size={setting.rows}; --stage shows one stage with its memory by part")
    first = next(made for made in plans if made.step)
    if first.setting.gpus > 1:
        _print_communication(first)
    if flags.depth == cost.GPT2_DEPTH and first.stage == "base_train":
        minutes = cost.seconds_to_gpt2(setting.on, setting.gpus) / 60
        print(
            f"GPT-2's score in CORE (0.2565): about {minutes:.0f} minutes of base training, if this depth reaches it "
            f"after {cost.GPT2_RATIO:g} tokens per scaling parameter; neither that nor {setting.on.mfu:.0%} of the "
            "peak was measured with this code"
        )


def _print_communication(made: "Forecast") -> None:
    """What a step sends in the layout that it has, and what every possible one takes of memory and time."""
    from nanochat.plan import scale
    from nanochat.plan.cost import fits

    setting, stage = made.setting, made.stage
    chosen, step = setting.layout(stage), setting.step(stage)
    parts = f" ({chosen.parts} parts)" if chosen.parts > 1 else ""
    print(
        f"parallel={chosen.mode}{parts}: each of {setting.gpus} GPUs sends {step.sent / GB:.1f} GB in a step of "
        f"{stage}: {1e3 * step.communication:.0f} ms of {1e3 * made.step:.0f}, of which {1e3 * step.exposed:.0f} ms "
        "wait for it and the rest is hidden behind computing (assumed, not measured)\n"
    )
    rows = [["--parallel", "GB per GPU", "fits", "GB sent", "ms of communication", "ms that wait", "s per step"]]
    possible = replace(setting, parallel="auto").layouts
    for mode in possible:
        like = replace(setting, parallel=mode)
        memory, found = like.memory(stage, setting.rows), like.step(stage)
        rows.append([
            mode, _gb(memory), "yes" if fits(memory, setting.on) else "no", f"{found.sent / GB:.1f}",
            f"{1e3 * found.communication:.0f}", f"{1e3 * found.exposed:.0f}",
            f"{made.step - step.seconds + found.seconds:.3g}",
        ])  # fmt: skip
    print(columns(rows))
    print(f"\nassumed: {scale.NETWORK.in_words(setting.on)}")


def _plan_serving(setting: "Setting") -> None:
    from nanochat.plan import cost

    slots = sorted({1, 8, 16, 32, 64, setting.slots})
    memories = [cost.serving_memory(setting.config, count) for count in slots]
    _columns("GB at --slots", slots, memories, setting)
    each = 1 / cost.decode_seconds(setting.config, setting.on)
    print(f"\nwithout --slots the Engine takes {setting.slots}; about {each:.0f} tokens a second for one request")


def _setting(flags: Flags) -> tuple["Setting", str]:
    """The model on its accelerators, and how to call it. Raises UserError for a GPU here that is not known."""
    from nanochat import lora
    from nanochat.checkpoint import manager
    from scripts import _forecast

    on, count = _known_accelerator(flags)
    if flags.depth is not None:
        if flags.source or flags.model_tag is not None:
            raise UserError("--depth names a new model and --source or --model_tag a checkpoint; leave one of them out")
        published = flags.architecture == "auto" and flags.depth in PUBLISHED
        classic = published or flags.architecture == "classic"
        config = _forecast.config_of(flags.depth, classic, flags.vocab_size, flags.max_seq_len)
        name = f"d{flags.depth}" + ", classic" * classic + " as published" * published
    else:
        source = flags.source[0] if flags.source else "base"
        if source not in paths.SOURCES or len(flags.source) > 1:
            expected = f"one of {', '.join(paths.SOURCES)}, or any of {', '.join(hub.GPT2)}"
            raise UserError(f"--source {' '.join(flags.source)} cannot be planned; expected {expected}")
        folder, tag, step = manager.find(source, flags.model_tag)
        config, classic = recorded_config(manager.read_meta(folder, step), folder)
        name = f"{source} {tag}, step {step}"
    batch = flags.total_batch_size or (524288 if classic else -1)
    eval_tokens = 10_485_760 if classic else _forecast.Setting.eval_tokens  # as its checkpoints pass on
    adapters, teacher = lora.wanted(flags), None
    if adapters is not None:
        name += f", with {adapters} in mid-training and SFT"
    if flags.teacher_depth is not None:
        teacher = _forecast.config_of(flags.teacher_depth, classic, config.vocab_size, config.sequence_len)
        name += f", with a teacher of {flags.teacher_depth} layers"
    parallel = _parallel(flags, count)
    return _forecast.Setting(config, on, count, 1, batch, eval_tokens, flags.compile, adapters, teacher, parallel), name


def _parallel(flags: Flags, count: int) -> str:
    """--parallel. Raises UserError for hybrid where so many GPUs are not several whole nodes."""
    from nanochat.plan.scale import NETWORK, layouts

    if count > 1 and flags.parallel not in ("auto", *layouts(count, min(count, NETWORK.per_node))):
        raise UserError(
            f"--parallel hybrid needs several whole nodes of {NETWORK.per_node} GPUs; --gpus is {count}: pass --gpus "
            f"{2 * NETWORK.per_node} or --parallel shard"
        )
    return flags.parallel


def recorded_config(meta: dict, folder: Path) -> tuple["GPTConfig", bool]:
    """The architecture that a meta file describes, and whether it is of the first generation."""
    from nanochat.checkpoint import legacy
    from nanochat.gpt import GPTConfig
    from scripts._forecast import config_of

    described = meta["model_config"]
    if legacy.is_ours(described):
        return GPTConfig(**described), False
    if not {"n_layer", "n_embd", "n_head", "vocab_size", "sequence_len"} <= described.keys():
        raise UserError(f"{folder} does not describe its model's shape; plan with --depth instead")
    classic = "window_pattern" not in described
    like = config_of(described["n_layer"], classic, described["vocab_size"], described["sequence_len"])
    shape = {name: described.get(name, described["n_head"]) for name in ("n_head", "n_kv_head")}
    return replace(like, n_embd=described["n_embd"], **shape), classic


# ---------------------------------------------------------------- a recipe


def plan_recipe(flags: Flags) -> None:
    """Print what speedrun.sh will do, and what its stages take, where that can be predicted."""
    from nanochat.gpt import GPTConfig
    from nanochat.plan import cost
    from scripts._forecast import Setting, forecast, little_world

    on, count, unknown = _accelerator(flags)
    environment, marks = dict(os.environ), Marks(paths.base_dir())
    if flags.recipe != "auto":
        environment["RECIPE"] = flags.recipe or ("real" if flags.gpu not in (None, "cpu") else "auto")
    if flags.depth is not None:
        environment |= {"DEPTH": str(flags.depth), "TINY_DEPTH": str(flags.depth)}
    if flags.gpus is not None or flags.gpu is not None:
        environment["GPUS"] = "0" if flags.gpu == "cpu" else str(count)
    recipe = speedrun.recipe_for(environment, marks)
    setting = Setting(GPTConfig(), on, max(stage.processes for stage in recipe.stages), parallel="auto")
    plans, done, seconds = [], 0.0, {}
    print(f"The plan ({recipe.name}), in {marks.base}:\n")
    for stage, _, state in speedrun.walk(recipe.stages, marks):
        what = screen.about(stage.name) if flags.brief else f"python {shlex.join(stage.launched)}"
        print(f"  {state:8} {stage.name:15} {what}")
        asked = {name: value for name, value in stage.flags.items() if value is not None}
        made = forecast(stage.name, asked | ({"device_batch_size": stage.rows} if stage.rows else {}), setting)
        setting = made.setting
        # Of the little world the table has training only, and that of a number of steps only.
        if made.seconds and (recipe.name == "real" or asked.get("num_iterations", -1) > 0):
            plans.append(made)
            done += made.seconds if state == "done" else 0
        if recipe.name == "real" or asked.get("num_iterations", 0) > 0:
            seconds[stage.name] = {"seconds": made.seconds, "steps": made.steps}
        elif not stage.trains:
            seconds[stage.name] = {"seconds": little_world(stage.name, asked, setting)}
    if flags.seconds_file is not None:
        paths.write_text(flags.seconds_file, json.dumps({} if unknown else seconds))
    print(f"\n{short(cost.sizes(setting.config).all)} parameters\n")
    _table(plans, done, is_known=not unknown)
    if unknown:
        print(
            f"\nThe GPU here, {unknown}, is not known, so time, memory and price are not planned; "
            "python -m scripts.plan --gpu=... plans for one that is like it\n"
        )
    else:
        print(f"\non {_described(setting)}\n" + ("" if flags.brief else f"{HOW}\n"))


# ---------------------------------------------------------------- printing


def _described(setting: "Setting") -> str:
    on = setting.on
    price = f"; ${on.price:.2f} an hour each" if on.price else ""
    return (
        f"{setting.gpus} x {on.name}, {on.memory / GB:.1f} GB, at {on.mfu:.0%} of {on.peak / 1e12:.3g} TFLOP/s"
        f"{'' if on.dtype == 'bfloat16' else f' in {on.dtype}'}{price}"
    )


def _columns(head: str, counts: Sequence[int], memories: Sequence[Mapping[str, float]], setting: "Setting") -> None:
    """Memory by part, one column each."""
    from nanochat.plan import cost

    rows = {head: [str(count) for count in counts]}
    for name in dict.fromkeys(name for memory in memories for name in memory):
        rows[name] = [f"{memory[name] / GB:.1f}" if name in memory else "" for memory in memories]
    rows["in all"] = [_gb(memory) for memory in memories]
    rows["fits"] = ["yes" if cost.fits(memory, setting.on) else "no" for memory in memories]
    for name, cells in rows.items():
        print(f"  {name:28}" + "".join(f"{cell:>8}" for cell in cells))


def _table(plans: Sequence["Forecast"], done: float = 0.0, is_known: bool = True, in_all: bool = True) -> None:
    """A line per stage, and their sum if in_all; for a GPU that is not known only what is the same on any.

    done: the seconds of stages that are finished.
    """
    rows = [["stage", "tokens", "FLOPs", "steps", "tokens per step", "GB", "s per step", "time", "price"]]
    setting, seconds = plans[-1].setting, sum(made.seconds for made in plans)
    for made in plans:
        cells = [short(made.tokens), f"{made.flops:.1e}"] if made.tokens else ["", ""]
        if made.steps:
            cells += [f"{made.steps}", short(made.tokens / made.steps), _gb(made.memory), f"{made.step:.3g}"]
        rows.append([made.stage, *cells, *[""] * (6 - len(cells)), *_bill(made.seconds, setting)])
    sums = short(sum(made.tokens for made in plans)), f"{sum(made.flops for made in plans):.1e}"
    if len(plans) > 1 and in_all:
        rows.append(["in all", *sums, *[""] * 4, *_bill(seconds, setting)])
    if done and is_known:
        rows.append(["still to do", *[""] * 6, *_bill(seconds - done, setting)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        print("  ".join([name.ljust(widths[0]), *aligned[: len(cells) if is_known else 4]]).rstrip())
    for made in plans if is_known else ():
        _complain(made)


def _complain(made: "Forecast") -> None:
    """Print that a stage does not fit the GPU, and how many rows would, where that is so."""
    from nanochat.plan import cost

    setting = made.setting
    if not cost.fits(made.memory, setting.on):
        largest = setting.largest_rows(made.stage)
        needs = f"{_gb(made.memory)} of {setting.on.memory / GB:.1f} GB" + (f", and {largest} fits" if largest else "")
        print(f"{made.stage} runs out of memory: --device_batch_size={setting.rows} needs {needs}")


def _gb(memory: Mapping[str, float]) -> str:
    return f"{sum(memory.values()) / GB:.1f}"


def _bill(seconds: float, setting: "Setting") -> list[str]:
    """Time and price; all GPUs are paid for while one works."""
    price = seconds / 3600 * setting.gpus * setting.on.price
    return [duration(seconds), f"${price:.2f}" if price else ""]


if __name__ == "__main__":
    run(main)
