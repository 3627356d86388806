"""The tasks: what becomes of the hub's datasets in their real schemas, and what counts as a right answer."""

import json
import multiprocessing
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import fakehub
import numpy as np
import pytest
import realsets
from fakehub import FakeHub
from hypothesis import given
from hypothesis import strategies as st

from nanochat import chat, hub
from nanochat.checkpoint import manager
from nanochat.data import contents, streams
from nanochat.engine.tools import calculator
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig
from nanochat.paths import checkpoints_dir, tokenizer_dir
from scripts import chat_sft, make_identity, mid_train
from tasks import catalog
from tasks.arc import ARC
from tasks.common import TaskMixture
from tasks.gsm8k import GSM8K, final_number, solution_parts
from tasks.humaneval import HumanEval, program
from tasks.identity import identity_path
from tasks.littleworld.conversations import reference
from tasks.mmlu import MMLU
from tasks.smoltalk import SmolTalk
from tasks.spellingbee import SimpleSpelling, SpellingBee, counted, words

TEST = "all/test-00000-of-00001.parquet"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(hub, "PAUSE", 0.01)
    with fakehub.running(tmp_path / "huggingface", monkeypatch) as fake:
        realsets.add_all(fake)
        yield fake


def order(count: int) -> list[int]:
    """The order into which the library `datasets` shuffles rows with the seed 42, for which it asks numpy."""
    return np.random.default_rng(42).permutation(count).tolist()


def permuted(rows: list[dict]) -> list[dict]:
    return [rows[n] for n in order(len(rows))]


# ---------------------------------------------------------------- the hub's datasets


def test_the_shuffle_is_that_of_the_library_datasets(fake: FakeHub) -> None:
    fake.add(realsets.GSM8K, {"main/test-00000-of-00001.parquet": realsets.parquet(
        [realsets.problem(n) for n in range(10)], realsets.GSM8K_SCHEMA)})  # fmt: skip
    asked = [each["messages"][0]["content"] for each in GSM8K("test")]
    there = [5, 6, 0, 7, 3, 2, 4, 9, 1, 8]  # of Dataset.from_list(ten rows).shuffle(seed=42) in its version 5.2
    assert asked == [realsets.problem(n)["question"] for n in there]
    assert there == order(10)


def test_smoltalk_is_read_from_all_of_its_files(fake: FakeHub) -> None:
    rows = [realsets.talk(4 * n + part) for part in range(4) for n in range(10)]
    assert [each["messages"] for each in SmolTalk("train")] == [row["messages"] for row in permuted(rows)]
    assert [each["messages"] for each in SmolTalk("train", 7)] == [row["messages"] for row in permuted(rows)[:7]]
    assert len(SmolTalk("val")) == len(SmolTalk("val", 99)) == 12


def test_the_originals_mixture_is_built_as_its_scripts_write_it(fake: FakeHub) -> None:
    parts = [SmolTalk(split="train", stop=7), MMLU(subset="auxiliary_train", split="train"),
             GSM8K(subset="main", split="train"), ARC(subset="ARC-Easy", split="train")]  # fmt: skip
    assert len(TaskMixture(parts)) == 7 + sum(map(len, parts[1:]))
    assert len(GSM8K(subset="socratic", split="test")) == len(MMLU(subset="all", split="test")) - 1 == 12
    with pytest.raises(UserError, match="MMLU has no subset 'all' for train; expected 'auxiliary_train'"):
        MMLU(subset="all", split="train")


def test_an_exam_question_is_asked_as_the_original_asks_it(fake: FakeHub) -> None:
    task = MMLU("test")
    assert len(task) == 13
    assert next(each for each in task if "47?" in each["messages"][0]["content"]) == {
        "messages": [
            {"role": "user", "content": "Multiple Choice question: Which is 47?\n- 44=A\n- 45=B\n- 46=C\n- 47=D\n\n"
                                        "Respond only with the letter of the correct answer."},
            {"role": "assistant", "content": "D"},
        ],
        "letters": ["A", "B", "C", "D"],
    }  # fmt: skip
    right = [realsets.exam(n)["answer"] for n in range(40, 53)]
    assert ["ABCD".index(each["messages"][1]["content"]) for each in task] == [right[n] for n in order(13)]
    for each in task:
        assert [letter for letter in "ABCD" if task.grade(each, letter)] == [each["messages"][1]["content"]]


