"""Real prose that lies on any machine: the docstrings of Python's standard library.

    python dev/docstrings.py

gathers them as the dataset `docstrings`, trains a tokenizer and a small base model on them in a few minutes, and
compares the model's bits per byte on the held-out tenth of the modules with what `gzip -9` needs for the same text.
All of it lives in a base directory of its own, because a base directory has one tokenizer.
"""

import ast
import json
import os
import re
import sys
import sysconfig
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds the packages beside it

from nanochat.config import parse
from nanochat.data import shards
from nanochat.data.documents import documents
from nanochat.errors import UserError, run
from nanochat.paths import base_dir, dataset_dir, write_atomically
from nanochat.report.sections import read_sections
from scripts import add_data, base_eval, base_train, tok_train

NAME = "docstrings"
PROMPTS = ("Return the ", "Raised when ", "class ")

# Other people's packages, code written to be strange, and files for another version of the language.
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"}


@dataclass
class Flags:
    """Train on the docstrings of Python's standard library and compare with gzip."""

    out: Path | None = None
    """the JSONL file to write, one module a line (default: docstrings.jsonl in the base directory)"""
    overwrite: bool = False
    """make the dataset anew although it exists"""
    train: bool = True
    """train on it and compare; --no-train only gathers"""
    vocab_size: int = 4096
    """of the tokenizer"""
    num_iterations: int = 160
    """training steps of 4096 tokens; with more a text this small is learned by heart (dev/LOG.md)"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    with own_base_dir():
        gather(flags)
        if flags.train:
            train(flags)
        mark = gzip_bits_per_byte(shards.iterate(dataset_dir(NAME), "val"))
        print(f"\ngzip -9  {mark:.3f} bits per byte of the held-out text")
        if flags.train:
            bpb = read_sections()["base_eval"]["val_bpb"]
            print(f"model    {bpb:.3f} bits per byte of the held-out text")


@contextmanager
def own_base_dir() -> Iterator[None]:
    """Meanwhile the base directory is a folder of the real one."""
    before = os.environ.get("NANOCHAT_BASE_DIR", "")
    os.environ["NANOCHAT_BASE_DIR"] = str(base_dir() / NAME)
    try:
        yield
    finally:
        os.environ["NANOCHAT_BASE_DIR"] = before


def train(flags: Flags) -> None:
    """Tokenizer, base model and its evaluation, as a user would type them."""
    tok_train.main([f"--dataset={NAME}", f"--vocab_size={flags.vocab_size}"])
    base_train.main([
        f"--dataset={NAME}", "--depth=4", "--head_dim=64", "--max_seq_len=256", "--device_batch_size=16",
        "--total_batch_size=4096", f"--num_iterations={flags.num_iterations}", "--warmup_steps=10",
        "--matrix_lr=0.16", "--embedding_lr=1.7", "--unembedding_lr=0.06", "--eval_every=0", "--save_every=100",
    ])  # fmt: skip
    base_eval.main(["--split=val", "--prompts", *PROMPTS])


def gather(flags: Flags) -> None:
    """Make the dataset, unless it is there."""
    folder = dataset_dir(NAME)
    if flags.overwrite or not folder.exists():
        out = flags.out or base_dir() / "docstrings.jsonl"
        modules = list(module_docstrings(Path(sysconfig.get_path("stdlib"))))
        if not modules:
            raise UserError(f"no docstrings in {sysconfig.get_path('stdlib')}; this Python has no library sources")
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in modules)
        write_atomically(out, lambda file: file.write(lines.encode("utf-8")))
        print(f"{len(modules)} modules, {len(lines.encode('utf-8')) / 1e6:.1f} MB in {out}")
        add_data.add(documents([out], "text", []), NAME, overwrite=flags.overwrite)
    else:
        print(f"{folder} is there already; --overwrite makes it anew")


def gzip_bits_per_byte(texts: Iterable[str]) -> float:
    """8 · compressed bytes / bytes, for the texts joined without separators and compressed alone by gzip -9."""
    compressor = zlib.compressobj(9, wbits=31, memLevel=9)  # as the program sets them, with its header
    size = compressed = 0
    for text in texts:
        data = text.encode("utf-8")
        size += len(data)
        compressed += len(compressor.compress(data))
    compressed += len(compressor.flush())
    assert size, "there is no text to compress"
    return 8 * compressed / size


def module_docstrings(library: Path) -> Iterator[str]:
    """A document for each module under `library` that has any: qualified names, each with its docstring.

    Modules come in order of their paths. A docstring that occurs a second time, anywhere, is left out.
    """
    seen: set[str] = set()
    for path in _sources(library):
        module = ".".join(path.relative_to(library).with_suffix("").parts).removesuffix(".__init__")
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates and test data are not programs
            continue
        entries = []
        for name, text in _docstrings(tree, module):
            if text and text not in seen:
                seen.add(text)
                entries.append(f"{name}\n\n{text}\n")
        if entries:
            yield "\n".join(entries)


def _sources(library: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(library):
        subfolders[:] = sorted(set(subfolders) - LEFT_OUT)
        for name in sorted(names):
            if name.endswith(".py"):
                yield Path(folder, name)


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        text = ast.get_docstring(node) or ""
        yield name, re.sub("[\ud800-\udfff]", "\ufffd", text)  # a literal may hold half a character, a file may not
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _docstrings(child, f"{name}.{child.name}")
        else:  # an if or a try around definitions
            yield from _docstrings(child, name)


if __name__ == "__main__":
    run(main)
