"""The libraries that people ask language models with, at a real server, each as its own users write it.

tests/clients has a script for each of them. It runs once, in an environment of its own; every check in it is a test.
"""

import ast
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nanochat.engine.engine import Engine
from nanochat.web.state import Settings
from tests import obedient
from tests.clients import environments
from tests.clients.checks import KEY
from tests.served import loaded, served

CLIENTS = Path(__file__).resolve().parent / "clients"
OLDER = {"instructor", "llama_index"}  # which want an openai of before
# Nothing may ask another host than ours, nor wait for one.
QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True", "OPENAI_AGENTS_DISABLE_TRACING": "1", "HAYSTACK_TELEMETRY_ENABLED": "False",
    "DO_NOT_TRACK": "1", "AI_SDK_LOG_WARNINGS": "false",
}  # fmt: skip


def checks() -> list[tuple[str, str]]:
    """Every check, by its script."""
    found = []
    for script in sorted(CLIENTS.glob("*_client.py")):
        tree = ast.parse(script.read_text(encoding="utf-8"))
        functions = [each for each in tree.body if isinstance(each, ast.FunctionDef)]
        found += [(script.name, each.name) for each in functions if "check" in map(ast.unparse, each.decorator_list)]
    for script in sorted(CLIENTS.glob("node/*_client.js")):
        names = re.findall(r"^  async (\w+)\(", script.read_text(encoding="utf-8"), re.M)
        found += [(script.name, name) for name in names]
    return found


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """One model, so that any name means it."""
    tokenizer = obedient.tokenizer()
    engine = Engine(obedient.obedient(tokenizer), slots=8)
    with served([loaded(engine, tokenizer)], settings=Settings(api_key=KEY)) as live:
        yield live.url


@pytest.fixture(scope="module")
def outcomes(url: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str | None]]:
    """A function that runs a script, the first time that it is asked for: the errors of its checks."""
    known: dict[str, dict[str, str | None]] = {}

    def run(script: str) -> dict[str, str | None]:
        if script not in known:
            home = tmp_path_factory.mktemp("home")
            env = {**os.environ, **QUIET, "HOME": str(home)}
            done = subprocess.run([*command(script), url], cwd=home, env=env, capture_output=True, text=True)
            lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"check"')]
            known[script] = {each["check"]: each["error"] for each in lines}
            assert known[script], done.stderr
        return known[script]

    return run


def command(script: str) -> list[str]:
    if script.endswith(".js"):
        return ["node", str(environments.node() / script)]
    name = script.removesuffix("_client.py")
    return [str(environments.python("older" if name in OLDER else "frameworks")), str(CLIENTS / script)]


@pytest.mark.parametrize(("script", "check"), checks())
def test_a_client_gets_what_it_asks_for(script: str, check: str, outcomes: Callable) -> None:
    error = outcomes(script)[check]
    assert error is None, error


def test_the_guide_names_the_versions_that_are_tested() -> None:
    pinned = "".join((CLIENTS / name).read_text(encoding="utf-8") for name in ("frameworks.txt", "older.txt"))
    known = set(re.findall(r"^([\w-]+)==([\w.]+)(?! ; python_full_version <)", pinned, re.M))
    known |= set(json.loads((CLIENTS / "node" / "package.json").read_text(encoding="utf-8"))["dependencies"].items())
    guide = (CLIENTS.parent.parent / "docs" / "guides" / "clients.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w-]+) (\d[\w.]+)", guide, re.M)
    assert len(rows) >= 14 and set(rows) <= known
