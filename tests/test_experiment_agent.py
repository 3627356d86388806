"""The loop for agents: a server on loopback proposes arms, good and bad ones, and tiny models are really trained."""

import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TEXT
from hypothesis import given
from hypothesis import strategies as st
from scriptedserver import Scripted, scripted
from served import PATIENCE, ROOT, loaded, random_model, served, wait

from extras.experiment import agent, completions, file, problem, proposals, recipes, results, runs
from extras.experiment.proposals import Bound, Ledger, Refused, Rules
from extras.experiment.settings import AgentFlags
from nanochat import config_files, sandbox
from nanochat.data.shards import write_shards
from nanochat.engine.engine import Engine
from nanochat.errors import UserError
from nanochat.paths import dataset_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer

TINY = """
stages:
  base_train: {device_type: cpu, dtype: float32, compile: false, dataset: tiny, depth: 1, aspect_ratio: 32,
    head_dim: 32, max_seq_len: 32, device_batch_size: 2, total_batch_size: 128, num_iterations: 4, eval_every: 0,
    eval_tokens: 128, sample_every: -1, matrix_lr: 0.02, warmup_steps: 0}
seeds: [1]
scores: {val_bpb: lower}
agent:
  max_runs: 2
  max_minutes: 10
  tries: 6
  flags:
    matrix_lr: {min: 0.001, max: 1}
    embedding_lr: {min: 0.0, max: 5.0}
    warmup_steps: {min: 0, max: 4}
    window_pattern: {choices: [L, SL]}
"""


def proposal(hypothesis: str = "More is more.", **flags: object) -> dict:
    return {"hypothesis": hypothesis, "flags": flags}


