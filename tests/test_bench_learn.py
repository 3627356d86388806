"""The bench of learning per minute, in miniature; and the rules of the original's run against formulas written out."""

import itertools
import json
import math
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dev import bench_learn, learn_run, original_run
from dev.bench_learn import Flags, at, interval, reached
from dev.learn_arms import ORIGINAL, Run
from dev.original_step import Original, OriginalOptimizer, as_original
from nanochat.data.shards import TextReader, write_shards
from nanochat.data.streams import TextSource
from nanochat.errors import UserError
from nanochat.gpt import GPTConfig
from nanochat.paths import dataset_dir
from nanochat.scaling import config_from_depth
from nanochat.tokenizer import Tokenizer

# ---------------------------------------------------------------- the original's rules


def config_of(arm: str, depth: int = 4) -> GPTConfig:
    flags = ORIGINAL[arm]
    return config_from_depth(
        depth, 4096, flags["max_seq_len"], head_dim=flags["head_dim"], window_pattern=flags["window_pattern"]
    )


def test_the_originals_batch_and_factors() -> None:
    """Depth 4, vocabulary 4096: 4 blocks of 12 x 256^2, the output layer, and the gates of two value embeddings."""
    here = 4 * 12 * 256**2 + 4096 * 256 + 2 * 12 * 4
    reference = 12 * 12 * 768**2 + 4096 * 768 + 6 * 12 * 12
    script = original_run.rules(config_of("original"), ORIGINAL["original"]["total_batch_size"])
    assert script.batch == 16384 == 32 * 512
    assert script.lr_scale == pytest.approx(math.sqrt(16384 / 524288))
    assert script.weight_decay == pytest.approx(0.28 * script.lr_scale * reference / here)
    assert script.weight_decay == pytest.approx(1.04, abs=0.01)
    defaults = original_run.rules(config_of("original-defaults"), ORIGINAL["original-defaults"]["total_batch_size"])
    assert defaults.batch == 131072  # the power of two nearest to 524288 * 0.0476^0.383 = 163,000
    assert config_of("original-defaults").n_head == 2 and config_of("original").n_head == 4
    assert original_run.rules(config_of("original-defaults", 12)).batch == 524288
    assert original_run.rules(config_of("original-defaults", 12)).weight_decay == pytest.approx(0.28)


def test_the_originals_schedule() -> None:
    momentum, lr, decay = original_run.schedule(0, 0.0)
    assert (momentum, lr, decay) == (0.85, 1 / 40, 1.0)
    assert original_run.schedule(39, 0.2)[1] == 1.0 and original_run.schedule(100, 0.35)[1] == 1.0
    assert original_run.schedule(20, 0.9)[1] == 21 / 40  # it warms up for 40 steps, however late that is
    assert original_run.schedule(100, 0.675)[1:] == (pytest.approx(0.525), pytest.approx(0.5 - 0.5 * 0.5224985647))
    assert original_run.schedule(100, 1.0) == (pytest.approx(0.88), pytest.approx(0.05), pytest.approx(0.0))
    assert [original_run.schedule(step, 0.3)[0] for step in (200, 400)] == [pytest.approx(0.91), 0.97]
    assert [original_run.schedule(400, progress)[0] for progress in (0.675, 1.0)] == [pytest.approx(0.935), 0.90]


def test_the_originals_rates_reach_its_weights() -> None:
    """One step of AdamW moves a weight by its rate, one of Muon a matrix by its rate times the root of its rank."""
    config = as_original(config_from_depth(1, 64, 32, head_dim=64))
    torch.manual_seed(0)
    model = Original(config, torch.float32)
    optimizer = OriginalOptimizer(model, compiled=False, lr_scale=0.5, decay=0.0)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    optimizer.step(0.85, 0.25, 1.0)
    moved = {name: (weight.detach() - before[name]) for name, weight in model.named_parameters()}
    width = (config.n_embd / 768) ** -0.5
    for name, rate in {"lm_head.weight": 0.008 * width, "transformer.wte.weight": 0.3 * width, "x0_lambdas": 0.5,
                       "resid_lambdas": 0.005, "value_embeds.0.weight": 0.15 * width}.items():  # fmt: skip
        assert moved[name].abs().max().item() == pytest.approx(0.5 * 0.25 * rate, rel=0.05), name
    assert moved["smear_lambda"].abs().item() == pytest.approx(0.25 * 0.2, rel=1e-3)  # no factor for the batch
    matrix = moved["transformer.h.0.attn.c_q.weight"]
    assert matrix.norm().item() == pytest.approx(0.5 * 0.25 * 0.02 * math.sqrt(config.n_embd), rel=0.1)


