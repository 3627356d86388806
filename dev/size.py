"""How large the house is: lines by room, words of the README, long functions, flag helps without a verb.

`uv run python dev/size.py`. Lines are all lines of the files that git tracks; dev/LOG.md keeps the figures of before.
"""

import ast
import dataclasses
import importlib
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from nanochat.config import helps

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 60  # lines of a function that can be read without scrolling
# What the helps of flags do, in the forms they use; a help that has none of these is a label, not a sentence.
VERBS = set("""add allow answer apply are ask be begin bring build can check choose clip come compare compute continue
copy cost count cut decide default delete describe do download drop end evaluate every expect export fetch fit
follow generate give given have hold ignore include is join keep know learn let limit list load log make mask
mean measure mix must name need open overwrite pad pass pick plan point print prefer produce push put read
record refuse remove render repeat replace report reset resume return run sample save score select send serve
set share show shuffle skip split start stop store take tell test train trust try update upload use wait want
warm weigh write""".split())


def files(room: str, *suffixes: str) -> list[Path]:
    """The tracked files of a folder with one of these suffixes."""
    listed = subprocess.run(["git", "ls-files", room], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).suffix in suffixes and path.is_file()]


def lines(paths: list[Path]) -> int:
    return sum(path.read_text(encoding="utf-8").count("\n") for path in paths)


def rooms() -> Iterator[tuple[str, int]]:
    """Every room and its lines, those of nanochat/ one by one."""
    library = files("nanochat", ".py")
    by_room = Counter[str]()
    for path in library:
        parts = path.relative_to(ROOT).parts
        by_room["/".join(parts[:2]) if len(parts) > 2 else "nanochat/*.py"] += lines([path])
    yield "nanochat", lines(library)
    yield from ((f"  {room}", count) for room, count in by_room.most_common())
    yield "the page", lines(files("nanochat/web/static", ".js", ".css", ".html"))
    yield "tasks", lines(files("tasks", ".py"))
    yield "  tasks/littleworld", lines(files("tasks/littleworld", ".py"))
    for room in ("extras", "scripts", "dev", "tests", "examples"):
        yield room, lines(files(room, ".py"))
    yield "speedrun.sh", lines([ROOT / "speedrun.sh"])
    yield "docs", lines(files("docs", ".md"))


def long_functions() -> Iterator[tuple[int, str]]:
    """Functions of the library, the scripts and the tasks that have more than LONGEST lines."""
    for path in [path for room in ("nanochat", "scripts", "tasks", "extras", "dev") for path in files(room, ".py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                if length > LONGEST:
                    yield length, f"{path.relative_to(ROOT).as_posix()}:{node.lineno} {node.name}"


def verbless_helps() -> Iterator[str]:
    """Flags whose help has no verb, as "script --flag: help"."""
    for path in files("scripts", ".py"):
        if path.stem.startswith("_"):
            continue
        flags = getattr(importlib.import_module(f"scripts.{path.stem}"), "Flags", None)
        if flags is None:
            continue
        texts = helps(flags)
        for field in dataclasses.fields(flags):
            text = " ".join(texts.get(field.name, "").split())
            if not any(is_verb(word) for word in re.findall(r"[a-z]+", text.lower())):
                yield f"{path.stem} --{field.name}: {text}"


def is_verb(word: str) -> bool:
    stems = {word, word.removesuffix("s"), word.removesuffix("es"), word.removesuffix("ing"), word.removesuffix("ed"),
             word.removesuffix("d"), word.removesuffix("ing") + "e", re.sub(r"(.)\1(ing|ed)$", r"\1", word)}
    return not stems.isdisjoint(VERBS)


def main() -> None:
    for room, count in rooms():
        print(f"{room:24}{count:8,}")
    print(f"{'words of the README':24}{len((ROOT / 'README.md').read_text(encoding='utf-8').split()):8,}")
    print(f"{'lines of the README':24}{lines([ROOT / 'README.md']):8,}")
    functions = sorted(long_functions(), reverse=True)
    print(f"\n{len(functions)} functions of more than {LONGEST} lines")
    for length, place in functions:
        print(f"  {length:4} {place}")
    helps = list(verbless_helps())
    print(f"\n{len(helps)} flag helps without a verb")
    for help_text in helps:
        print(f"  {help_text}")


if __name__ == "__main__":
    main()
