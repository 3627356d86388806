"""How fast the loader is, what training takes of it on this machine, and what it takes away from training.

    python dev/bench_loader.py                              all tables, some minutes on 2 cores
    python dev/bench_loader.py --parts loader,waits,ranks   without the training steps

The text is the little world's, as it is and eight documents in one, which is about the length of a web page.
"""

import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice, repeat
from pathlib import Path

import torch
import torch.distributed as dist

from nanochat import chat, runtime, scaling
from nanochat.config import parse
from nanochat.data.batch import Batch
from nanochat.data.shards import TextReader
from nanochat.data.streams import AHEAD, ConversationSource, Place, Source, TextSource, batches
from nanochat.errors import UserError, run
from nanochat.gpt import GPT
from nanochat.log import MetricsLog
from nanochat.optim import Optimizer, Rates, parameter_groups
from nanochat.tokenizer import Tokenizer
from nanochat.train.loop import Stage, TrainState, train
from nanochat.train.objective import loss_of
from tasks.catalog import training_conversations
from tasks.littleworld import corpus

PARTS = ("loader", "waits", "training", "ranks")
DOCUMENTS = 20_000  # of the little world
TOKENS = 1_000_000  # that are made for a measurement


@dataclass
class Flags:
    """Measure the loader; the last line is JSON."""

    parts: str = ",".join(PARTS)
    """what to measure, joined by commas"""
    depth: int = 4
    """layers of the model that is trained"""
    device_batch_size: int = 16
    """rows per step"""
    max_seq_len: int = 256
    """context"""
    steps: int = 20
    """steps between two changes of the contestant"""
    changes: int = 5
    """how often each contestant has its turn"""
    compile: bool = True
    """use torch.compile"""


class Joined:
    """Eight documents of a source in one."""

    cut = True
    most: int | None = None
    aligned = False

    def __init__(self, source: TextSource):
        self.source = source
        self.size = source.reader.num_documents // 8

    def locate(self, position: int) -> Place:
        return Place(*divmod(position, self.size), self.size)

    def span(self, position: int) -> tuple[int, int]:
        return position, position + 1

    def contents(self) -> list[dict]:
        return self.source.contents()

    def state(self) -> int:
        return self.size

    def resumed(self, state: object, position: int) -> "Joined":
        return self

    def read(self, position: int, count: int) -> list:
        texts = self.source.texts(position % self.size * 8, count * 8)
        joined = ["\n\n".join(texts[n : n + 8]) for n in range(0, len(texts), 8)]
        encoded = self.source.tokenizer.encode_arrays(joined, prepend=self.source.tokenizer.bos)
        return [(ids, ids * 0 + 1) for ids in encoded]


def main(argv: list[str] | None = None) -> None:
    flags = parse(Flags, argv)
    parts = flags.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        raise UserError(f"--parts {unknown.pop()!r} is none of {', '.join(PARTS)}")
    results: dict = {}
    with tempfile.TemporaryDirectory() as folder:
        text = _text(Path(folder))
        sources: list[tuple[str, Source, int]] = [
            ("little world", text, flags.max_seq_len),
            ("web pages", Joined(text), 2048),
            ("conversations", _talk(text.tokenizer, flags.max_seq_len), flags.max_seq_len),
        ]
        if "loader" in parts:
            results["loader"] = {name: _loader(name, source, T) for name, source, T in sources}
        if "waits" in parts:
            results["waits"] = {rate: _waits(Joined(text), rate) for rate in (100_000, 300_000, 1_000_000)}
        if "training" in parts:
            results["training"] = _training(flags, text)
        if "ranks" in parts:
            results["ranks"] = {world: _ranks(Path(folder), world) for world in (1, 2, 4)}
    print(json.dumps(results))


def _text(folder: Path) -> TextSource:
    if not (folder / "data").exists():
        corpus.write(folder / "data", num_documents=DOCUMENTS)
        texts = TextReader(folder / "data", "train").read(0, DOCUMENTS)
        Tokenizer.train(texts, 4096, chat.SPECIALS).save(folder / "tokenizer")
    return TextSource(TextReader(folder / "data", "train"), Tokenizer.load(folder / "tokenizer"), 0)


def _talk(tokenizer: Tokenizer, T: int) -> ConversationSource:
    return ConversationSource(training_conversations("littleworld", [], "train"), tokenizer, T + 1, masked=True)


# ---------------------------------------------------------------- the loader alone


