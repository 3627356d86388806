"""The report card: one page, as Markdown and HTML, of the stages' sections and of what training logged.

Sections and logs may be missing, cut short or written by another version: the card shows what can be read.
"""

import contextlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from nanochat import paths
from nanochat.errors import UserError
from nanochat.log import duration, short
from nanochat.report import curves, facts, page, sharing
from nanochat.report.facts import CHAT_EVALS, TRAINING, UNREADABLE, Sections, content, fixed, percent
from nanochat.report.front import SHARED, front, head
from nanochat.report.sections import folder, read_sections
from nanochat.terminal import printable

ON_TOP = ("Loss", "What each task asks")  # chapters that the page shows unfolded, in another form
PREFERENCES = {  # what DPO measures on held-out pairs, and decimals
    "val_loss": ("loss", 4), "val_accuracy": ("fraction preferred", 3), "val_margin": ("margin, nats", 2),
    "val_chosen_logp": ("log-probability of the chosen answer", 2),
    "val_rejected_logp": ("log-probability of the rejected answer", 2), "val_drift": ("drift, nats per token", 4),
}  # fmt: skip
SETTINGS = (  # what defaults, scaling rules and inheritance resolved to: for the model, and for the training
    "n_layer", "n_embd", "n_head", "n_kv_head", "vocab_size", "sequence_len", "window_pattern",
    "device_batch_size", "total_batch_size", "max_seq_len", "embedding_lr", "unembedding_lr", "matrix_lr", "scalar_lr",
    "lr_scale", "weight_decay", "warmup_steps", "warmdown_ratio", "final_lr_frac", "grad_clip",
    "examples_per_step", "num_samples", "max_new_tokens", "temperature", "beta", "label_smoothing", "loss",
    "teacher", "teacher_weight", "teacher_temperature",
)  # fmt: skip


def build(price: float | None = None) -> str:
    """Write report.md with its pictures, report.html and report.png to <base>/report. Returns the Markdown.

    price: dollars for an hour of one GPU. Raises UserError when no stage has written a section.
    """
    found = read_sections()
    if not found:
        raise UserError(f"no stage has written a section to {folder()}; run speedrun.sh or a stage first")
    logs = {stage: _log_folder(found[stage]) for stage in TRAINING if stage in found}
    metrics = {stage: _read_metrics(log) for stage, log in logs.items()}
    whole = curves.loss_of_all(metrics)
    pictures = {"": [whole] if whole else []} | {stage: curves.pictures(stage, rows) for stage, rows in metrics.items()}
    text = markdown(found, pictures, {stage: _read_config(log) for stage, log in logs.items()}, price)
    files = {f"{picture.name}.svg": picture.svg for drawn in pictures.values() for picture in drawn}
    top, unreadable = front(found, whole, price)
    on_top = [chapter for chapter in ON_TOP if chapter not in unreadable]
    made = page.card(top, head(found), text, files, on_top)
    for name, written in {**files, "report.md": text, "report.html": made}.items():
        paths.write_text(folder() / name, written)
    shared = sharing.picture(found, price)
    paths.write_atomically(folder() / SHARED, lambda file: file.write(shared))
    return text


def _log_folder(section: dict) -> Path:
    """Where a training stage logged: beside its checkpoints. A folder that does not exist counts as an empty one."""
    source, tag = str(section.get("source")), Path(str(section.get("tag"))).name
    return paths.checkpoints_dir(source) / tag if source in paths.SOURCES and tag.isprintable() else Path("/dev/null")


def _read_metrics(log: Path) -> list[dict]:
    """The lines of metrics.jsonl, without what a kill or a full disk cut short."""
    rows = []
    with contextlib.suppress(OSError):
        for line in (log / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").split("\n"):
            with contextlib.suppress(ValueError, RecursionError):
                rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]


def _read_config(log: Path) -> dict:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        return json.loads((log / "config.json").read_text(encoding="utf-8"))
    return {}


