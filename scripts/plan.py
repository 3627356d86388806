"""What a run will take: memory by part, time and price of a model of some depth, or of all that speedrun.sh will do."""

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from nanochat import paths
from nanochat.checkpoint import legacy, manager
from nanochat.config import changes, parse
from nanochat.errors import UserError, run
from nanochat.gpt import GPTConfig
from nanochat.log import duration, short
from nanochat.plan import cost, forecast, gpus
from nanochat.plan.cost import flops_per_token
from nanochat.plan.forecast import Forecast, Setting
from nanochat.report import sections
from nanochat.scaling import config_from_depth, horizon, shared

SPEEDRUN = Path(__file__).resolve().parent.parent / "speedrun.sh"
OF_A_RECIPE = ("recipe", "depth", "gpu", "gpus", "price_per_gpu_hour")
ROWS = (1, 2, 4, 8, 16, 32)  # device_batch_size, a column each
GB = 1e9
HOW = """\
Tokens and FLOPs are counted. Memory is counted tensor by tensor; what CUDA and the allocator take besides is assumed.
Time is that of the FLOPs at an assumed share of the GPU's peak, and shards come at an assumed 100 MB/s.
Known runs of the original are met within 15 % (tests/test_plan.py); of this code none was measured on such GPUs."""


@dataclass
class Flags:
    """What a run will take: memory by part, time and price of a model, or of all that speedrun.sh will do."""

    recipe: Literal["auto", "tiny", "real"] | None = None
    """recipe of speedrun.sh to plan: tiny, real, or auto (what this machine can do); default if no model is named"""
    depth: int | None = None
    """plan for a model of this many layers, or the recipe with it; 32 and 34 mean the published ones"""
    source: Literal["base", "mid", "sft", "rl"] | None = None
    """plan for a checkpoint of this stage"""
    model_tag: str | None = None
    """tag of the checkpoint to plan for; default: the deepest of --source"""
    stage: Literal["all", "base", "mid", "sft", "rl", "serve"] = "all"
    """what to plan: all stages in brief, or one with its memory by part"""
    gpu: str | None = None
    """accelerator: h100, h200, a100, a100-40, l40s, rtx4090, b200 or cpu; default: the one in this machine"""
    gpus: int | None = None
    """number of accelerators; default: all in this machine"""
    price_per_gpu_hour: float | None = None
    """dollars for an hour of one GPU; default: $NANOCHAT_PRICE_PER_GPU_HOUR, else a typical price"""
    architecture: Literal["auto", "modern", "classic"] = "auto"
    """modern is what base_train makes, classic what the original was in 2025; auto: as published, else modern"""
    vocab_size: int | None = None
    """tokens of the vocabulary; default: 32768, classic 65536"""
    max_seq_len: int = 2048
    """context in tokens"""
    device_batch_size: int | None = None
    """rows per forward pass and GPU; default: as many as fit, at most 32"""
    total_batch_size: int | None = None
    """tokens per optimizer step; default: as the stages choose"""
    target_param_data_ratio: float = -1.0
    """tokens of base training per parameter; default: 12 of those that scale, classic 20 of all"""
    text_share: float = 0.0
    """fraction of the documents of mid-training that are text"""
    compile: bool = True
    """use torch.compile"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    if flags.gpus is not None and flags.gpus < 1:
        raise UserError(f"--gpus is {flags.gpus}; expected 1 or more")
    if not 0 <= flags.text_share < 1:
        raise UserError(f"--text_share is {flags.text_share}; expected a share below 1")
    if flags.depth is not None and flags.depth < 1:
        raise UserError(f"--depth is {flags.depth}; expected 1 or more")
    names_model = any(value is not None for value in (flags.depth, flags.source, flags.model_tag))
    if flags.recipe is None and names_model:
        plan_model(flags, *_accelerator(flags))
    else:
        if odd := [name for name in changes(flags) if name not in OF_A_RECIPE]:
            raise UserError(f"--{odd[0]} is of the plan of one model; leave out --recipe, and name one with --depth")
        here, count = _here()
        if flags.gpu is None and count and gpus.named(here) is None:
            # The recipe runs on it all the same. What is counted is the same on any.
            plan_recipe(flags, gpus.GPUS["h100"], flags.gpus or count, unknown=here)
        else:
            plan_recipe(flags, *_accelerator(flags))


def _here() -> tuple[str, int]:
    """The GPUs in this machine, as nvidia-smi calls them, and how many they are."""
    here = str(sections.machine()["GPU"])
    return here, sum(map(int, re.findall(r"(\d+) x ", here)))


def _accelerator(flags: Flags) -> tuple[gpus.Accelerator, int]:
    """The accelerator that is meant and how many there are; raises UserError for a GPU here that is not known."""
    here, count = _here()
    found = gpus.named(here)
    if flags.gpu is None and count and found is None:
        raise UserError(f"the GPU here, {here}, is not known; name one that is like it with --gpu")
    on = gpus.accelerator(flags.gpu or found or "cpu")
    price = sections.price(flags.price_per_gpu_hour)
    is_here = flags.gpu in (None, found)
    return (on if price is None else replace(on, price=price)), flags.gpus or (count if is_here and count else 1)


# ---------------------------------------------------------------- a model


def plan_model(flags: Flags, on: gpus.Accelerator, count: int) -> None:
    """Print the plan for a model of some depth, or for a checkpoint."""
    setting, name = _setting(flags, on, count)
    config = setting.config
    parameters = short(cost.sizes(config).all)
    print(
        f"{name}: {parameters} parameters, {config.n_layer} layers of width {config.n_embd}, vocabulary "
        f"{config.vocab_size}, context {config.sequence_len}\non {_described(on, count)}\n"
    )
    if flags.stage == "serve":
        return _show_serving(setting)
    largest = _largest(flags.stage, setting)
    rows = flags.device_batch_size or min(max(largest, 1), ROWS[-1])
    if flags.stage == "sft" and flags.total_batch_size is None:
        setting = forecast.for_sft(replace(setting, rows=rows))
    else:
        batch, rows = shared(setting.total_batch, rows, setting.length, count)
        setting = replace(setting, rows=rows, total_batch=batch)
    if flags.stage == "all":
        return _show_all(flags, setting)
    _show_stage(flags, setting, largest)


def _setting(flags: Flags, on: gpus.Accelerator, count: int) -> tuple[Setting, str]:
    for option in ("total_batch_size", "device_batch_size", "vocab_size", "max_seq_len"):
        if (value := getattr(flags, option)) is not None and value < 1:
            raise UserError(f"--{option} is {value}; expected 1 or more")
    if flags.depth is not None:
        if flags.source is not None or flags.model_tag is not None:
            raise UserError("--depth names a new model and --source or --model_tag a checkpoint; leave one of them out")
        published = flags.depth in forecast.PUBLISHED
        classic = flags.architecture == "classic" or flags.architecture == "auto" and published
        config = forecast.config_of(flags.depth, classic, flags.vocab_size, flags.max_seq_len)
        name = f"d{flags.depth}, classic" + (" as published" if published else "") if classic else f"d{flags.depth}"
    else:
        source = flags.source or "base"
        folder, tag, step = manager.find(source, flags.model_tag)
        config, classic = config_in(manager.read_meta(folder, step), folder)
        name = f"{source} {tag}, step {step}"
    batch = flags.total_batch_size or forecast.default_batch(config, classic)
    eval_tokens = 10_485_760 if classic else Setting.eval_tokens
    return Setting(config, on, count, 1, batch, classic, flags.compile, eval_tokens), name


def config_in(meta: dict, folder: Path) -> tuple[GPTConfig, bool]:
    """The architecture that a meta file describes, and whether it is the original's of 2025."""
    described = meta.get("model_config") or {}
    if legacy.is_ours(described):
        return GPTConfig(**described), False
    if not {"n_layer", "n_embd", "n_head", "vocab_size", "sequence_len"} <= described.keys():
        raise UserError(f"{folder} says nothing of its model's shape; plan with --depth instead")
    classic = "window_pattern" not in described
    like = forecast.config_of(described["n_layer"], classic, described["vocab_size"], described["sequence_len"])
    shape = {name: described.get(name, described["n_head"]) for name in ("n_head", "n_kv_head")}
    return replace(like, n_embd=described["n_embd"], **shape), classic