NONSENSE = [
    "I would rather talk about the weather.",
    proposal("; rm -rf / #", model_tag="$(touch /tmp/owned)"),
    proposal(matrix_lr=7),
    proposal(window_pattern="`reboot`"),
    proposal("The same again.", matrix_lr=0.02),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A folder with a base folder, an experiment's file, and its results when the baseline is done."""
    root = tmp_path_factory.mktemp("agent")
    (root / "tiny.yaml").write_text(TINY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(root / "base"))
        tokenizer.save(tokenizer_dir())
        write_shards((f"{n} cats. {TEXT[n % 50 : 150 + n]}" for n in range(60)), dataset_dir("tiny"))
        runs.run_missing(file.load(root / "tiny.yaml"), root / "results")
    return root


@pytest.fixture
def here(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `trained` as this test's own."""
    folder = shutil.copytree(trained, tmp_path / "here", symlinks=True)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(folder / "base"))
    monkeypatch.setattr(completions, "PAUSES", (0.0, 0.0))
    return folder


def loop(here: Path, url: str, **flags: object) -> Ledger:
    path = here / "tiny.yaml"
    agent.loop(path, file.load(path), here / "results", AgentFlags(agent=url, **flags))
    return Ledger(here / "results")


def edit(here: Path, old: str, new: str) -> None:
    path = here / "tiny.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


def refusals(ledger: Ledger) -> list[str]:
    return [line["refused"] for line in ledger.lines if "refused" in line]


def test_good_arms_run_and_nonsense_is_refused_with_a_reason(here: Path) -> None:
    good = [proposal("Larger steps learn more.", matrix_lr=0.1, embedding_lr=1), proposal("Warm up.", warmup_steps=2)]
    with scripted([*NONSENSE, good[0], good[0], f"Here you are:\n```json\n{json.dumps(good[1])}\n```"]) as server:
        ledger = loop(here, server.url, api_key="secret")
    assert ledger.arms == {"agent-1": {"matrix_lr": 0.1, "embedding_lr": 1}, "agent-2": {"warmup_steps": 2}}
    assert set(ledger.results) == {"agent-1", "agent-2"} and "val_bpb" in ledger.results["agent-1"]["result"]
    expected = ["not JSON", "model_tag.* is not a flag", "matrix_lr is 7; expected a number from 0.001 to 1",
                "window_pattern is .*reboot", "baseline again", "agent-1 again"]  # fmt: skip
    assert [reason for reason, pattern in zip(refusals(ledger), expected, strict=True)
            if not re.search(pattern, reason)] == []
    assert not Path("/tmp/owned").exists()
    # what the agent read: its bounds, the results so far, and why its replies were refused
    assert "matrix_lr: a number from 0.001 to 1" in server.said(0) and "- baseline" in server.said(0)
    assert "matrix_lr is 7" in server.said(3) and "Larger steps learn more." in server.said(6)
    assert set(server.keys) == {"Bearer secret"} and server.requests[0]["model"] == "scripted-1"
    assert all(b"secret" not in path.read_bytes() for path in here.rglob("*.json*") if path.is_file())
    report = (here / "results" / "report.md").read_text(encoding="utf-8")
    assert "Larger steps learn more." in report and "matrix_lr is 7" in report
    assert ledger.lines[-1] == {"ended": "the agent has had its 2 arms"}


@pytest.mark.parametrize("reply", [
    "", "null", "[1]", "{" * 5000, '{"flags": {}}', '{"hypothesis": "x", "flags": []}',
    '{"hypothesis": " ", "flags": {}}', '{"hypothesis": "x", "flags": {}, "run": "ls"}',
])  # fmt: skip
def test_an_agent_that_never_makes_sense_ends_the_loop(reply: str, here: Path) -> None:
    with scripted([reply]) as server:
        ledger = loop(here, server.url)
    assert len(refusals(ledger)) == len(server.requests) == 6 and ledger.arms == {}
    assert "6 replies in a row were refused" in ledger.lines[-1]["ended"]
    assert "refused" in (here / "results" / "report.md").read_text(encoding="utf-8")


def test_our_own_server_can_be_the_agent(here: Path, tokenizer: Tokenizer) -> None:
    """A model with random weights; its replies have the form of the schema, so what is refused is what they say."""
    engine = Engine(random_model(tokenizer, context=6000), slots=1)
    with served([loaded(engine, tokenizer)]) as live:
        ledger = loop(here, f"{live.url}/v1", max_iterations=1)
    assert ledger.lines[-1]["ended"] and len(ledger.results) == len(ledger.arms) <= 1
    assert all("keys hypothesis and flags" not in reason for reason in refusals(ledger))


def test_a_loop_that_was_killed_while_an_arm_ran_is_resumed(here: Path) -> None:
    results_at = here / "results"
    before = {path: path.stat().st_mtime_ns for path in results_at.glob("runs/baseline-*/run.json")}
    command = [sys.executable, "-m", "scripts.experiment", str(here / "tiny.yaml"), f"--out={results_at}"]
    with scripted([NONSENSE[0], proposal(matrix_lr=0.1)]) as server:
        process = subprocess.Popen([*command, f"--agent={server.url}"], cwd=ROOT, stdout=subprocess.DEVNULL)
        wait(lambda: any(results_at.glob("runs/agent-1-*/run.json")))
        process.kill()
        process.wait()
    with open(results_at / proposals.FILE, "a", encoding="utf-8") as file:
        file.write('{"arm": "agent-1", "resu')  # as if the kill had come in the middle of a line
    with scripted([proposal(warmup_steps=2)]) as server:
        ledger = loop(here, server.url, max_iterations=1)
    assert server.requests == [] and list(ledger.results) == ["agent-1"] and len(refusals(ledger)) == 1
    assert before and before == {path: path.stat().st_mtime_ns for path in before}


def test_the_minutes_hold(here: Path) -> None:
    Ledger(here / "results").add(arm="agent-1", hypothesis="It takes long.", flags={"matrix_lr": 0.1}, seconds=599.5)
    with scripted([proposal(matrix_lr=0.2)]) as server:
        ledger = loop(here, server.url)  # half a second of the 10 minutes is left, so the arm is ended while it starts
    assert ledger.lines[-1] == {"ended": "the agent's 10 minutes are over"}
    assert list(ledger.arms) == ["agent-1"] and not ledger.results and server.requests == []
    record = next((here / "results").glob("runs/agent-1-*/run.json"))
    assert "error" not in json.loads(record.read_text(encoding="utf-8"))


def test_an_arm_that_fails_is_told_and_not_tried_again(here: Path) -> None:
    edit(here, "choices: [L, SL]", "choices: [L, Q]")
    with scripted([proposal(window_pattern="Q"), "So be it."]) as server:
        ledger = loop(here, server.url)
    assert ledger.results["agent-1"]["verdict"] == "failed"
    assert "no result -> failed: base_train ended with code 2" in server.said(1)
    record = next((here / "results").glob("runs/agent-1-*/run.json"))
    before = record.stat().st_mtime_ns
    with scripted(["So be it."]) as server:
        loop(here, server.url)
    assert len(server.requests) == 6 and record.stat().st_mtime_ns == before


# ---------------------------------------------------------------- problems


def test_a_problem_and_a_code_base_make_an_experiment(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(problem, "DOCUMENTS", 60)
    text = tmp_path / "slow.txt"
    text.write_text("It learns too slowly.", encoding="utf-8")
    with scripted(["No idea."]) as server:
        flags = AgentFlags(agent=server.url, problem=text, code="nanogpt", max_iterations=3)
        path, experiment = agent.experiment_of(None, flags)
        tiny = {"max_iters": 2, "n_layer": 1, "n_embd": 32, "eval_interval": 2, "eval_iters": 1, "device": "cpu"}
        train = {"train": {**experiment.stages["train"], **tiny}}
        small = replace(experiment, stages=train, seeds=[1])
        agent.loop(path, small, tmp_path / "out", flags)
    assert experiment.name == "slow-nanogpt" and (base / "tokens" / "littleworld_char" / "train.bin").exists()
    assert "It learns too slowly." in server.said(0) and "- baseline" in server.said(0)
    assert "val_loss" in server.said(0).partition("- baseline")[2] and "learning_rate: a number" in server.said(0)


@pytest.mark.parametrize("flags, expected", [
    ({"problem": Path("x.txt")}, "add --agent"), ({"agent": "http://x"}, "give either the file"),
    ({"agent": "http://x", "problem": Path("x.txt")}, "expected nanochat or nanogpt"),
])  # fmt: skip
def test_half_a_problem_is_one_sentence(flags: dict, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        agent.experiment_of(None, AgentFlags(**flags))


@pytest.mark.parametrize("name", ["agent_nanochat", "agent_nanogpt", "agent_recipe"])
def test_ready_files_list_flags_that_exist(name: str) -> None:
    path = ROOT / "experiments" / f"{name}.yaml"
    made = proposals.rules(config_files.read(path)["agent"][0], path)
    experiment = file.load(path)
    for flag, bound in made.flags.items():
        for value in bound.choices or (bound.low, bound.high):
            file.with_arm(experiment, file.Arm("each", {flag: value}))
    if made.recipe:
        assert recipes.plan((path.parent / made.recipe).read_text(encoding="utf-8"), made)[recipes.CURVE][-1] < 0.1


# ---------------------------------------------------------------- servers that do not do what they should


def asked(server: Scripted, seconds: float = PATIENCE) -> str:
    ask = completions.Server(server.url, None, None, 0.0)
    return ask.reply([{"role": "user", "content": "?"}], {"type": "object"}, time.monotonic() + seconds)


def test_a_server_that_fails_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "PAUSES", (0.0, 0.0))
    with scripted([500, 429, "at last"]) as server:
        assert asked(server) == "at last"


def test_a_server_without_schemas_is_asked_without(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted([400, "plain"]) as server:
        assert asked(server) == "plain"
    assert ["response_format" in request for request in server.requests] == [True, False]


@pytest.mark.parametrize("reply, expected, requests", [
    (500, "500 .*I say 500", 3), (401, "401 .*I say 401", 1), (b"<html>", "does not speak OpenAI's API", 1),
    (b"{}", "answers without choices", 1),
])  # fmt: skip
def test_a_server_that_cannot_be_used_is_one_sentence(
    reply: int | bytes, expected: str, requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completions, "PAUSES", (0.0, 0.0))
    with scripted([reply]) as server, pytest.raises(UserError, match=expected):
        asked(server)
    assert len(server.requests) == requests


def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "PATIENCE", 0.3)
    monkeypatch.setattr(completions, "PAUSES", (0.0,))
    with scripted([None]) as server, pytest.raises(UserError, match="nothing came in .*kept.*resume"):
        asked(server)


def test_nobody_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "PAUSES", ())
    with pytest.raises(UserError, match="http://127.0.0.1:1/v1 does not answer .*check --agent"):
        asked(Scripted([], "http://127.0.0.1:1/v1"))


# ---------------------------------------------------------------- the file, and what proposals may be

BOUNDS = Rules(flags={"rate": Bound(0.5, 2.0), "steps": Bound(1, 9), "kind": Bound(choices=("a", 1, True))})
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["hypothesis", "flags"]), inner),
)


