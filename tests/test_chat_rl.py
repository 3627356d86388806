"""Reinforcement learning: advantages, whose gradient it is, reproducible answers, and the script as a user runs it."""

import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import fakehub
import pytest
import realsets
import torch
from hypothesis import given
from hypothesis import strategies as st
from stages import ROAD, assert_nearly_same_state, lines, travel

from nanochat import chat
from nanochat.checkpoint import door, manager
from nanochat.data.batch import Batch
from nanochat.engine.engine import Engine
from nanochat.engine.request import Request
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig
from nanochat.log import MetricsLog
from nanochat.optim import AdamWGroup, Optimizer, Rates
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.report import card
from nanochat.runtime import Runtime
from nanochat.tokenizer import Tokenizer
from nanochat.train.loop import Stage, TrainState, train
from nanochat.train.objective import loss_of
from nanochat.train.rollouts import (
    Completion,
    Policy,
    Prompts,
    Sampling,
    advantages,
    for_generating,
    pass_rates,
    rollouts,
)
from scripts import chat_cli, chat_rl
from tests.scripted import calculating, scripted

ONE = Runtime(torch.device("cpu"), torch.float32, 0, 1, 0)
SAMPLING = Sampling(num_samples=6, max_new_tokens=12, temperature=1.0, top_k=0, seed=3)


class Sums:
    """Questions whose answers are worth what `worth` says of their text."""

    name = "sums"

    def __init__(self, worth: Callable[[str], float], size: int = 5):
        self.worth = worth
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        question, answer = f"{index}+{index}?", str(2 * index)
        return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}

    def grade(self, conversation: dict, answer: str) -> float:
        return self.worth(answer)


def in_turn(*rewards: float) -> Callable[[str], float]:
    """Worth that has nothing to do with the answer; answers are graded in the order of questions and samples."""
    turn = itertools.cycle(rewards)
    return lambda answer: next(turn)


def model_of(tokenizer: Tokenizer, context: int = 48) -> GPT:
    """A model with every feature, whose every parameter has an effect."""
    model = GPT(GPTConfig(context, tokenizer.vocab_size, 2, 2, 2, 32, short_window=16, long_window=context))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def undecided(tokenizer: Tokenizer, saying: str, other: str, context: int = 64) -> GPT:
    """A model that says the one about as often as the other, and seldom anything else."""
    start, (second,) = tokenizer.special(chat.ASSISTANT_START), tokenizer.encode(other)
    model = scripted(tokenizer, [[start, *tokenizer.encode(saying)]], context)
    with torch.no_grad():
        weight = model.get_parameter("lm_head.weight")
        weight[second, start] = 10.0
        weight.mul_(0.07)  # else the softcap lets no gradient through
    return model


def stage_of(model: GPT, stream: Iterator[Batch], steps: int = 1, lr: float = 0.0, beta1: float = 0.0) -> Stage:
    """With beta1 = 0 and rate 0, AdamW remembers the gradient as it is."""
    groups = [AdamWGroup(dict(model.named_parameters()), lr, (beta1, 0.95))]
    return Stage(
        "test", model, loss_of(model, False, ONE), Optimizer(groups, []), stream,
        accumulation=1000, rates=lambda step, progress: Rates(), save=lambda state, passing: None,
        scored=lambda state, scores: None, num_iterations=steps, shown=("reward",),
    )  # fmt: skip


def run(stage: Stage, folder: Path, rt: Runtime = ONE) -> list[dict]:
    """Run a stage; returns its metrics."""
    train(stage, TrainState(), rt, MetricsLog(folder, "dummy", {}, rt.is_main))
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if rt.is_main else []


# ---------------------------------------------------------------- advantages


@pytest.mark.parametrize(
    "rewards, expected",
    [
        ([1, 0, 0, 1], [0.5, -0.5, -0.5, 0.5]),
        ([1, 0, 0, 0], [0.75, -0.25, -0.25, -0.25]),
        ([0.1, 0.1, 0.1], [0, 0, 0]),
        ([0, 0], [0, 0]),
        ([3, math.nan, 1], [1, 0, -1]),
        ([math.inf, 2, -math.inf, 2], [0, 0, 0, 0]),
        ([math.nan, math.nan], [0, 0]),
        ([7], [0]),
        ([], []),
    ],
)
def test_advantages_by_hand(rewards: list[float], expected: list[float]) -> None:
    assert advantages(rewards) == expected