def _described(on: gpus.Accelerator, count: int) -> str:
    typical = f", which is typical at the {gpus.PRICES_OF}" if on in gpus.GPUS.values() else ""
    price = f"; ${on.price:.2f} an hour each{typical}" if on.price else ""
    speed = f"{on.mfu * 100:.0f} % of {on.peak / 1e12:.3g} TFLOP/s"
    return f"{count} x {on.name}, {on.memory / GB:.1f} GB, at {speed}{price}"


def _largest(stage: str, setting: Setting) -> int:
    """The largest device_batch_size that fits; 0 where there is none."""
    if stage in ("base", "mid", "sft", "all"):
        return forecast.largest_rows(setting)
    return max((rows for rows in ROWS if _memory(stage, setting, rows).fits(setting.on)), default=0)


def _show_stage(flags: Flags, setting: Setting, largest: int) -> None:
    """Memory by part for each device_batch_size, then time and price."""
    chosen = _forecast(flags, flags.stage, setting)
    print(f"{flags.stage}: {_sizes(chosen)}\n")
    columns = [_memory(flags.stage, setting, rows) for rows in ROWS]
    names = list(dict.fromkeys(name for memory in columns for name in memory.fixed))
    parts = dict.fromkeys(name for memory in columns for name in memory.moments["forward and backward"])
    _line("GB at device_batch_size", [str(rows) for rows in ROWS])
    for name in names:
        _line(name, [f"{memory.fixed[name] / GB:.1f}" for memory in columns])
    for name in parts:
        _line(name, [f"{memory.moments['forward and backward'][name] / GB:.1f}" for memory in columns])
    for moment in ("validation", "optimizer"):
        name = next(iter(columns[0].moments[moment]))
        _line(f"or {name}", [f"{sum(memory.moments[moment].values()) / GB:.1f}" for memory in columns])
    _line("at the fullest moment", [f"{memory.total / GB:.1f}" for memory in columns])
    _line("fits", ["yes" if memory.fits(setting.on) else "no" for memory in columns])
    if flags.stage in ("base", "mid", "sft"):
        other = replace(setting, compiled=not setting.compiled)
        label = "without torch.compile" if setting.compiled else "with torch.compile"
        _line(label, [f"{_memory(flags.stage, other, rows).total / GB:.1f}" for rows in ROWS])
    print(f"\nthe largest that fits: {largest}" if largest else "\nnot even one row fits")
    memory = _memory(flags.stage, setting, setting.rows)
    if memory.fits(setting.on):
        print(f"{_rows(setting)}: {_step(chosen)} s a step, {_bill(setting, chosen.seconds)}")
    else:
        print(f"{_rows(setting)} needs {_needs(memory, setting.on)}: it runs out of memory")
    if setting.classic and flags.stage == "sft":
        typical, fullest, seconds = forecast.original_sft(setting)
        print(
            f"the original's chat_sft (4 padded conversations at a time, not compiled): {typical.total / GB:.0f} GB, "
            f"up to {fullest.total / GB:.0f} GB where all are long, {_bill(setting, seconds)}"
        )