def markdown(found: Sections, pictures: Mapping[str, Sequence[curves.Picture]], configs: Sections,
              price: float | None) -> str:  # fmt: skip
    """The card as Markdown. pictures, configs: by training stage."""
    talker = facts.talker(found)
    base = found.get("base_eval", {})
    chapters: dict[str, Callable[[], str]] = {
        "Summary": lambda: _summary(found, price),
        "Accuracy": lambda: _accuracy(found),
        "Loss": lambda: _images(pictures.get("", ())),
        "What each task asks": lambda: _tasks(found),
        "Preferences": lambda: _preferences(found.get("chat_dpo", {})),
        "Reinforcement learning": lambda: _rl(found.get("chat_rl", {})),
        "CORE": lambda: _core(base.get("core")),
        "lm-evaluation-harness": lambda: _harness(base.get("harness", [])),
        "Bits per byte": lambda: _bits_per_byte(found),
        "Curves": lambda: _curves(pictures),
        "Tokenizer": lambda: _tokenizer(found.get("tok_train", {}), found.get("tok_eval", {})),
        "Your conversations": lambda: _own_conversations(found),
        "Time": lambda: _times(found, price),
        f"Conversations ({CHAT_EVALS.get(talker)})": lambda: _samples(found.get(talker, {})),
        "Samples of the base model": lambda: _samples(base),
        "Machine": lambda: _machines(found),
        "Configuration": lambda: _blocks(_flags(found), _resolved(configs)),
    }
    parts, unreadable = ["# Report card"], []
    for title, chapter in chapters.items():
        try:
            text = chapter()
        except UNREADABLE:
            unreadable.append(title)
        else:
            parts += [f"## {title}", text] if text and title != "Summary" else [text]
    if unreadable:
        parts += ["## Left out", f"Another version wrote a section of these: {', '.join(unreadable)}."]
    return _blocks(*parts) + "\n"


# ---------------------------------------------------------------- chapters; "" for one with nothing to show


def _summary(found: Sections, price: float | None) -> str:
    """Name, date and one sentence; size, tokens, time, cost and mean score; the scores that others publish."""
    top = " · ".join(filter(None, (facts.name(found), facts.day(facts.date(found)))))
    figures = facts.figures(found, price)
    row = table([figure.label for figure in figures], [[figure.value or figure.note or "–" for figure in figures]])
    others = _lines([", ".join(facts.other_scores(found)), facts.commits(found)])
    return _blocks(f"**{escaped(top)}**", escaped(facts.sentence(found)), row, others)


def _accuracy(found: Sections) -> str:
    """A row per task, a column per checkpoint: accuracy, its 95 % interval and n."""
    columns = {name: found[stage] for stage, name in CHAT_EVALS.items() if found.get(stage, {}).get("tasks")}
    tasks = dict.fromkeys(task for section in columns.values() for task in section["tasks"])
    rows = [[task, *(_score(section["tasks"].get(task)) for section in columns.values())] for task in tasks]
    total = [percent(section.get("chatcore")) for section in columns.values()]
    return table(["correct (95 % interval, n)", *columns], rows, ["ChatCORE", *total] if any(total) else ())


def _tasks(found: Sections) -> str:
    """A line per task: what it asks, and its first question with the model's answer, right or wrong."""
    examples = {sample.task: sample for sample in facts.samples(found)}
    asked = {task: text + _example(examples.get(task)) for task, text in facts.asks(found).items() if text}
    return "\n".join(f"- **{_cell(task)}**: {_cell(text)}" for task, text in asked.items())


def _example(sample: facts.Sample | None) -> str:
    if sample is None:
        return ""
    *asked, reply = (content(message["content"]) for message in sample.messages)
    verdict = "" if sample.right is None else " (right)" if sample.right else " (wrong)"
    return f" For example: {' / '.join(asked)} – {reply}{verdict}"


def _score(task: dict | None) -> str:
    if not task or not task["n"]:
        return ""
    correct, n = percent(float(task["correct"]) / float(task["n"])), fixed(task["n"])
    if not task.get("interval"):
        return f"{correct} ({n})"
    low, high = (100 * float(bound) for bound in task["interval"])
    return f"{correct} ({low:.0f}–{high:.0f}, {n})"


def _rl(section: dict) -> str:
    scores, before, questions = (section.get(key) or {} for key in ("scores", "before", "questions"))
    rows = [
        [name, percent(before.get(name)), percent(score), fixed(questions.get(name.partition("/")[2]))]
        for name, score in scores.items()
    ]
    return table(["held-out questions", "before", "after", "n"], rows)


def _preferences(section: dict) -> str:
    scores, before = section.get("scores") or {}, section.get("before") or {}
    rows = [
        [text, fixed(before.get(name), digits), fixed(scores[name], digits)]
        for name, (text, digits) in PREFERENCES.items() if name in scores
    ]  # fmt: skip
    return table([f"{fixed(section.get('pairs'))} held-out pairs".lstrip(), "before", "after"], rows)