@given(st.text() | anything.map(json.dumps) | st.dictionaries(st.sampled_from(["rate", "steps", "kind", "x"]), anything)
       .map(lambda flags: json.dumps({"hypothesis": "h", "flags": flags})))  # fmt: skip
def test_whatever_is_taken_is_within_bounds(reply: str) -> None:
    try:
        flags = proposals.read(reply, BOUNDS).flags
    except Refused as why:
        assert str(why) and "\n" not in str(why)
        return
    assert set(flags) <= {"rate", "steps", "kind"}
    assert 0.5 <= flags.get("rate", 1.0) <= 2 and 1 <= flags.get("steps", 1) <= 9
    assert flags.get("kind", "a") in ("a", 1)
    assert not any(isinstance(flags.get(name), bool) for name in ("rate", "steps"))


@pytest.mark.parametrize("section, expected", [
    (None, "has no section agent"), ({}, "lists no flag"), ({"flags": {"matrix_lr": 3}}, "expected {min"),
    ({"flags": {"matrix_lr": {"min": 2, "max": 1}}}, "the lower one first"), ({"shell": "ls"}, "no key shell"),
    ({"flags": {"matrix_lr": {"min": 0, "max": 1}}, "max_runs": 0}, "max_runs is 0; expected 1 or more"),
    ({"flags": {"matrix_lr": {"min": 0, "max": 1}}, "max_minutes": "long"}, "max_minutes is 'long'"),
    ({"flags": {"matrix_lr": {"choices": []}}}, "expected {min"),
])  # fmt: skip
def test_a_section_that_makes_no_sense_is_one_sentence(section: object, expected: str) -> None:
    with pytest.raises(UserError, match=re.escape(expected)):
        proposals.rules(section, Path("x.yaml"))


