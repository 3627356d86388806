r"""Look inside a model: what its heads, layers and neurons do, as pictures, JSON and one page.

python -m scripts.look --source gpt2 --text "When Mary and John went to the store, John gave a drink to"
python -m scripts.look --source sft:d3 --file stories.txt --labelled moods.csv
python -m scripts.look --source gpt2 --text "Anna went to the shop and" --other "Tom went to the shop and" \
    --answer " she" --wrong " he"
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from nanochat.checkpoint.flags import ServingFlags
from nanochat.config import alias, parse
from nanochat.errors import UserError, run
from nanochat.paths import base_dir

if TYPE_CHECKING:  # imported after the flags were parsed
    from extras.look.chapter import Chapter
    from nanochat.api import Model

Question = Literal["heads", "lens", "neurons", "similarity", "probes", "patching", "attribution"]
NEEDS = {"lens": ["text"], "neurons": ["file"], "similarity": ["file"], "probes": ["labelled"],
         "patching": ["text", "other"], "attribution": ["text"]}  # fmt: skip


@dataclass
class Flags(ServingFlags):
    """Look inside a model. Each question is answered for which the flags give what it needs."""

    EXAMPLE: ClassVar = '--source gpt2 --text "When Mary and John went to the store"'

    what: list[Question] = field(default_factory=list)
    """answer these: heads, lens (--text), attribution (--text), patching (--text, --other), neurons and similarity
    (--file), probes (--labelled); default: all that can be"""

    # --- machine
    dtype: Annotated[str, alias("-d")] = "float32"
    """compute dtype: float32, which adds up exactly, or auto, bfloat16, float16, int8"""
    seed: int = 0
    """seed the random sequences, and which labelled texts are held out"""

    # --- data
    text: str | None = None
    """show attention, logit lens, attribution and patching for this text"""
    other: str | None = None
    """patch this text, which differs from --text in a word and has as many tokens"""
    answer: str | None = None
    """take this for the right next token after --text; default: what the model predicts"""
    wrong: str | None = None
    """compare with this next token; default for patching: what the model predicts after --other"""
    file: Path | None = None
    """read texts from this text, JSONL or parquet file"""
    labelled: Path | None = None
    """read texts and labels from this CSV file with columns text and label, or JSONL file with these keys"""
    tokens: int = 5000
    """read at most so many tokens of --file"""

    # --- evaluation
    pool: Literal["last", "mean"] = "last"
    """probe the vector of each text's last token, or the mean of all"""
    neurons: int = 3
    """show so many neurons of each layer"""
    examples: int = 5
    """show so many places for each neuron"""
    rows: int = 8
    """score heads on so many random sequences"""

    # --- output
    out: Path | None = None
    """write the report to this folder; default: look/NAME in the base folder"""



def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    questions = chosen(flags)
    import nanochat
    from extras.look import report

    if "probes" in questions:
        assert flags.labelled is not None
        from extras.look.texts import labelled

        labelled(flags.labelled)  # a mistake in it is reported before a model is loaded
    model = nanochat.open(flags.source, flags.device_type, flags.dtype, 1, flags.model_tag, flags.step)
    print(model.serving, flush=True)
    chapters = {}
    for question in questions:
        print(question, flush=True)
        chapters[question] = ANSWERS[question](flags, model)
    folder = flags.out or base_dir() / "look" / model.name.replace("/", "-").replace(":", "-").strip(".-")
    print(f"the report is {report.write(model, chapters, folder)}, and look.json beside it")


def chosen(flags: Flags) -> list[str]:
    """The questions to answer. Raises UserError where one was asked for and lacks a flag."""
    for name, least in {"tokens": 2, "neurons": 1, "examples": 1, "rows": 1}.items():
        if getattr(flags, name) < least:
            raise UserError(f"--{name} is {getattr(flags, name)}; expected {least} or more")
    for question in flags.what:
        for need in NEEDS.get(question, []):
            if getattr(flags, need) is None:
                raise UserError(f"--what {question} needs --{need}; --help says what it is")
    every: list[str] = ["heads", *NEEDS]
    return [each for each in every if each in (flags.what or every)
            and all(getattr(flags, need) is not None for need in NEEDS.get(each, []))]  # fmt: skip


def _heads(flags: Flags, model: "Model") -> "Chapter":
    from extras.look import heads

    return heads.chapter(model, flags.text, flags.rows, flags.seed)


def _lens(flags: Flags, model: "Model") -> "Chapter":
    from extras.look import lens

    assert flags.text is not None
    return lens.chapter(model, flags.text)


def _neurons(flags: Flags, model: "Model") -> "Chapter":
    from extras.look import neurons, texts

    assert flags.file is not None
    return neurons.chapter(model, texts.read(model, flags.file, flags.tokens), flags.neurons, flags.examples)


def _similarity(flags: Flags, model: "Model") -> "Chapter":
    from extras.look import similarity, texts

    assert flags.file is not None
    return similarity.chapter(model, texts.read(model, flags.file, flags.tokens))


def _probes(flags: Flags, model: "Model") -> "Chapter":
    from extras.look import probes, texts

    assert flags.labelled is not None
    return probes.chapter(model, texts.labelled(flags.labelled), flags.pool, flags.seed)


def _patching(flags: Flags, model: "Model") -> "Chapter":
    from extras.look import patching

    assert flags.text is not None and flags.other is not None
    answer, wrong = _next(model, flags.text, flags.answer), _next(model, flags.other, flags.wrong)
    if answer == wrong:
        shown = model.tokenizer.decode([answer])
        raise UserError(f"both texts are continued by {shown!r}; give two different tokens as --answer and --wrong")
    return patching.chapter(model, flags.text, flags.other, answer, wrong)


def _attribution(flags: Flags, model: "Model") -> "Chapter":
    from extras.look import attribution

    assert flags.text is not None
    wrong = None if flags.wrong is None else _token(model, flags.wrong)
    return attribution.chapter(model, flags.text, _next(model, flags.text, flags.answer), wrong)


def _next(model: "Model", text: str, given: str | None) -> int:
    """The token that is given, or the most likely one after a text."""
    return _token(model, given) if given is not None else int(model.logits(text)[-1].argmax())


def _token(model: "Model", text: str) -> int:
    ids = model.tokenizer.encode(text)
    if len(ids) != 1:
        raise UserError(f"{text!r} is {len(ids)} tokens of this model; expected one, often a space and a short word")
    return ids[0]


ANSWERS: dict[str, Callable[[Flags, "Model"], "Chapter"]] = {
    "heads": _heads, "lens": _lens, "neurons": _neurons, "similarity": _similarity, "probes": _probes,
    "patching": _patching, "attribution": _attribution,
}  # fmt: skip


if __name__ == "__main__":
    run(main)
