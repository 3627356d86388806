"""One run of `dev/bench_learn.py`, in a process of its own: python -m dev.learn_run '{"arm": ..., "text": ..., ...}'

The last line is JSON: the curve of bits per byte over the run's time.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace

import numpy as np
import torch

from dev import original_run
from dev.learn_arms import ORIGINAL, OURS, TEXTS, Run
from dev.original_step import as_original
from nanochat import runtime, scaling
from nanochat.config import parse
from nanochat.data.batch import Batch
from nanochat.data.packing import Document, pack
from nanochat.data.streams import batches_for
from nanochat.data.texts import text_source
from nanochat.eval.bpb import text_loss
from nanochat.gpt import GPT
from nanochat.paths import base_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from nanochat.train.hyperparameters import accumulation
from nanochat.train.loop import Evaluation
from nanochat.train.stage import prepared, run_stream
from nanochat.train.start import begin, open_run
from scripts import base_train, speedrun
from scripts._marks import Marks


class Meter:
    """A run's clock, which stands still from `elapsed` to `begin`, and the curve that is measured meanwhile."""

    def __init__(self, run: Run, tokenizer: Tokenizer, T: int) -> None:
        self.now = time.process_time if run.clock == "cpu" else time.perf_counter
        self.total, self.every = 60 * run.minutes, run.eval_seconds
        self.batches, self.token_bytes = held_out(run, tokenizer, T), tokenizer.token_bytes
        self.curve: list[dict[str, float]] = []
        self.steps, self.seconds, self.last = 0, 0.0, 0.0
        self.began: float | None = None

    def elapsed(self) -> float:
        """Stop the clock after a step, and return the elapsed share of the run's time."""
        if self.began is not None:
            self.last, self.began = self.now() - self.began, None
            self.steps += 1
            # The first step compiles, so it counts as long as the second.
            self.seconds += {1: 0.0, 2: 2 * self.last}.get(self.steps, self.last)
        return self.seconds / self.total

    def begin(self, model: GPT) -> None:
        """Measure the model if it is time to, and start the clock."""
        if self.seconds >= self.every * (len(self.curve) + 1):
            self.measure(model)
        self.began = self.now()

    def measure(self, model: GPT) -> dict[str, float]:
        bpb = text_loss(model, self.batches, self.token_bytes).bits_per_byte
        self.curve.append({"seconds": self.seconds, "steps": self.steps, "bpb": bpb})
        return self.curve[-1]


def held_out(run: Run, tokenizer: Tokenizer, T: int) -> list[Batch]:
    """Whole documents of the validation split. Every token of theirs is counted once, whatever the context T is."""
    source = text_source([TEXTS[run.text][0]], "val", tokenizer)
    documents: list[Document] = []
    while sum(len(ids) for ids, _ in documents) < run.eval_tokens and len(documents) < source.locate(0).size:
        documents += source.read(len(documents), 1)
    rows = torch.from_numpy(np.array(pack(documents, T + 1, cut=False))).long()  # (n, 2, T + 1): ids and weights
    parts = rows.split(max(1, 4096 // T))
    return [Batch(part[:, 0, :-1], part[:, 0, 1:], part[:, 1, 1:].float(), 1.0, {}) for part in parts]


def original(run: Run) -> tuple[int, Meter]:
    """Tokens of a step, and the meter, of a run of the original's recipe on the rows that ours would read."""
    arm, tokenizer = ORIGINAL[run.arm], Tokenizer.load(tokenizer_dir())
    T, V = arm["max_seq_len"], tokenizer.vocab_size
    with runtime.start("cpu", arm["dtype"], run.seed) as rt:
        config = as_original(
            scaling.config_from_depth(run.depth, V, T, head_dim=arm["head_dim"], window_pattern=arm["window_pattern"])
        )
        rules = original_run.rules(config, arm["total_batch_size"])
        rules = replace(rules, lr_scale=rules.lr_scale * arm.get("rates", 1.0))
        meter = Meter(run, tokenizer, T)
        rows = min(arm["device_batch_size"], rules.batch // T)
        source = text_source([TEXTS[run.text][0]], "train", tokenizer, run.seed)
        with closing(batches_for(rt, source, rows, T, seed=run.seed)) as stream:
            compiled = run.compile and runtime.can_compile(rt.device)
            meter.measure(original_run.train(config, rules, stream, rows * T, meter, compiled, rt))
    return rules.batch, meter


def ours(run: Run) -> tuple[int, Meter]:
    """The same of our recipe, in the real loop. What that takes for passes over the data is the elapsed time."""
    flags = parse(base_train.Flags, recipe(run))
    with runtime.start("cpu", flags.dtype, flags.seed) as rt, open_run("base", flags, rt, "bench") as opened:
        tokenizer = Tokenizer.load(tokenizer_dir())
        config = base_train.config_of(flags, tokenizer.vocab_size)
        _, hparams = base_train.scaled(flags, opened, config)
        training = prepared(begin(opened, hparams, {}, tokenizer, config))
        T, parts = hparams.max_seq_len, accumulation(hparams, rt)
        meter = Meter(run, tokenizer, T)

        def timed(stream: Iterator[Batch]) -> Iterator[Batch]:
            while True:
                # Progress after this step, if it takes as long as the one before.
                after = meter.elapsed() + (meter.last / meter.total if meter.steps > 1 else 0.0)
                meter.begin(training.model)
                for _ in range(parts):
                    yield replace(next(stream), progress=min(1.0, after))

        source = text_source(flags.dataset, "train", tokenizer, flags.seed)
        final = Evaluation(0, lambda _: {"elapsed": meter.elapsed(), **meter.measure(training.model)})
        with closing(batches_for(rt, source, hparams.device_batch_size, T, seed=flags.seed)) as stream:
            run_stream("bench", training, timed(stream), parts, [final], lambda *_: {})
    return hparams.total_batch_size, meter


def recipe(run: Run) -> list[str]:
    """The flags of base_train."""
    stages = speedrun.recipe_for({"RECIPE": "tiny"}, Marks(base_dir())).stages
    flags = dict(next(stage.flags for stage in stages if stage.name == "base_train"))
    flags |= {"depth": run.depth, "seed": run.seed, "dataset": TEXTS[run.text][0], "num_iterations": -1, **OURS}
    flags |= {"dry_run": True, "resume": "never", "save_every": -1, "save_minutes": 0, "compile": run.compile}
    flags |= dict(each.split("=", 1) for each in run.set)
    return [f"--{name}={value}" for name, value in flags.items() if value is not None]


def main(argv: Sequence[str]) -> None:
    run = Run(**json.loads(argv[0]))
    batch, meter = ours(run) if run.arm == "ours" else original(run)
    speed = meter.curve[-1]["steps"] * batch / meter.seconds
    print(json.dumps({"run": asdict(run), "batch": batch, "tok_per_second": speed, "curve": meter.curve}))


if __name__ == "__main__":
    main(sys.argv[1:])