def _show_serving(setting: Setting) -> None:
    most = forecast.slots_that_fit(setting)
    slots = sorted({1, 8, 16, 32, 64, most})
    columns = [cost.serving_memory(setting.config, count) for count in slots]
    _line("GB at --slots", [str(count) for count in slots])
    for name in columns[0].fixed:
        _line(name, [f"{memory.fixed[name] / GB:.1f}" for memory in columns])
    _line("logits", [f"{sum(memory.moments['a step'].values()) / GB:.1f}" for memory in columns])
    _line("in all", [f"{memory.total / GB:.1f}" for memory in columns])
    _line("fits", ["yes" if memory.fits(setting.on) else "no" for memory in columns])
    each = 1 / cost.decode_seconds(setting.config, setting.on)
    print(f"\nwithout --slots the Engine takes {most}; about {each:.0f} tokens a second for one request")
    if setting.classic:
        memory = forecast.original_serving(setting)
        print(f"the original's chat_web (float32 weights, one conversation at a time): {memory.total / GB:.0f} GB")


def _show_all(flags: Flags, setting: Setting) -> None:
    """A line a stage, and all of them together."""
    made = {"tokenizer": forecast.tokenizer()}
    made |= {stage: _forecast(flags, stage, setting) for stage in ("base", "base_eval", "mid")}
    tuning = setting if flags.total_batch_size else forecast.for_sft(setting)
    made |= {"chat_eval of mid": forecast.chat_eval(setting), "sft": forecast.sft(tuning)}
    made["chat_eval of sft"] = made["chat_eval of mid"]
    _table(made, setting)
    print(f"\n{_rows(setting)}")
    if not setting.memory().fits(setting.on):
        print(f"{_rows(setting)} needs {_needs(setting.memory(), setting.on)}: it runs out of memory")
    print("--stage shows one with its memory by part; rl and serve come on top of these")


