"""Continue texts with any model, under the names of nanoGPT's sample.py; also installed as gpt-generate."""

import contextlib
import difflib
import itertools
import json
import sys
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, ClassVar, NamedTuple

from nanochat.checkpoint.flags import ServingFlags
from nanochat.config import alias, as_field, changes, given, parse
from nanochat.errors import UserError, run
from nanochat.paths import check_name, write_atomically
from nanochat.terminal import interrupts, lines_typed, show, tolerate_odd_text

if TYPE_CHECKING:
    from nanochat.api import Model

RULE = "---------------"
FILE = "FILE:"
KEYS = ("prompt", "sample", "text", "finish")  # of a line that --output writes
SETTINGS = ("max_new_tokens", "temperature", "top_k", "top_p", "seed", "num_samples")  # to change while it runs


@dataclass
class Flags(ServingFlags):
    """Continue texts with any model. Samples go to stdout, each followed by a line of dashes; all else to stderr."""

    EXAMPLE: ClassVar = '--init_from gpt2 --start "Once upon a time" --num_samples 2'

    # --- model
    source: Annotated[str, alias("-i", "--init-from", "--model", "--checkpoint")] = "resume"
    out_dir: str = "out"
    """folder where resume looks for ckpt.pt"""

    # --- data
    start: str = "\n"
    """text to continue; FILE:path reads it from a file"""
    prompt: list[str] = field(default_factory=list)
    """texts to continue, instead of --start"""
    prompt_file: Path | None = None
    """file with one text to continue per line, instead of --start"""
    interactive: bool = False
    """read texts to continue from the terminal until the end of the input"""

    # --- generation
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
    stop: list[str] = field(default_factory=list)
    """strings that end a continuation; they are not shown"""

    # --- output
    stream: bool = False
    """show text as it is generated instead of whole samples"""
    output: Path | None = None
    """JSON-lines file to write samples to (prompt, sample, text, finish) instead of showing them"""
    check: Path | None = None
    """compare with the samples that --output wrote to this file; the first difference is shown and ends with code 1"""

    # --- machine
    compile: bool = False
    """has no effect; accepted so that nanoGPT's commands run"""

    def prompts(self) -> list[str]:
        """The texts to continue. Raises UserError for a file that cannot be read or has no text."""
        if self.prompt_file is not None:
            lines = [line for line in _read(self.prompt_file).split("\n") if line.strip()]
            if not lines:
                raise UserError(f"{self.prompt_file} has no line with a text to continue; put one text on each line")
            return lines
        if self.prompt:
            return self.prompt
        return [_read(Path(self.start.removeprefix(FILE))) if self.start.startswith(FILE) else self.start]


@dataclass
class GenerateFlags(Flags):
    """Continue texts as gpt-generate of nanoLLM_gpt does: by GPT-2, 100 tokens, one sample, one text in a file."""

    source: Annotated[str, alias("-i", "--init-from", "--model", "--checkpoint")] = "gpt2"
    start: str = "Hello, I'm a language model,"
    num_samples: int | None = 1
    """number of continuations of each text"""
    max_new_tokens: Annotated[int, alias("--max-tokens")] = 100
    prompt_file: Path | None = None
    """file with one text to continue, as a whole, instead of --start"""

    def prompts(self) -> list[str]:
        return super().prompts() if self.prompt_file is None else [_read(self.prompt_file)]


def main(argv: Sequence[str] | None = None) -> int:
    return sample(parse(Flags, argv))


def gpt_generate(argv: Sequence[str] | None = None) -> int:
    flags = parse(GenerateFlags, argv)
    if {"out_dir", "source"} & given(flags) == {"out_dir"}:
        flags.source = "resume"
    return sample(flags)


def sample(flags: Flags) -> int:
    """Load the model and generate. Returns the exit code: 1 if samples differ from those to compare with."""
    _check(flags)
    expected = None if flags.check is None else _expected(flags.check)
    if expected is not None and not given(flags) & {"start", "prompt", "prompt_file", "num_samples"}:
        prompts, flags.num_samples = [sample.prompt for sample in expected], 1  # those of the file, as they stand
    else:
        prompts = [] if flags.interactive else flags.prompts()
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
            return 0
        _warn_if_cut(model, prompts)
        if expected is not None:
            return _compare(_run(model, flags, prompts, whole=True), expected)
        if flags.output is not None:
            _write(model, flags, prompts, flags.output)
        else:
            _show(model, flags, prompts)
        return 0


