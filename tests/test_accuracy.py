"""Accuracy: the interval, the counting with a real model, letters, one of k answers, also over ranks."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st

from nanochat.engine.engine import Engine
from nanochat.errors import UserError
from nanochat.eval.accuracy import Example, Result, chatcore, evaluate, interval, pass_at
from nanochat.gpt import GPT, GPTConfig
from nanochat.tokenizer import Tokenizer
from scripts import chat_eval
from tasks.choices import choice
from tests.scripted import calculating


@pytest.mark.parametrize(
    "correct, n, low, high",
    # from the table of Brown, Cai & DasGupta's formula as R's binom::binom.wilson prints it
    [(0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (5, 10, 0.23659, 0.76341), (97, 100, 0.91548, 0.98974),
     (0, 0, 0.0, 1.0)],
)  # fmt: skip
def test_known_intervals(correct: int, n: int, low: float, high: float) -> None:
    assert interval(correct, n) == pytest.approx((low, high), abs=1e-5)


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_the_interval_holds_the_fraction_and_solves_wilsons_equation(n: int, fraction: float) -> None:
    correct = round(fraction * n)
    low, high = interval(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    assert low < high
    for bound in (low, high):
        if 0 < bound < 1:  # at the bound, the observed fraction is 1.96 standard errors away
            error = math.sqrt(bound * (1 - bound) / n)
            assert abs(correct / n - bound) == pytest.approx(1.959964 * error, rel=1e-4)


class Sums:
    """Every third question has the answer that the scripted model gives; one question is longer than its context."""

    name = "sums"

    def __init__(self, size: int, too_long: int | None = None) -> None:
        self.size = size
        self.too_long = too_long

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        question = f"{index}?" if index != self.too_long else "word " * 100
        answer = "!" if index % 3 == 0 else "another"
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return {"messages": messages}

    def grade(self, conversation: dict, answer: str) -> bool:
        return answer == conversation["messages"][-1]["content"]


@pytest.mark.parametrize("slots", [1, 5])
def test_right_answers_are_counted(tokenizer, slots: int) -> None:
    engine = Engine(calculating(tokenizer, "!"), slots)
    assert evaluate(Sums(20), engine, tokenizer, max_tokens=2, max_problems=4).correct == 0
    assert evaluate(Sums(20), engine, tokenizer, max_problems=4).n == 4
    result = evaluate(Sums(20), engine, tokenizer, max_tokens=30, max_problems=400)
    assert (result.name, result.n, result.correct, result.accuracy) == ("sums", 20, 7, 7 / 20)
    assert result.interval == interval(7, 20)
    assert [(example.index, example.correct) for example in result.examples] == [(n, n % 3 == 0) for n in range(20)]
    assert result.examples[1] == Example(1, Sums(20)[1]["messages"], [
        {"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"}, {"type": "text", "text": "!"},
    ], right=0)  # fmt: skip


def test_a_question_longer_than_the_context_counts_as_wrong(tokenizer) -> None:
    result = evaluate(Sums(9, too_long=3), Engine(calculating(tokenizer, "!")), tokenizer)
    assert (result.n, result.correct) == (9, 2)
    assert (result.examples[3].reply, result.examples[3].correct) == ([], False)


def test_one_right_answer_of_several_is_enough(tokenizer) -> None:
    model = calculating(tokenizer, "!")
    one, many, again = (
        evaluate(Sums(10), Engine(model, slots), tokenizer, temperature=2.0, samples=samples, seed=1).correct
        for slots, samples in ((8, 1), (8, 12), (3, 12))
    )
    assert one < many <= 4
    assert again == many


# ---------------------------------------------------------------- letters, and one of k


def thinking(tokenizer: Tokenizer, seed: int = 3) -> GPT:
    """A model with random weights in all places, whose every answer is another."""
    torch.manual_seed(seed)
    config = GPTConfig(sequence_len=512, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=2, n_kv_head=1, n_embd=32)
    model = GPT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


class Letters:
    """Questions with three or four answers, one of them longer than the context."""

    name = "letters"
    baseline = 0.25

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        letters = list("ABCD" if index % 3 else "123")
        texts = [f"{index} {letter} " + "a" * (2 * index) for letter in letters]
        return choice(f"Which? {index}", texts if index != 4 else texts * 40, letters * (40 if index == 4 else 1), "B")

    def grade(self, conversation: dict, answer: str) -> bool:
        return answer == conversation["messages"][-1]["content"]


def outcome(result: Result) -> list:
    return [result.n, result.correct, [example.reply for example in result.examples]]


def by_hand(model: GPT, tokenizer: Tokenizer, question: str, letters: list[str]) -> str:
    """The prompt spelled out, one forward pass over all of it, the most likely of the letters' tokens."""
    encode, special = tokenizer.encode, tokenizer.specials
    ids = [special["<|bos|>"], special["<|user_start|>"], *encode(question), special["<|user_end|>"],
           special["<|assistant_start|>"]]  # fmt: skip
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[0, -1]
    return max(letters, key=lambda letter: float(logits[encode(letter)[0]]))