def _sum(made: Mapping[str, Forecast]) -> Forecast:
    of = made.values()
    return Forecast(sum(each.seconds for each in of), sum(each.tokens for each in of), sum(each.flops for each in of))


def _table(made: Mapping[str, Forecast], setting: Setting, is_known: bool = True) -> None:
    """A line a stage, and the sum of them; of a GPU that is not known only what is the same on any."""
    rows = [["stage", "tokens", "FLOPs", "GB", "steps", "s a step", "time", "price"]]
    for name, each in {**made, "in all": _sum(made)}.items():
        rows.append([
            name, short(each.tokens) if each.tokens else "", f"{each.flops:.1e}" if each.flops else "",
            f"{each.memory.total / GB:.1f}" if each.memory else "", str(each.steps or ""),
            _step(each) if each.steps else "", duration(each.seconds), _price(setting, each.seconds),
        ])  # fmt: skip
    if not is_known:
        columns = [i for i, title in enumerate(rows[0]) if title in ("stage", "tokens", "FLOPs", "steps")]
        rows = [[row[i] for i in columns] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for name, *figures in rows:
        aligned = (figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True))
        print("  ".join([name.ljust(widths[0]), *aligned]).rstrip())


def _forecast(flags: Flags, stage: str, setting: Setting) -> Forecast:
    stages: dict[str, Callable[[], Forecast]] = {
        "base": lambda: forecast.base(setting, flags.target_param_data_ratio),
        "base_eval": lambda: forecast.base_eval(setting),
        "mid": lambda: forecast.mid(setting, flags.text_share),
        "sft": lambda: forecast.sft(setting),
        "rl": lambda: forecast.rl(setting),
    }
    return stages[stage]()


def _memory(stage: str, setting: Setting, rows: int) -> cost.Memory:
    if stage == "rl":
        return forecast.rl_memory(setting, rows)
    return cost.reading_memory(setting.config, rows, setting.length) if stage == "base_eval" else setting.memory(rows)


def _line(name: str, cells: Sequence[str]) -> None:
    print(f"  {name:28}" + "".join(f"{cell:>8}" for cell in cells))


def _rows(setting: Setting) -> str:
    return f"--device_batch_size={setting.rows}"


def _needs(memory: cost.Memory, on: gpus.Accelerator) -> str:
    return f"{memory.total / GB:.1f} GB, and of the {on.memory / GB:.1f} there are {cost.USABLE:.0%} can be used"


def _step(made: Forecast) -> str:
    return f"{made.step:.3g}" if made.step < 1000 else f"{made.step:.0f}"


def _sizes(made: Forecast) -> str:
    return f"{short(made.tokens)} tokens in {made.steps} steps, {made.flops:.1e} FLOPs"


def _bill(setting: Setting, seconds: float) -> str:
    return ", ".join(filter(None, [duration(seconds), _price(setting, seconds)]))


def _price(setting: Setting, seconds: float) -> str:
    return f"${seconds / 3600 * setting.gpus * setting.on.price:.2f}" if setting.on.price else ""


# ---------------------------------------------------------------- speedrun.sh


@dataclass
class Stage:
    """A line of `speedrun.sh --list`. state is "done", "resumes" or "to do"."""

    name: str
    state: str
    command: str

    def flag(self, name: str, default: int | str) -> str:
        """The value of --name=value in the command."""
        found = re.search(rf"--{name}=(\S+)", self.command)
        return found[1] if found else str(default)


