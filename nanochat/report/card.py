"""What the report card says, chapter by chapter, from the sections of the stages and from what training logged.

Sections may be few, of an older version, or edited by hand: what is missing, or is not what it should be, is left out.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import starmap

from nanochat.log import duration, short
from nanochat.report.curves import Line, Picture
from nanochat.report.pages import Block, Chapter, Code, Paragraph, Pictures, Quote, Rule, Strong, Table

TRAINING = ("base_train", "mid_train", "chat_sft", "chat_rl")
CHAT_EVALS = {"chat_eval_base": "base", "chat_eval_mid": "mid", "chat_eval_sft": "SFT", "chat_eval_rl": "RL"}
# What a stage settled on after defaults, scaling rules and inheritance, in the order in which one asks for it.
SHAPE = ("n_layer", "n_embd", "n_head", "n_kv_head", "vocab_size", "sequence_len", "window_pattern")
SETTLED = (
    "device_batch_size", "total_batch_size", "max_seq_len", "embedding_lr", "unembedding_lr", "matrix_lr", "scalar_lr",
    "lr_scale", "weight_decay", "warmup_steps", "warmdown_ratio", "final_lr_frac", "grad_clip",
    "examples_per_step", "num_samples", "max_new_tokens", "temperature",
)  # fmt: skip
MOST_LINES = 6  # of a picture; of more tasks than that the mean is drawn

Section = Mapping
Sections = Mapping[str, Section]


@dataclass(frozen=True)
class Logged:
    """The lines of a stage's metrics.jsonl, and its config.json."""

    metrics: Sequence[Mapping] = ()
    config: Mapping = field(default_factory=dict)


def chapters(found: Sections, logged: Mapping[str, Logged], price: float | None) -> tuple[list[Block], list[Chapter]]:
    """What stands at the top of the card, and its chapters. `price` is that of an hour of one GPU."""
    made = [
        Chapter("Accuracy", _accuracies(found)),
        Chapter("Reinforcement learning", _rl_scores(found)),
        Chapter("CORE", _core(found)),
        Chapter("lm-evaluation-harness", _harness(found)),
        Chapter("Bits per byte", _bits_per_byte(found)),
        Chapter("Curves", _curves(logged)),
        Chapter("Tokenizer", _tokenizer(found)),
        Chapter("Your conversations", _own(found)),
        Chapter("Time", _times(found, price)),
        *_conversations(found),
        Chapter("Samples of the base model", _samples(found)),
        Chapter("Machine", _machines(found)),
        Chapter("Configuration", [*_flags(found), *_settled(logged)]),
    ]
    return [_summary(found, price)], [chapter for chapter in made if chapter.blocks]


def number(value: object) -> float | None:
    """A number as it stands in strict JSON, NaN and infinities included; None for anything else."""
    if isinstance(value, bool) or not (isinstance(value, (int, float)) or value in ("NaN", "Infinity", "-Infinity")):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer of hundreds of digits
        return None


def gpu_count(section: Section) -> int:
    """The GPUs of the machine a stage ran on: those that are paid for, whether it used them or not; 1 without any."""
    described = str(_dict(section.get("machine")).get("GPU", ""))
    return max(1, sum(int(count) for count in re.findall(r"(\d+) x ", described)))


def _summary(found: Sections, price: float | None) -> Paragraph:
    """What was made, from how much, in what time."""
    said = []
    if (parameters := number(found.get("base_train", {}).get("parameters"))) is not None:
        said.append(f"{short(parameters)} parameters")
    tokens = sum(number(section.get("tokens")) or 0 for name, section in found.items() if name in TRAINING)
    if tokens:
        said.append(f"trained on {short(tokens)} tokens")
    if seconds := sum(map(_seconds, found.values())):
        said.append(f"in {duration(seconds)}")
    if price is not None:
        said.append(f"for ${sum(_cost(section, price) for section in found.values()):.2f}")
    commits = dict.fromkeys(str(section.get("commit", "unknown")) for section in found.values())
    short_names = (re.sub(r"^([0-9a-f]{12})[0-9a-f]{28}", r"\1", commit) for commit in commits)
    lines = [" ".join(said), ", ".join(_headlines(found)), "commit " + ", ".join(short_names)]
    return Paragraph([line for line in lines if line])


def _headlines(found: Sections) -> Iterator[str]:
    """The scores that others publish."""
    base = found.get("base_eval", {})
    if (bpb := number(base.get("val_bpb"))) is not None:
        yield f"{bpb:.4f} bits per byte"
    if (core := number(_dict(base.get("core")).get("core"))) is not None:
        yield f"CORE {core:.4f}"
    for stage, name in CHAT_EVALS.items():
        if (score := number(found.get(stage, {}).get("chatcore"))) is not None:
            yield f"ChatCORE {100 * score:.1f} % ({name})"