def test_training_validation_and_scored_questions_are_different_ones(fake: FakeHub) -> None:
    for make in (MMLU, GSM8K, lambda split: ARC("ARC-Easy", split), lambda split: ARC("ARC-Challenge", split)):
        asked = [{each["messages"][0]["content"] for each in make(split)} for split in ("train", "val", "test")]
        assert all(asked)
        assert not (asked[0] & asked[1] or asked[0] & asked[2] or asked[1] & asked[2])
    assert len(GSM8K("train")) + len(GSM8K("val")) == 40


def test_arc_has_its_own_letters(fake: FakeHub) -> None:
    rows = permuted([realsets.science(n) for n in range(30, 44)])
    task = ARC("ARC-Easy", "test")
    assert task.name == "ARC-Easy"
    assert [each["letters"] for each in task] == [row["choices"]["label"] for row in rows]
    assert [each["messages"][1]["content"] for each in task] == [row["answerKey"] for row in rows]
    assert {len(each["letters"]) for each in task} == {3, 4}
    figures = next(each for each in task if each["letters"][0] == "1")
    assert "=1\n- thing" in figures["messages"][0]["content"]


def test_every_conversation_can_be_learned(fake: FakeHub, tokenizer) -> None:
    """The mixtures of both stages, rendered as in training; nothing that is scored is among them."""
    identity_path().parent.mkdir(parents=True, exist_ok=True)
    identity_path().write_text(json.dumps(realsets.talk(1)["messages"]) + "\n", encoding="utf-8")
    graded = catalog.graded_tasks("real", "test")
    assert [task.name for task in graded] == list(catalog.GRADED["real"])
    scored = {task[n]["messages"][0]["content"] for task in graded for n in range(len(task))}
    mixtures = {(stage, split): catalog.training_conversations("real", [], split, stage)
                for stage in ("mid", "sft") for split in ("train", "val")}  # fmt: skip
    assert [len(mixture) for mixture in mixtures.values()] == [
        40 + 20 + 37 + 2 * 1 + 200_000 + 80_000, 12 + 10 + 3 + 3000 + 1200,
        20 + 20 + 37 + 40 + 1 + 300 + 300, 10 + 10 + 3 + 12,
    ]  # fmt: skip
    for mixture in mixtures.values():
        for task in mixture.tasks:
            for each in [task[n] for n in range(min(40, len(task)))]:
                chat.check(each)
                ids, mask = chat.render(tokenizer, each)
                assert len(ids) == len(mask) and 1 in mask
                assert not {message["content"] for message in each["messages"][:-1:2]} & scored


def test_both_stages_learn_from_the_real_recipe(fake: FakeHub, tokenizer, monkeypatch, capsys) -> None:
    monkeypatch.setattr(streams, "CHUNK", 32)
    config = GPTConfig(sequence_len=192, vocab_size=tokenizer.vocab_size, n_layer=1, n_head=1, n_kv_head=1, n_embd=32)
    tokenizer.save(tokenizer_dir())
    manager.save(checkpoints_dir("base") / "d1", 1, GPT(config), {}, {"tokenizer_hash": tokenizer.hash})
    make_identity.main(["--num", "20"])
    small = ["--conversations=real", "--no-compile", "--device_type=cpu", "--dtype=float32", "--num_iterations=1",
             "--device_batch_size=1", "--total_batch_size=192", "--eval_tokens=192"]  # fmt: skip
    mid_train.main([*small, "--text_share=0"])
    chat_sft.main([*small, "--eval_metrics_max_problems=1"])
    assert [catalog.recipe_of(manager.read_meta(checkpoints_dir(source) / "d1", 1)) for source in ("mid", "sft")] == [
        "real", "real",
    ]  # fmt: skip
    said = capsys.readouterr().out
    validated = [task.name for task in catalog.graded_tasks("real", "val")]
    assert validated == ["ARC-Easy", "ARC-Challenge", "MMLU", "GSM8K", "SpellingBee"]  # no HumanEval
    assert all(f"accuracy/{name}" in said for name in validated)