def plan_recipe(flags: Flags, on: gpus.Accelerator, count: int, unknown: str = "") -> None:
    """Print what speedrun.sh will do, and what its stages take where that can be told.

    Of a GPU that is `unknown` neither time nor memory nor price can be, and `on` says nothing.
    """
    recipe = flags.recipe or ("auto" if flags.gpu in (None, "cpu") else "real")
    asked = {} if flags.depth is None else {"DEPTH": flags.depth, "TINY_DEPTH": flags.depth}
    if flags.gpus is not None or flags.gpu is not None:
        asked["GPUS"] = 0 if flags.gpu == "cpu" else count
    stages = stages_of(recipe, asked)
    named = "" if recipe == "auto" else f" ({recipe})"
    print(f"The plan{named}, in {paths.base_dir()}:\n")
    ranks = max(int(stage.flag("nproc_per_node", 1)) for stage in stages)
    setting = Setting(GPTConfig(), on, ranks, ROWS[-1], -1)
    made: dict[str, Forecast] = {}
    for stage in stages:
        print(f"  {stage.state:8} {stage.name:15} {stage.command}")
        setting, known, sentence = predicted(stage, setting, is_real(stages))
        said = [sentence] if sentence else []
        if known:
            made[stage.name] = known
            if not unknown:
                said += _does_not_fit(stage, setting, known)
                if sentence and not is_real(stages):
                    said[0] += f", {setting.memory().total / GB:.1f} GB, {_bill(setting, known.seconds)}"
        if said:
            print(f"{'':26}{'; '.join(said)}")
    whole = replace(setting, gpus=max(ranks, count))
    print()
    if unknown:
        _table(made, whole, is_known=False)
        print(
            f"\nThe GPU here, {unknown}, is not known, so time, memory and price are not planned; "
            "python -m scripts.plan --gpu=... plans for one that is like it\n"
        )
    elif is_real(stages):
        _table(made, whole)
        to_do = sum(made[stage.name].seconds for stage in stages if stage.state != "done" and stage.name in made)
        if to_do < _sum(made).seconds:
            print(f"still to do: {_bill(whole, to_do)}")
        print(f"\non {_described(on, whole.gpus)}\n{HOW}\n")
    else:
        total = _sum(made)
        print(
            f"  {short(total.tokens)} tokens and {total.flops:.1e} FLOPs of training in all, about "
            f"{_bill(whole, total.seconds)}\n"
            f"  on {_described(on, whole.gpus)}\n"
        )


def _new(stage: Stage, vocab_size: int) -> GPTConfig:
    """The model that a base_train command makes."""
    length = int(stage.flag("max_seq_len", GPTConfig.sequence_len))
    return config_from_depth(
        int(stage.flag("depth", 20)), vocab_size, length, head_dim=int(stage.flag("head_dim", 128)),
        window_pattern=stage.flag("window_pattern", "SSSL"),
    )  # fmt: skip


def _told(stage: Stage, setting: Setting) -> Setting:
    """The setting with what a stage's command says of it, and else what the stages before it had."""
    if stage.name == "base_train":
        setting = replace(setting, config=_new(stage, setting.config.vocab_size))
    elif stage.name == "tok_train":
        vocab_size = int(stage.flag("vocab_size", setting.config.vocab_size))
        setting = replace(setting, config=replace(setting.config, vocab_size=vocab_size))
    setting = replace(setting, rows=int(stage.flag("device_batch_size", setting.rows)))
    if stage.name == "chat_sft":
        setting = forecast.for_sft(setting)
    total_batch = int(stage.flag("target_examples_per_step", 0)) * setting.length or setting.total_batch
    return replace(
        setting,
        total_batch=int(stage.flag("total_batch_size", total_batch)),
        eval_tokens=int(stage.flag("eval_tokens", setting.eval_tokens)), compiled="--no-compile" not in stage.command,
    )  # fmt: skip


def is_real(stages: Sequence[Stage]) -> bool:
    """Whether the stages are those of web text and public conversations."""
    return not any("tinyworld" in stage.command for stage in stages)


