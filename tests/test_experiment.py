"""Experiments: a file that is checked first, real runs that are killed and resumed, and a report by a rule."""

import contextlib
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import stages
from children import processes

from extras.experiment import file, report, results, runs
from extras.experiment.file import Arm, Fit, Rule
from extras.experiment.results import Outcome, Point, Study
from nanochat import errors
from nanochat.errors import UserError
from scripts import experiment

ROOT = Path(__file__).resolve().parent.parent
READY = sorted((ROOT / "experiments").glob("*.yaml"))

TINY = """
title: Is it better to be wide?
shared:
  tasks.littleworld: {num_documents: 100}
  tok_train: {vocab_size: 300}
stages:
  base_train:
    {depth: 1, aspect_ratio: 32, head_dim: 32, max_seq_len: 32, device_batch_size: 2, total_batch_size: 64,
     device_type: cpu, dtype: float32, compile: false, eval_every: 5, eval_tokens: 128, sample_every: -1}
arms:
  wide: {aspect_ratio: 64}
  broken: {total_batch_size: 100}
seeds: [1, 2]
budget: {minutes: 0.03}
scores: {val_bpb: lower}
axis: steps
threads: 1
"""


def written(tmp_path: Path, text: str = TINY, name: str = "tiny.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------- the file


def test_a_file_becomes_commands(tmp_path):
    made = file.load(written(tmp_path))
    assert [arm.name for arm in made.arms] == ["baseline", "wide", "broken"]
    [(stage, words)] = file.commands(made, made.arm("wide"), 2)
    assert stage == "base_train" and words[:2] == ["-m", "scripts.base_train"]
    assert {"--aspect_ratio=64", "--no-compile", "--seed=2", "--minutes=0.03"} <= {*words}
    assert [words[1] for _, words in file.shared_commands(made)] == ["tasks.littleworld", "scripts.tok_train"]


def test_flags_reach_the_stages_that_have_them_and_lengths_stay(tmp_path):
    text = """
    stages: {base_train: {total_batch_size: 64, dataset: [a, b]}, chat_sft: {num_iterations: 7}, chat_eval: }
    arms: {one: {matrix_lr: 0.1, chat_sft.matrix_lr: 0.2, max_problems: 3, chat_sft.eval_every: null}}
    seeds: [1]
    budget: {tokens: 640}
    scores: {chat_eval/mean: higher}
    """
    made = file.load(written(tmp_path, text))
    base, sft, score = file.flags_of(made, made.arm("one"), 1).values()
    assert (base["matrix_lr"], sft["matrix_lr"], score["max_problems"]) == (0.1, 0.2, 3)
    assert (base["num_iterations"], sft["num_iterations"]) == (10, 7) and "num_iterations" not in score
    [(_, words), *_] = file.commands(made, made.arm("one"), 1)
    assert words[words.index("--dataset") :][:3] == ["--dataset", "a", "b"]
    same = Arm("same", {"base_train.matrix_lr": 0.1, **dict(made.arm("one").flags)})
    assert file.parsed(made, same, 1) == file.parsed(made, made.arm("one"), 1)


def test_dollars_buy_minutes(tmp_path):
    budget = "budget: {dollars: 1.5, gpu: h100}\ngpus: 2"
    made = file.load(written(tmp_path, TINY.replace("budget: {minutes: 0.03}", budget)))
    [(_, words)] = file.commands(made, made.arms[0], 1)
    assert "--minutes=15.0" in words  # two of them at 3 dollars an hour
    assert words[1:4] == ["torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    assert words[4:7] == ["-m", "scripts.base_train", "--"]


@pytest.mark.parametrize(
    "old, new, told",
    [
        ("seeds: [1, 2]", "seed: [1, 2]", "unknown key 'seed'; did you mean seeds?"),
        ("seeds: [1, 2]", "seeds: [1, one]", "seeds is [1, 'one']; expected a list of int"),
        ("seeds: [1, 2]", "seeds: [1, 1]", "expected different numbers"),
        ("seeds: [1, 2]", "", "seeds is missing"),
        ("{aspect_ratio: 64}", "{aspect_ration: 64}", "no stage has a flag aspect_ration; did you mean aspect_ratio?"),
        ("{aspect_ratio: 64}", "{mid_train.text_share: 1}", "mid_train.text_share names no stage (base_train)"),
        ("{aspect_ratio: 64}", "{aspect_ratio: wide}", "arm wide: base_train: "),
        ("{aspect_ratio: 64}", "[aspect_ratio]", "expected names with their values"),
        ("depth: 1,", "dept: 1,", "base_train: unknown flag --dept; did you mean --depth?"),
        ("  base_train:", "  base_trian:", "there is no stage 'base_trian'"),
        ("wide:", "a b:", "'a b' cannot be the name of an arm"),
        ("wide:", "baseline:", "baseline is a key of its own"),
        ("{minutes: 0.03}", "{minutes: 0.03, steps: 5}", "expected one of minutes, steps, tokens, dollars"),
        ("  base_train:\n", "  train: {}\n  base_train:\n", "train cannot be given minutes; give it max_iters"),
        ("{minutes: 0.03}", "{hours: 1}", "budget: unknown key 'hours'"),
        ("{minutes: 0.03}", "{dollars: 1}", "dollars and gpu belong together"),
        ("{minutes: 0.03}", "{dollars: 1, gpu: cpu}", "has no end; give minutes"),
        ("val_bpb: lower", "val_bpb: low", "val_bpb is 'low'; expected 'lower' or 'higher'"),
        ("threads: 1", "verdict: {score: accuracy}", "accuracy is not among the scores (val_bpb)"),
        ("threads: 1", "verdict: {p: 2}", "p is 2; expected a number between 0 and 1"),
        ("threads: 1", "fit: {score: val_bpb, against: depth}", "against is 'depth'; expected 'parameters' or"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_runs(tmp_path, capsys, old, new, told):
    path = written(tmp_path, TINY.replace(old, new))
    with pytest.raises(SystemExit) as stop:
        errors.run(lambda: experiment.main([str(path), "--out", str(tmp_path / "out")]))
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and told in said and str(path) in said
    assert not (tmp_path / "out").exists()


def test_an_arm_is_added_by_the_same_rules(tmp_path):
    made = file.load(written(tmp_path))
    more = file.with_arm(made, Arm("deep", {"depth": 2}))
    assert [arm.name for arm in more.arms][-1] == "deep" and len(made.arms) == 3
    for arm in (Arm("wide", {}), Arm("deep", {"dept": 2}), Arm("deep", {}, script=str(tmp_path / "none.py"))):
        with pytest.raises(UserError):
            file.with_arm(made, arm)


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_ready_files_can_run(path, capsys):
    assert experiment.main([str(path), "--dry_run"]) == 0
    said = capsys.readouterr().out
    made = file.load(path)
    assert f"0 of {len(made.arms) * len(made.seeds) + bool(made.shared)} runs are done" in said
    assert path.read_text(encoding="utf-8").startswith("# ")  # what it answers, and how long it takes


# ---------------------------------------------------------------- what a run is


def test_a_run_is_its_commands_and_what_they_read(tmp_path, base):
    text = TINY[: TINY.index("shared:")] + TINY[TINY.index("stages:") :]
    made = file.load(written(tmp_path, text))
    (base / "tokenizer").mkdir(parents=True)
    (base / "tokenizer" / "tokenizer.json").write_text("{}", encoding="utf-8")
    (base / "base_checkpoints" / "d1").mkdir(parents=True)
    before = [run.folder for run in runs.plan(made, tmp_path)]
    assert len({*before}) == 6 and before == [run.folder for run in runs.plan(made, tmp_path)]
    renamed = file.load(written(tmp_path, text.replace("wide:", "wider:")))
    before[1].mkdir(parents=True)
    assert runs.plan(renamed, tmp_path)[1].folder == before[1]  # whatever its arm is called now
    changed = file.load(written(tmp_path, text.replace("aspect_ratio: 64", "aspect_ratio: 96")))
    after = [run.folder for run in runs.plan(changed, tmp_path)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True] * 2
    (base / "tokenizer" / "tokenizer.json").write_text("[]", encoding="utf-8")
    assert not {*before} & {run.folder for run in runs.plan(made, tmp_path)}
    assert runs._readable(base, ["base_train"]) == [base / "tokenizer"]  # no run writes into a model that is there
    assert runs._readable(base, ["mid_train"]) == [base / "base_checkpoints" / "d1", base / "tokenizer"]


# ---------------------------------------------------------------- real runs


def in_child(path: str, out: str) -> None:
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        errors.run(lambda: experiment.main([path, "--out", out]))


def started(path: Path, out: Path) -> BaseProcess:
    child = processes.Process(target=in_child, args=(str(path), str(out)))
    child.start()
    return child


def until_it_trains(child: BaseProcess, out: Path, arm: str) -> None:
    """Wait until a run of an arm with seed 1 has taken a step."""
    while not list(out.glob(f"runs/{arm}-s1-*/base_checkpoints/*/metrics.jsonl")):
        assert child.is_alive(), [path.read_text(encoding="utf-8") for path in out.rglob("log.txt")]
        time.sleep(0.02)


def records(out: Path) -> dict[str, tuple[dict, int]]:
    """What is noted of each run, and when, by arm and seed."""
    paths = sorted(out.glob("runs/*/run.json"))
    return {path.parent.name.rpartition("-")[0]: (json.loads(path.read_bytes()), path.stat().st_mtime_ns)
            for path in paths}  # fmt: skip


@pytest.fixture(scope="module")
def killed_twice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """An experiment that was killed, then stopped, and then left to run to its end."""
    folder = tmp_path_factory.mktemp("experiment")
    path, out = written(folder, TINY.replace("seeds: [1, 2]", "seeds: [1]")), folder / "out"
    child = started(path, out)
    until_it_trains(child, out, "baseline")
    child.kill()  # its stage is left behind, and the next start waits for it
    child.join()
    child = started(path, out)
    until_it_trains(child, out, "wide")
    os.kill(child.pid or 0, signal.SIGTERM)
    child.join()
    assert child.exitcode == 128 + signal.SIGTERM
    done = {name: record["done"] for name, (record, _) in records(out).items()}
    assert done == {"baseline-s1": ["base_train"], "wide-s1": []}
    child = started(path, out)
    child.join()
    assert child.exitcode == 1  # an arm failed
    yield path, out


def test_a_killed_experiment_resumes(killed_twice):
    _, out = killed_twice
    for name, (record, _) in records(out).items():
        assert record["done"] == ([] if name.startswith("broken") else ["base_train"])
    log = next(out.glob("runs/wide-s1-*/log.txt")).read_text(encoding="utf-8")
    assert "terminated; step" in log and "resuming from step" in log
    metrics = next(out.glob("runs/wide-s1-*/base_checkpoints/*/metrics.jsonl"))
    rows = [row["step"] for row in map(json.loads, metrics.read_text(encoding="utf-8").splitlines()) if "loss" in row]
    assert rows == list(range(1, rows[-1] + 1))
    assert not list(out.glob("runs/*/base_checkpoints/*/*.pt"))  # nobody asked for the weights


def test_a_failing_arm_is_in_the_report_and_done_runs_are_not_repeated(killed_twice, capsys):
    path, out = killed_twice
    before = records(out)
    assert experiment.main([str(path), "--out", str(out)]) == 1
    said = capsys.readouterr().out
    assert "broken: failed; base_train ended with code 2: error: --total_batch_size 100 is not a multiple of 64" in said
    repeated = [name for name, (_, when) in records(out).items() if when != before[name][1]]
    assert repeated == ["broken-s1"]
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "**broken: failed.** Base_train ended with code 2" in text
    assert "not a multiple of 64" in (out / "report.html").read_text(encoding="utf-8")
    assert (out / "val_bpb_curves.svg").read_text(encoding="utf-8").startswith("<svg")
    found = results.study(file.load(path), out)
    assert [len(run.curves["val_bpb"]) > 1 for run in found.arms["wide"]] == [True]
    [wide, broken] = report.verdicts(found)
    assert (wide.n, wide.decision, broken.decision) == (1, "undecided", "failed")


def test_a_run_ends_with_its_minutes(killed_twice):
    _, out = killed_twice
    [metrics] = out.glob("runs/baseline-*/base_checkpoints/*/metrics.jsonl")
    rows = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = [row["seconds"] for row in rows if "seconds" in row][1:]  # the first compiles
    assert sum(steps[:-1]) < 1.8 <= sum(steps) + 1e-6
    rates = [row["lr"] for row in rows if "lr" in row]
    assert rates[-1] < max(rates)  # the schedule has followed the time


def test_minutes_beside_another_length_are_refused(world, capsys):
    world("base")
    for more, told in ((["--num_iterations=5"], "--minutes and --num_iterations"), (["--minutes=0"], "--minutes is 0")):
        argv = [word for word in stages.flags("base", Path()) if "num_iterations" not in word]
        assert told in stages.refused("base", [*argv, "--minutes=1", *more], capsys)


# ---------------------------------------------------------------- the report


def curve(*values: float) -> list[Point]:
    return [Point(10 * n, n, 100 * n, 1e6 * n, value) for n, value in enumerate(values, 1)]


def of(*finals: float, **more: dict[int, float]) -> list[Outcome]:
    """Runs with seeds 1, 2, ... and these last values of val_bpb."""
    return [Outcome(seed, {"val_bpb": value, **{name: by_seed[seed] for name, by_seed in more.items()}},
                    {"val_bpb": curve(3.0, 2.0, value)}) for seed, value in enumerate(finals, 1)]


def study(rule: Rule | None = None, **arms: list[Outcome]) -> Study:
    base = of(1.00, 1.02, 1.01)
    scores: dict[str, file.Better] = {"val_bpb": "lower"}
    return Study("A study", {"baseline": base, **arms}, scores, rule or Rule("val_bpb"))


def test_verdicts_follow_the_rule():
    found = study(better=of(0.90, 0.92, 0.91), worse=of(1.10, 1.13, 1.12), same=of(1.00, 1.03, 1.01),
                  one=of(0.5), none=[Outcome(1, error="it broke")], varied=of(0.2, 1.9, 0.7))  # fmt: skip
    made = {each.arm: each for each in report.verdicts(found)}
    decisions = {name: each.decision for name, each in made.items()}
    assert decisions == {"better": "keep", "worse": "discard", "same": "undecided", "one": "undecided",
                         "none": "failed", "varied": "undecided"}  # fmt: skip
    assert made["one"].p is None and "one seed gives no p-value" in made["one"].reason
    assert made["none"].reason == "it broke" and made["better"].difference == pytest.approx(-0.1)
    # From 2.0 at 2 minutes to 0.91 at 3: the baseline's 1.01 is reached after 2.908.
    assert made["better"].multiplier == pytest.approx(3 / (2 + 0.99 / 1.09)) and made["worse"].multiplier is None
    demanding = {each.arm: each.decision for each in report.verdicts(
        study(Rule("val_bpb", better_by=0.2), better=of(0.90, 0.92, 0.91), much=of(0.5, 0.52, 0.53)))}
    assert demanding == {"better": "discard", "much": "keep"}


def test_an_arm_that_is_kept_may_not_be_worse_elsewhere():
    found = study(Rule("val_bpb", not_worse=["facts"]), arm=of(0.90, 0.92, 0.91, facts={1: 0.5, 2: 0.52, 3: 0.51}))
    found.arms["baseline"] = of(1.00, 1.02, 1.01, facts={1: 0.7, 2: 0.72, 3: 0.71})
    found.scores["facts"] = "higher"
    [verdict] = report.verdicts(found)
    assert verdict.decision == "discard" and "facts is worse by 0.2" in verdict.reason


def test_the_report_says_what_is_not_known():
    text = report.markdown(study(one=of(0.5), hopeless=of(1.5, 1.6, 1.55)))
    row = next(line for line in text.splitlines() if line.startswith("| hopeless"))
    assert row.split("|")[-2].strip() == "?"  # nobody knows how long it would take
    assert "one seed gives no p-value" in text.lower() and "Noise floor: 3 seeds of baseline" in text
    alone = Study("A study", {"baseline": of(1.0), "arm": of(0.5)}, {"val_bpb": "lower"}, Rule("val_bpb"))
    assert "Noise floor: unknown" in report.markdown(alone)


def test_a_page_of_many_arms_has_its_pictures(tmp_path):
    many = {f"arm{n}": of(*(1 + n / 10 + seed / 100 for seed in range(3))) for n in range(9)}
    found = study(**many)
    found = Study(found.title, found.arms, found.scores, found.rule, varied_flag="matrix_lr",
                  varied={f"arm{n}": 0.01 * 2**n for n in range(9)}, proposals=[["arm", "change"], ["a", "x\n<b>"]])
    text = report.write(found, tmp_path)
    names = ["val_bpb_curves", "val_bpb_differences", "val_bpb_flag"]
    assert sorted(path.stem for path in tmp_path.glob("*.svg")) == names
    curves = (tmp_path / "val_bpb_curves.svg").read_text(encoding="utf-8")
    assert "baseline" in curves and "arm8" not in curves and "currentColor" in curves  # the best, as many as colours
    assert "mathdefault" not in (tmp_path / "val_bpb_flag.svg").read_text(encoding="utf-8")  # ticks are plain numbers
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<title>A study</title>" in page and page.count("data:image/svg+xml") == 3 and "<b>" not in page
    assert "see below" in text and "    <b>" in text


@pytest.mark.parametrize("noise, flawed", [(0.0, False), (0.5, True)])
def test_a_scaling_law_is_fitted_or_said_to_be_bad(noise, flawed, tmp_path):
    sizes = [1e5, 3e5, 1e6, 3e6, 1e7]
    arms = {f"d{n}": [Outcome(seed, {"val_bpb": 0.8 + 0.6 * (size / 1e5) ** -0.3 + 0.001 * seed * n
                                     + noise * math.sin(7 * n + seed)}, {}, parameters=int(size)) for seed in (1, 2, 3)]
            for n, size in enumerate(sizes)}  # fmt: skip
    found = Study("A ladder", arms, {"val_bpb": "lower"}, Rule("val_bpb"), fits=[Fit("val_bpb", "parameters")])
    text = report.write(found, tmp_path)
    assert ("Do not rely on this fit" in text) is flawed
    assert flawed or "the exponent is 0.3" in text
    assert (tmp_path / "val_bpb_by_parameters.svg").exists()