# ---------------------------------------------------------------- curves


def curve(*points: tuple[float, float]) -> list[dict]:
    return [{"seconds": seconds, "bpb": bpb, "steps": 1} for seconds, bpb in points]


def test_when_a_curve_gets_there() -> None:
    rising = curve((10, 3.0), (20, 2.0), (30, 2.2), (40, 1.0))
    assert reached(rising, 2.5) == 15 and reached(rising, 2.0) == 20
    assert reached(rising, 1.5) == 30  # halfway from the best so far, at 20 s, to 40 s
    assert reached(rising, 0.9) == math.inf
    assert reached(rising, 4.0) == 10  # before that nothing was measured, so it is not earlier
    assert at(rising, 25) == pytest.approx(2.1) and math.isnan(at(rising, 5)) and math.isnan(at(rising, 50))


def test_intervals() -> None:
    assert interval([1.0, 2.0, 3.0], 2) == "2.00 ± 2.48"  # 4.303 / sqrt(3)
    assert interval([1.5], 1) == "1.5" and interval([], 1) == interval([1.0, math.inf], 1) == "–"


# ---------------------------------------------------------------- a bench of seconds


@pytest.fixture
def littleworld(tokenizer: Tokenizer, base: Path) -> Path:
    """The base folder of a little world that the bench finds made."""
    tokenizer.save(base / "tokenizer")
    documents = [f"Ada has {n} cats. How many cats has Ada? {n}. " * (1 + n % 40) for n in range(600)]
    write_shards(documents[:500], dataset_dir("tinyworld"), val_texts=documents[500:])
    return base


def one(arm: str, **more: object) -> Run:
    return Run(**{"text": "littleworld", "arm": arm, "minutes": 0.05, "seed": 1, "depth": 1, "clock": "cpu",
                  "threads": 1, "eval_tokens": 2000, "eval_seconds": 1.0, "compile": False, **more})  # fmt: skip


def test_the_same_tokens_are_counted_whatever_the_context(littleworld: Path) -> None:
    tokenizer = Tokenizer.load(littleworld / "tokenizer")
    sizes = torch.tensor(tokenizer.token_bytes)

    def counted(T: int) -> tuple[list[int], int]:
        batches = learn_run.held_out(one("ours"), tokenizer, T)
        ids = [batch.targets[batch.weights > 0] for batch in batches]
        found = torch.cat(ids)
        return sorted(found[sizes[found] > 0].tolist()), sum(batch.inputs.numel() for batch in batches)

    (short, _), (long, computed) = counted(64), counted(512)
    assert short == long and 2000 <= len(short) <= computed
    source = TextSource(TextReader(dataset_dir("tinyworld"), "val"), tokenizer)
    whole = [tokenizer.encode(text) for text in source.texts(0, 100)]
    lengths = itertools.accumulate(1 + len(ids) for ids in whole)
    count = next(n for n, length in enumerate(lengths, 1) if length >= 2000)
    assert short == sorted(itertools.chain(*whole[:count]))