def stages_of(recipe: str, asked: Mapping[str, object] | None = None) -> list[Stage]:
    """What speedrun.sh would run, from itself, with these variables. Raises UserError where it complains."""
    environment = {**os.environ, "RECIPE": recipe, **{name: str(value) for name, value in (asked or {}).items()}}
    listed = subprocess.run(
        ["bash", str(SPEEDRUN), "--list"], env=environment, capture_output=True, text=True, encoding="utf-8"
    )
    if listed.returncode != 0:
        raise UserError(listed.stderr.strip().removeprefix("error: "))
    stages = []
    for line in listed.stdout.splitlines():
        name, state, command = line.split("\t")
        short_command = command.replace("python -m torch.distributed.run", "torchrun")
        stages.append(Stage(name, state, " ".join(shlex.quote(word) for word in short_command.split())))
    return stages


def predicted(stage: Stage, setting: Setting, real: bool) -> tuple[Setting, Forecast | None, str]:
    """The setting that a stage leaves to those after it, its forecast where there is one, and a sentence about it."""
    setting = _told(stage, setting)
    if stage.name in ("base_train", "mid_train", "chat_sft"):
        return _training(stage, setting, real)
    if not real:
        return setting, None, ""
    if stage.name in ("data", "more_data"):
        return setting, forecast.download(int(stage.flag("num_shards", 0))), ""
    if stage.name == "tok_train":
        return setting, forecast.tokenizer(float(stage.flag("max_chars", forecast.TOKENIZER_CHARACTERS))), ""
    if stage.name == "tok_eval":
        return setting, Forecast(forecast.COMPARISON), ""
    if stage.name == "base_eval":
        return setting, forecast.base_eval(setting), ""
    if stage.name == "chat_rl":
        return setting, forecast.rl(setting, int(stage.flag("num_iterations", -1))), ""
    if stage.name.startswith("chat_eval"):
        return setting, forecast.chat_eval(setting, int(stage.flag("batch_size", forecast.EVAL_BATCH))), ""
    return setting, None, ""


def _training(stage: Stage, setting: Setting, real: bool) -> tuple[Setting, Forecast | None, str]:
    """As `predicted`, with the batch that the stage takes. No forecast where only the data says how long it is."""
    config, batch = setting.config, setting.total_batch
    parameters = f"{short(cost.sizes(config).all)} parameters"
    steps = int(stage.flag("num_iterations", -1))
    if stage.name == "base_train":
        ratio = float(stage.flag("target_param_data_ratio", 12))
        length = horizon(
            config, batch, steps, flops_per_token=flops_per_token(config), param_data_ratio=ratio, rows=setting.rows,
            ranks=setting.gpus,
        )  # fmt: skip
        steps, batch = length.num_iterations, length.total_batch_size
        setting = replace(setting, rows=length.rows)
    elif real and batch <= 0:
        batch = forecast.default_batch(config, False)
    setting = replace(setting, total_batch=batch)
    if steps > 0 and batch > 0:
        made = forecast.training(setting, steps * batch, int(stage.flag("eval_every", 250)))
    elif real and stage.name == "mid_train":
        made = forecast.mid(setting, float(stage.flag("text_share", "0.3")))
    elif real:
        made = forecast.sft(setting)
    else:
        return setting, None, f"{parameters}, once over its conversations"
    said = f"{parameters}, {made.steps} steps of {short(batch)} tokens = {short(made.tokens)} tokens"
    if not real:
        said += f", {made.flops:.1e} FLOPs"
    return setting, made, said


def _does_not_fit(stage: Stage, setting: Setting, made: Forecast) -> list[str]:
    """That the GPU runs out of memory, and how many rows would fit, where that is so."""
    if made.memory is None or made.memory.fits(setting.on):
        return []
    kinds = {"base_train": "base", "base_eval": "base_eval", "mid_train": "mid", "chat_sft": "sft", "chat_rl": "rl"}
    largest = _largest(kinds[stage.name], setting) if stage.name in kinds else 0
    said = f"it runs out of memory: {setting.rows} rows need {_needs(made.memory, setting.on)}"
    return [said + (f"; --device_batch_size={largest} fits" if largest else "")]


if __name__ == "__main__":
    run(main)