def _loader(name: str, source: Source, T: int) -> float:
    """Tokens that the loader makes in a second of CPU time, so that other work on the machine does not count."""
    with closing(batches(source, 16, T)) as stream:
        next(stream)
        began = time.process_time()
        tokens = sum(batch.inputs.numel() for batch in islice(stream, TOKENS // (16 * T)))
        speed = tokens / (time.process_time() - began)
    print(f"{name:14}  {speed / 1e6:5.2f}M tok/s on one core", flush=True)
    return speed


# ---------------------------------------------------------------- an accelerator's waiting


def _waits(source: Source, rate: int) -> list[float]:
    """The share of the time for which an accelerator would wait that takes so many tokens a second from one rank.

    It is a process that sleeps; first with the loader in its step, then with it ahead.
    """
    shares = []
    for ahead in (0, AHEAD):
        with closing(batches(source, 16, 2048, ahead=ahead)) as stream:
            next(stream)
            time.sleep(0.3)  # as a model compiles
            waited, began = 0.0, time.perf_counter()
            for _ in range(5 * TOKENS // (16 * 2048)):
                asked = time.perf_counter()
                tokens = next(stream).inputs.numel()
                waited += time.perf_counter() - asked
                time.sleep(tokens / rate)
            shares.append(waited / (time.perf_counter() - began))
    in_step, ahead = shares
    print(f"at {rate:9,} tok/s waits {in_step:5.1%} in the step, {ahead:5.1%} with {AHEAD} chunks ahead", flush=True)
    return shares


# ---------------------------------------------------------------- training with it


def _training(flags: Flags, text: TextSource) -> dict:
    """Tokens/s of training with one batch again and again, with the loader in its step, and with it ahead."""
    rows, T = flags.device_batch_size, flags.max_seq_len
    with runtime.start(device_type="cpu", seed=0) as rt, tempfile.TemporaryDirectory() as folder:
        model = GPT(scaling.config_from_depth(flags.depth, text.tokenizer.vocab_size, T), rt.dtype)
        loss = loss_of(model, flags.compile, rt)
        optimizer = Optimizer(*parameter_groups(model, 0.3, 0.008, 0.02, 0.5, 0.1))
        streams: dict[str, Iterator[Batch]] = {
            "no loader": repeat(next(batches(text, rows, T))),
            "in the step": batches(text, rows, T),
            f"{AHEAD} chunks ahead": batches(text, rows, T, ahead=AHEAD),
        }
        seconds = dict.fromkeys(streams, 0.0)
        for turn in range(-1, flags.changes):  # the first turn compiles
            for name, stream in streams.items():
                log = MetricsLog(Path(folder, f"{name} {turn}"), "dummy", {})
                stage = Stage(
                    name="bench", model=model, loss=loss, optimizer=optimizer, stream=stream, accumulation=1,
                    rates=lambda *_: Rates(lr=0.0), save=lambda *_: None, scored=lambda *_: None,
                    num_iterations=flags.steps if turn >= 0 else 3,
                )  # fmt: skip
                train(stage, TrainState(), replace(rt, rank=1), log)  # rank 1 prints nothing
                lines = [json.loads(line) for line in log.path.read_text(encoding="utf-8").splitlines()]
                seconds[name] += sum(line["seconds"] for line in lines) if turn >= 0 else 0.0
    tokens = flags.steps * flags.changes * rows * T
    speeds = {name: tokens / spent for name, spent in seconds.items()}
    for name, speed in speeds.items():
        print(f"training, {name:14}  {speed:7.0f} tok/s  {speed / speeds['no loader']:5.1%} of that without")
    return speeds


# ---------------------------------------------------------------- ranks that share it


def _ranks(folder: Path, world: int) -> float:
    """CPU seconds that a rank spends on a million tokens of all ranks together."""
    processes = multiprocessing.get_context("spawn")
    spent = processes.Queue()
    meeting = f"file://{folder}/meeting{world}"
    ranks = [processes.Process(target=_rank, args=(folder, n, world, meeting, spent)) for n in range(world)]
    for rank in ranks:
        rank.start()
    mean = sum(spent.get() for _ in ranks) / world
    for rank in ranks:
        rank.join()
    print(f"{world} ranks: {mean:.3f} s of CPU time a rank for a million tokens")
    return mean


def _rank(folder: Path, rank: int, world: int, meeting: str, spent: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    with closing(batches(_text(folder), 16, 256, group=dist.group.WORLD if world > 1 else None)) as stream:
        next(stream)
        dist.barrier()
        began = time.process_time()
        tokens = sum(batch.inputs.numel() for batch in islice(stream, 4 * TOKENS // (16 * 256 * world)))
        spent.put((time.process_time() - began) / (tokens * world) * 1e6)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    run(main)