def test_a_misspelled_flag_is_found_before_anything_runs(here: Path) -> None:
    edit(here, "embedding_lr:", "embeding_lr:")
    with scripted([""]) as server, pytest.raises(UserError, match="embeding_lr"):
        loop(here, server.url)
    assert server.requests == [] and not (here / "results" / proposals.FILE).exists()


# ---------------------------------------------------------------- recipes

RECIPE = """
FLAGS = {"matrix_lr": 0.001}

def learning_rate(progress):
    return 0.001
"""


def with_recipe(here: Path) -> None:
    (here / "recipe.py").write_text(RECIPE, encoding="utf-8")
    (here / "tiny.yaml").write_text(TINY.replace("agent:", "agent:\n  recipe: recipe.py"), encoding="utf-8")


def figures(here: Path, arm: str) -> float:
    experiment = proposals.extended(file.load(here / "tiny.yaml"), here / "results")
    return results.study(experiment, here / "results").arms[arm][0].scores["val_bpb"]


def test_an_agent_writes_a_recipe(here: Path) -> None:
    with_recipe(here)
    target = Path(recipes.__file__)
    own = here / "recipe.py"
    bad = [
        "FLAGS = {",
        f"open({str(target)!r}, 'a').write('# owned')\nFLAGS = {{}}",
        f"import pathlib\npathlib.Path({str(own)!r}).write_text('FLAGS = {{}}')\nFLAGS = {{}}",
        "import subprocess\nsubprocess.run(['reboot'])\nFLAGS = {}",
        "FLAGS = {'matrix_lr': 99}",
        RECIPE,
    ]
    good = RECIPE.replace("0.001", "0.5")
    code, replies = target.read_bytes(), [{"hypothesis": "Faster.", "recipe": text} for text in [*bad, good]]
    with scripted([*replies[:5], replies[6], replies[5]]) as server:
        ledger = loop(here, server.url, allow_code=True, max_iterations=1)
    expected = ["SyntaxError", "OSError|Permission|read-only|No such file", "Error", "Error", "matrix_lr is 99"]
    assert [reason for reason, pattern in zip(refusals(ledger), expected, strict=True)
            if not re.search(pattern, reason)] == []
    assert target.read_bytes() == code and own.read_text(encoding="utf-8") == RECIPE
    assert RECIPE in server.said(0)
    assert (here / "results" / "recipes" / "agent-1.py").read_text(encoding="utf-8") == good
    assert "-FLAGS = {\"matrix_lr\": 0.001}" in ledger.lines[-3]["diff"]
    scores = {arm: figures(here, arm) for arm in ("baseline", "agent-1")}
    assert scores["agent-1"] < scores["baseline"] - 0.01  # which hardly moves
    (here / "recipe.py").write_text(good, encoding="utf-8")
    with scripted([replies[6]]) as server, pytest.raises(UserError, match="recipe.py has changed since the loop began"):
        loop(here, server.url, allow_code=True)