def _accuracies(found: Sections) -> list[Block]:
    """A row a task, a column a checkpoint: share correct, its 95 % interval and n; ChatCORE at last."""
    columns = {name: found[stage] for stage, name in CHAT_EVALS.items() if _dict(found.get(stage, {}).get("tasks"))}
    tasks = {name: _dict(section["tasks"]) for name, section in columns.items()}
    names = dict.fromkeys(name for column in tasks.values() for name in column)
    rows = [[name, *(_accuracy(_dict(column.get(name))) for column in tasks.values())] for name in names]
    scores = [number(section.get("chatcore")) for section in columns.values()]
    if any(score is not None for score in scores):
        rows.append([Strong("ChatCORE"), *("" if score is None else f"{100 * score:.1f} %" for score in scores)])
    return _table(["correct (95 % interval, n)", *columns], rows)


def _accuracy(task: Section) -> str:
    n, correct = number(task.get("n")), number(task.get("correct"))
    if not n or correct is None:
        return ""
    share = f"{100 * correct / n:.1f} %"
    interval = task.get("interval")
    bounds = [number(bound) for bound in interval] if isinstance(interval, list) else []
    if len(bounds) != 2 or None in bounds:
        return f"{share} ({n:.0f})"
    low, high = (100 * (bound or 0) for bound in bounds)
    return f"{share} ({low:.0f}–{high:.0f}, {n:.0f})"


def _rl_scores(found: Sections) -> list[Block]:
    """A row a score of a task: before and after, and n."""
    section = found.get("chat_rl", {})
    scores, before, questions = (_dict(section.get(key)) for key in ("scores", "before", "questions"))
    rows = []
    for name, value in scores.items():
        if (share := number(value)) is not None:
            earlier = number(before.get(name))
            n = _number(questions.get(str(name).partition("/")[2]), 0)
            rows.append([name, "" if earlier is None else f"{100 * earlier:.1f} %", f"{100 * share:.1f} %", n])
    return _table(["held-out questions", "before", "after", "n"], rows)


def _core(found: Sections) -> list[Block]:
    """A row a task of CORE, and the mean of what is left of the accuracies without guessing."""
    core = found.get("base_eval", {}).get("core")
    measured = _dict(core)
    whole = number(measured.get("core", core if not measured else None))
    rows, notes = [], []
    for label, told in _dict(measured.get("tasks")).items():
        task = _dict(told)
        figures = [_number(task.get("accuracy"), 4), _number(task.get("centered", told), 4)]
        rows.append([label, _number(task.get("shots"), 0), _number(task.get("n"), 0), *figures])
        if too_long := number(task.get("too_long")):
            notes.append(f"{label}: {too_long:.0f} too long for the context, counted as wrong")
    if whole is not None:
        rows.append([Strong("CORE"), "", "", "", Strong(f"{whole:.4f}")])
    if most := number(measured.get("max_per_task")):
        notes.append(f"at most {most:.0f} questions of a task")
    if isinstance(bundle := measured.get("bundle"), str):
        notes.append(f"bundle {bundle[:12]}")
    return [*_table(["task", "shots", "n", "accuracy", "centred"], rows), *([Paragraph(notes)] if notes else [])]


def _harness(found: Sections) -> list[Block]:
    measured = found.get("base_eval", {}).get("harness")
    rows = []
    for one in map(_dict, measured if isinstance(measured, list) else []):
        value, error = number(one.get("value")), number(one.get("error"))
        if value is not None:
            shown = f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")
            rows.append([str(one.get("task", "")), str(one.get("metric", "")), shown, _number(one.get("n"), 0)])
    return _table(["task", "metric", "value ± standard error", "n"], rows)


def _bits_per_byte(found: Sections) -> list[Block]:
    rows = []
    for stage in (*TRAINING, "base_eval"):
        figures = [_number(found.get(stage, {}).get(key), 4) for key in ("train_loss", "train_bpb", "val_bpb")]
        if any(figures):
            rows.append([stage, *figures])
    return _table(["stage", "train loss", "train", "val"], _in_order(rows, found))


def _curves(logged: Mapping[str, Logged]) -> list[Block]:
    """The pictures of each training stage."""
    blocks: list[Block] = []
    for stage in TRAINING:
        pictures = list(_pictures(stage, logged[stage].metrics)) if stage in logged else []
        if pictures:
            blocks.append(Pictures(stage, pictures))
    return blocks