def _core(core: dict | None) -> str:
    if not core:
        return ""
    digits = {"shots": 0, "n": 0, "too_long": 0, "accuracy": 4, "centered": 4}
    rows = [[task, *_numbers(numbers, digits)] for task, numbers in core["tasks"].items()]
    total = ["CORE", "", "", "", "", fixed(core.get("core"), 4)]
    notes = [f"at most {fixed(core['max_per_task'])} questions per task"] if core.get("max_per_task") else []
    notes += [f"bundle {core['bundle'][:12]}"] if core.get("bundle") else []
    head = ["task", "shots", "n", "too long, so wrong", "accuracy", "centered"]
    return _blocks(table(head, rows, total), _lines(notes))


def _harness(results: Sequence[dict]) -> str:
    digits = {"value": 4, "error": 4, "n": 0}
    rows = [[result["task"], result["metric"], *_numbers(result, digits)] for result in results]
    return table(["task", "metric", "value", "standard error", "n"], rows)


def _bits_per_byte(found: Sections) -> str:
    digits = {"train_loss": 4, "train_bpb": 4, "val_bpb": 4, "val_perplexity": 2}
    rows = [[stage, *_numbers(section, digits)] for stage, section in found.items() if digits.keys() & section.keys()]
    return table(["stage", "train loss", "train", "val", "val perplexity"], rows)


def _curves(pictures: Mapping[str, Sequence[curves.Picture]]) -> str:
    parts = []
    for stage, drawn in pictures.items():
        parts += [f"### {stage}", _images(drawn)] if stage and drawn else []
    return _blocks(*parts)


def _images(drawn: Sequence[curves.Picture]) -> str:
    return "\n".join(f"![{escaped(picture.text)}]({picture.name}.svg)" for picture in drawn)


def _tokenizer(trained: dict, evaluated: dict) -> str:
    counts = [f"vocabulary {fixed(trained['vocab_size'])}"] if trained.get("vocab_size") else []
    counts += [f"{short(float(trained[key]))} {key}" for key in ("documents", "characters", "bytes", "tokens")
              if trained.get(key)]  # fmt: skip
    texts = evaluated.get("compression") or {}
    columns = list(dict.fromkeys(name for text in texts.values() for name in text["tokens"]))
    rows = []
    for name, text in texts.items():
        tokens = [text["tokens"].get(column) for column in columns]
        rows.append([name, fixed(text["bytes"]), *("" if not n else f"{text['bytes'] / n:.2f}" for n in tokens)])
    return _blocks(", ".join(counts), table(["bytes per token", "bytes", *columns], rows))


def _own_conversations(found: Sections) -> str:
    """A row per stage: the user's own conversations, how many of them were too long, and the passes over them."""
    digits = {"conversations": 0, "tokens": 0, "max_seq_len": 0, "cut": 0, "left_out": 0, "passes": 2}
    rows = [[stage, *_numbers(section["own_conversations"], digits)] for stage, section in found.items()
            if section.get("own_conversations")]  # fmt: skip
    return table(["stage", "conversations", "tokens", "context", "cut", "left out", "passes"], rows)


def _times(found: Sections, price: float | None) -> str:
    head, rows = ["stage", "time", "steps", "tokens", "tokens/s"], []
    for stage, section in found.items():
        counts = [section.get(key) for key in ("steps", "tokens", "tokens_per_second")]
        time = duration(facts.seconds(section)) if "seconds" in section else ""
        bill = [] if price is None else [str(facts.gpus(section)), f"${facts.cost(section, price):.2f}"]
        rows.append([stage, time, *("" if count is None else short(float(count)) for count in counts), *bill])
    total = ["total", duration(sum(map(facts.seconds, found.values()))), "", "", ""]
    parts = _parts(found)
    if price is None:
        return _blocks(table(head, rows, total), parts)
    total += ["", f"${sum(facts.cost(section, price) for section in found.values()):.2f}"]
    note = f"at ${price:.2f} an hour for each GPU of the machine, or for a machine without any"
    return _blocks(table([*head, "GPUs", "cost"], rows, total), note, parts)


