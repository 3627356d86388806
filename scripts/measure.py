"""Compare models: how well they predict texts, how fast they are, and how they answer prompts.

python -m scripts.measure perplexity -i gpt2 -i base:d3 --text book.txt --text news.jsonl
python -m scripts.measure speed -i gpt2 -i gpt2-medium --batch_sizes 1 8
python -m scripts.measure prompts -i base:d3 -i sft:d3 --study study.yaml

Each prints a table and writes report.html, report.md, results.json and the pictures to a folder.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

from nanochat.checkpoint.flags import check_dtype
from nanochat.config import alias, parse, positional
from nanochat.errors import UserError, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from extras.measure.losses import Interval, Measured
    from extras.measure.study import Asked
    from nanochat.engine.serving import Serving
    from nanochat.report.curves import Picture
    from nanochat.runtime import Runtime

What = Literal["perplexity", "speed", "prompts"]


@dataclass
class Flags:
    """Compare models by perplexity, speed or answers to prompts: a table, a picture per comparison, and JSON."""

    EXAMPLE: ClassVar = "speed --source sft:d3 --source gpt2"

    what: Annotated[What | None, positional] = None
    """perplexity, speed or prompts"""

    # --- model
    source: Annotated[list[str], alias("-i", "--init-from")] = field(default_factory=lambda: ["base"])
    """base, mid, sft or rl, or sft:d3, gpt2 ... gpt2-xl, a folder, a ckpt.pt, user/name; repeat for several"""

    # --- data
    text: list[Path] = field(default_factory=list)
    """perplexity: text file or folder (.txt, .jsonl, .json, .parquet); repeat for several"""
    column: str = "text"
    """perplexity: field or column that holds the text in .jsonl, .json and .parquet files"""
    study: Path | None = None
    """prompts: YAML file with questions, templates and numbers of examples"""

    # --- evaluation
    eval_tokens: int = 1_000_000
    """perplexity: tokens of each text to read"""
    stride: int = 0
    """perplexity: tokens between two windows of a long text; fewer show each token more context; 0: half a context"""
    batch_sizes: list[int] = field(default_factory=lambda: [1, 4, 16])
    """speed: numbers of concurrent requests"""
    prompt_tokens: int = 32
    """speed: length of every prompt in tokens"""
    tokens: int = 64
    """speed: length of every answer in tokens"""
    repeats: int = 3
    """speed: measurements per batch size; the median is reported"""
    train_rows: int = 4
    """speed: rows of a training step, of the model's whole context; 0 leaves training out"""
    train_steps: int = 5
    """speed: measured training steps; the median is reported"""

    # --- output
    out: Path | None = None
    """write the report to this folder; default: measure/WHAT in the base folder"""
    price_per_hour: float | None = None
    """speed: price of this machine, for the cost of a million tokens; default: a typical one of its GPU"""

    # --- machine
    device_type: Annotated[str, alias("--device")] = ""
    """cuda, cuda:1, mps or cpu; default: the best available"""
    dtype: Annotated[str, alias("-d")] = "auto"
    """dtype to answer in: auto, float32, bfloat16, float16 or int8; perplexity and prompts take no int8"""
    compile: bool = True
    """speed: train with torch.compile, as the stages do"""



class Found(NamedTuple):
    """What a comparison found: a table (its head first), pictures, what to explain, and the figures for programs."""

    title: str
    table: list[list[str]]
    left: int
    """columns of the table that hold text"""
    pictures: "list[Picture]"
    notes: str
    results: list[dict]


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    _check(flags)
    from nanochat import paths, runtime
    from nanochat.log import strict_json
    from nanochat.report import card, page
    from nanochat.report.sections import machine
    from nanochat.terminal import columns

    measure = {"perplexity": _perplexity, "speed": _speed, "prompts": _prompts}[flags.what or ""]
    with runtime.start(flags.device_type, seed=0) as rt:
        found = measure(flags, rt)
    folder = flags.out or paths.base_dir() / "measure" / str(flags.what)
    head, *rows = found.table
    shown = "\n".join(f"![{card.escaped(each.text)}]({each.name}.svg)" for each in found.pictures)
    where = ", ".join(str(value) for value in machine().values() if value)
    parts = [f"# {card.escaped(found.title)}", card.table(head, rows), shown, card.escaped(found.notes),
             card.escaped(f"Measured on {where}.")]  # fmt: skip
    page.write(folder, "\n\n".join(filter(None, parts)) + "\n", found.pictures, found.title)
    paths.write_text(folder / "results.json", strict_json(found.results, indent=2) + "\n")
    print(f"\n{columns(found.table, found.left)}\n\nthe report is {folder / 'report.html'}")