# ---------------------------------------------------------------- fetched once, read in any order


def test_what_was_fetched_serves_without_a_hub(fake: FakeHub, base: Path) -> None:
    before = list(MMLU("test"))
    assert [each.path for each in fake.sent("/resolve/main")] == []
    assert len(fake.sent("/large/|resolve-cache")) == 1  # no split that was not asked for
    fake.asked.clear()
    assert list(MMLU("test")) == before
    assert fake.asked == []
    shutil.rmtree(base / "datasets")
    fake.vanish()
    assert list(MMLU("test")) == before
    with pytest.raises(UserError, match="cannot be reached for cais/mmlu .* check the network"):
        MMLU("val")


def test_a_run_knows_them_by_their_content(fake: FakeHub, base: Path) -> None:
    tasks = {task.name: task for task in (SmolTalk("train", 7), MMLU("val"), GSM8K("train"), ARC("ARC-Easy", "val"))}
    before = json.loads(json.dumps({name: task.contents() for name, task in tasks.items()}))
    assert len(before["SmolTalk"][0]["files"]) == 4
    shutil.rmtree(base / "datasets")
    assert contents.changed(before["MMLU"], MMLU("val").contents()) is None
    assert contents.changed(before["SmolTalk"], SmolTalk("train", 6).contents()) is not None
    assert contents.changed(before["GSM8K"], GSM8K("val").contents()) is not None
    rows = [realsets.exam(n) for n in range(20, 31)]
    fake.add(realsets.MMLU, {"all/validation-00000-of-00001.parquet": realsets.parquet(rows, realsets.MMLU_SCHEMA)})
    hub.fetch("cais/mmlu", ["all/validation-*.parquet"], kind="dataset")
    said = contents.changed(before["MMLU"], MMLU("val").contents())
    assert said == "MMLU, val differs from what this run read"


def test_a_hub_that_vanishes_in_the_middle_leaves_nothing_half(fake: FakeHub, base: Path) -> None:
    fake.fail("large|resolve-cache", skip=1, cut=100, vanish=True)
    with pytest.raises(UserError, match="cannot be reached for HuggingFaceTB/smol-smoltalk .* to resume the download"):
        SmolTalk("train")
    assert not list(base.rglob("*.arrow"))


def test_a_part_of_the_files_is_not_taken_for_all(fake: FakeHub) -> None:
    """Another program may have fetched one file of four."""
    from huggingface_hub import hf_hub_download

    repo = realsets.SMOLTALK.removeprefix("datasets/")
    hf_hub_download(repo, "data/train-00002-of-00004.parquet", repo_type="dataset")
    assert len(SmolTalk("train")) == 40


@pytest.mark.parametrize(
    "files, said",
    [
        ({TEST: realsets.parquet([realsets.problem(1)], realsets.GSM8K_SCHEMA)},
         "the dataset cais/mmlu has no column 'choices' in test-00000-of-00001.parquet; it has question, answer"),
        ({"all/dev-00000-of-00001.parquet": b"", "x/test-00000-of-00002.parquet": b""},
         r"the dataset cais/mmlu has no all/test-\*.parquet; it has all/dev, x/test"),
        ({TEST: b"PAR1 is not all of it"}, "the files of cais/mmlu are damaged .*; delete .*/blobs and start"),
        ({TEST: realsets.parquet([], realsets.MMLU_SCHEMA)}, "the dataset cais/mmlu has no rows in test-0"),
        ({"all/test-00001-of-00002.parquet": b""},
         r"the dataset cais/mmlu is incomplete: of all/test-\*.parquet it has only all/test-00001-of-00002.parquet"),
        ({"README.md": b"moved"}, r"cais/mmlu does not hold a file named \*.parquet; it holds README.md"),
    ],
)  # fmt: skip
def test_a_dataset_of_another_form_ends_in_a_sentence(files, said: str, fake: FakeHub, base: Path) -> None:
    fake.add(realsets.MMLU, files)
    with pytest.raises(UserError, match=said) as refusal:
        MMLU("test")
    assert "\n" not in str(refusal.value)
    assert not list(base.rglob("*.arrow")) and not list(base.rglob("*.tmp"))