def cli() -> None:
    run(gpt_generate)


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
            line = dict(zip(KEYS, sample, strict=True))
            file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    write_atomically(path, lines)
    print(f"wrote {path}: {len(prompts) * _samples(flags)} samples", file=sys.stderr)


def _expected(path: Path) -> list[Sample]:
    """The samples in a file that --output wrote. Raises UserError if it is something else."""
    samples = []
    for number, line in enumerate(_read(path).split("\n"), 1):
        if not line:
            continue
        try:
            samples.append(Sample(*(json.loads(line)[key] for key in KEYS)))
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{path}:{number} is not a sample that --output wrote; write the file anew") from None
    if not samples:
        raise UserError(f"{path} has no samples to compare with; write them with --output={path}")
    return samples


def _compare(samples: Iterable[Sample], expected: Sequence[Sample]) -> int:
    """Print the first difference and return 1; without a difference, print that and return 0."""
    count = 0
    for count, (sample, other) in enumerate(itertools.zip_longest(samples, expected), 1):
        if sample is None or other is None:
            print(f"sample {count}: " + ("missing now" if sample is None else "not in the file"))
            return 1
        for what in ("prompt", "text", "finish"):
            now, then = getattr(sample, what), getattr(other, what)
            # A text that is not UTF-8 throughout was written with replacement characters.
            if str(now).encode("utf-8", "replace").decode("utf-8") != str(then):
                pairs = zip(str(now), str(then), strict=False)
                same = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(str(now)), len(str(then))))
                print(f"sample {count} of {other.prompt!r}: its {what} differs from character {same} on")
                print(f"  expected {_around(str(then), same)}\n  found    {_around(str(now), same)}")
                return 1
    print(f"all {count} samples are the same")
    return 0


def _around(text: str, place: int) -> str:
    """A piece of a text, from a little before a place on."""
    begin = max(0, place - 20)
    return f"{'…' * (begin > 0)}{text[begin : place + 40]!r}{'…' * (len(text) > place + 40)}"


def _converse(model: "Model", flags: Flags) -> None:
    """Continue each line that is typed, with random numbers of its own."""
    print("Type the beginning of a text; help shows the settings, quit exits, Ctrl-C stops a continuation.")
    for number, text in enumerate(lines_typed("text: ")):
        try:
            if (changed := _command(text, flags)) is not None:
                flags = changed
                continue
            varied = replace(flags, seed=flags.seed + number)
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


def _command(text: str, flags: Flags) -> Flags | None:
    """The settings after the command `help` or `set NAME VALUE`; None if it is a text to continue instead.

    Raises UserError for a value that does not fit, and for a name that is nearly a setting's.
    """
    words = text.split()
    if words == ["help"]:
        print("".join(f"{name:15} {value}\n" for name, value in _settings(flags).items()), end="")
        print("change one with set NAME VALUE, as in: set temperature 0.5")
        return flags
    if len(words) != 3 or words[0] != "set":
        return None
    name, value = {"max_tokens": "max_new_tokens"}.get(words[1], words[1]), words[2]
    is_number = value.replace(".", "", 1).isdecimal()
    if name not in SETTINGS:
        near = difflib.get_close_matches(name, SETTINGS, 1)
        if near and is_number:
            raise UserError(f"there is no setting {name}; did you mean {near[0]}?")
        return None
    try:
        changed = replace(flags, **{name: as_field(type(flags), name, json.loads(value))})
    except (TypeError, ValueError):
        example = f"set {name} {_settings(flags)[name]}"
        raise UserError(f"{name} is a number, not {value}; type for example: {example}") from None
    _check(changed)
    print(f"{name} is now {_settings(changed)[name]}")
    return changed


def _settings(flags: Flags) -> dict[str, float]:
    """The settings that can be changed while it runs."""
    values: dict[str, float] = {name: getattr(flags, name) for name in SETTINGS}
    return values | {"num_samples": _samples(flags)}


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
    others = [f"--{name}" for name in ("output", "stream", "interactive") if getattr(flags, name)]
    if flags.check and others:
        raise UserError(f"--check only compares; leave out {' and '.join(others)}")
    if flags.output and flags.output.is_dir():
        raise UserError(f"--output {flags.output} is a folder; expected a file")


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
    run(main)
