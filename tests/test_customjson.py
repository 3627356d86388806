import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat import chat, paths
from nanochat.config import UserError
from scripts import show_data
from tasks.customjson import CustomJSON
from tasks.mixture import Mixture


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
        ("{", "not JSON: .* at column 2; expected one conversation a line"),
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
    with pytest.raises(UserError, match=r"no file .*my.jsonl"):
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
        (["--data_path={file}x"], "there is no file"),
    ],
)
def test_show_data_refuses_in_a_sentence(file, argv, reason):
    file.write_text(lines(messages()), encoding="utf-8")
    with pytest.raises(UserError, match=reason):
        show_data.main([arg.format(file=file) for arg in argv])