def test_a_damaged_file_is_fetched_again_once_it_is_deleted(fake: FakeHub, base: Path) -> None:
    good = list(MMLU("test"))
    (arrow,) = base.rglob("*.arrow")
    blob = hub.fetch("cais/mmlu", [TEST], kind="dataset").joinpath(TEST).resolve()
    for path in (arrow, blob):
        path.write_bytes(path.read_bytes()[:200] + b"\0" * (path.stat().st_size - 200))
        with pytest.raises(UserError, match="the files of cais/mmlu are damaged") as refusal:
            MMLU("test")
        shutil.rmtree(str(refusal.value).partition("; delete ")[2].removesuffix(" and start again"))
    assert list(MMLU("test")) == good


def test_a_table_goes_to_other_processes_by_name(fake: FakeHub) -> None:
    rows = MMLU("test").rows
    packed = pickle.dumps(rows)
    assert len(packed) < 3000
    assert list(pickle.loads(packed)) == list(rows)
    with pytest.raises(IndexError):
        rows[13]


def open_mmlu(_: int) -> int:
    return len(MMLU("test"))


def test_processes_that_begin_together_make_one_table(fake: FakeHub, base: Path) -> None:
    MMLU("val")  # the library is imported here, before the processes fork
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(open_mmlu, range(4), chunksize=1) == [13] * 4
    assert len(list((base / "datasets/cais/mmlu").iterdir())) == 2


def test_a_full_disk_leaves_no_table(fake: FakeHub, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = {"messages": [{"role": "user", "content": "x" * 10_000}], "source": ""}  # compresses to nothing
    fake.add(realsets.SMOLTALK, {"data/test-0.parquet": realsets.parquet([talk] * 1000, realsets.SMOLTALK_SCHEMA)})
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(small_disk / "base"))
    with pytest.raises(UserError, match="the disk is full"):
        SmolTalk("val")
    assert not [path for path in small_disk.rglob("*") if path.is_file() and path.stat().st_size]


# ---------------------------------------------------------------- GSM8K


def test_calculations_become_parts(fake: FakeHub) -> None:
    row = next(each for each in GSM8K("test") if "42000 coins" in each["messages"][0]["content"])
    assert row["messages"][1]["content"] == [
        {"type": "text", "text": "Tom has 42000+500 = $"},
        {"type": "python", "text": "42000+500"},
        {"type": "python_output", "text": "42500"},
        {"type": "text", "text": "42,500 coins.\n#### 42,500"},
    ]
    assert GSM8K("test").grade(row, "I think\n#### 42500") and GSM8K("test").grade(row, "#### 42,500.")
    assert not GSM8K("test").grade(row, "42500") and not GSM8K("test").grade(row, "#### 425")


