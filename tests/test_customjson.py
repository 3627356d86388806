import gzip
import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat import chat, paths
from nanochat.data import shards
from nanochat.errors import UserError
from scripts import show_data
from tasks import survey as surveys
from tasks.catalog import training_conversations
from tasks.customjson import CustomJSON, held_out
from tasks.mixture import Mixture
from tasks.survey import survey


def messages(text: str = "Hi") -> list[dict]:
    return [{"role": "user", "content": text}, {"role": "assistant", "content": f"You said {text}."}]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "my.jsonl"


def lines(*values: object) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def test_objects_and_bare_lists_are_conversations(file):
    file.write_text(
        lines({"messages": messages("a"), "source": "a book"}) + "\n  \n" + lines(messages("Grüße 🚀")),
        encoding="utf-8",
    )
    task = CustomJSON(file)
    assert task.name == "my.jsonl"
    assert len(task) == 2
    assert list(task) == [{"messages": messages("a")}, {"messages": messages("Grüße 🚀")}]
    assert task[-1] == task[1]
    with pytest.raises(IndexError):
        task[2]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_files_of_other_editors_are_read(file, newline):
    rows = [json.dumps(messages(text)).encode() for text in ("a", "b", "c")]
    file.write_bytes(b"\xef\xbb\xbf" + newline.join(rows))  # a byte order mark, and no newline at the end
    assert [each["messages"] for each in CustomJSON(file)] == [messages("a"), messages("b"), messages("c")]


@given(st.lists(st.text(), min_size=1), st.data())
def test_every_conversation_comes_back_from_its_line(tmp_path_factory, texts, data):
    file = tmp_path_factory.mktemp("any") / "any.jsonl"
    rows = [lines(messages(text)) + "\n" * data.draw(st.integers(0, 2)) for text in texts]
    file.write_text("".join(rows), encoding="utf-8", errors="surrogatepass", newline="\n")
    task = CustomJSON(file)
    assert len(task) == len(texts)
    for index in data.draw(st.permutations(range(len(texts)))):
        assert task[index] == {"messages": messages(texts[index])}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON: .* at column 2; expected one conversation per line"),
        ("hello", "not JSON: .* at column 1"),
        ("3", "a conversation is an object with messages, not a number"),
        ("{}", "the conversation has no messages"),
        ("[]", "there are no messages"),
        ('["hello"]', "message 1 must be an object with role and content, not a string"),
        (lines(messages()[1:]), r"message 1 \(assistant\): here it is the user's turn"),
        (lines(messages()[:1]), "the last message must be the assistant's, not the user's"),
        (lines([*messages(), {"role": "assistant", "content": "More."}]), r"message 3 \(assistant\)"),
        (lines([messages()[0], {"role": "assistant", "content": ""}]), r"message 2 \(assistant\) is empty"),
        (lines([{"role": "human", "content": "x"}]), "unknown role 'human'; known are system, user, assistant"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "limit"),
    ],
)
def test_a_bad_line_is_named_by_file_number_and_reason(file, line, reason):
    before, after = lines(messages(), messages()) + "\n", "\n" + lines(messages())
    file.write_text(before + line.rstrip("\n") + after, encoding="utf-8")
    with pytest.raises(UserError, match=reason) as refusal:
        CustomJSON(file)
    assert str(refusal.value).startswith(f"{file}:4: ")
    assert "\n" not in str(refusal.value)


def test_bytes_that_are_not_utf8_are_named_by_their_offset(file):
    good = lines(messages("Grüße")).encode()
    file.write_bytes(good + b'[{"role": "user", "content": "Gr' + b"\xfc\xdfe" + b'"}]\n')
    with pytest.raises(UserError, match=rf":2: byte 0xfc at offset {len(good) + 32} is not UTF-8") as refusal:
        CustomJSON(file)
    assert file.read_bytes()[len(good) + 32] == 0xFC
    assert str(file) in str(refusal.value)


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_an_empty_file_is_refused(file, content):
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"my.jsonl holds no conversations; expected lines such as \{"):
        CustomJSON(file)