def _pictures(stage: str, metrics: Sequence[Mapping]) -> Iterator[Picture]:
    steps = [step for row in metrics if (step := number(row.get("step"))) is not None and math.isfinite(step)]
    last = max(steps, default=0.0)

    def line(key: str, name: str = "") -> Line:
        points = [(number(row.get("step")), number(row.get(key))) for row in metrics if key in row]
        return Line(name, [(x, y) for x, y in points if x is not None and y is not None and math.isfinite(x + y)])

    def picture(name: str, what: str, *lines: Line, smooth: bool = False, from_zero: bool = False) -> Iterator[Picture]:
        if any(line.points for line in lines):
            yield Picture(f"{stage}_{name}", what, lines, smooth=smooth, from_zero=from_zero, until=last)

    def measured(name: str, what: str, prefix: str) -> Iterator[Picture]:
        """What is measured of several tasks at once, a line a task."""
        keys = list(dict.fromkeys(key for row in metrics for key in row if key.startswith(prefix)))
        lines = [line(key, key.removeprefix(prefix)) for key in keys]
        if len(lines) > MOST_LINES:
            lines = [_mean(lines, f"mean of {len(lines)} tasks")]
        yield from picture(name, what, *lines)

    if stage == "chat_rl":  # its loss says nothing: it is weighted by how much better than usual an answer was
        yield from picture("reward", "mean reward of the sampled answers", line("reward"), smooth=True)
        yield from measured("pass", "share of right answers to held-out questions", "pass@1/")
    else:
        yield from picture("loss", "training loss, nats per token", line("loss"), smooth=True)
    yield from picture("bpb", "validation, bits per byte", line("val_bpb"))
    yield from measured("accuracy", "share of right answers to held-out questions", "accuracy/")
    yield from picture("lr", "learning rate, as a multiple of the one set", line("lr"), from_zero=True)
    yield from picture("speed", "throughput, tokens per second", line("tok_per_second"), smooth=True, from_zero=True)


def _mean(lines: Sequence[Line], name: str) -> Line:
    """The mean of several lines wherever all of them have a point."""
    known = [dict(line.points) for line in lines]
    steps = sorted(set(known[0]).intersection(*known[1:]))
    return Line(name, [(step, sum(each[step] for each in known) / len(known)) for step in steps])


def _tokenizer(found: Sections) -> list[Block]:
    trained = found.get("tok_train", {})
    facts = []
    for name in ("vocab_size", "documents", "characters", "bytes", "tokens"):
        if (value := number(trained.get(name))) is not None:
            facts.append(f"vocabulary {value:.0f}" if name == "vocab_size" else f"{short(value)} {name}")
    texts = {name: _dict(text) for name, text in _dict(found.get("tok_eval", {}).get("compression")).items()}
    columns = list(dict.fromkeys(name for text in texts.values() for name in _dict(text.get("tokens"))))
    rows = []
    for name, text in texts.items():
        size, tokens = number(text.get("bytes")), _dict(text.get("tokens"))
        ratios = [f"{size / n:.2f}" if size and (n := number(tokens.get(column))) else "" for column in columns]
        rows.append([name, _number(size, 0), *ratios])
    return [*([Paragraph([", ".join(facts)])] if facts else []), *_table(["bytes per token", "bytes", *columns], rows)]


def _own(found: Sections) -> list[Block]:
    """A row per stage: the user's own conversations, how many of them were too long, and how often they were read."""
    rows = []
    for stage, section in found.items():
        own = _dict(section.get("own_conversations"))
        if number(own.get("conversations")) is not None:
            counts = [_number(own.get(key), 0) for key in ("conversations", "tokens", "max_seq_len", "cut", "left_out")]
            rows.append([stage, *counts, _number(own.get("passes"), 2)])
    return _table(["stage", "conversations", "tokens", "context", "cut", "left out", "passes"], rows)


def _times(found: Sections, price: float | None) -> list[Block]:
    rows = []
    for stage, section in found.items():
        counts = [short(n) if (n := number(section.get(key))) is not None else ""
                  for key in ("steps", "tokens", "tokens_per_second")]  # fmt: skip
        time = duration(_seconds(section)) if "seconds" in section else ""
        rows.append([stage, time, *counts, *_bill(section, price)])
    total = sum(map(_seconds, found.values()))
    costs = [] if price is None else ["", Strong(f"${sum(_cost(section, price) for section in found.values()):.2f}")]
    rows.append([Strong("total"), Strong(duration(total)), "", "", "", *costs])
    head = ["stage", "time", "steps", "tokens", "tokens/s"]
    blocks = _table(head if price is None else [*head, "GPUs", "cost"], rows)
    if price is not None:
        blocks.append(Paragraph([f"at ${price:.2f} an hour for each GPU of the machine, or for a machine without any"]))
    return blocks


