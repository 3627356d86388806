"""scripts/chat_web.py as a user starts it."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat import sandbox
from nanochat.checkpoint import manager
from nanochat.errors import UserError
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from nanochat.web import server
from scripts import chat_web
from tests.scripted import calculating
from tests.served import PATIENCE, ROOT, get, post, started

ASK = {"messages": [{"role": "user", "content": "Hello secret!"}]}


def save(tokenizer: Tokenizer, source: str, *steps: int) -> None:
    tokenizer.save(tokenizer_dir())
    for step in steps:
        about = {"tokenizer_hash": tokenizer.hash}
        manager.save(checkpoints_dir(source) / "d1", step, calculating(tokenizer, "é! Rome", 64), {}, about)


def test_a_server_says_what_it_has_and_ends_when_told(tokenizer: Tokenizer) -> None:
    save(tokenizer, "sft", 3, 7)
    save(tokenizer, "base", 5)
    flags = ["--model", "sft:d1", "--model", "base:d1", "--model=sft:d1:3", "--slots", "2", "--drain-seconds", "20"]
    with started("chat_web", *flags) as (process, address, said):
        assert "sft:d1: step 7" in said and "base:d1: step 5" in said and "does not chat" in said
        assert "ssh -L" in said and f"{address}/docs" in said
        models = get(f"{address}/v1/models").json()["data"]
        assert [(model["id"], model["step"]) for model in models] == [("sft:d1", 7), ("base:d1", 5), ("sft:d1:3", 3)]
        reply = post(f"{address}/v1/chat/completions", json=ASK).json()
        assert reply["choices"][0]["message"]["content"] == "é! Rome"
        port = address.rpartition(":")[2]
        again = [sys.executable, "-m", "scripts.chat_web", "--port", port]
        done = subprocess.run(again, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and f"port {port}" in done.stderr
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0 and "Traceback" not in err and "secret" not in out + err


def test_ctrl_c_ends_it_too_and_the_key_comes_from_the_environment(tokenizer: Tokenizer) -> None:
    save(tokenizer, "sft", 7)
    with started("chat_web", "--log_prompts", NANOGPT_API_KEY="old", NANOCHAT_API_KEY="new") as (process, address, _):
        ask = f"{address}/v1/chat/completions"
        assert post(ask, json=ASK, headers={"Authorization": "Bearer old"}).status_code == 401
        assert post(ask, json=ASK, headers={"Authorization": "Bearer new"}).status_code == 200
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        logged = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
        assert [line["what"] for line in logged] == ["chat", "reply"]
        assert "secret" in str(logged[0]["content"]) and logged[1]["content"] == ["é! Rome"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model", "xxx:d1"], "there is no model"), (["--model", "sft:d1:x"], "stage:tag:step"),
        (["--model", "sft", "--model", "sft:d1"], "two models are called sft:d1"), (["--model", "sft:d9"], "d9"),
        (["--model", "sft:d1", "--source", "base"], "--source"),
        (["--cors_origin", "example.com"], "origin"), (["--num_gpus", "0"], "num_gpus"), (["--port", "70000"], "port"),
        (["--temperature", "3"], "temperature"), (["--host", "no.such.host.invalid"], "--host"),
        (["--drain_seconds", "-1"], "drain_seconds"), (["--nonsense"], "nonsense"),
        (["--max_tokens", "0"], "max_tokens"), (["--api_key", ""], "--api_key"), (["--api_key", "é x"], "--api_key"),
        (["--dtype", "int4"], "int8"), (["--unsafe_code"], "without --allow_code"),
    ],
)  # fmt: skip
def test_flags_that_make_no_sense_are_refused(tokenizer: Tokenizer, flags: list[str], said: str) -> None:
    save(tokenizer, "sft", 7)
    with pytest.raises(UserError, match=said):
        chat_web.main(["--port", "0", "--device_type", "cpu", *flags])


def test_code_is_refused_where_it_cannot_be_isolated(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "missing", lambda: ["files (needs Landlock)", "memory (needs a cgroup)"])
    with pytest.raises(UserError, match=r"--allow_code .*: files \(needs Landlock\); memory .*--unsafe_code"):
        chat_web.main(["--port", "0", "--allow_code"])  # before it looks for a model
    with pytest.raises(UserError, match="no sft checkpoint"):
        chat_web.main(["--port", "0", "--allow_code", "--unsafe_code"])
    save(tokenizer, "sft", 7)
    served: list[str] = []
    monkeypatch.setattr(server, "serve", lambda app, service, bound, host, seconds, notice: served.append(notice))
    chat_web.main(["--port", "0", "--device_type", "cpu", "--allow_code", "--unsafe_code"])
    assert served[0].startswith("--unsafe_code: ") and "files (needs Landlock)" in served[0]


def test_a_taken_port_is_noticed_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="taken"):
        chat_web.main(["--port", str(taken.getsockname()[1])])


@pytest.mark.parametrize(
    ("script", "named"), [("chat_web", ["--model=sft:none"]), ("inference_server", ["--source=sft:none"])]
)
def test_threads_that_wait_leave_their_core_to_the_event_loop(script: str, named: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"scripts.{script}", "--port=0", "--device_type=cpu", *named]
    env = {**os.environ, "OMP_DISPLAY_ENV": "TRUE", "NANOCHAT_BASE_DIR": str(tmp_path)}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr, done.stderr