def test_a_missing_file_or_a_folder_is_refused(file):
    with pytest.raises(UserError, match="my.jsonl does not exist"):
        CustomJSON(file)
    with pytest.raises(UserError, match="cannot read"):
        CustomJSON(file.parent)


@pytest.mark.parametrize("change", ["in front", "one letter", "shorter", "gone"])
def test_a_file_that_changes_while_it_is_read_is_named(file, change):
    file.write_text(before := lines(messages("a"), messages("b")), encoding="utf-8")
    task = CustomJSON(file)
    if change == "gone":
        file.unlink()
    else:
        after = {"in front": "#" + before, "one letter": before.replace('"b"', '"c"'), "shorter": before[:90]}[change]
        file.write_text(after, encoding="utf-8")
    said = "was removed while" if change == "gone" else r"changed while this run was reading it \(line 2\)"
    with pytest.raises(UserError, match=f"my.jsonl {said}"):
        task[1]
    if change == "one letter":
        assert task[0] == {"messages": messages("a")}


# ---------------------------------------------------------------- an array, and compressed files


@pytest.mark.parametrize("name", ["my.json", "my.jsonl", "MY.JSON"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("front", ["", "\ufeff", "\n\n "])
@pytest.mark.parametrize("bare", [False, True])
def test_an_array_is_a_list_of_conversations(tmp_path, name, indent, front, bare):
    texts = ["a", "Grüße 🚀\u2028", "c" * 300, "]},"]
    rows = [messages(text) if bare else {"id": n, "messages": messages(text)} for n, text in enumerate(texts)]
    content = front + json.dumps(rows, indent=indent, ensure_ascii=False) + "\n"
    (tmp_path / name).write_bytes(content.encode())
    task = CustomJSON(tmp_path / name)
    assert [task[n] for n in (2, 0, 3, 1)] == [{"messages": messages(texts[n])} for n in (2, 0, 3, 1)]
    assert len(task) == 4 and task.sha256 == hashlib.sha256(content.encode()).hexdigest()
    if indent:
        places = [n for n, line in enumerate(content.split("\n"), 1) if line.startswith(("  {", "  ["))]
        assert list(task.lines) == places


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[\n{}\n]", ":2: the conversation has no messages"),
        ('[\n"x"]', ":2: a conversation is an object with messages, not a string"),
        ("[\n%s\n%s\n]", ":3: not JSON: Expecting ',' delimiter at column 1"),
        ("[\n%s,\n]", ":3: not JSON: Expecting value at column 1"),
        ("[%s,\n%s", ":2: not JSON: Expecting ',' delimiter"),
        ("[\n%s]\n\n%s", ":4: not JSON: Extra data at column 1"),
        ("[\n" + "[" * 100_000, "not a conversation: nested too deeply"),
        ("[\n" + "9" * 5000, "limit"),
        ("\n[\n]", "my.json holds no conversations"),
        ('[{"role": "user", "content": "x"}', ":1: not JSON: .* expected one conversation per line"),
    ],
)
def test_faults_of_an_array_are_named(tmp_path, content, said):
    path = tmp_path / "my.json"
    path.write_text(content.replace("%s", json.dumps({"messages": messages()})), encoding="utf-8")
    with pytest.raises(UserError, match=said):
        CustomJSON(path)


def test_bytes_of_an_array_that_are_not_utf8(tmp_path):
    path = tmp_path / "my.json"
    path.write_bytes(b'[\n{"messages": "Gr' + b"\xfc\xdfe" + b'"}\n]')
    with pytest.raises(UserError, match=r"my.json:2: byte 0xfc at offset 18 is not UTF-8"):
        CustomJSON(path)
    assert path.read_bytes()[18] == 0xFC