@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan) | st.just(math.inf), max_size=20))
def test_advantages_of_any_rewards(rewards: list[float]) -> None:
    found = advantages(rewards)
    known = [reward for reward in rewards if math.isfinite(reward)]
    assert len(found) == len(rewards) and all(math.isfinite(advantage) for advantage in found)
    assert sum(found) == pytest.approx(0, abs=1e-6 * (1 + max(map(abs, known), default=0)))
    # Those that are not finite change nothing for the others, and equal rewards leave nothing to learn.
    assert [a for a, reward in zip(found, rewards, strict=True) if math.isfinite(reward)] == advantages(known)
    assert any(found) == (len(set(known)) > 1)


# ---------------------------------------------------------------- whose gradient it is


def policy_gradient(model: GPT, answers: list[tuple[Completion, float]], tokens: int) -> dict[str, torch.Tensor]:
    """Of - sum of advantage * log p / tokens, by autograd, one answer at a time and without padding."""
    total = torch.zeros(())
    for answer, advantage in answers:
        logp = model(torch.tensor([answer.ids[:-1]])).log_softmax(dim=-1)[0]
        for place, (id_, sampled) in enumerate(zip(answer.ids[1:], answer.sampled[1:], strict=True)):
            if sampled:
                total = total - advantage * logp[place, id_]
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(total / tokens, list(parameters.values()))
    return dict(zip(parameters, gradients, strict=True))


def gradient_of_a_step(model: GPT, stream: Iterator[Batch], folder: Path, rt: Runtime = ONE) -> dict:
    stage = stage_of(model, stream)
    run(stage, folder, rt)
    return {name: state["exp_avg"] for name, state in stage.optimizer.state.items()}


def assert_close(one: dict, other: dict) -> None:
    assert one.keys() == other.keys() and len(one) > 10
    for name in one:
        assert torch.allclose(one[name], other[name], rtol=1e-3, atol=1e-6), name


# Of three questions: mixed, all alike, and two that cannot be told.
WORTH = (1.0, 0.0, 0.0, 1.0, 0.5, 0.0, *[1.0] * 6, math.nan, 0.0, math.nan, 2.0, 2.0, 0.0)


def stream_of(model: GPT, tokenizer: Tokenizer, rows: int, **more: object) -> Iterator[Batch]:
    settings: dict = {"examples_per_step": 3, **more}
    return rollouts(Prompts([Sums(in_turn(*WORTH))]), Policy(model, tokenizer), SAMPLING, rows=rows, **settings)


def by_hand(model: GPT, tokenizer: Tokenizer) -> tuple[dict[str, torch.Tensor], int]:
    """The gradient of the step above and how many tokens count in it."""
    task, asked = Sums(in_turn(*WORTH)), Prompts([Sums(in_turn())])
    groups = Policy(model, tokenizer, slots=3).sample([(n, task, asked[n][1]) for n in range(3)], SAMPLING)
    pairs = [pair for group in groups for pair in zip(group, advantages([a.reward for a in group]), strict=True)]
    tokens = sum(sum(answer.sampled) for answer, _ in pairs if not math.isnan(answer.reward))
    assert [round(advantage, 3) for _, advantage in pairs[-6:]] == [0, -1, 0, 1, 1, -1]
    return policy_gradient(model, pairs, tokens), tokens


@pytest.mark.parametrize("rows", [100, 4, 1])
def test_the_gradient_is_the_policys(tokenizer, tmp_path, rows: int) -> None:
    """Also in micro-batches. The tokens of answers without an advantage count, those of unknown worth do not."""
    model = model_of(tokenizer)
    expected, tokens = by_hand(model, tokenizer)
    assert_close(gradient_of_a_step(model, stream_of(model, tokenizer, rows), tmp_path), expected)
    batches = list(itertools.islice(stream_of(model, tokenizer, rows), {100: 1, 4: 3, 1: 10}[rows]))
    assert sum(batch.count or 0 for batch in batches) == tokens
    assert [batch.ends_step for batch in batches] == [False] * (len(batches) - 1) + [True]
    assert all(len(batch.inputs) <= rows for batch in batches)


