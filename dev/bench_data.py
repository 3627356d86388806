"""How fast data is cleaned, in how much memory, and how well: a corpus with planted faults goes through clean_data.

    python dev/bench_data.py                       100 MB of text
    python dev/bench_data.py --megabytes 1000      the size that dev/LOG.md tells of
    python dev/bench_data.py --rules="--dedup --pii" --workers 4
    python dev/bench_data.py --peers               also each rule beside datatrove's own for the same, in turns

Faults are copies of a document (exact, or changed in one of several ways), personal data and profanity; each stands in
a document of its own, so that it is known what must come out. Beside them are plain documents, and pairs of which one
has taken over a third of the other: those must stay. Prints recall and precision, MB/s for each core at work, and the
memory of the largest process; the last line is JSON.
"""

import dataclasses
import hashlib
import importlib.util
import itertools
import json
import os
import random
import re
import resource
import string
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds the packages beside it

from extras.clean import pii, quality
from extras.clean.sketches import Sketcher
from nanochat.config import parse
from nanochat.data import shards
from nanochat.errors import UserError, run
from nanochat.paths import dataset_dir
from tasks.littleworld.documents import documents

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Flags:
    """Measure scripts/clean_data.py; the last line is JSON."""

    megabytes: int = 100
    """text to clean"""
    rules: str = "--dedup --pii --profanity --lang en --min_chars 200 --quality gopher"
    """what clean_data is asked for"""
    workers: int = 1
    """processes"""
    seed: int = 0
    """of the corpus"""
    peers: bool = False
    """also compare rules with datatrove's; needs datatrove[processing] and spacy, which splits words for it"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    pace = peers(flags.seed) if flags.peers else {}
    for rule, (ours, theirs) in pace.items():
        print(f"{rule:8}{ours:7.2f} MB/s, datatrove {theirs:6.2f} MB/s: {ours / theirs:.1f} times as fast", flush=True)
    with tempfile.TemporaryDirectory() as base:
        os.environ["NANOCHAT_BASE_DIR"] = base
        texts = (planted.text for planted in corpus(flags.megabytes * 1_000_000, flags.seed))
        written = shards.write_shards(texts, dataset_dir("planted"), val_fraction=0.02)
        size = written.train_chars + written.val_chars  # every character is one byte
        print(f"{written.train_documents + written.val_documents:,} documents, {size / 1e6:.0f} MB", flush=True)
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "scripts.clean_data", "--dataset=planted", "--name=clean",
             f"--workers={flags.workers}", *flags.rules.split()], check=True, cwd=ROOT,
        )  # fmt: skip
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        scores = judge(corpus(flags.megabytes * 1_000_000, flags.seed), dataset_dir("clean"))
    for line in table(scores):
        print(line)
    memory = after.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{size / 1e6 / cpu:.2f} MB/s for each core at work, {size / 1e6 / seconds:.2f} MB/s in all; "
          f"{memory / 1e6:.0f} MB in the largest process")  # fmt: skip
    print(json.dumps({"megabytes": size / 1e6, "cpu_seconds": cpu, "seconds": seconds, "largest_process": memory,
                      "scores": {kind: dataclasses.asdict(score) for kind, score in scores.items()},
                      "peers": pace}))  # fmt: skip


# ---------------------------------------------------------------- the corpus


class Planted(NamedTuple):
    """A document, what must come out of it (None: nothing), what is planted in it; one of each family must stay."""

    text: str
    stays: str | None
    kind: str
    family: int


def corpus(characters: int, seed: int = 0) -> Iterator[Planted]:
    """Documents of 700 to 30,000 characters, half of them plain; at least `characters` in all, the same for one seed.

    They are drawn from some ten thousand sentences of the little world, which are ASCII; their lengths spread as those
    of web pages do, with many short and few long ones.
    """
    rng = random.Random(seed)
    sentences = _sentences(seed)
    kinds = [*_COPIES, *SECRETS, "profanity", "kin"]
    family = made = 0
    while made < characters:
        size = min(120, max(4, round(rng.lognormvariate(2.2, 0.8))))
        plain = _document(rng, sentences, size)
        family += 1
        kind = kinds[family // 2 % len(kinds)] if family % 2 else "plain"
        documents = [Planted(plain, plain, "plain", family)]
        if kind in _COPIES:
            copy = _COPIES[kind](rng, plain)
            documents.append(Planted(copy, copy, kind, family))
        elif kind in SECRETS:
            secret, tag = SECRETS[kind](rng), f"[{kind.split()[0].upper()}]"
            text, stays = (_insert(plain, f"Write to {it} today.", family) for it in (secret, tag))
            documents = [Planted(text, stays, kind, family)]
        elif kind == "profanity":
            documents = [Planted(_insert(plain, "Oh shit, he said.", family), None, kind, family)]
        elif kind == "kin":
            mine, other = (text.split("\n\n") for text in (plain, _document(rng, sentences, size)))
            kin = "\n\n".join(mine[:2] + other[2:])
            family += 1
            documents.append(Planted(kin, kin, kind, family))
        for document in documents:
            made += len(document.text)
            yield document


def _sentences(seed: int) -> list[str]:
    texts = documents("train", seed, 8000)
    found = {piece for text in texts for piece in re.split(r"(?<=[.!?]) |\n+", text) if 30 < len(piece) < 120}
    return sorted(piece for piece in found if piece[-1] in ".!?" and not _ODD.search(piece))


_ODD = re.compile(r"\d|[^ -~]|\b(\w-){2}|cookies|^(What|Which|Who|Question|Answer)\b")  # like faults, or one another


def _document(rng: random.Random, sentences: list[str], size: int) -> str:
    """Five paragraphs of `size` sentences."""
    drawn = rng.sample(sentences, 5 * size)
    return "\n\n".join(" ".join(drawn[start : start + size]) for start in range(0, 5 * size, size))


def _insert(text: str, sentence: str, place: int) -> str:
    paragraphs = text.split("\n\n")
    paragraphs[place % 5] += " " + sentence
    return "\n\n".join(paragraphs)


def _edited(rng: random.Random, text: str) -> str:
    """One word in fifty is another."""
    words = text.split(" ")
    for place in rng.sample(range(len(words)), len(words) // 50):
        words[place] = "".join(rng.choices(string.ascii_lowercase, k=6))
    return " ".join(words)


def _reordered(rng: random.Random, text: str) -> str:
    paragraphs = text.split("\n\n")
    return "\n\n".join(paragraphs[2:] + paragraphs[:2])


_COPIES: dict[str, Callable[[random.Random, str], str]] = {
    "exact copy": lambda rng, text: text,
    "copy in other case": lambda rng, text: text.upper(),
    "copy in other white space": lambda rng, text: text.replace("\n\n", "\n").replace(". ", ".  "),
    "copy without punctuation": lambda rng, text: re.sub(r"[.,;:!?\"']", "", text),
    "copy with words changed": _edited,
    "copy in other order": _reordered,
    "copy without its end": lambda rng, text: text[: int(0.85 * len(text))],
    "copy with a frame": lambda rng, text: f"Home About Contact News Archive\n\n{text}\n\nAll rights reserved by us.",
}


def _letters(rng: random.Random, signs: str, count: int) -> str:
    return "".join(rng.choices(signs, k=count))


def _email(rng: random.Random) -> str:
    name, host = (_letters(rng, string.ascii_lowercase, 6) for _ in range(2))
    return rng.choice([f"{name}@{host}.com", f"{name}.{host}+x@mail.{host}.co.uk", f"{name}_1@{host}-{name}.org"])


def _phone(rng: random.Random) -> str:
    digits = rng.choice("23456789") + _letters(rng, string.digits, 9)
    area, middle, end = digits[:3], digits[3:6], digits[6:]
    return rng.choice(
        [f"({area}) {middle}-{end}", f"{area}-{middle}-{end}", f"{area}.{middle}.{end}", f"+1 {area} {middle} {end}",
         f"+44 20 {end} {area}7", f"+49 (0)30 {digits[2:]}", f"0049 30 {digits[2:]}", f"+{digits}1",
         f"030 {digits[2:]}",
         f"01 {digits[:2]} {digits[2:4]} {digits[4:6]} {digits[6:8]}"]
    )  # fmt: skip


def _ipv4(rng: random.Random) -> str:
    return ".".join(str(rng.randint(1, 223)) if place else str(rng.choice([10, 88, 172, 192])) for place in range(4))


def _ipv6(rng: random.Random) -> str:
    groups = [f"{rng.randrange(4096, 65536):x}" for _ in range(6)]
    return rng.choice(["2001:db8:" + ":".join(groups), f"2001:db8::{groups[0]}:{groups[1]}", f"fe80::1:{groups[2]}"])


def _card(rng: random.Random) -> str:
    prefix, length = rng.choice([("4", 16), ("51", 16), ("2221", 16), ("37", 15), ("6011", 16), ("35", 16)])
    if prefix == "35":
        prefix = "3530"
    body = prefix + _letters(rng, string.digits, length - len(prefix) - 1)
    digits = next(body + last for last in string.digits if _luhn(body + last))
    fours = [digits[at : at + 4] for at in range(0, length, 4)]
    groups = fours if length == 16 else [digits[:4], digits[4:10], digits[10:]]
    return rng.choice(["", " ", "-"]).join(groups)


def _luhn(digits: str) -> bool:
    evens = sum(int(digit) for digit in digits[-1::-2])
    return (evens + sum(sum(map(int, str(2 * int(digit)))) for digit in digits[-2::-2])) % 10 == 0


def _iban(rng: random.Random) -> str:
    country, length = rng.choice([("DE", 22), ("GB", 22), ("FR", 27), ("NL", 18), ("ES", 24), ("NO", 15)])
    bank = _letters(rng, string.ascii_uppercase, 4) if country in ("GB", "NL") else ""
    body = bank + _letters(rng, string.digits, length - 4 - len(bank))
    number = int("".join(str(int(sign, 36)) for sign in f"{body}{country}00"))
    account = f"{country}{98 - number % 97:02d}{body}"
    return rng.choice([account, " ".join(account[at : at + 4] for at in range(0, length, 4))])


def _key(rng: random.Random) -> str:
    alnum = string.ascii_letters + string.digits
    return rng.choice(
        ["AKIA" + _letters(rng, string.ascii_uppercase + string.digits, 16), "ghp_" + _letters(rng, alnum, 36),
         "sk-proj-1" + _letters(rng, alnum, 40), "AIza" + _letters(rng, alnum, 35), "hf_" + _letters(rng, alnum, 34),
         "xoxb-" + _letters(rng, string.digits, 12) + "-" + _letters(rng, alnum, 24),
         "sk_live_" + _letters(rng, alnum, 24),
         f"eyJ{_letters(rng, alnum, 20)}.eyJ{_letters(rng, alnum, 30)}.{_letters(rng, alnum, 40)}",
         f"-----BEGIN RSA PRIVATE KEY----- {_letters(rng, alnum, 64)} -----END RSA PRIVATE KEY-----"]
    )  # fmt: skip


# kind of personal data, whose first word is the tag's: what draws one
SECRETS: dict[str, Callable[[random.Random], str]] = {
    "email": _email, "phone": _phone, "ip": _ipv4, "ip of version 6": _ipv6, "card": _card, "iban": _iban, "key": _key,
}  # fmt: skip


# ---------------------------------------------------------------- the peer


def peers(seed: int = 0, turns: int = 4) -> dict[str, tuple[float, float]]:
    """MB/s of processor time of four rules, ours and datatrove's, who take turns at parts of the same corpus.

    Raises UserError where datatrove and what it needs for this are not installed.
    """
    missing = [name for name in ("datatrove", "nltk", "spacy") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--peers needs {missing[0]}, which is missing; uv pip install datatrove[processing] spacy")
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature
    from datatrove.pipeline.filters import C4QualityFilter, GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.formatters import PIIFormatter

    gopher, c4 = (GopherQualityFilter(), GopherRepetitionFilter()), C4QualityFilter()
    signature, sketcher = MinhashDedupSignature(tempfile.gettempdir()), Sketcher()
    pairs: dict[str, tuple[Callable[[str], object], Callable[[str], object]]] = {
        "gopher": (quality.gopher, lambda text: [rule.filter(Document(text=text, id="")) for rule in gopher]),
        "c4": (quality.c4, lambda text: c4.filter(Document(text=text, id=""))),
        "pii": (pii.mask, PIIFormatter().format),  # nine formats here, e-mail and IPv4 there
        "dedup": (sketcher.add, lambda text: signature.get_signature(signature.get_shingles(text))),
    }
    texts = [planted.text for planted in corpus(turns * 250_000, seed)]
    seconds = {rule: [0.0, 0.0] for rule in pairs}
    for turn in range(turns):
        for rule, both in pairs.items():
            for side, work in enumerate(both):
                work(texts[0])  # what it loads, it loads once
                started = time.process_time()
                for text in texts[turn::turns]:
                    work(text)
                seconds[rule][side] += time.process_time() - started
    size = sum(map(len, texts)) / 1e6
    return {rule: (size / ours, size / theirs) for rule, (ours, theirs) in seconds.items()}


# ---------------------------------------------------------------- the verdict


INNOCENT = "plain", "kin"


@dataclass
class Score:
    """How many were planted and how many of them came out as they must."""

    planted: int = 0
    right: int = 0

    def add(self, right: bool) -> None:
        self.planted += 1
        self.right += right


def judge(documents: Iterator[Planted], cleaned: Path) -> dict[str, Score]:
    """Compare what came out with what was planted, by kind.

    Of a document and its copy either may stay: the copy's kind is right when no more than one has, "plain" when one
    has. `strange` came out and is nothing that should.
    """
    splits: tuple[shards.Split, ...] = ("train", "val")
    out = Counter(_hash(text) for split in splits for text in shards.iterate(cleaned, split))
    scores: defaultdict[str, Score] = defaultdict(Score)
    for _, together in itertools.groupby(documents, key=lambda planted: planted.family):
        family = list(together)
        kind = family[-1].kind
        stayed = sum(out.pop(_hash(text), 0) for text in {planted.stays for planted in family} if text is not None)
        if len(family) == 2:
            scores["plain"].add(stayed >= 1)
            scores[kind].add(stayed <= 1)
        elif family[0].stays is None:
            scores[kind].add(out.pop(_hash(family[0].text), 0) == 0)
        else:
            scores[kind].add(stayed == 1)
    scores["strange"] = Score(out.total(), 0)
    return dict(scores)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def recall_and_precision(scores: dict[str, Score]) -> tuple[float, float]:
    """The part of the faults that was found, and the part of all that was taken or changed that was one."""
    faults = [score for kind, score in scores.items() if kind not in (*INNOCENT, "strange")]
    found, planted = sum(score.right for score in faults), sum(score.planted for score in faults)
    wrong = sum(scores[kind].planted - scores[kind].right for kind in INNOCENT)
    return found / planted, found / (found + wrong)


def table(scores: dict[str, Score]) -> list[str]:
    recall, precision = recall_and_precision(scores)
    lines = [f"{kind:28}{score.right:>9,} of {score.planted:>9,}" for kind, score in sorted(scores.items())]
    return [*lines, f"recall {recall:.4f}, precision {precision:.4f}"]


if __name__ == "__main__":
    run(main)