@pytest.mark.parametrize("suffix", [".gz", ".GZ", ".zst"])
def test_compressed_files(tmp_path, suffix):
    texts = [f"number {n}" for n in range(500)]
    content = lines(*map(messages, texts)).encode()
    plain, path = tmp_path / "my.jsonl", tmp_path / f"my.jsonl{suffix}"
    plain.write_bytes(content)
    with pa.output_stream(path, compression={".zst": "zstd"}.get(suffix, "gzip")) as out:
        out.write(content)
    task = CustomJSON(path)
    assert [task[n] for n in (499, 0, 7)] == [{"messages": messages(texts[n])} for n in (499, 0, 7)]
    assert task.sha256 == CustomJSON(plain).sha256
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="my.jsonl.* is damaged, or not compressed as its name says"):
        CustomJSON(path)


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MAX_GROUP", 1 << 20)
    monkeypatch.setattr(shards, "MAX_RATIO", 1)
    path = tmp_path / "my.jsonl.gz"
    path.write_bytes(gzip.compress(bytes(4 << 20)))
    with pytest.raises(UserError, match=r"my.jsonl.gz has .* unpacks to more than [\d,]+, which no real text does"):
        CustomJSON(path)


def test_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path in (tmp_path / "pipe.jsonl", Path("/dev/zero")):
        with pytest.raises(UserError, match="cannot read .*: it is not a regular file"):
            CustomJSON(path)


# ---------------------------------------------------------------- held out for validation


def write(path: Path, words: list[str]) -> Path:
    path.write_text(lines(*map(messages, words)), encoding="utf-8")
    return path


def asked(split: shards.Split, *paths: Path, recipe: str = "none", val: Sequence[Path] = ()) -> list[str]:
    mixture = training_conversations(recipe, paths, split, val_data_path=val)
    return sorted(each["messages"][0]["content"] for each in mixture)


def test_a_share_of_own_conversations_is_held_out(tmp_path):
    words = [f"word {n}" for n in range(400)]
    one, two = write(tmp_path / "one.jsonl", words[:300]), write(tmp_path / "two.jsonl", words[300:])
    train, val = asked("train", one, two), asked("val", one, two)
    assert sorted(train + val) == sorted(words) and 8 < len(val) < 40
    # Whatever is added, and in whatever order, a conversation stays on its side, and copies are on the same.
    more = write(tmp_path / "more.jsonl", [f"more {n}" for n in range(100)] + words[::-1])
    assert set(asked("val", more)) >= set(val) and not set(asked("train", more, one)) & set(asked("val", more, one))
    assert asked("val", more, one).count(val[0]) == 2 * asked("val", one, two).count(val[0])
    note = training_conversations("none", [one, two], "val").note
    assert note.startswith(f"{len(val)} of the 400 conversations are held out for validation")


@pytest.mark.parametrize("count", [2, 3, 5])
def test_few_conversations_have_one_held_out(tmp_path, count):
    path = write(tmp_path / "few.jsonl", [f"word {n}" for n in range(count)])
    train, val = asked("train", path), asked("val", path)
    assert len(val) == 1 and len(train) == count - 1 and val[0] not in train


def test_all_chosen_leaves_one_to_train_on():
    assert held_out([1, 2, 3]) == {1, 2} and held_out([5, 5]) == held_out([]) == set()
    assert held_out([2**63, 2**62]) == {2**62}


def test_a_single_conversation_is_validated_on_and_that_is_told(tmp_path):
    path = write(tmp_path / "one.jsonl", ["word", "word"])
    assert asked("train", path) == asked("val", path) == ["word", "word"]
    note = training_conversations("none", [path], "val").note
    assert note.startswith("the only conversation is also used for validation")
    assert training_conversations("none", [path], "train").note == ""


def test_given_files_are_for_validation_alone(tmp_path):
    own = write(tmp_path / "own.jsonl", [f"word {n}" for n in range(50)])
    given = write(tmp_path / "given.jsonl", ["other", "word 7"])
    assert asked("train", own, val=[given]) == sorted(f"word {n}" for n in range(50))
    assert asked("val", own, val=[given]) == ["other", "word 7"]
    assert asked("val", own, val=[given], recipe="littleworld") == ["other", "word 7"]
    note = training_conversations("none", [own], "val", val_data_path=[given]).note
    assert note == "1 of the 2 conversations of --val_data_path are also trained on"


