"""Measure how well the tokenizer compresses text, beside GPT-2's and GPT-4's."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from nanochat import paths
from nanochat.config import changes, parse
from nanochat.errors import UserError, run

if TYPE_CHECKING:
    from rich.table import Table

OURS = "ours"
RIVALS = {"GPT-2": "gpt2", "GPT-4": "cl100k_base"}

SAMPLES = {
    "news": """The ferry company said on Tuesday that it would resume service between the two islands by the end of \
the month, after engineers replaced a cracked propeller shaft. Nearly 4,000 commuters have relied on buses and a \
temporary footbridge since the storm of 12 March, which left parts of the harbour under a metre of water. "We were \
promised two weeks, and it has been seven," said Maria Kowalski, who runs a bakery near the pier. The regional \
council, which approved $2.3 million for repairs, will meet again on Thursday to discuss whether to raise fares.""",
    "code": '''class Queue:
    """First in, first out, with room for `size` items."""

    def __init__(self, size: int = 16) -> None:
        self.items: list[object] = [None] * size
        self.head = self.count = 0

    def push(self, item: object) -> bool:
        if self.count == len(self.items):
            return False
        self.items[(self.head + self.count) % len(self.items)] = item
        self.count += 1
        return True

for (int i = 0; i < n && !done; ++i) { total += values[i] * 0.5f; }
''',
    "maths": r"""Let $f(x) = x^3 - 6x^2 + 11x - 6$. Since $f(1) = f(2) = f(3) = 0$, we have
$$f(x) = (x-1)(x-2)(x-3),
\qquad \int_1^3 f(x)\,dx = \left[\tfrac{x^4}{4} - 2x^3 + \tfrac{11x^2}{2} - 6x\right]_1^3 = 0.$$
Check: 12.75 + 48 * 7 = 348.75, and 1024 / 32 = 32.""",
    "science": """A leaf looks green because chlorophyll absorbs mostly red and blue light. Inside its chloroplasts \
the energy of that light splits water: electrons pass along a chain of proteins in the thylakoid membrane, protons \
gather on one side, and the enzyme ATP synthase turns as they flow back. The Calvin cycle then spends ATP and NADPH \
to bind carbon dioxide (CO2) into sugars with three carbon atoms.""",
    "German": """Am Morgen lag dichter Nebel über dem Fluss, und die Fähre fuhr mit zwanzig Minuten Verspätung. Der \
Bäcker öffnete trotzdem pünktlich um sechs Uhr; für die Schüler gab es heiße Brötchen und süßen Kakao.""",
    "Korean": """아침에는 강 위에 안개가 짙게 끼어서 배가 이십 분 늦게 출발했습니다. \
그래도 빵집은 여섯 시에 문을 열었고, 아이들은 따뜻한 빵과 우유를 먹으며 학교에 갔습니다.""",
    "Russian": """Утром над рекой стоял густой туман, и паром отошёл с опозданием на двадцать минут. Но пекарня, как \
всегда, открылась ровно в шесть часов.""",
    "emoji": "Good morning 👋🏽! Coffee ☕ first, then the 🚆 at 8:05 — see you there 😄🎉👩‍🔬",
}


@dataclass
class Flags:
    """Measure how many bytes a token holds, on the dataset and on other kinds of text."""

    EXAMPLE: ClassVar = "--dataset mine"

    dataset: str = paths.DEFAULT_DATASET
    """dataset whose training and validation text to measure on"""
    sample_chars: int = 500_000
    """characters of each split to measure on"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    from rich.console import Console

    from nanochat.data import shards, stores
    from nanochat.report.sections import write_section
    from nanochat.tokenizer import Tokenizer

    if flags.sample_chars < 1:
        raise UserError(f"--sample_chars is {flags.sample_chars}; expected 1 or more")
    started = time.monotonic()
    tokenizer = Tokenizer.load(paths.tokenizer_dir())
    folder = stores.dataset(flags.dataset)
    texts = {
        **SAMPLES,
        f"{flags.dataset} train": sample(shards.iterate(folder, "train"), flags.sample_chars),
        f"{flags.dataset} val": sample(shards.iterate(folder, "val"), flags.sample_chars),
    }
    encoders = {OURS: tokenizer.encode, **rivals()}
    compression = {}
    for name, text in texts.items():
        tokens = {each: len(encode(text)) for each, encode in encoders.items()}
        compression[name] = {"bytes": len(text.encode("utf-8")), "tokens": tokens}
        if tokenizer.decode(tokenizer.encode(text)) != text:
            raise UserError(f"the tokenizer does not decode the text {name!r} to itself; run scripts.tok_train again")
    print(f"tokenizer {tokenizer.hash[:12]}, {tokenizer.vocab_size:,} tokens; every text decodes to itself")
    Console().print(table(compression, list(encoders)))
    write_section("tok_eval", {
        "flags": changes(flags),
        "seconds": round(time.monotonic() - started, 1),
        "vocab_size": tokenizer.vocab_size,
        "compression": compression,
    })  # fmt: skip


def rivals() -> dict[str, Callable[[str], list[int]]]:
    """The tokenizers to compare with; prints a line and returns none if their files cannot be fetched."""
    try:
        return {name: gpt_encoder(file) for name, file in RIVALS.items()}
    except OSError as error:
        whole = str(error)
        reason = whole if len(whole) < 100 else whole.rpartition(": ")[2].strip("\"') ")  # the innermost of a chain
        reason += ")" * (reason.count("(") - reason.count(")"))
        print(f"GPT-2's and GPT-4's tokenizers cannot be fetched ({reason}); only ours is shown")
        return {}


def gpt_encoder(name: str, patience: float = 30.0) -> Callable[[str], list[int]]:
    """One of OpenAI's tokenizers ("gpt2", "cl100k_base"), text to ids; its file is downloaded unless it is cached.

    Raises OSError if that takes more than `patience` seconds.
    """
    import tiktoken

    got: Future[tiktoken.Encoding] = Future()

    def fetch() -> None:
        try:
            got.set_result(tiktoken.get_encoding(name))
        except (OSError, ValueError) as error:  # ValueError: what came is not the file
            got.set_exception(OSError(str(error)))

    # tiktoken sets no timeout, so a network that drops packets would block the program for ever.
    threading.Thread(target=fetch, daemon=True).start()
    try:
        return got.result(patience).encode_ordinary
    except FutureTimeout:
        raise OSError(f"no answer within {patience:g} seconds") from None


def sample(documents: Iterable[str], characters: int) -> str:
    """The first documents, a line break between them, up to this many characters."""
    taken = []
    for document in documents:
        taken.append(document[:characters])
        characters -= len(document)
        if characters <= 0:
            break
    return "\n".join(taken)


def table(compression: dict[str, dict], names: Sequence[str]) -> "Table":
    """Bytes per token (more is better) of each text by each tokenizer, and how many more or fewer tokens ours needs."""
    from rich.table import Table

    shown = Table("bytes per token")
    for name in ("bytes", *names, *(f"tokens vs {name}" for name in names if name != OURS)):
        shown.add_column(name, justify="right")
    for text, found in compression.items():
        tokens = found["tokens"]
        ratios = [f"{found['bytes'] / max(tokens[name], 1):.2f}" for name in names]
        against = [f"{tokens[OURS] / tokens[name] - 1:+.1%}" for name in names if name != OURS]
        shown.add_row(text, f"{found['bytes']:,}", *ratios, *against)
    return shown


if __name__ == "__main__":
    run(main)
