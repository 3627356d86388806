"""Accuracy: the interval, the counting with a real model, also over ranks, and the script that prints it."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st

from nanochat.checkpoint import manager
from nanochat.config import UserError
from nanochat.engine.engine import Engine
from nanochat.eval.accuracy import Example, Result, evaluate, interval
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from scripts import chat_eval
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
def test_the_interval_holds_the_share_and_solves_wilsons_equation(n: int, share: float) -> None:
    correct = round(share * n)
    low, high = interval(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    assert low < high
    for bound in (low, high):
        if 0 < bound < 1:  # at the bound, the observed share is 1.96 standard errors away
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
    result = evaluate(Sums(20), Engine(calculating(tokenizer, "!"), slots), tokenizer, max_tokens=30, keep_examples=2)
    assert (result.name, result.n, result.correct, result.accuracy) == ("sums", 20, 7, 7 / 20)
    assert result.interval == interval(7, 20)
    assert [(example.index, example.correct) for example in result.examples] == [
        (0, True), (3, True), (1, False), (2, False),
    ]  # fmt: skip
    assert result.examples[2] == Example(1, Sums(20)[1]["messages"], [
        {"type": "python", "text": "6*7"}, {"type": "python_output", "text": "42"}, {"type": "text", "text": "!"},
    ], False)  # fmt: skip


def test_max_tokens_and_max_problems_bind(tokenizer) -> None:
    engine = Engine(calculating(tokenizer, "!"))
    assert evaluate(Sums(20), engine, tokenizer, max_tokens=2).correct == 0
    assert evaluate(Sums(20), engine, tokenizer, max_problems=4).n == 4
    assert evaluate(Sums(20), engine, tokenizer, max_problems=400).n == 20


def test_a_question_longer_than_the_context_counts_as_wrong(tokenizer) -> None:
    result = evaluate(Sums(9, too_long=3), Engine(calculating(tokenizer, "!")), tokenizer, keep_examples=9)
    assert (result.n, result.correct) == (9, 2)
    assert 3 not in {example.index for example in result.examples}


def test_one_right_answer_of_several_is_enough(tokenizer) -> None:
    model = calculating(tokenizer, "!")
    one, many, again = (
        evaluate(Sums(10), Engine(model, slots), tokenizer, temperature=2.0, samples=samples, seed=1).correct
        for slots, samples in ((8, 1), (8, 12), (3, 12))
    )
    assert one < many <= 4
    assert again == many


def on_a_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    tokenizer = Tokenizer.load(Path(folder))
    result = evaluate(Sums(11), Engine(calculating(tokenizer, "!")), tokenizer, keep_examples=1)
    said = [result.n, result.correct, [example.index for example in result.examples]]
    Path(folder, f"{rank}.json").write_text(json.dumps(said), encoding="utf-8")
    dist.destroy_process_group()


def test_ranks_share_the_questions_and_sum_the_counts(tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    mp.start_processes(on_a_rank, (str(tmp_path),), nprocs=2, start_method="fork")  # type: ignore[attr-defined]
    results = [json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    assert results == [[11, 4, [0, 2]], [11, 4, [3, 1]]]


# ---------------------------------------------------------------- scripts/chat_eval.py


def save(tokenizer, source: str = "sft") -> None:
    tokenizer.save(tokenizer_dir())
    meta = {"tokenizer_hash": tokenizer.hash}
    manager.save(checkpoints_dir(source) / "d1", 7, calculating(tokenizer, "!"), {}, meta)


def test_the_script_prints_a_table_and_leaves_a_section(tokenizer, base, capsys, monkeypatch) -> None:
    save(tokenizer)
    monkeypatch.setattr(chat_eval, "select", lambda names: [Sums(20)])
    chat_eval.main(["-i", "sft", "-x", "12", "--dtype", "float32", "--device_type", "cpu", "--show_errors", "2"])
    said = capsys.readouterr().out
    assert "step 7" in said.splitlines()[0]
    assert any(line.split()[:5] == ["sums", "4", "12", "33.3", "%"] for line in said.splitlines())
    assert said.count("a wrong answer") == 2
    assert "replied   [6*7][= 42]!" in said and "expected  another" in said
    section = json.loads((base / "report" / "chat_eval_sft.json").read_text(encoding="utf-8"))
    assert section["tasks"]["sums"] == {"n": 12, "correct": 4, "interval": list(interval(4, 12))}
    assert section["samples"][0]["messages"][0] == {"role": "user", "content": "0?"}
    assert section["samples"][0]["messages"][1]["content"][-1] == {"type": "text", "text": "!"}
    assert (section["source"], section["tag"], section["step"]) == ("sft", "d1", 7)


def test_the_script_names_unknown_tasks_and_bad_numbers(base) -> None:
    with pytest.raises(UserError, match="'nonsense' is unknown; there are: .*arithmetic"):
        chat_eval.main(["-i", "sft", "-a", "facts|nonsense"])
    with pytest.raises(UserError, match="--batch_size is 0"):
        chat_eval.main(["-i", "sft", "-b", "0"])
    with pytest.raises(UserError, match="no sft checkpoint"):
        chat_eval.main(["-i", "sft", "-a", "Facts", "--device_type", "cpu"])
    assert not base.exists()


def test_tasks_are_joined_by_a_bar() -> None:
    assert [task.name for task in chat_eval.select("facts|Spelling")] == ["facts", "spelling"]


def test_an_empty_task_has_no_accuracy() -> None:
    assert math.isnan(Result("none", 0, 0).accuracy)
    assert "nan" in chat_eval.table([Result("none", 0, 0)])