def _bill(section: Section, price: float | None) -> list[str]:
    return [] if price is None else [str(gpu_count(section)), f"${_cost(section, price):.2f}"]


def _cost(section: Section, price: float) -> float:
    return _seconds(section) / 3600 * gpu_count(section) * price


def _seconds(section: Section) -> float:
    seconds = number(section.get("seconds"))
    return seconds if seconds is not None and math.isfinite(seconds) else 0.0


def _conversations(found: Sections) -> list[Chapter]:
    """What the most finished checkpoint says."""
    for stage, name in reversed(CHAT_EVALS.items()):
        blocks: list[Block] = []
        for sample in _samples_of(found.get(stage, {})):
            blocks += [Rule(), _sample(sample)] if blocks else [_sample(sample)]
        if blocks:
            return [Chapter(f"Conversations ({name})", blocks)]
    return []


def _samples(found: Sections) -> list[Block]:
    return [_sample(sample) for sample in _samples_of(found.get("base_eval", {}))]


def _samples_of(section: Section) -> list[Section]:
    samples = section.get("samples")
    return [sample for sample in samples if isinstance(sample, dict)] if isinstance(samples, list) else []


def _sample(sample: Section) -> Quote:
    """What the model was given is to be seen first."""
    if "messages" not in sample:
        return Quote([[Strong(sample.get("prompt") or ""), str(sample.get("text", ""))]])
    messages = map(_dict, sample["messages"] if isinstance(sample["messages"], list) else [])
    return Quote([[Strong(m.get("role", "")), ": " + _content(m.get("content", ""))] for m in messages])


def _content(content: object) -> str:
    """The text of a message; a call of the tool is shown as [expression][= result]."""
    if not isinstance(content, list):
        return str(content)
    shapes = {"text": "{}", "python": "[{}]", "python_output": "[= {}]"}
    return "".join(shapes.get(str(part.get("type")), "{}").format(part.get("text", "")) for part in map(_dict, content))


def _machines(found: Sections) -> list[Block]:
    """The machine; when the stages ran on several, each with its stages."""
    stages: dict[str, list[str]] = {}
    for stage, section in found.items():
        if machine := _dict(section.get("machine")):
            stages.setdefault(json.dumps(machine), []).append(stage)
    blocks: list[Block] = []
    for described, names in stages.items():
        rows = [[name, str(value)] for name, value in json.loads(described).items()]
        blocks += [Paragraph([", ".join(names)])] if len(stages) > 1 else []
        blocks += _table(["machine", "value"], rows)
    return blocks


def _flags(found: Sections) -> list[Block]:
    rows = []
    for stage, section in found.items():
        if "flags" in section:
            flags = {name: value for name, value in _dict(section["flags"]).items() if name != "resume"}
            rows.append([stage, Code(" ".join(starmap(_typed, flags.items()))) or "defaults"])
    return _table(["stage", "flags that differ from the defaults"], rows)


def _typed(name: str, value: object) -> str:
    """A flag as it is typed."""
    return f"--{name} {' '.join(map(str, value))}" if isinstance(value, list) else f"--{name}={value}"


def _settled(logged: Mapping[str, Logged]) -> list[Block]:
    """The model's shape and what the training stages settled on, a column a stage."""
    columns = {stage: _dict(logged[stage].config) for stage in TRAINING if stage in logged and logged[stage].config}
    rows = []
    for group, names in (("model_config", SHAPE), ("user_config", SETTLED)):
        for name in names:
            values = [_dict(config.get(group)).get(name) for config in columns.values()]
            if any(value is not None for value in values):
                rows.append([name, *(_value(value) for value in values)])
    return _table(["settled on", *columns], rows)


def _in_order(rows: list[list[str]], found: Sections) -> list[list[str]]:
    order = list(found)
    return sorted(rows, key=lambda row: order.index(row[0]))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[Block]:
    return [Table(head, rows)] if rows else []


def _dict(value: object) -> Mapping:
    return value if isinstance(value, Mapping) else {}


def _number(value: object, digits: int) -> str:
    known = number(value)
    return "" if known is None else f"{known:.{digits}f}"


def _value(value: object) -> str:
    known = number(value)
    return "" if value is None else str(value) if known is None else f"{known:.10g}"