def test_own_conversations_beside_a_recipe_are_all_trained_on(tmp_path):
    own = write(tmp_path / "own.jsonl", [f"word {n}" for n in range(50)])
    train = training_conversations("littleworld", [own], "train")
    val = training_conversations("littleworld", [own], "val")
    assert len(train.tasks[-1]) == 50 and len(train.tasks) == 1 + len(val.tasks)
    with pytest.raises(UserError, match="there are no conversations to train on"):
        training_conversations("none", [], "train")


# ---------------------------------------------------------------- what fits


def test_a_survey_counts_what_is_cut_and_left_out(tokenizer):
    short, long = messages("Hi"), messages("Hi " * 60)
    size = len(chat.render(tokenizer, {"messages": short})[0])
    rows = [{"messages": each} for each in [short] * 7 + [[*short, *long]] * 2 + [long]]
    found = survey(rows, tokenizer, size - 1, 512)
    assert (found.conversations, found.tokens, found.cut, found.left_out) == (10, 9 * size, 2, 1) and found.is_lossy
    assert str(found) == f"10 conversations, {9 * size} tokens; 3 are longer than {size - 1} tokens: 2 lose turns at " \
        "their end, 1 are left out"  # fmt: skip
    advised = found.remedy(512)
    assert advised == f"--max_seq_len={found.needed}"
    again = survey(rows, tokenizer, found.needed, 512)
    assert not again.is_lossy and str(again) == f"10 conversations, {again.tokens:,} tokens"
    assert survey(rows, tokenizer, found.needed - 1, 512).cut  # no more than it takes
    assert found.remedy(size - 1) == f"shorten them, or start from a model whose context has {found.needed} tokens"
    assert found.remedy(size + 1) == f"--max_seq_len={size + 1} keeps more of them"


@pytest.mark.parametrize("context, said", [(40, "shorten them, or start from a model"), (512, "--max_seq_len=")])
def test_where_nothing_fits_the_advice_can_be_followed(tokenizer, context, said):
    rows = [{"messages": messages("Hi " * 60)} for _ in range(5)]
    with pytest.raises(UserError, match="none of the 5 conversations fits into 40 tokens, .* alone; ") as refusal:
        survey(rows, tokenizer, 40, context)
    advice = str(refusal.value).rpartition("alone; ")[2]
    assert advice.startswith(said)
    if context > 40:
        assert not survey(rows, tokenizer, int(advice.rpartition("=")[2]), context).left_out


def test_of_very_many_a_sample_is_looked_at(tokenizer, monkeypatch):
    monkeypatch.setattr(surveys, "SAMPLE", 10)
    rows = [{"messages": messages("Hi " * (60 if n % 2 else 1))} for n in range(35)]
    found = survey(rows, tokenizer, 40, 512)
    assert found.looked_at == 10 and 3 <= found.left_out <= 7
    assert str(found).startswith("35 conversations, about ") and "of a sample of 10 are longer than 40" in str(found)


@given(st.lists(st.integers(0, 7), max_size=6))
def test_a_mixture_holds_every_row_once_in_the_shuffled_order(sizes):
    tasks = [[{"task": task, "row": row} for row in range(size)] for task, size in enumerate(sizes)]
    pairs = [pair for task in tasks for pair in task]
    random.Random(42).shuffle(pairs)
    mixture = Mixture(tasks)
    assert len(mixture) == len(pairs)
    assert [mixture[i] for i in range(len(mixture))] == pairs


def test_a_task_given_twice_counts_double():
    once, twice = [{"task": "a"}] * 3, [{"task": "b"}] * 5
    mixture = Mixture([once, twice, twice])
    assert Counter(row["task"] for row in mixture) == {"a": 3, "b": 10}
    assert [row["task"] for row in mixture] != ["a"] * 3 + ["b"] * 10
    with pytest.raises(IndexError):
        mixture[13]