def test_the_same_with_shapes_for_compiling(tokenizer, tmp_path) -> None:
    model = model_of(tokenizer)
    stream = stream_of(model, tokenizer, 4, few_shapes=True)
    assert all(batch.inputs.shape in ((4, 16), (4, 32)) for batch in itertools.islice(stream, 6))
    found = gradient_of_a_step(model, stream_of(model, tokenizer, 4, few_shapes=True), tmp_path)
    assert_close(found, by_hand(model, tokenizer)[0])


def test_tool_output_has_no_gradient(tokenizer) -> None:
    model = calculating(tokenizer, "!")
    sampling = Sampling(num_samples=4, max_new_tokens=20, temperature=0.01, top_k=0, seed=0)
    batch = next(rollouts(Prompts([Sums(in_turn(1, 0))]), Policy(model, tokenizer), sampling, 1, 8))
    ids = chat.tool_ids(tokenizer)
    end = tokenizer.special(chat.ASSISTANT_END)
    reply = [ids.python_start, *tokenizer.encode("6*7"), ids.python_end]
    forced = [ids.output_start, *tokenizer.encode("42"), ids.output_end]
    after = [*tokenizer.encode("!"), end]
    for row, advantage in enumerate([0.5, -0.5, 0.5, -0.5]):
        start = batch.inputs[row].tolist().index(tokenizer.special(chat.ASSISTANT_START))
        said, weights = reply + forced + after, batch.weights[row].tolist()
        assert batch.targets[row, start : start + len(said)].tolist() == said
        assert weights[: start + len(said)] == (
            [0] * start + [advantage] * len(reply) + [0] * len(forced) + [advantage] * len(after)
        )
        assert not any(weights[start + len(said) :])
    assert batch.count == 4 * len(reply + after)


def test_nothing_to_learn_is_a_step_all_the_same(tokenizer, tmp_path) -> None:
    model = model_of(tokenizer)
    for rewards in ([1.0], [math.nan]):
        stream = rollouts(Prompts([Sums(in_turn(*rewards))]), Policy(model, tokenizer), SAMPLING, 2, 4)
        stage = stage_of(model, stream)
        (line,) = run(stage, tmp_path / str(rewards))
        assert (line["loss"], line["grad_norm"], line["frac_with_advantage"]) == (0, 0, 0)
        assert line["reward"] == (1 if rewards == [1.0] else 0) and line["reward_std"] == 0


def test_metrics(tokenizer, tmp_path) -> None:
    model = model_of(tokenizer)
    (line,) = run(stage_of(model, stream_of(model, tokenizer, 4)), tmp_path)
    known = torch.tensor([worth for worth in WORTH if not math.isnan(worth)])
    assert line["reward"] == pytest.approx(float(known.mean()))
    assert line["reward_std"] == pytest.approx(float(known.std(correction=0)))
    assert line["frac_with_advantage"] == pytest.approx(2 / 3)
    assert line["tok_per_second"] * line["seconds"] == pytest.approx(line["completion_tokens"] * 18)


# ---------------------------------------------------------------- whose answers they are


def test_completions_depend_on_seed_number_and_sample_alone(tokenizer) -> None:
    """Not on what else is asked, so that any number of ranks asks the same."""
    model, task = model_of(tokenizer), Sums(len)
    asked = [(n, task, task[n % 5]) for n in (7, 2, 9, 14)]
    together = Policy(model, tokenizer, slots=16).sample(asked, SAMPLING)
    alone = [Policy(model, tokenizer, slots=2).sample([one], SAMPLING)[0] for one in asked]
    assert together == alone
    assert len({tuple(answer.ids) for group in together for answer in group}) > 20
    other = Sampling(6, 12, 1.0, 0, seed=4)
    assert Policy(model, tokenizer).sample(asked, other) != together