@pytest.mark.parametrize(
    "solution, parts",
    [
        ("<<1/2=.5>>.5", [("python", "1/2"), ("python_output", ".5"), ("text", ".5")]),
        ("a<<2*3=2*3=6>>", [("text", "a"), ("python", "2*3=2*3"), ("python_output", "6")]),
        ("<<5>>5 and <<=7>> and <<3+4=>>7", [("text", "5 and "), ("text", " and "), ("text", "7")]),
        ("<<1,000-1=999>><<999*2=1998>>", [("python", "1,000-1"), ("python_output", "999"), ("python", "999*2"),
                                          ("python_output", "1998")]),
        ("3 << 4 and 5 >> 2", [("text", "3 << 4 and 5 >> 2")]),
        ("", []),
    ],
)  # fmt: skip
def test_odd_calculations(solution: str, parts: list) -> None:
    expected = [{"type": kind, "text": text} for kind, text in parts]
    if solution.startswith("3"):  # two shifts look like one call without a result
        expected = [{"type": "text", "text": "3 "}, {"type": "text", "text": " 2"}]
    assert solution_parts(solution) == expected


plain = st.text(st.sampled_from("ab$=+ 12\n,."), max_size=8)
calls = st.tuples(st.text("0123456789+-*/.,()", min_size=1), st.text("0123456789.", min_size=1))


@given(st.lists(st.tuples(plain, calls)), plain)
def test_nothing_of_a_solution_is_lost(pieces: list, end: str) -> None:
    solution = "".join(f"{text}<<{expression}={result}>>" for text, (expression, result) in pieces) + end
    shapes = {"text": "{}", "python": "<<{}=", "python_output": "{}>>"}
    assert "".join(shapes[part["type"]].format(part["text"]) for part in solution_parts(solution)) == solution


@pytest.mark.parametrize(
    "text, number",
    [
        ("#### 18", "18"), ("so\n#### 1,234,567", "1234567"), ("#### -5", "-5"), ("#### 0.25 m", "0.25"),
        ("It is 7.\n#### 7.", "7"), ("#### 3\n#### 4", "3"), ("####18", None), ("#### $18", None), ("18", None),
        ("#### ", None), ("#### 18 dollars", "18"),
    ],
)  # fmt: skip
def test_the_final_number(text: str, number: str | None) -> None:
    assert final_number(text) == number


@given(st.integers(-(10**9), 10**9))
def test_commas_make_no_difference(number: int) -> None:
    assert final_number(f"#### {number:,}") == final_number(f"#### {number}") == str(number)


# ---------------------------------------------------------------- HumanEval

RIGHT = "def twice1(x):\n    return math.floor(2 * x) + 1\n"  # the import stands in the prompt
WAYS = {
    "as it stands": RIGHT,
    "in a block": f"Here it is:\n```python\n{RIGHT}```\nIt works.",
    "in the second block": f"First:\n```\nprint(1)\n```\nthen\n```py\n{RIGHT}```",
    "in a block without an end": f"```python\n{RIGHT}",
    "with the prompt": realsets.function(1)["prompt"] + realsets.function(1)["canonical_solution"],
    "as its continuation": "    return math.floor(2 * x) + 1\n",
}
WRONG = {
    "nothing": "",
    "prose": "I would multiply by two.",
    "another number": "def twice1(x):\n    return 4",
    "a syntax error": "def twice1(x)\n    return 4",
    "an endless loop": "def twice1(x):\n    while True: pass",
    "too much memory": "def twice1(x):\n    return len('x' * 10**10)",
    "leaving early": RIGHT + "import sys\nsys.exit(0)",
    "leaving at once": RIGHT + "import os\nos._exit(0)",
    "claiming the end": RIGHT.replace("+ 1", "+ 2") + "import os\nos.write(3, b'end')\nos._exit(0)",
    "tests of its own": "def twice1(x):\n    return 0\ndef check(candidate):\n    pass\n",
    "looking at files": "def twice1(x):\n    return open('/etc/passwd').read()",
    "a process of its own": "import os\ndef twice1(x):\n    return os.system('true')",
}


@pytest.fixture
def second(fake: FakeHub) -> dict:
    return next(each for each in HumanEval() if each["entry_point"] == "twice1")


@pytest.mark.parametrize("way", WAYS)
def test_right_functions_pass(way: str, second: dict) -> None:
    assert HumanEval().grade(second, WAYS[way])


