"""Check that models load and work: their logits are finite, they know some English, they write."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from nanochat import hub
from nanochat.config import alias, parse, positional
from nanochat.errors import UserError, run

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from nanochat.tokenizer import Tokenizer

# Plain prose that no model has been trained on, because it was written for this file.
TEXT = """The ferry leaves the harbour at seven in the morning, and by eight the old town is only a thin grey line
behind us. Most of the passengers go below to drink coffee, but a few stay on deck and look for seals. An hour later
the wind turns, the sea becomes rough, and the captain tells everybody to sit down. My grandmother is not afraid. She
has made this journey every summer since she was a child, and she says that the weather was much worse when the boats
were smaller. When we finally arrive, her brother is waiting on the pier with his dog, as he does every year, and the
first thing he asks is whether we are hungry."""
LONGEST = 100_000  # characters of another text that are read
GPT2_BOUND = 80.0  # perplexity on TEXT; the smallest of the four has about half of it
BETTER = 0.5  # of the vocabulary size: random weights guess evenly, or are sure of the wrong tokens


@dataclass
class Flags:
    """Load models, measure them on a short text, English by default, and let each write a few words."""

    EXAMPLE: ClassVar = "gpt2 sft:d3"

    names: Annotated[list[str], positional] = field(default_factory=list)
    """models: sft, sft:d3, sft:d3:700, gpt2 ... gpt2-xl, a folder, a ckpt.pt, user/name or resume"""
    model: Annotated[list[str], alias("-i", "--source", "--init-from")] = field(default_factory=list)
    """models, as a flag; repeat for several"""
    model_tag: Annotated[str | None, alias("-g", "--tag")] = None
    """tag of the model; default: the deepest d<number>"""
    step: Annotated[int | None, alias("-s")] = None
    """step of the model; default: the last"""
    all: bool = False
    """check all four GPT-2s"""
    text: Path | None = None
    """text file to measure them on (its first 100,000 characters); default: a built-in English text"""
    device: Annotated[str, alias("--device-type")] = ""
    """cuda, mps or cpu; default: the best available"""
    dtype: Annotated[str, alias("-d")] = "float32"
    """compute dtype: auto, float32, bfloat16, float16 or int8"""


@dataclass(frozen=True)
class Verdict:
    """The result for a model. wrong is "" if all is well, else one clause that says what is not."""

    name: str
    parameters: int
    perplexity: float
    written: str
    wrong: str


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    from rich.console import Console

    from nanochat import runtime

    text = TEXT if flags.text is None else read(flags.text)
    names = [*flags.names, *flags.model, *(hub.GPT2 if flags.all else [])] or ["gpt2"]
    with runtime.start(flags.device) as rt:
        verdicts = [verify(name, rt.device, flags.dtype, text, flags.model_tag, flags.step) for name in names]
    Console().print(table(verdicts))
    for name in dict.fromkeys(name for name in names if name in hub.GPT2):
        print(f"transformers finds {name} as {' and as '.join(map(repr, hub.names_here(name)))}")
    wrong = [verdict for verdict in verdicts if verdict.wrong]
    if wrong:
        faults = "; ".join(f"{verdict.name} {verdict.wrong}" for verdict in wrong)
        raise UserError(f"{faults}; download or train them again, or pass a --text like their training data")


def read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")[:LONGEST]
    except (OSError, ValueError) as error:
        raise UserError(f"--text {path} cannot be read as UTF-8: {error}") from None


def verify(
    name: str, device: "torch.device", dtype: str, text: str = TEXT, tag: str | None = None, step: int | None = None
) -> Verdict:
    """Load a model by any of the names that `door.find` knows, and try it on a text. Raises what that raises."""
    import torch

    from nanochat.checkpoint import door
    from nanochat.engine import serving
    from nanochat.engine.request import Request
    from nanochat.eval.bpb import token_loss
    from nanochat.terminal import printable

    loaded = serving.serve_model(door.find(name, tag, step), device, dtype, slots=1)
    whole = text_ids(loaded.tokenizer, text)
    ids = whole[: loaded.engine.model.config.sequence_len]
    if not torch.isfinite(loaded.engine.next_logits([ids])).all():
        return Verdict(name, loaded.parameters, math.nan, "", "gives logits that are not finite")
    perplexity = token_loss(loaded.engine, loaded.tokenizer, whole).perplexity
    where = f"has a perplexity of {perplexity:.4g} on {'plain English' if text is TEXT else 'the text'}, where"
    guess = loaded.tokenizer.vocab_size
    if name in hub.GPT2 and text is TEXT:
        bound, wrong = GPT2_BOUND, f"{where} it should be below {GPT2_BOUND:g}: these are not its weights"
    else:
        bound = BETTER * guess
        wrong = f"{where} guessing has {guess} and a model that was trained on such texts less than {bound:g}"
    (reply,) = loaded.engine.generate([Request(ids[: len(ids) // 2], max_tokens=12, temperature=0)])
    written = printable(loaded.tokenizer.decode(reply.tokens, cut_off=True)).replace("\n", " ").strip()
    return Verdict(name, loaded.parameters, perplexity, written, "" if perplexity < bound else wrong)


def text_ids(tokenizer: "Tokenizer", text: str = TEXT) -> list[int]:
    """A text as a document, on one line; a tokenizer of characters gets those that it knows."""
    from nanochat import chat

    text = " ".join(text.split())
    if tokenizer.pattern is None:
        known = {token.decode("utf-8") for token in tokenizer.tokens}
        text = "".join(character for character in text if character in known)
        if len(text) < 2:
            raise UserError("the model knows no character of the text; pass a --text like its training data")
        return tokenizer.encode(text)
    return [*([] if chat.opening(tokenizer) else [tokenizer.bos]), *chat.text_prompt(tokenizer, text)]


def table(verdicts: Sequence[Verdict]) -> "Table":
    from rich.table import Table

    from nanochat.log import short

    result = Table("model", "parameters", "perplexity", "continues with", "")
    for verdict in verdicts:
        name = Path(verdict.name).name if Path(verdict.name).exists() else verdict.name
        figures = short(verdict.parameters), f"{verdict.perplexity:.4g}"
        result.add_row(name, *figures, repr(verdict.written), "wrong" if verdict.wrong else "good")
    return result


if __name__ == "__main__":
    run(main)