def test_completions_come_from_the_current_weights(tokenizer) -> None:
    model, task = model_of(tokenizer), Sums(len)
    policy = Policy(model, tokenizer)
    before = policy.sample([(0, task, task[0])], SAMPLING)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    after = policy.sample([(0, task, task[0])], SAMPLING)
    assert before != after == Policy(model, tokenizer).sample([(0, task, task[0])], SAMPLING)
    model.eval()
    assert after == policy.sample([(0, task, task[0])], SAMPLING)


def test_the_model_that_samples_is_the_model_that_learns(tokenizer) -> None:
    """The probabilities that it samples with are those that the gradient is of."""
    model = model_of(tokenizer)
    prompt = [tokenizer.bos, *tokenizer.encode("once upon a time there was a cat")]
    request = Request(prompt, 12, 1.0, seed=1, logprobs=0)
    (events,) = [[event for _, event in Engine(for_generating(model)).stream([request])]]
    ids = [event.token for event in events if event.token is not None]
    nll = model(torch.tensor([prompt + ids[:-1]]), torch.tensor([prompt[1:] + ids]))[0, len(prompt) - 1 :]
    told = [event.scored.logprob for event in events if event.scored]
    assert (-nll).tolist() == pytest.approx(told, abs=1e-4)


def test_an_engine_forgets(tokenizer) -> None:
    model = model_of(tokenizer)
    engine = Engine(model, slots=2)
    request = Request([tokenizer.bos, *tokenizer.encode("a question that is asked twice ")], 6, 0)
    engine.generate([request])
    engine.generate([request])
    assert engine.stats.cached_tokens > 0
    before = engine.stats.cached_tokens
    engine.forget()
    engine.generate([request])
    assert engine.stats.cached_tokens == before
    engine.submit(request)
    with pytest.raises(RuntimeError, match="busy"):
        engine.forget()


def test_a_prompt_longer_than_the_context_has_no_completions(tokenizer) -> None:
    model, task = model_of(tokenizer, context=16), Sums(len)
    long = {"messages": [{"role": "user", "content": "why " * 30}, {"role": "assistant", "content": "!"}]}
    none, some = Policy(model, tokenizer).sample([(0, task, long), (1, task, task[1])], SAMPLING)
    assert none == [] and len(some) == 6