@pytest.mark.parametrize("way", WRONG)
def test_wrong_and_hostile_functions_fail(way: str, second: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.humaneval.SECONDS", 1.0)
    assert not HumanEval().grade(second, WRONG[way])


def test_every_reference_passes(fake: FakeHub) -> None:
    task = HumanEval()
    assert all(task.grade(each, reference(each)) for each in task)
    assert program("def f(x):\n    ''' f '''\n", "f", "def f(x): return x") == "def f(x): return x"
    assert program("import os\ndef fa(x): ...\n", "f", "    return 1") == "import os\ndef fa(x): ...\n    return 1"


# ---------------------------------------------------------------- letters


def test_words_are_spelled_and_letters_counted() -> None:
    parts = counted("berry", "r")
    assert [part["type"] for part in parts] == ["text", "python", "python_output", "text"]
    assert parts[0]["text"] == (
        "berry: b-e-r-r-y\n\nLooking for r:\n1-b\n2-e\n3-r found 1\n4-r found 2\n5-y\n\n"
        "That makes 2. With the calculator:"
    )
    assert [part["text"] for part in parts[1:]] == [
        '"berry".count("r")', "2", "\n\nThe letter r occurs 2 times in berry.\n\n#### 2",
    ]  # fmt: skip


def test_answers_are_what_the_calculator_says() -> None:
    task = SpellingBee("train", 300)
    for conversation in task:
        _, python, output, _ = conversation["messages"][1]["content"]
        assert calculator(python["text"]) == output["text"]
        assert task.grade(conversation, reference(conversation))
        assert not task.grade(conversation, f"#### {int(output['text']) + 1}")
    questions = {each["messages"][0]["content"] for each in task}
    assert len(questions) > 290
    assert {question.count('"') for question in questions} == {0, 2}
    assert SpellingBee("train", 9)[8] == SpellingBee("train", 300)[8]
    with pytest.raises(IndexError):
        task[300]


def test_no_word_is_in_two_splits(base: Path) -> None:
    for _ in range(2):
        listed = [set(words(split)) for split in ("train", "val", "test")]
        assert all(listed) and sum(map(len, listed)) == len(set.union(*listed))
        base.mkdir(exist_ok=True)
        (base / "words.txt").write_text("".join(f"{a}{b}rk\n" for a in "abcdefghij" for b in "aeiou"), encoding="utf-8")
    spelled = [each["messages"][1]["content"] for each in SimpleSpelling("train", 50)]
    assert {text[:4] for text in spelled} <= set(words("train"))
    assert all(text == f"{text[:4]}: {'-'.join(text[:4])}" for text in spelled)
    assert "bark" in set.union(*listed)


def test_a_word_list_that_is_none_ends_in_a_sentence(base: Path) -> None:
    base.mkdir()
    (base / "words.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match="cannot read .*words.txt .*expected one word per line, in UTF-8"):
        SpellingBee("test")
    (base / "words.txt").write_text("a\n12\n", encoding="utf-8")
    with pytest.raises(UserError, match="no word of 3 to 20 letters for the test split"):
        SpellingBee("test")


# ---------------------------------------------------------------- recipes


def test_recipes_are_known_by_name_and_by_checkpoint() -> None:
    with pytest.raises(UserError, match="--conversations is 'web'; expected one of littleworld, real, none"):
        catalog.training_conversations("web", [], "train")
    with pytest.raises(UserError, match="does not exist; write it with python -m scripts.make_identity"):
        catalog.identity()
    known = [({"conversations": "littleworld"}, "littleworld"), ({"conversations": "real"}, "real"), ({}, "real"),
             ({"dataset": "tinyworld"}, "littleworld"), ({"dataset": "fineweb-edu"}, "real"),
             ({"conversations": "none", "dataset": "tinyworld"}, "littleworld")]  # fmt: skip
    assert [catalog.recipe_of(meta) for meta, _ in known] == [recipe for _, recipe in known]
    assert catalog.graded_tasks("none", "val") == []