def _check(flags: Flags) -> None:
    """Report mistakes that can be seen before anything is loaded."""
    if flags.what is None:
        raise UserError("name what to measure: perplexity, speed or prompts, as in python -m scripts.measure speed")
    if flags.what == "perplexity" and not flags.text:
        raise UserError("perplexity needs texts; name one with --text FILE, repeat it for several")
    if flags.what == "prompts" and flags.study is None:
        raise UserError("prompts needs a study; name its file with --study, as docs/guides/measuring.md shows")
    least = {"stride": 0, "eval_tokens": 1, "prompt_tokens": 1, "tokens": 2, "repeats": 1, "train_rows": 0,
             "train_steps": 1}  # fmt: skip
    for name, smallest in least.items():
        if getattr(flags, name) < smallest:
            raise UserError(f"--{name} is {getattr(flags, name)}; expected {smallest} or more")
    if not flags.batch_sizes or min(flags.batch_sizes) < 1:
        raise UserError("--batch_sizes needs one or more positive numbers")
    if flags.price_per_hour is not None and not 0 <= flags.price_per_hour < math.inf:
        raise UserError(f"--price_per_hour is {flags.price_per_hour}; expected 0 or more")
    if check_dtype(flags.dtype) == "int8" and flags.what != "speed":
        raise UserError(f"{flags.what} is measured without rounding; pass another --dtype than int8, or none")


def _served(flags: Flags, rt: "Runtime", slots: int, dtype: str) -> "Iterator[tuple[str, Serving]]":
    """The models one after the other, each with its name."""
    from nanochat.checkpoint import door
    from nanochat.engine.serving import serve_model

    chosen = [door.find(name) for name in flags.source]  # all must be there before the first is measured
    for name, found in zip(flags.source, chosen, strict=True):
        yield name, serve_model(found, rt.device, dtype, slots)


# ---------------------------------------------------------------- perplexity


def _perplexity(flags: Flags, rt: "Runtime") -> Found:
    from extras.measure.losses import measured
    from nanochat.eval.bpb import file_losses
    from nanochat.report import curves

    rows: list[Measured] = []
    for name, served in _served(flags, rt, 16, _exact(flags, rt)):
        rt.print(f"{name}: {served}")
        for path in flags.text:
            losses = file_losses(served.engine, served.tokenizer, path, flags.column, flags.eval_tokens, flags.stride)
            rows.append(measured(name, path.name, losses))
            rt.print(f"  {path.name}: {rows[-1].loss.bits_per_byte:.4f} bits per byte")
    rows.sort(key=lambda row: [path.name for path in flags.text].index(row.text))
    table = [["text", "model", "tokens", "pieces", "bits per byte", "95 %", "perplexity", "95 %"]]
    for row in rows:
        loss = row.loss
        table.append([row.text, row.model, str(loss.tokens), str(row.pieces), f"{loss.bits_per_byte:.4f}",
                      _range(row.bits, 4), f"{loss.perplexity:.2f}", _range(row.perplexity, 2)])  # fmt: skip
    pictures = []
    for n, text in enumerate(dict.fromkeys(row.text for row in rows)):
        dots = {row.model: _dot(row) for row in rows if row.text == text}
        words, svg = curves.intervals_in_words(text, dots), curves.draw_intervals(text, dots, "bits per byte", False)
        pictures.append(curves.Picture(f"text{n}", words, svg))
    notes = (
        "Bits per byte compare models with any tokenizers, perplexities only those with the same one. Intervals "
        "resample the pieces of a text, which are documents, or windows of a long document. Windows of one document "
        "resemble each other, so a text of few documents varies more than its interval shows."
    )
    return Found("Perplexity", table, 2, pictures, notes, [row.as_json() for row in rows])


def _exact(flags: Flags, rt: "Runtime") -> str:
    """The dtype to compute losses in: the one that is asked for, or the device's, whose weights are not rounded."""
    from nanochat import runtime

    return str(runtime.compute_dtype(flags.dtype, rt.device)).removeprefix("torch.")


def _dot(row: "Measured") -> tuple[float, float, float]:
    value = row.loss.bits_per_byte
    low, high = row.bits
    return (value, value, value) if math.isnan(low) else (value, low, high)


def _range(interval: "Interval", digits: int) -> str:
    low, high = interval
    return "?" if math.isnan(low) else f"{low:.{digits}f} – {high:.{digits}f}"


# ---------------------------------------------------------------- speed