def test_the_originals_names_work(file):
    from tasks.common import TaskMixture

    file.write_text(lines(messages("a"), messages("b")), encoding="utf-8")
    mixture = TaskMixture([CustomJSON(filepath=str(file)), CustomJSON(filepath=file)])
    assert Counter(row["messages"][0]["content"] for row in mixture) == {"a": 2, "b": 2}


TOOL = [
    {"role": "system", "content": "Use [bold]tools[/bold]."},
    {"role": "user", "content": "12 + 30?\x1b[31m"},
    {"role": "assistant", "content": [
        {"type": "python", "text": "12+30"},
        {"type": "python_output", "text": "42"},
        {"type": "text", "text": "42 🚀"},
    ]},
]  # fmt: skip


def test_show_data_marks_what_is_trained_on(file, tokenizer, capsys):
    file.write_text(lines({"messages": TOOL}, messages("Hi"), messages("Bye")), encoding="utf-8")
    tokenizer.save(paths.tokenizer_dir())
    show_data.main([f"--data_path={file}", "--num=2"])
    said = capsys.readouterr().out
    assert (
        "<|bos|><|system_start|>Use [bold]tools[/bold].<|system_end|><|user_start|>12 + 30?\\x1b[31m<|user_end|>"
        "<|assistant_start|>⟦<|python_start|>12+30<|python_end|>⟧<|output_start|>42<|output_end|>"
        "⟦42 🚀<|assistant_end|>⟧"
    ) in said
    assert "<|user_start|>Hi<|user_end|><|assistant_start|>⟦You said Hi.<|assistant_end|>⟧" in said
    assert "Bye" not in said
    assert "3 conversations" in said
    assert "warning" not in said


def test_show_data_marks_by_colour_on_a_terminal(tokenizer):
    ids, mask = chat.render(tokenizer, {"messages": TOOL})
    text = show_data.marked(tokenizer, ids, mask, plain=False)
    assert text.plain == tokenizer.decode(ids).replace("\x1b", "\\x1b")
    green = "".join(text.plain[span.start : span.end] for span in text.spans if "green" in str(span.style))
    dim = "".join(text.plain[span.start : span.end] for span in text.spans if "dim" in str(span.style))
    assert green == "<|python_start|>12+30<|python_end|>42 🚀<|assistant_end|>"
    assert dim == "".join(tokenizer.decode([id]) for id in ids if id >= tokenizer.bos)


def test_show_data_warns_of_what_does_not_fit(file, tokenizer, tmp_path, capsys):
    rows = lines(messages("Hi"), messages("Hi") * 2) + "\n" + lines(messages("Hi " * 90))
    file.write_text(rows, encoding="utf-8")
    tokenizer.save(tmp_path / "other")
    argv = [f"--data_path={file}", f"--tokenizer={tmp_path / 'other'}", "--start=1", "--max-seq-len"]
    one, two = (len(chat.render(tokenizer, {"messages": messages("Hi") * n})[0]) for n in (1, 2))
    show_data.main([*argv, str(two)])
    said = capsys.readouterr().out
    assert f"{two} tokens, " in said
    assert f"1 longer than --max_seq_len {two}, the first on line 4; 0 to lose turns at their end, 1 to be" in said
    show_data.main([*argv, str(one)])
    said = capsys.readouterr().out
    assert f"2 longer than --max_seq_len {one}, the first on line 2; 1 to lose turns at their end, 1 to be" in said
    assert said.count("; longer than") == 2


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        ([], "no file given"),
        (["--data_path={file}"], "no tokenizer at"),
        (["--data_path={file}", "--start=1"], "--start is 1, but .* 0 to 0"),
        (["--data_path={file}x"], "does not exist; --data_path takes"),
    ],
)
def test_show_data_refuses_in_a_sentence(file, argv, reason):
    file.write_text(lines(messages()), encoding="utf-8")
    with pytest.raises(UserError, match=reason):
        show_data.main([arg.format(file=file) for arg in argv])