def test_tasks_are_dealt_in_turn_and_shuffled_for_each_epoch() -> None:
    three, five = Sums(len, 3), Sums(len, 5)
    questions = Prompts([three, five], seed=1)
    assert questions.size == 10

    def texts(task: Sums, numbers: range) -> list[str]:
        dealt = [questions[n] for n in numbers]
        assert all(of is task for of, _ in dealt)
        return [conversation["messages"][0]["content"] for _, conversation in dealt]

    epochs = [texts(five, range(1 + 10 * e, 11 + 10 * e, 2)) for e in range(3)]
    assert all(sorted(epoch) == [f"{n}+{n}?" for n in range(5)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert sorted(texts(three, range(0, 6, 2))) == ["0+0?", "1+1?", "2+2?"]
    assert [Prompts([five], 1)[n][1] for n in range(20)] != [Prompts([five], 2)[n][1] for n in range(20)]
    with pytest.raises(UserError, match="sums has no questions"):
        Prompts([Sums(len, 0)])


def test_pass_rates_by_hand(tokenizer) -> None:
    """Of 5 questions, 2 are asked; 3 of 8 answers are right, to one question of the two."""
    policy = Policy(model_of(tokenizer), tokenizer)
    task = Sums(in_turn(1, 0, 1, 1, 0, 0, math.nan, 0.4))
    sampling = Sampling(4, 5, 1.0, 0, 0)
    assert pass_rates(task, 2, policy, sampling, lambda: False) == {"pass@1": 3 / 8, "pass@4": 1 / 2}
    one = Sampling(1, 5, 1.0, 0, 0)
    assert pass_rates(Sums(in_turn(1, 0)), 99, policy, one, lambda: False) == {"pass@1": 3 / 5}
    stopped = Sums(in_turn())
    pass_rates(stopped, 5, policy, one, lambda: True)  # asks nothing, so that nothing has to be graded


def test_a_reward_rises(tokenizer, tmp_path) -> None:
    """Thirty steps teach a model that answers with one letter or another to choose the one that is rewarded."""
    model = undecided(tokenizer, "a", "b").requires_grad_(False)
    model.get_parameter("lm_head.weight").requires_grad_()  # alone decides: what else there is was drawn at random
    stream = rollouts(Prompts([Sums(lambda answer: answer == "a")]), Policy(model, tokenizer), SAMPLING, 4, 64)
    found = [line["reward"] for line in run(stage_of(model, stream, steps=30, lr=0.01, beta1=0.8), tmp_path)]
    assert found[0] < 0.6 and sum(found[-5:]) / 5 > 0.8


# ---------------------------------------------------------------- the script

STEPS = len(ROAD)
ARGV = [
    "--device_type=cpu", "--dtype=float32", "--task=refusal", f"--num_iterations={STEPS}", "--examples_per_step=3",
    "--num_samples=4", "--max_new_tokens=12", "--device_batch_size=4", "--eval_every=4", "--eval_examples=3",
    "--eval_samples=2", "--save_every=1", "--init_lr_frac=0.1", "--matrix_lr=0.001", "--embedding_lr=0.01",
    "--unembedding_lr=0.05", "--keep_last=0",
]  # fmt: skip
STEP_METRICS = ("reward", "reward_std", "frac_with_advantage", "completion_tokens")
SAYING = "I only know the little world"  # what a question about anything else is answered with


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base folder with a model that says the above half of the time, and something else the other half."""
    folder = tmp_path_factory.mktemp("sft") / "base"
    words = Tokenizer.train(iter([SAYING + "."] * 9), 288, chat.SPECIALS)
    assert len(set(words.encode(SAYING))) == len(words.encode(SAYING))
    model = undecided(words, SAYING, "x", context=160)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder))
        words.save(tokenizer_dir())
        meta = {"tokenizer_hash": words.hash, "conversations": "littleworld", "user_config": {"max_seq_len": 160}}
        manager.save(checkpoints_dir("sft") / "d1", 5, model, None, meta)
    return folder


@pytest.fixture
def rl(sft: Path, base: Path) -> Path:
    """The folder of this test's run, which does not exist yet; its base folder does."""
    shutil.copytree(sft, base)
    return checkpoints_dir("rl") / "d1"


@pytest.fixture(scope="module")
def whole(sft: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody interrupted."""
    base = tmp_path_factory.mktemp("whole") / "base"
    shutil.copytree(sft, base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(base))
        chat_rl.main(ARGV)
        return checkpoints_dir("rl") / "d1"


def test_the_run_folder_tells_the_run(whole: Path, monkeypatch, capsys) -> None:
    found = [line for line in lines(whole) if "start" not in line]
    assert [line["step"] for line in found] == [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 10, 10]
    assert found[1].keys() >= {*STEP_METRICS, "loss", "grad_norm", "lr"}
    for measured in (found[0], found[5], found[10], found[13]):
        assert measured.keys() == {"step", "time", "pass@1/refusal", "pass@2/refusal", "val_error"}
    assert 0.2 < found[1]["reward"] < 0.8
    meta = manager.read_meta(whole, STEPS)
    assert meta["dataloader_state_dict"]["question"] == 3 * STEPS
    assert (meta["parent"]["source"], meta["parent"]["step"], meta["task"]) == ("sft", 5, "refusal")
    assert meta["val_error"] == 1 - meta["pass@1/refusal"] == found[13]["val_error"]
    assert meta["conversations"] == "littleworld"
    section = json.loads((whole.parents[1] / "report" / "chat_rl.json").read_text(encoding="utf-8"))
    assert section["tokens"] == meta["dataloader_state_dict"]["sampled"] > 0 and section["steps"] == STEPS
    for name, line in (("before", found[0]), ("scores", found[13])):
        assert section[name] == {key: line[key] for key in ("pass@1/refusal", "pass@2/refusal")}
    assert (section["questions"], section["samples"]) == ({"refusal": 3}, 2)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(whole.parents[1]))
    assert "| chat_rl" in card.build()
    assert door.open("rl").step == STEPS
    capsys.readouterr()
    chat_cli.main(["-i", "rl", "-p", "Where is Paris?", "-t", "0", "--dtype=float32", "--device_type=cpu"])
    assert capsys.readouterr().out.strip()


def test_one_run_on_many_machines_is_the_run_of_one_rank(rl: Path, base: Path, whole: Path) -> None:
    """It asks the same questions, three of them among two or four ranks, and gets the same answers in every mode."""
    travel(base, "rl", ARGV)
    found, wanted = ([line for line in lines(folder) if "start" not in line] for folder in (rl, whole))
    for ours, theirs in zip(found, wanted, strict=True):
        for name in ours.keys() & {*STEP_METRICS, "pass@1/refusal"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-12), name
        if "loss" in ours:
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3, abs=1e-5)
            assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
    assert_nearly_same_state(rl, whole, STEPS)


def test_gsm8k_from_the_hub(sft: Path, base: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """Nobody gets these right, so what is learned is nothing; the scored split is never read."""
    shutil.copytree(sft, base)
    with fakehub.running(tmp_path / "huggingface", monkeypatch) as fake:
        realsets.add_all(fake)
        chat_rl.main([*ARGV, "--task=GSM8K", "--num_iterations=2", "--eval_every=0"])
        assert any("main/train-" in asked.path for asked in fake.asked)
        assert not any("main/test-" in asked.path for asked in fake.asked)
    found = [line for line in lines(checkpoints_dir("rl") / "d1") if "start" not in line]
    assert [line["step"] for line in found] == [0, 1, 2, 2]
    assert found[1]["completion_tokens"] > 1
    assert [found[1][name] for name in ("reward", "frac_with_advantage", "loss")] == [0, 0, 0]
    assert found[3]["pass@1/GSM8K"] == found[3]["pass@2/GSM8K"] == 0
    assert "GSM8K: 0.0% of the held-out questions right before, 0.0% after" in capsys.readouterr().out


def test_a_dry_run_writes_nothing(rl: Path, base: Path, capsys) -> None:
    before = sorted(base.rglob("*"))
    chat_rl.main([*ARGV, "--num_iterations=2", "--dry_run"])
    said = capsys.readouterr().out
    assert "reward" in said and "pass@2/refusal" in said and "nothing was written" in said
    assert sorted(base.rglob("*")) == before


def test_epochs_where_no_steps_are_given(rl: Path, monkeypatch) -> None:
    from tasks.littleworld import conversations

    monkeypatch.setitem(conversations.TRAIN_SIZES, "refusal", 6)
    chat_rl.main([*ARGV, "--num_iterations=-1", "--num_epochs=2", "--eval_every=-1"])
    assert manager.steps(rl)[-1] == 4


@pytest.mark.parametrize(
    "more, said",
    [
        (["--task=chess"], ["'chess'", "spelling", "GSM8K"]),
        (["--task=HumanEval"], ["'humaneval'"]),
        (["--num_samples=1"], ["--num_samples is 1"]),
        (["--temperature=0"], ["--temperature is 0"]),
        (["--examples_per_step=0"], ["--examples_per_step is 0"]),
        (["--num_iterations=-1", "--num_epochs=0"], ["--num_epochs"]),
        (["--source=mid"], ["no mid checkpoint", "scripts.mid_train"]),
        (["--source=rl"], ["no rl checkpoint"]),
        (["--source=sft:d9"], ["d9", "there are: d1"]),
        (["--resume=7"], ["no rl checkpoint", "scripts.chat_rl"]),
        (["--model_step=4"], ["step 4", "5"]),
        (["--max_new_tokens=0"], ["--max_new_tokens"]),
        (["--device_batch_size=0"], ["--device_batch_size is 0"]),
    ],
)
def test_mistakes(more: list[str], said: list[str], rl: Path, base: Path) -> None:
    before = sorted(base.rglob("*"))
    with pytest.raises(UserError) as complaint:
        chat_rl.main([*ARGV, *more])
    assert all(words in str(complaint.value) for words in said) and "\n" not in str(complaint.value)
    assert sorted(base.rglob("*")) == before


def test_a_run_on_another_task(rl: Path, base: Path) -> None:
    chat_rl.main([*ARGV, "--num_iterations=1"])
    with pytest.raises(UserError, match=r"holds a run whose task is refusal, not facts; .*--overwrite"):
        chat_rl.main([*ARGV, "--task=facts"])