@pytest.mark.parametrize("recipe, expected", [
    ("while True: pass", "longer than 0.5 seconds"), ("FLAGS = 3", "not a dict"),
    ("FLAGS = {'lr_curve': [1]}", "lr_curve' is not a flag"), ("import sys; sys.exit()", "left before its end"),
    ("FLAGS = {}\ndef learning_rate(p): return float('nan')", "returns nan"),
    ("FLAGS = {}\ndef learning_rate(p): return -p", "returns -"),
    ("FLAGS = {}\ndef learning_rate(p): return 0", "always 0"),
])  # fmt: skip
def test_a_recipe_that_is_no_use_is_refused(recipe: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "while" in recipe:
        monkeypatch.setattr(recipes, "SECONDS", 0.5)
    with pytest.raises(Refused, match=expected):
        recipes.plan(recipe, BOUNDS)


def test_code_that_changed_during_a_loop_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in recipes.ROOMS:
        (tmp_path / room).mkdir()
    (measuring := tmp_path / "nanochat" / "bpb.py").write_text("exact = True", encoding="utf-8")
    monkeypatch.setattr(recipes, "ROOT", tmp_path)
    recipes.check_measuring(tmp_path / "out")
    recipes.check_measuring(tmp_path / "out")
    measuring.write_text("exact = False", encoding="utf-8")
    with pytest.raises(UserError, match="nanochat/bpb.py has changed"):
        recipes.check_measuring(tmp_path / "out")


def test_recipes_need_permission(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_recipe(here)
    with scripted([""]) as server:
        with pytest.raises(UserError, match="add --allow_code"):
            loop(here, server.url)
        monkeypatch.setattr(sandbox, "missing", lambda: ["files (needs a kernel)"])
        with pytest.raises(UserError, match="--unsafe_code"):
            loop(here, server.url, allow_code=True)
    assert server.requests == []