def _parts(found: Sections) -> str:
    """Where the time of the training stages went: a row per part of it, a column per stage."""
    spent = {stage: section["times"] for stage, section in found.items() if section.get("times")}
    wholes = {stage: sum(map(float, times.values())) for stage, times in spent.items()}

    def cell(stage: str, part: str) -> str:
        seconds = float(spent[stage].get(part) or 0)
        return f"{seconds:.1f} s ({seconds / wholes[stage]:.0%})" if seconds else ""

    parts = dict.fromkeys(part for times in spent.values() for part in times)
    rows = [[part, *(cell(stage, part) for stage in spent)] for part in parts]
    in_all = ["the whole stage", *(f"{whole:.1f} s" for whole in wholes.values())]
    return table(["where the time went", *spent], rows, in_all)


def _samples(section: dict) -> str:
    """Prompts with their completions, and conversations, as quotes."""
    quotes = []
    for sample in section.get("samples") or []:
        if "messages" in sample:
            messages = [(message["role"], ": " + content(message["content"])) for message in sample["messages"]]
        else:
            messages = [(sample["prompt"], sample["text"])]
        text = "\n\n".join((f"**{escaped(first)}**" if first else "") + escaped(rest) for first, rest in messages)
        quotes.append("\n".join(f"> {_inert(line)}".rstrip() for line in text.split("\n")))
    return "\n\n---\n\n".join(quotes)


def _inert(line: str) -> str:
    """An escaped line, changed so that it starts no list, heading, rule, table or block of code."""
    line = re.sub(r"^( *)(?=[-+=:#>])|^( *\d+)(?=[.)])", r"\g<0>\\", line)
    return re.sub(r"^[ \t]+", lambda indent: "\N{NO-BREAK SPACE}" * len(indent[0]), line)


def _machines(found: Sections) -> str:
    """The machine; when the stages ran on several, a column for each."""
    stages: dict[str, list[str]] = {}
    for stage, section in found.items():
        if section.get("machine"):
            stages.setdefault(json.dumps(section["machine"]), []).append(stage)
    machines = [json.loads(machine) for machine in stages]
    rows = [[name, *(machine.get(name, "") for machine in machines)] for name in (machines or [{}])[0]]
    return table(["machine", *map(", ".join, stages.values())] if len(machines) > 1 else ["machine", "value"], rows)


def _flags(found: Sections) -> str:
    """The flags of each stage as they are typed, in a block of code."""
    lines = []
    for stage, section in found.items():
        if "flags" in section:
            given = {name: value for name, value in section["flags"].items() if name != "resume"}
            typed = (f"--{name} {' '.join(map(str, value))}" if isinstance(value, list) else f"--{name}={value}"
                     for name, value in given.items())  # fmt: skip
            lines.append(f"    {stage:<14} {' '.join(typed) or 'defaults'}".replace("\n", " "))
    return _blocks("Flags that differ from the defaults:", printable("\n".join(lines))) if lines else ""


def _resolved(configs: Sections) -> str:
    """What the training stages resolved their settings to, a column per stage."""
    logged = {stage: config for stage, config in configs.items() if config}
    columns = {stage: {**config["user_config"], **config["model_config"]} for stage, config in logged.items()}
    rows = [[name, *(column.get(name) for column in columns.values())] for name in SETTINGS]
    return table(["resolved", *columns], [row for row in rows if any(value is not None for value in row[1:])])


# ---------------------------------------------------------------- Markdown


def table(head: Sequence[object], rows: Sequence[Sequence[object]], total: Sequence[str] = ()) -> str:
    """A table of texts and numbers, which are escaped; `total` is a last row in bold. "" without rows."""
    cells = [[_cell(cell) for cell in row] for row in (head, *rows)]
    cells += [[cell and f"**{escaped(cell)}**" for cell in total]] if total else []
    if len(cells) == 1:
        return ""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    cells.insert(1, ["-" * max(width, 3) for width in widths])
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=False)] for row in cells]
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)


def _cell(value: object) -> str:
    text = "" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)
    return escaped(text).replace("\n", " ")


def escaped(text: str) -> str:
    """A text that is shown as it is within a line, whoever wrote it. Underscores within a word need no escape."""
    return re.sub(r"[\\`*\[\]<|~]|&(?=[#\w])|(?<!\w)_|_(?!\w)", r"\\\g<0>", printable(text))


def _numbers(item: dict, digits: Mapping[str, int]) -> list[str]:
    """The numbers under the keys of `digits`, with so many decimals."""
    return [fixed(item.get(key), n) for key, n in digits.items()]


def _lines(texts: Sequence[str]) -> str:
    return "  \n".join(escaped(text) for text in texts if text)


def _blocks(*texts: str) -> str:
    return "\n\n".join(filter(None, texts))
