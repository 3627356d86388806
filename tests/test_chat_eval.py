"""scripts/chat_eval.py: which questions it asks, what it prints and leaves, and every scorer against a plain one."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import fakehub
import pytest
import realsets
import torch
from fakehub import FakeHub

from nanochat import hub, sandbox
from nanochat.checkpoint import manager
from nanochat.errors import UserError
from nanochat.eval.accuracy import Example, Result, interval
from nanochat.gpt import GPT, GPTConfig
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from scripts import chat_eval
from tasks import catalog
from tests.scripted import calculating
from tests.test_accuracy import Sums

ON_CPU = ["--dtype", "float32", "--device_type", "cpu", "--unsafe_code"]  # the last for machines that need it


def save(tokenizer: Tokenizer, model: GPT | None = None, **meta: str) -> None:
    tokenizer.save(tokenizer_dir())
    model = calculating(tokenizer, "!") if model is None else model
    manager.save(checkpoints_dir("sft") / "d1", 7, model, {}, {"tokenizer_hash": tokenizer.hash, **meta})


def test_it_prints_a_table_and_leaves_a_section_and_the_answers(tokenizer, base, capsys, monkeypatch) -> None:
    save(tokenizer)
    monkeypatch.setattr(chat_eval, "tasks", lambda names, meta: [Sums(20)])
    chat_eval.main(["-i", "sft", "-x", "12", *ON_CPU, "--show_errors", "2"])
    said = capsys.readouterr().out
    assert "step 7" in said.splitlines()[0]
    assert any(line.split()[:5] == ["sums", "4", "12", "33.3", "%"] for line in said.splitlines())
    assert said.count("a wrong answer") == 2
    assert "replied   [6*7][= 42]!" in said and "expected  another" in said
    section = json.loads((base / "report" / "chat_eval_sft.json").read_text(encoding="utf-8"))
    assert section["tasks"]["sums"] == {"n": 12, "correct": 4, "interval": list(interval(4, 12)), "asks": ""}
    assert (section["samples"][0]["task"], section["samples"][0]["right"]) == ("sums", True)
    assert section["samples"][0]["expected"] == Sums(20)[0]["messages"][-1]["content"]
    assert section["samples"][0]["messages"][0] == {"role": "user", "content": "0?"}
    assert section["samples"][0]["messages"][1]["content"][-1] == {"type": "text", "text": "!"}
    assert (section["source"], section["tag"], section["step"], section["chatcore"]) == ("sft", "d1", 7, None)
    assert section["examples"] == [{"task": "sums", "questions": ["0?"]}]
    files = manager.read_meta(checkpoints_dir("sft") / "d1", 7)["files"]
    assert section["sha256"] == files["model_000007.pt"]["sha256"]
    lines = (base / "eval" / "sft_d1_000007" / "sums.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(12))
    assert [json.loads(line)["right"] for line in lines] == [1, 0, 0] * 4
    assert json.loads(lines[1])["messages"] == Sums(20)[1]["messages"]
    assert json.loads(lines[1])["reply"][0] == {"type": "python", "text": "6*7"}


def test_a_task_alone_leaves_the_report_its_other_tasks(tokenizer, base, capsys, monkeypatch) -> None:
    """Asked in the same way again, its score is replaced; asked in another way, it is not in the report."""

    class Others(Sums):
        name = "others"

    def section() -> dict:
        return json.loads((base / "report" / "chat_eval_sft.json").read_text(encoding="utf-8"))

    save(tokenizer)
    both = {"sums": Sums(20), "others": Others(20)}
    chosen = lambda names, meta: [both[name] for name in names if name in both] or [*both.values()]  # noqa: E731
    monkeypatch.setattr(chat_eval, "tasks", chosen)
    monkeypatch.setattr(chat_eval, "select", lambda names: names.split("|"))
    chat_eval.main(["-i", "sft", *ON_CPU, "-x", "6"])
    whole = section()
    assert list(whole["tasks"]) == ["sums", "others"]
    chat_eval.main(["-i", "sft", *ON_CPU, "-x", "6", "-a", "others"])
    again = section()
    assert all(again[key] == whole[key] for key in ("tasks", "samples", "examples", "flags"))
    capsys.readouterr()
    chat_eval.main(["-i", "sft", *ON_CPU, "-x", "6", "-a", "others", "-t", "0.6"])
    assert section() == again and "the report card keeps its scores of more tasks" in capsys.readouterr().out
    save(tokenizer, calculating(tokenizer, "?"))
    chat_eval.main(["-i", "sft", *ON_CPU, "-x", "6", "-a", "others"])
    assert list(section()["tasks"]) == ["others"]


def test_the_page_gets_questions_that_were_answered_right() -> None:
    def example(*texts: str, right: int = 1, system: str = "") -> Example:
        roles = itertools.cycle(("user", "assistant"))
        messages = [{"role": role, "content": text} for role, text in zip(roles, [*texts, "…"], strict=False)]
        return Example(0, [{"role": "system", "content": system}] * bool(system) + messages, [], right)

    asked = [example("what is it", right=1), example("Wrong?", right=0), example("Well?", "Yes.", "And?"),
             example("Brief?", system="Be brief."), example("Where is Mira?"), example("Where is Otto?")]  # fmt: skip
    follows = [example("Alone?"), example("Where is she?", "There.", "And he?"), example("Who?", "He.", "And she?")]
    results = [Result("brief", 1, 1, [asked[3]]), Result("newcomer", 6, 5, asked), Result("followup", 3, 3, follows)]
    assert chat_eval.worth_asking(results) == [
        {"task": "followup", "questions": ["Where is she?", "And he?"]},
        {"task": "newcomer", "questions": ["Where is Mira?"]},
    ]


def test_one_of_k_answers(tokenizer, base, monkeypatch) -> None:
    save(tokenizer)
    monkeypatch.setattr(chat_eval, "tasks", lambda names, meta: [Sums(6)])
    sampling = ["-i", "sft", *ON_CPU, "-t", "1.8", "-k", "0", "-n", "5", "-m", "40"]
    scores = []
    for k in ("1", "3", "5"):
        chat_eval.main([*sampling, "--pass_k", k])
        section = json.loads((base / "report" / "chat_eval_sft.json").read_text(encoding="utf-8"))
        scores.append(section["tasks"]["sums"]["correct"])
    rights = [json.loads(line)["right"] for line in (base / "eval/sft_d1_000007/sums.jsonl").open(encoding="utf-8")]
    assert scores[0] == pytest.approx(sum(rights) / 5) and scores[2] == sum(right > 0 for right in rights)
    assert scores[0] < scores[1] <= scores[2]
    with pytest.raises(UserError, match="--pass_k 9 needs as many answers, but --num_samples is 5"):
        chat_eval.main([*sampling, "--pass_k", "9"])


def test_unknown_tasks_and_bad_numbers_are_named(base) -> None:
    with pytest.raises(UserError, match="'nonsense' is unknown; there are: .*arithmetic.*, MMLU, GSM8K"):
        chat_eval.main(["-i", "sft", "-a", "facts|nonsense"])
    with pytest.raises(UserError, match="--batch_size is 0"):
        chat_eval.main(["-i", "sft", "-b", "0"])
    with pytest.raises(UserError, match="no sft checkpoint"):
        chat_eval.main(["-i", "sft", "-a", "Facts", "--device_type", "cpu"])
    assert not base.exists()


def test_tasks_are_joined_by_a_bar() -> None:
    assert chat_eval.select("facts| arc-easy|Spelling|gsm8k") == ["facts", "ARC-Easy", "spelling", "GSM8K"]
    assert [task.name for task in chat_eval.tasks(["facts", "spelling"], {})] == ["facts", "spelling"]


def test_a_model_is_asked_what_it_was_trained_on(tokenizer, tmp_path, monkeypatch, capsys) -> None:
    asked = [task.name for task in chat_eval.tasks(None, {"dataset": "tinyworld"})]
    assert asked == list(catalog.GRADED["littleworld"])
    with fakehub.running(tmp_path / "huggingface", monkeypatch) as fake:
        realsets.add_all(fake)
        assert [task.name for task in chat_eval.tasks(None, {"conversations": "real"})] == list(catalog.GRADED["real"])
        fake.vanish()
    save(tokenizer, conversations="littleworld")
    chat_eval.main(["-i", "sft", *ON_CPU, "-x", "1", "-m", "4"])
    said = capsys.readouterr().out
    assert "facts" in said and "ChatCORE" not in said


def test_humaneval_is_refused_where_code_cannot_be_isolated(tokenizer, base, monkeypatch, capsys) -> None:
    save(tokenizer)
    monkeypatch.setattr(sandbox, "missing", lambda: ["files (needs Landlock)"])
    monkeypatch.setattr(chat_eval, "tasks", lambda names, meta: [Sums(1)])
    safely = ["-i", "sft", *ON_CPU[:-1]]
    for flags, instead in ([], "GSM8K|SpellingBee'"), (["-a", "HumanEval"], "other tasks"):
        with pytest.raises(UserError, match=r"HumanEval .*: files \(needs Landlock\).*--unsafe_code") as refusal:
            chat_eval.main([*safely, *flags])
        assert instead in str(refusal.value)
    chat_eval.main([*safely, "-a", "GSM8K|SpellingBee"])
    assert "isolat" not in capsys.readouterr().out
    chat_eval.main([*safely, "--unsafe_code"])
    assert "not isolated: files (needs Landlock)" in capsys.readouterr().out


def test_without_a_hub_there_is_one_sentence(tokenizer, tmp_path, monkeypatch) -> None:
    save(tokenizer)
    with fakehub.running(tmp_path / "huggingface", monkeypatch) as fake:
        fake.vanish()
        monkeypatch.setattr(hub, "PAUSE", 0.01)
        with pytest.raises(UserError, match="cannot be reached for allenai/ai2_arc .* check the network") as refusal:
            chat_eval.main(["-i", "sft", *ON_CPU])
    assert "\n" not in str(refusal.value)


# ---------------------------------------------------------------- all real tasks


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fakehub.running(tmp_path / "huggingface", monkeypatch) as fake:
        realsets.add_all(fake)
        yield fake


def thinking(tokenizer: Tokenizer) -> GPT:
    """A small model with random weights, and a context for the questions."""
    torch.manual_seed(5)
    config = GPTConfig(sequence_len=768, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=2, n_kv_head=1, n_embd=32)
    model = GPT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


def prompt_by_hand(tokenizer: Tokenizer, question: str) -> list[int]:
    special = tokenizer.specials
    asked = [special["<|user_start|>"], *tokenizer.encode(question), special["<|user_end|>"]]
    return [special["<|bos|>"], *asked, special["<|assistant_start|>"]]


def test_every_score_is_what_it_is_by_hand(tokenizer, fake, base, capsys) -> None:
    model = thinking(tokenizer)
    save(tokenizer, model, conversations="real")
    chat_eval.main(["-i", "sft", *ON_CPU, "-m", "24", "-x", "5"])
    section = json.loads((base / "report" / "chat_eval_sft.json").read_text(encoding="utf-8"))
    assert list(section["tasks"]) == ["ARC-Easy", "ARC-Challenge", "MMLU", "GSM8K", "HumanEval", "SpellingBee"]
    right = dict.fromkeys(section["tasks"], 0)
    asked = dict.fromkeys(section["tasks"], 0)
    for name in section["tasks"]:
        for line in (base / "eval/sft_d1_000007" / f"{name}.jsonl").open(encoding="utf-8"):
            example = json.loads(line)
            question, expected = (message["content"] for message in example["messages"])
            replied = "".join(part["text"] for part in example["reply"] if part["type"] == "text")
            if letters := re.findall(r"=(\w)\n", question):
                with torch.no_grad():
                    logits = model(torch.tensor([prompt_by_hand(tokenizer, question)]))[0, -1]
                best = max(letters, key=lambda letter: float(logits[tokenizer.encode(letter)[0]]))
                is_right = best == expected
                assert replied == best
            else:
                is_right = False  # 24 random tokens hold neither "#### 42" nor a function
            assert example["right"] == is_right
            right[name] += is_right
            asked[name] += 1
    assert right == {name: task["correct"] for name, task in section["tasks"].items()}
    assert asked == {name: task["n"] for name, task in section["tasks"].items()}
    assert 0 < sum(right.values()) < 15
    chances = [right[name] / asked[name] for name in right]
    centred = [(chances[n] - 0.25) / 0.75 if n < 3 else chances[n] for n in range(6)]
    assert section["chatcore"] == pytest.approx(sum(centred) / 6)
    said = capsys.readouterr().out
    assert any(line.split() == ["ChatCORE", f"{100 * sum(centred) / 6:.1f}", "%"] for line in said.splitlines())


def test_a_fraction_is_printed_as_one() -> None:
    lines = chat_eval.table([Result("written", 164, 12.345), Result("chosen", 14042, 7000)]).splitlines()
    assert lines[1].split()[:4] == ["written", "12.3", "164", "7.5"]
    assert lines[2].split()[:4] == ["chosen", "7000", "14042", "49.9"]