def _speed(flags: Flags, rt: "Runtime") -> Found:
    from extras.measure.training import peak_memory, tokens_per_second
    from nanochat.engine.engine import Engine
    from nanochat.log import short
    from nanochat.report import curves
    from scripts import infer_bench

    asked = infer_bench.Flags(prompt_tokens=flags.prompt_tokens, tokens=flags.tokens, repeats=flags.repeats)
    price, results, lines = _price(flags, rt), [], {}
    for name, served in _served(flags, rt, 1, flags.dtype):
        rt.print(f"{name}: {served}")
        model, config = served.engine.model, served.engine.model.config
        if flags.prompt_tokens + flags.tokens > config.sequence_len:
            raise UserError(
                f"--prompt_tokens {flags.prompt_tokens} and --tokens {flags.tokens} exceed the context of {name}, "
                f"{config.sequence_len} tokens"
            )
        row: dict = {"model": name, "parameters": served.parameters, "dtype": served.dtype_name, "generation": []}
        for size in flags.batch_sizes:
            with peak_memory(rt.device) as peak:
                engine = Engine(model, slots=size)
                first, speed = infer_bench.measure(
                    asked, size, lambda prompts, engine=engine: infer_bench.generate(engine, prompts, flags.tokens),
                    config.vocab_size,
                )  # fmt: skip
            row["generation"].append({
                "batch": size, "first_token_ms": first * 1e3, "tok_per_second": speed, "memory": peak(),
                "dollars_per_million": _dollars(price, speed),
            })  # fmt: skip
            rt.print(f"  {size} at once: {speed:.1f} tokens/s")
        del served, model, engine  # their memory is not training's
        if flags.train_rows:
            with peak_memory(rt.device) as peak:
                speed = tokens_per_second(config, flags.train_rows, flags.train_steps, flags.compile, rt)
            row["training"] = {"tok_per_second": speed, "memory": peak(), "dollars_per_million": _dollars(price, speed)}
            rt.print(f"  training: {speed:.0f} tokens/s")
        results.append(row)
        lines[name] = [(each["batch"], each["tok_per_second"]) for each in row["generation"]]
    title = "tokens per second by requests at once"
    words, svg = curves.in_words(title, lines, "requests"), curves.draw(title, lines, from_zero=True, x_name="requests")
    notes = (
        f"Answers of {flags.tokens} tokens to prompts of {flags.prompt_tokens}, medians of {flags.repeats}; training "
        f"with {flags.train_rows} rows of the whole context. Memory is the peak of the whole process, or of the GPU."
    )
    return Found("Speed", _speed_table(results, short), 2, [curves.Picture("speed", words, svg)], notes, results)


def _speed_table(results: list[dict], short) -> list[list[str]]:
    table = [["model", "doing", "parameters", "first token", "tokens/s", "memory", "$ per 1M tokens"]]
    for row in results:
        done = [(f"{each['batch']} at once, {row['dtype']}", each) for each in row["generation"]]
        done += [("training", row["training"])] if "training" in row else []
        for what, each in done:
            first, memory, dollars = each.get("first_token_ms"), each["memory"], each["dollars_per_million"]
            table.append([
                row["model"], what, short(row["parameters"]), "" if first is None else f"{first:.1f} ms",
                f"{each['tok_per_second']:.1f}", "?" if memory is None else f"{memory / 2**20:.0f} MiB",
                "?" if dollars is None else f"{dollars:.3g}",
            ])  # fmt: skip
    return table


def _price(flags: Flags, rt: "Runtime") -> float | None:
    """Dollars per hour of this machine, if they are known."""
    import torch

    from nanochat.plan import gpus

    if flags.price_per_hour is not None or rt.device.type != "cuda":
        return flags.price_per_hour
    name = gpus.known(torch.cuda.get_device_name(rt.device))
    return gpus.GPUS[name].price if name else None


def _dollars(price: float | None, speed: float) -> float | None:
    return None if price is None else price / 3600 / speed * 1e6


# ---------------------------------------------------------------- prompts


def _prompts(flags: Flags, rt: "Runtime") -> Found:
    from extras.measure import study as studies
    from nanochat.report import curves

    assert flags.study is not None
    study, questions, examples = studies.load(flags.study)
    results: list[Asked] = []
    for name, served in _served(flags, rt, 16, _exact(flags, rt)):
        rt.print(f"{name}: {served}")
        if study.chat:
            served.check_chat()
        found = studies.ask(study, questions, examples, name, served.engine, served.tokenizer)
        for each in found:
            rt.print(f"  {each.template}, {each.shots} examples: {each.accuracy:.1%}")
        results += found
    table = [["template", "examples", "model", "questions", "correct", "95 %"]]
    for each in sorted(results, key=lambda each: (list(study.templates).index(each.template), each.shots)):
        low, high = each.interval
        table.append([each.template, str(each.shots), each.model, str(each.n), f"{each.accuracy:.1%}",
                      f"{low:.1%} – {high:.1%}"])  # fmt: skip
    dots = {f"{each.model}, {each.template}, {each.shots}": (each.accuracy, *each.interval) for each in results}
    title = study.title or flags.study.stem
    words, svg = curves.intervals_in_words(title, dots), curves.draw_intervals(title, dots, "correct", False)
    notes = (
        "A prompt is the template of a question behind so many others with their answers. "
        + ("The answer is the most likely of the choices." if study.choices else "The answer is what the model writes.")
        + f" Means over {len(study.seeds or [1])} draws of the examples; intervals are Wilson's, over the questions."
    )
    return Found(title, table, 3, [curves.Picture("prompts", words, svg)], notes, [asdict(each) for each in results])


if __name__ == "__main__":
    run(main)