@pytest.mark.parametrize("arm", ["original", "original-bf16", "ours"])
def test_a_run_learns_until_its_time_is_over(littleworld: Path, arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which each step takes half a second, whatever else the machine does."""
    looks = itertools.count()
    monkeypatch.setattr(learn_run, "time", SimpleNamespace(process_time=lambda: next(looks) / 2))
    batch, meter = (learn_run.ours if arm == "ours" else learn_run.original)(one(arm))
    assert batch == {"ours": 4096}.get(arm, 16384)
    # Three seconds; the first step, which compiles, counts as long as the second, and measuring takes no time.
    assert [(point["seconds"], point["steps"]) for point in meter.curve] == [(1.0, 2), (2.0, 4), (3.0, 6)]
    values = [point["bpb"] for point in meter.curve]
    assert values[-1] < values[0] < 9


def result(arm: str, minutes: float, seed: int, *points: tuple[float, float], **more: object) -> dict:
    return {"run": asdict(one(arm, minutes=minutes, seed=seed, **more)), "batch": 1024, "tok_per_second": 100.0,
            "curve": curve(*points)}  # fmt: skip


def test_the_report() -> None:
    done = [
        result("original", 1, 1, (20, 4.0), (60, 2.0)),
        result("original", 1, 2, (20, 4.0), (60, 2.2)),
        result("ours", 0.5, 1, (10, 3.0), (20, 1.0), (30, 0.9)),
        result("ours", 0.5, 2, (10, 3.0), (20, 2.0), (30, 1.0)),
        result("ours", 0.5, 1, (10, 3.0), (30, 2.5), set=["matrix_lr=0.1"]),
        result("ours", 0.5, 1, (10, 1.0), (30, 0.5), text="docstrings"),
    ]
    said = bench_learn.report(done, Flags(texts=["littleworld"], depth=1, clock="cpu"))
    assert [line for line in said if line.startswith("**")] == ["**littleworld**, bits per byte"]
    rows = [line.replace(" ", "") for line in said if line.startswith("| o")]
    assert rows[0] == "|ours,0.5min|2|100|1024|1|–|2.700±1.271|1.800±5.082|1.280±4.066|–|–|0.9500±0.6353|"
    assert "|ours,0.5min|original,1min|15,18|16±19|3.7±4.2|" in rows
    assert "|ours,0.5minmatrix_lr=0.1|original,1min|never|–|–|" in rows
    assert not any(row.startswith("|original,1min|o") for row in rows)


def test_a_bench_is_not_repeated(littleworld: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = littleworld / "runs.jsonl"
    flags = ["--arms", "ours", "original", "--texts=littleworld", "--seeds=1", "--minutes=0.03", "--ours=0.03",
             "--depth=1", "--clock=cpu", "--pairs", "--no-compile", "--eval_tokens=500", f"--out={out}"]  # fmt: skip
    bench_learn.main(flags)
    lines = out.read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["run"]["arm"] for line in lines} == {"original", "ours"}
    kept = next(line for line in lines if json.loads(line)["run"]["arm"] == "original")
    out.write_text(kept + "\n", encoding="utf-8")
    capsys.readouterr()
    bench_learn.main(flags)
    assert out.read_text(encoding="utf-8").splitlines()[0] == kept
    assert capsys.readouterr().out.startswith("littleworld ours 0.03 min seed 1: ")
    bench_learn.main([*flags, "--arms"])
    said = capsys.readouterr().out
    assert "| ours, 0.03 min | 1 |" in said and "| ours, 0.03 min | original, 0.03 min |" in said
    with pytest.raises(UserError, match="seed 1 no_flag=1 failed: (.|\n)*no_flag"):
        bench_learn.main([*flags, "--arms=ours", "--set", "no_flag=1"])


def test_pairs() -> None:
    made = bench_learn.runs(Flags(texts=["docstrings"], seeds=[1, 2], pairs=True))
    assert [(run.arm, run.minutes, run.seed) for run in made[:4]] == [
        ("original", 5, 1), ("ours", 5, 1), ("original-bf16", 5, 1), ("ours", 2, 1)
    ]  # fmt: skip
    assert len(made) == 8 and all(run.threads == 1 for run in made)
    only = bench_learn.runs(Flags(arms=["ours"], ours=[2], seeds=[3], set=["matrix_lr=1"]))
    assert [(run.text, run.minutes, run.set) for run in only] == [
        ("littleworld", 2, ["matrix_lr=1"]), ("docstrings", 2, ["matrix_lr=1"])
    ]  # fmt: skip


def test_what_it_does_not_know(base: Path) -> None:
    for flag, known in (("--arms=mine", "original"), ("--texts=wiki", "docstrings")):
        with pytest.raises(UserError, match=f"{flag.split('=')[0]} has .*; expected .*{known}"):
            bench_learn.main([flag])
