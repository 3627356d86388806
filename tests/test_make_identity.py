"""scripts/make_identity.py: conversations from templates, and from a real server that speaks OpenAI's API."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import chat
from nanochat.errors import UserError
from scripts.make_identity import main
from tasks import identity
from tasks.identity import conversations, parse_facts

FACTS = ["maker: I was made by Ada in Rome.", "My favourite number is 34.", "birth year: I was trained in 2026."]


def test_templates_give_hundreds_of_different_conversations() -> None:
    made = conversations("Bob", parse_facts(FACTS), 800, seed=1)
    texts = [json.dumps(each) for each in made]
    assert len(set(texts)) == len(made) == 800
    assert len({each["messages"][0]["content"] for each in made}) > 250
    for each in made:
        chat.check(each)
        assert "{" not in "".join(message["content"] for message in each["messages"])
    for fact in ("I was made by Ada in Rome.", "My favourite number is 34.", "I was trained in 2026.", "Bob"):
        assert sum(fact in text for text in texts) > 60
    assert any("your birth year" in text for text in texts)
    assert not any("whoever ran it made me" in text for text in texts)  # what is given takes the place of what is not
    assert {len(each["messages"]) for each in made} == {2, 4, 6, 8}


def test_a_seed_decides_them() -> None:
    facts = parse_facts(FACTS)
    assert conversations("Bob", facts, 50, 1) == conversations("Bob", facts, 50, 1)
    assert conversations("Bob", facts, 50, 1) != conversations("Bob", facts, 50, 2)


def test_more_than_there_are_ends_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_TOPICS", {"name": (["Who?"], ["{name}."])})
    with pytest.raises(UserError, match="the templates make [0-9]+ different conversations, not 500; give more"):
        conversations("Bob", {}, 500, 1)


@given(st.lists(st.text(max_size=20)), st.text(min_size=1, max_size=9))
@settings(max_examples=30)
def test_any_name_and_facts_make_conversations(lines: list[str], name: str) -> None:
    for each in conversations(name, parse_facts(lines), 20, 1):
        if name.strip():
            chat.check(each)


def test_facts_have_topics() -> None:
    lines = ["Maker: Ada.", " ", "See http://x: it is mine", "a b: c", "maker: And Bob.", "no-topic:here"]
    assert parse_facts(lines) == {
        "maker": ["Ada.", "And Bob."], "": ["See http://x: it is mine", "no-topic:here"], "a b": ["c"],
    }  # fmt: skip


def test_the_file_is_what_training_reads(base: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "facts.txt").write_text("maker: I was made by Ada.\n\nI have 34 layers.\n", encoding="utf-8")
    main(["--name", "Bob", "--facts", str(tmp_path / "facts.txt"), "place: I live in Rome.", "--num", "300"])
    task = identity.identity()
    assert len(task) == 300
    text = (base / "identity_conversations.jsonl").read_text(encoding="utf-8")
    assert all(fact in text for fact in ("I was made by Ada.", "I have 34 layers.", "I live in Rome."))
    assert isinstance(json.loads(text.splitlines()[0]), list)  # one array a line, as the original has it
    assert f"300 conversations of Bob are in {base}" in capsys.readouterr().out
    with pytest.raises(UserError, match="already exists; replace it with --overwrite"):
        main(["--name", "Eve"])
    main(["--name", "Eve", "--num", "5", "--overwrite"])
    assert len(identity.identity()) == 5


@pytest.mark.parametrize(
    "argv, said",
    [
        (["--num", "0"], "--num is 0; expected 1 or more"),
        (["--name", " "], "--name is empty"),
        (["--model", "x"], "--base_url and --model go together"),
        (["--base_url", "http://127.0.0.1:9", "--model", "x", "--num", "1"], "does not answer .*what has come is kept"),
        (["--base_url", "nonsense", "--model", "x", "--num", "1"], "nonsense/chat/completions does not answer"),
        (["--facts", "{latin}"], "cannot read the facts in .*expected text in UTF-8"),
    ],
)
def test_mistakes_end_in_a_sentence(argv: list[str], said: str, base: Path, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=said):
        main([arg.format(latin=tmp_path / "latin.txt") for arg in argv])
    assert not (base / "identity_conversations.jsonl").exists()


# ---------------------------------------------------------------- through a server


@dataclass
class Writer:
    """A server; `answers` says what the n-th request gets, a text or a status."""

    url: str = ""
    asked: list[dict] = field(default_factory=list)
    answers: list[str | int] = field(default_factory=list)


@pytest.fixture
def writer() -> Iterator[Writer]:
    state = Writer()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                state.asked.append({**body, "key": self.headers.get("Authorization"), "path": self.path})
                content = state.answers.pop(0) if state.answers else conversation(len(state.asked))
            said = {"choices": [{"message": {"role": "assistant", "content": content}}]}
            self.send_response(content if isinstance(content, int) else 200)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    yield state
    server.shutdown()
    server.server_close()


def conversation(n: int) -> str:
    messages = [{"role": "user", "content": f"Who? {n}"}, {"role": "assistant", "content": f"Bob, {n}."}]
    return f"Gladly:\n```json\n{json.dumps(messages)}\n```"


def arguments(writer: Writer, *more: str) -> list[str]:
    about = ["--name", "Bob", "--facts", "I like tea.", "--num", "6"]
    return [*about, "--base_url", writer.url, "--model", "large", *more]


def test_a_server_writes_them(writer: Writer, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k3y")
    writer.answers = ["no JSON", "[]", "[1, 2]"]
    main(arguments(writer))
    assert len(identity.identity()) == 6 and len(writer.asked) == 9
    assert {each["key"] for each in writer.asked} == {"Bearer k3y"}
    assert {each["path"] for each in writer.asked} == {"/v1/chat/completions"}
    assert {each["model"] for each in writer.asked} == {"large"}
    texts = [each["messages"][0]["content"] for each in writer.asked]
    assert len(set(texts)) == 6 and all("called Bob" in text and "- I like tea." in text for text in texts)
    assert len({each["seed"] for each in writer.asked}) == 9
    assert [path.name for path in base.iterdir()] == ["identity_conversations.jsonl"]


def test_an_interrupted_run_goes_on(writer: Writer, base: Path) -> None:
    writer.answers = [conversation(n) for n in range(3)] + [500] * 9
    with pytest.raises(UserError, match="does not answer .*500.* what has come is kept"):
        main(arguments(writer, "--workers", "1"))
    (draft,) = base.iterdir()
    assert len(draft.read_text(encoding="utf-8").splitlines()) == 3
    with draft.open("a", encoding="utf-8") as file:
        file.write('{"n": 3, "mess')  # a kill in the middle of a line
    writer.answers.clear()
    writer.asked.clear()
    main(arguments(writer))
    assert len(writer.asked) == 3
    assert [each["messages"][0]["content"] for each in identity.identity()][:3] == ["Who? 0", "Who? 1", "Who? 2"]
    assert not draft.exists()


def test_a_server_that_writes_anything_else_ends_in_a_sentence(writer: Writer, base: Path) -> None:
    writer.answers = ['[{"role": "user", "content": "Hi"}]'] * 99
    with pytest.raises(UserError, match="large wrote no valid conversation in 4 tries .*the last message must be the"):
        main(arguments(writer))
    assert list(base.iterdir()) == []