def test_the_most_likely_letter_is_the_answer(tokenizer) -> None:
    """Item by item what a full forward pass without a cache says."""
    model = thinking(tokenizer)
    task = Letters(24)
    result = evaluate(task, Engine(model, slots=3), tokenizer, samples=4, temperature=1.0)
    answers = []
    for index, example in enumerate(result.examples):
        asked = task[index]
        if index == 4:
            assert example.reply == []
            continue
        answers.append(by_hand(model, tokenizer, asked["messages"][0]["content"], asked["letters"]))
        assert example.reply == [{"type": "text", "text": answers[-1]}]
        assert (example.right, example.samples) == (answers[-1] == "B", 1)
    assert len(set(answers)) > 3  # it does not always say the same
    assert result.correct == answers.count("B") and result.baseline == 0.25
    assert result.centred == pytest.approx((answers.count("B") / 24 - 0.25) / 0.75)


def test_a_letter_of_several_tokens_cannot_be_scored(tokenizer) -> None:
    class Words(Letters):
        def __getitem__(self, index: int) -> dict:
            return choice("Which?", ["a", "b"], ["first", "second"], "first")

    with pytest.raises(UserError, match="the answer 'first' is not one token of this tokenizer"):
        evaluate(Words(2), Engine(thinking(tokenizer)), tokenizer)


@pytest.mark.parametrize("samples", [1, 4, 7])
def test_pass_at_k_is_the_fraction_of_all_draws(samples: int) -> None:
    for right in range(samples + 1):
        answers = [True] * right + [False] * (samples - right)
        for k in range(1, samples + 1):
            draws = list(itertools.combinations(answers, k))
            assert pass_at(k, samples, right) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_one_of_k_is_estimated_from_all_answers(tokenizer) -> None:
    engine = Engine(calculating(tokenizer, "!"))
    some = [evaluate(Sums(12), engine, tokenizer, temperature=1.8, samples=6, seed=1, k=k) for k in (1, 3, 6)]
    rights = [example.right for example in some[0].examples]
    assert 0 < sum(rights) < 24 and len(set(rights)) > 2
    assert all([example.right for example in result.examples] == rights for result in some)
    assert some[0].correct == pytest.approx(sum(rights) / 6)
    assert some[1].correct == pytest.approx(sum(pass_at(3, 6, right) for right in rights))
    assert some[2].correct == sum(right > 0 for right in rights) and isinstance(some[2].correct, int)
    assert some[0].interval[0] < some[0].accuracy < some[1].accuracy < some[2].accuracy < some[2].interval[1]
    for example in some[0].examples:  # what is kept to look at is a right answer, if there is one
        reply = "".join(part["text"] for part in example.reply if part["type"] == "text")
        assert example.correct == Sums(12).grade({"messages": example.messages}, reply)


def test_chatcore_is_the_mean_above_guessing() -> None:
    results = [Result("choices", 10, 5, baseline=0.25), Result("written", 4, 1)]
    assert chatcore(results) == pytest.approx((1 / 3 + 1 / 4) / 2)
    assert chatcore([Result("guessed", 8, 2, baseline=0.25)]) == 0


def on_a_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    tokenizer = Tokenizer.load(Path(folder))
    result = evaluate(Sums(11), Engine(calculating(tokenizer, "!")), tokenizer)
    letters = evaluate(Letters(7), Engine(thinking(tokenizer)), tokenizer)
    said = [result.n, result.correct, [example.right for example in result.examples], outcome(letters)]
    Path(folder, f"{rank}.json").write_text(json.dumps(said), encoding="utf-8")
    dist.destroy_process_group()


def test_ranks_divide_the_questions_and_sum_the_counts(tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    mp.start_processes(on_a_rank, (str(tmp_path),), nprocs=2, start_method="fork")  # type: ignore[attr-defined]
    results = [json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    alone = outcome(evaluate(Letters(7), Engine(thinking(tokenizer)), tokenizer))
    assert results == [[11, 4, [n % 3 == 0 for n in range(11)], alone]] * 2


def test_an_empty_task_has_no_accuracy() -> None:
    assert math.isnan(Result("none", 0, 0).accuracy)
    assert "nan" in chat_eval.table([Result("none", 0, 0)])
