"""Continue texts with any model, under the names of nanoGPT's sample.py; also installed as gpt-generate."""

import contextlib
import json
import sys
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, NamedTuple

from nanochat.checkpoint.flags import ServingFlags
from nanochat.config import alias, changes, parse
from nanochat.errors import UserError, run
from nanochat.paths import check_name, write_atomically
from nanochat.terminal import interrupts, lines_typed, show, tolerate_odd_text

if TYPE_CHECKING:
    from nanochat.api import Model

RULE = "---------------"
FILE = "FILE:"


@dataclass
class Flags(ServingFlags):
    """Continue texts with any model. Samples go to stdout, each followed by a line of dashes; all else to stderr."""

    source: Annotated[str, alias("-i", "--init-from", "--model", "--checkpoint")] = "resume"
    out_dir: str = "out"
    """folder where resume looks for ckpt.pt"""
    start: str = "\n"
    """text to continue; FILE:path reads it from a file"""
    num_samples: int | None = None
    """number of continuations of each text; default: 10 of --start, else 1"""
    max_new_tokens: Annotated[int, alias("--max-tokens")] = 500
    """maximum tokens of a continuation; beyond its context the model sees the last tokens that fit"""
    temperature: Annotated[float, alias("-t")] = 0.8
    """sampling temperature; 0 takes the most likely token"""
    top_k: Annotated[int, alias("-k")] = 200
    """sample from the k most likely tokens; 0: from all"""
    top_p: float = 1.0
    """sample from the fewest tokens whose probabilities sum to p"""
    seed: int = 1337
    """random seed: the same seed gives the same samples"""
    prompt: list[str] = field(default_factory=list)
    """texts to continue, instead of --start"""
    prompt_file: Path | None = None
    """file with one text to continue per line, instead of --start"""
    interactive: bool = False
    """read texts to continue from the terminal until the end of the input"""
    stop: list[str] = field(default_factory=list)
    """strings that end a continuation; they are not shown"""
    stream: bool = False
    """show text as it is generated instead of whole samples"""
    output: Path | None = None
    """JSON-lines file to write samples to (prompt, sample, text, finish) instead of showing them"""
    compile: bool = False
    """has no effect; accepted so that nanoGPT's commands run"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    _check(flags)
    prompts = [] if flags.interactive else _prompts(flags)
    from nanochat import runtime
    from nanochat.api import Model
    from nanochat.engine.serving import serve_model

    tolerate_odd_text()
    with runtime.start(flags.device_type) as rt:
        with contextlib.redirect_stdout(sys.stderr):
            single = len(prompts) * _samples(flags) == 1
            loaded = serve_model(flags.find(flags.out_dir), rt.device, flags.dtype, int(single))
            print(f"{loaded}; seed {flags.seed}", flush=True)
            if flags.compile:
                print("--compile has no effect on generation", flush=True)
        model = Model(flags.source, loaded)
        if flags.interactive:
            _converse(model, flags)
            return
        _warn_if_cut(model, prompts)
        if flags.output is not None:
            _write(model, flags, prompts, flags.output)
        else:
            _show(model, flags, prompts)


def cli() -> None:
    run(main)


class Sample(NamedTuple):
    """A sample, or a piece of one; finish is set with its end."""

    prompt: str
    number: int
    """which sample of its prompt"""
    text: str
    finish: str | None


def _run(model: "Model", flags: Flags, prompts: Sequence[str], whole: bool) -> Generator[Sample, None, None]:
    """All samples of all prompts in order, though they run together: whole, or in pieces as they are generated."""
    many = _samples(flags)
    texts = [prompt for prompt in prompts for _ in range(many)]
    unsent = [""] * len(texts)
    finishes: list[str | None] = [None] * len(texts)
    current = 0
    parts = model.parts(
        texts, flags.max_new_tokens, flags.temperature, flags.top_k, flags.top_p, flags.seed, flags.stop
    )
    with contextlib.closing(parts):
        for part in parts:
            unsent[part.index] += part.text
            finishes[part.index] = part.finish
            while current < len(texts) and (finishes[current] or (not whole and unsent[current])):
                yield Sample(texts[current], current % many, unsent[current], finishes[current])
                unsent[current] = ""
                if finishes[current] is None:
                    break
                current += 1


def _show(model: "Model", flags: Flags, prompts: Sequence[str]) -> None:
    begins = True
    for sample in _run(model, flags, prompts, whole=not flags.stream):
        show(sample.prompt * begins + sample.text)
        begins = sample.finish is not None
        if begins:
            print(f"\n{RULE}", flush=True)


def _write(model: "Model", flags: Flags, prompts: Sequence[str], path: Path) -> None:
    def lines(file: BinaryIO) -> None:
        for sample in _run(model, flags, prompts, whole=True):
            line = {"prompt": sample.prompt, "sample": sample.number, "text": sample.text, "finish": sample.finish}
            file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    write_atomically(path, lines)
    print(f"wrote {path}: {len(prompts) * _samples(flags)} samples", file=sys.stderr)


def _converse(model: "Model", flags: Flags) -> None:
    """Continue each line that is typed, with random numbers of its own."""
    print("Type the beginning of a text; quit exits, Ctrl-C stops a continuation.")
    for number, text in enumerate(lines_typed("text: ")):
        varied = replace(flags, seed=flags.seed + number)
        try:
            _warn_if_cut(model, [text])
            with interrupts() as stopped, contextlib.closing(_run(model, varied, [text], whole=False)) as pieces:
                for piece in pieces:
                    show(piece.text)
                    if piece.finish is not None and _samples(flags) > 1:
                        print(f"\n{RULE}")
                    if stopped():
                        break
            print()
        except UserError as error:
            print(f"[{error}]")


def _samples(flags: Flags) -> int:
    if flags.num_samples is not None:
        return flags.num_samples
    return 1 if flags.prompt or flags.prompt_file or flags.interactive else 10


def _check(flags: Flags) -> None:
    """Report mistakes that can be seen before anything is loaded."""
    from nanochat.engine.request import Request

    check_name("out_dir", flags.out_dir)
    Request([0], flags.max_new_tokens, flags.temperature, flags.top_k, flags.top_p)
    for name in ("num_samples", "max_new_tokens"):
        if (value := getattr(flags, name)) is not None and value < 1:
            raise UserError(f"--{name} is {value}; expected 1 or more")
    texts = [f"--{name}" for name in ("start", "prompt", "prompt_file", "interactive") if name in changes(flags)]
    if len(texts) > 1:
        raise UserError(f"{' and '.join(texts)} exclude each other; give one of them")
    if flags.output and (flags.stream or flags.interactive):
        other = "--stream" if flags.stream else "--interactive"
        raise UserError(f"{other} shows text, but --output writes it to {flags.output}; give one of them")
    if flags.output and flags.output.is_dir():
        raise UserError(f"--output {flags.output} is a folder; expected a file")


def _prompts(flags: Flags) -> list[str]:
    """The texts to continue. Raises UserError for a file that cannot be read or has no text."""
    if flags.prompt_file is not None:
        lines = [line for line in _read(flags.prompt_file).split("\n") if line.strip()]
        if not lines:
            raise UserError(f"{flags.prompt_file} has no line with a text to continue; put one text on each line")
        return lines
    if flags.prompt:
        return flags.prompt
    return [_read(Path(flags.start.removeprefix(FILE))) if flags.start.startswith(FILE) else flags.start]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}") from None


def _warn_if_cut(model: "Model", prompts: Iterable[str]) -> None:
    from nanochat import chat

    context = model.engine.max_len
    longest = max(len(chat.text_prompt(model.tokenizer, prompt)) for prompt in prompts)
    if longest > context:
        print(f"a text has {longest} tokens; the model sees the last {context} of them", file=sys.stderr)


if __name__ == "__main__":
    cli()
