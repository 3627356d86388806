"""The rules of the house: what a reader may rely on in every file, checked by reading or importing all of them."""

import ast
import functools
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.size import LONGEST
from nanochat.data.tokens import NAMED

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = sorted(path for room in ("nanochat", "scripts", "tasks", "extras") for path in (ROOT / room).rglob("*.py"))
SHIMS = [ROOT / f"{path}.py" for path in (  # at nanoGPT's places
    "train", "sample", "inference_server", *(f"data/{data}/prepare" for data in NAMED))]  # fmt: skip
SOURCES = [*LIBRARY, *SHIMS, *sorted((ROOT / "dev").glob("*.py")), *sorted((ROOT / "tests").glob("*.py"))]
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in LIBRARY]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def dotted(node: ast.expr) -> str:
    """The name of what is called, such as torch.load; () stands for what has no name."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "()"


@functools.cache
def calls(path: Path) -> list[tuple[str, ast.Call, str]]:
    """What a file calls, as (dotted name, node, place)."""
    return [(dotted(node.func), node, f"{name(path)}:{node.lineno}")
            for node in nodes(path) if isinstance(node, ast.Call)]


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """The top-level packages that a file imports, as (package, place)."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((item.name.split(".")[0], f"{name(path)}:{node.lineno}") for item in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).split(".")[0], f"{name(path)}:{node.lineno}"
    for called, node, place in calls(path):
        if called == "pytest.importorskip":
            yield ast.literal_eval(node.args[0]).split(".")[0], place


def within(path: Path, rooms: tuple[str, ...]) -> bool:
    return name(path).startswith(rooms)


# ---------------------------------------------------------------- importing does nothing

IMPORT_ALL = """
import contextlib, importlib, io, json, logging, os, sys, threading
import torch

packages, modules = (line.split() for line in sys.stdin)
for package in packages:  # what they do is theirs
    with contextlib.suppress(ImportError):
        importlib.import_module(package)

def state():
    return {"the environment": dict(os.environ), "torch's threads": torch.get_num_threads(),
            "the default dtype": torch.get_default_dtype(), "the random state": torch.random.get_rng_state().tolist(),
            "threads": threading.active_count(), "logging": logging.root.handlers[:], "the folder": os.listdir(".")}

def hook(event, args):
    if event == "open" and (args[2] & (os.O_WRONLY | os.O_RDWR)) and args[0] != os.devnull:
        did.append(f"opened {args[0]} for writing")
    if event in ("os.mkdir", "subprocess.Popen", "os.fork", "socket.connect"):
        did.append(f"{event} {args[:2]}")

did = []
sys.addaudithook(hook)
sys.argv[1:] = ["--no-such-flag", "garbage"]
found = {}
for module in modules:  # of modules that import each other, the first one is reported
    did.clear()
    before, printed = state(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            importlib.import_module(module)
        except BaseException as error:
            did.append(f"raised {error!r}")
    did += [f"changed {what}" for what, now in state().items() if before[what] != now]
    did += [f"printed {printed.getvalue()!r}"] if printed.getvalue() else []
    did += ["started CUDA"] if torch.cuda.is_initialized() else []
    if did:
        found[module] = did[:]
print(json.dumps(found))
"""
# What exports carry away runs under transformers, and nothing here imports it.
CARRIED_AWAY = "extras.export.modeling_nanochat_gpt"


def test_importing_a_module_does_nothing(tmp_path: Path) -> None:
    ours = {"nanochat", "scripts", "tasks", "extras", "dev", *sys.stdlib_module_names}
    packages = sorted({package for path in LIBRARY for package, _ in imports(path)} - ours)
    modules = [module for module in MODULES if module != CARRIED_AWAY]
    lines = f"{' '.join(packages)}\n{' '.join(modules)}\n"
    done = subprocess.run([sys.executable, "-B", "-c", IMPORT_ALL], input=lines, text=True, cwd=tmp_path,
                          capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


# ---------------------------------------------------------------- --help needs nothing heavy

SCRIPTS = [path.stem for path in LIBRARY if within(path, ("scripts/",)) and not path.stem.startswith("_")]
HEAVY = {"torch", "transformers", "pyarrow", "datasets", "matplotlib", "numpy", "pandas", "scipy", "safetensors",
         "wandb", "huggingface_hub", "httpx2", "fastapi", "starlette", "uvicorn", "pydantic", "rich"}  # fmt: skip
HELP_OF_EACH = """
import contextlib, importlib, io, json, os, sys
import nanochat.config  # once, instead of in each child; it is light

for script in sys.stdin.read().split():
    pid = os.fork()  # each in a process of its own, so that no script sees what another one imported
    if pid == 0:
        text = io.StringIO()
        code = None
        with contextlib.redirect_stdout(text):
            try:
                importlib.import_module(f"scripts.{script}").main(["--help"])
            except SystemExit as stop:
                code = stop.code
        imported = sorted(name for name in sys.modules if "." not in name)
        print(json.dumps([script, code, text.getvalue().startswith("usage: "), imported]), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[int | None, bool, list[str]]]:
    done = subprocess.run([sys.executable, "-c", HELP_OF_EACH], input="\n".join(SCRIPTS), text=True, cwd=ROOT,
                          capture_output=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {script: (code, is_help, imported) for script, code, is_help, imported in lines}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_printed_before_anything_heavy_is_imported(script: str, helps: dict) -> None:
    """Importing torch takes seconds; --help has to appear within half a second."""
    code, is_help, imported = helps[script]
    assert code == 0 and is_help
    assert HEAVY.intersection(imported) == set()


# ---------------------------------------------------------------- each thing in one place

# what is called: where it may be
CALLS = {
    r"\.backward$": ("nanochat/train/loop.py",),
    r"(optimizer|optim|opt|scaler)\.step$": ("nanochat/train/loop.py",),
    r"^torch\.load$": ("nanochat/checkpoint/",),
    r"(^|\.)multinomial$": ("nanochat/engine/",),
    r"(^|\.)KVCache$": ("nanochat/engine/",),
    r"^(eval|exec)$|^signal\.(alarm|setitimer)$": ("nanochat/sandbox.py",),  # in the process that it starts
}
PACKAGES = {
    "tiktoken": ("nanochat/tokenizer.py", "scripts/tok_eval.py"),  # where it is compared with others
    "rustbpe": ("nanochat/tokenizer.py",),
    "tyro": ("nanochat/config.py", "nanochat/flag_help.py"),
    "wandb": ("nanochat/log.py",),
    "yaml": ("nanochat/config_files.py", "tasks/core_bundle.py"),
    "huggingface_hub": ("nanochat/hub.py", "extras/export/"),
    "fsspec": ("nanochat/data/stores.py",),
    "tokenizers": ("nanochat/checkpoint/", "extras/export/"),
    "transformers": ("nanochat/checkpoint/", "extras/export/"),
    "pyarrow": ("nanochat/data/", "extras/clean/"),
    "safetensors": ("nanochat/checkpoint/", "extras/export/"),
    "fastapi": ("nanochat/web/", "extras/dashboard/"),
    "starlette": ("nanochat/web/", "extras/dashboard/"),
    "uvicorn": ("nanochat/web/",),
    "pydantic": ("nanochat/web/", "extras/dashboard/"),
    "prometheus_client": ("nanochat/web/",),
    "llguidance": ("nanochat/web/",),
    "latex2mathml": ("nanochat/web/typeset.py",),
    "pygments": ("nanochat/web/typeset.py",),
    "dill": (),
    "marshal": (),
    "shelve": (),
}


@pytest.mark.parametrize("pattern", CALLS)
def test_what_belongs_to_one_room_is_called_there_only(pattern: str) -> None:
    strays = [f"{place} calls {called}" for path in LIBRARY if not within(path, CALLS[pattern])
              for called, _, place in calls(path) if re.search(pattern, called)]
    assert strays == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_imported_in_its_room_only(package: str) -> None:
    strays = [place for path in LIBRARY if not within(path, PACKAGES[package])
              for imported, place in imports(path) if imported == package]
    assert strays == []


def test_of_pickle_only_its_error_is_imported() -> None:
    """torch.load raises it for a damaged file, also with weights_only; `pickles` alone reads any, and runs nothing."""
    for path in LIBRARY:
        if name(path) == "nanochat/pickles.py":
            continue
        for node in nodes(path):
            if isinstance(node, ast.Import):
                assert "pickle" not in [item.name for item in node.names], f"{name(path)}:{node.lineno}"
            if isinstance(node, ast.ImportFrom) and node.module == "pickle":
                assert [item.name for item in node.names] == ["UnpicklingError"], f"{name(path)}:{node.lineno}"


def test_pickles_are_read_by_the_restricted_reader_only() -> None:
    path = next(path for path in LIBRARY if name(path) == "nanochat/pickles.py")
    assert [called for called, _, _ in calls(path) if called in ("pickle.load", "pickle.loads")] == []


def test_torch_load_never_unpickles() -> None:
    for path in SOURCES:
        for called, node, place in calls(path):
            if called == "torch.load":
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("weights_only") == "True", f"{place} needs weights_only=True"


def test_special_tokens_are_spelled_in_chat_only() -> None:
    spelled = re.compile(r"<\|\w+\|>")
    strays = []
    for path in LIBRARY:
        if name(path) != "nanochat/chat.py":
            lines = path.read_text(encoding="utf-8").splitlines()
            strays += [f"{name(path)}:{number}" for number, line in enumerate(lines, 1) if spelled.search(line)]
    assert strays == []


def test_no_function_is_longer_than_a_screen() -> None:
    long = [f"{name(path)}:{node.lineno} {node.name}" for path in LIBRARY for node in nodes(path)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
            and node.end_lineno - node.lineno >= LONGEST]  # fmt: skip
    assert long == []


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc"}
    found = [module for module in MODULES if drawers & set(module.split("."))]
    assert found == ["tasks.common"]  # nanochat's name, which its users import TaskMixture from


def test_what_lies_at_nanogpts_places_only_calls_a_script() -> None:
    for path in SHIMS:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 14 and "from scripts." in text, name(path)


def test_text_files_are_opened_as_utf8() -> None:
    strays = []
    for path in SOURCES:
        has_own_open = any(isinstance(node, ast.FunctionDef) and node.name == "open" and not node.col_offset
                           for node in nodes(path))
        for called, node, place in calls(path):
            given = {keyword.arg for keyword in node.keywords}
            modes = [arg.value for arg in [*node.args, *(keyword.value for keyword in node.keywords)]
                     if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            binary = any(re.fullmatch(r"[rwax+]*b[rwax+]*", mode) for mode in modes)
            is_text = called.endswith((".read_text", ".write_text")) and called != "paths.write_text"
            opens = is_text or called == "open" and not has_own_open
            if opens and not binary and "encoding" not in given:
                strays.append(f"{place} {called}")
    assert strays == []


def test_no_exception_is_swallowed_whole() -> None:
    """Who catches everything must raise it again; but what the sandbox catches is its program's to raise."""
    strays = []
    for path in LIBRARY:
        if name(path) == "nanochat/sandbox.py":
            continue
        for node in nodes(path):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else ""
                if caught in ("", "Exception", "BaseException") and not any(
                    isinstance(inner, ast.Raise) for inner in ast.walk(node)
                ):
                    strays.append(f"{name(path)}:{node.lineno}")
    assert strays == []


# ---------------------------------------------------------------- what is installed is what is written

STEMS = {path.stem for room in ("tests", "dev") for path in (ROOT / room).glob("*.py")}  # imported by their bare names
# Run, or imported by others: by fsspec for a URL, and by moto's server.
COMMANDS = {"import-linter", "pyright", "pytest-xdist", "ruff", "flask", "flask-cors"}
DRIVERS = {"gcsfs", "s3fs"}
IMPORTED_AS = {"markdown-it-py": "markdown_it", "pillow": "PIL", "pyyaml": "yaml"}


def project() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def distribution(requirement: str) -> str:
    """The name in a requirement, spelled as the registry spells it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement.strip())[0]).lower()


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    by_extra = project()["project"]["optional-dependencies"]
    extras = [item for extra, items in by_extra.items() for item in items if extra != "dev"]
    declared = {distribution(item) for item in (*project()["project"]["dependencies"], *extras)} - DRIVERS
    dev = {distribution(item) for item in by_extra["dev"]} - COMMANDS
    assert project()["dependency-groups"]["dev"] == ["nanochat[dev]"]  # what `uv sync` installs
    ours = {"nanochat", "scripts", "tasks", "extras", "dev", "tests", *sys.stdlib_module_names, *STEMS}
    library = {package for path in LIBRARY for package, _ in imports(path)} - ours
    around = {package for path in SOURCES for package, _ in imports(path)} - ours - library
    dev -= {distribution(item) for item in extras} - DRIVERS  # which the tests need as well
    assert library == {IMPORTED_AS.get(item, item.replace("-", "_")) for item in declared}
    assert around == {IMPORTED_AS.get(item, item.replace("-", "_")) for item in dev}


def test_every_installed_version_is_pinned() -> None:
    pins: dict[str, set[str]] = {}
    for pin in project()["tool"]["uv"]["constraint-dependencies"]:
        package, version = pin.split(" ;")[0].split("==")
        pins.setdefault(distribution(package), set()).add(version)
    waiting = [*project()["project"]["dependencies"], *project()["project"]["optional-dependencies"]["dev"]]
    seen: set[str] = set()
    while waiting:
        package = distribution(waiting.pop())
        if package in seen:
            continue
        seen.add(package)
        try:
            found = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        if found.locate_file("").name == "_vendor":  # type: ignore[union-attr]
            continue  # a copy that setuptools carries and puts on the path
        assert found.version.split("+")[0] in pins.get(package, set()), f"{package} {found.version}: run dev/pin.py"
        waiting += [item for item in found.requires or [] if "extra ==" not in item]


def test_no_file_names_a_registry() -> None:
    """The addresses of registries differ from place to place; names and versions are enough."""
    hosts = [".".join(parts) for parts in [("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org")]]
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    texts = {item: (ROOT / item).read_bytes().decode("utf-8", "replace") for item in listed.stdout.splitlines()
             if (ROOT / item).is_file()}
    assert [(item, host) for item, text in texts.items() for host in hosts if host in text] == []


def test_the_lock_file_stays_out() -> None:
    assert "uv.lock" in (ROOT / ".gitignore").read_text(encoding="utf-8").split()


# ---------------------------------------------------------------- the commands

def test_every_flag_says_what_it_means() -> None:
    from dev import flags

    rows = [line for line in flags.tables().splitlines() if line.startswith("| ")]
    assert [row for row in rows if row.endswith("|  |") and "default" not in row] == []


@pytest.mark.parametrize("script", ["speedrun.sh", "dev/setup.sh", "dev/test.sh", ".ci/run"])
def test_shell_scripts_parse(script: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)


@pytest.mark.parametrize("python, expected", [(None, "neither uv nor python3"), ("exit 1", "python3-venv")])
def test_setup_without_its_tools_ends_in_one_sentence(python: str | None, expected: str, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    if python is not None:
        (tools / "python3").write_text(f"#!/bin/sh\n{python}\n", encoding="utf-8")
        (tools / "python3").chmod(0o755)
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-c", f"source {ROOT}/dev/setup.sh; echo went on"], cwd=tmp_path,
                          env={"PATH": str(tools)}, capture_output=True, text=True)
    assert done.returncode == 2
    assert "went on" not in done.stdout
    assert done.stderr.count("\n") == 1
    assert expected in done.stderr
    assert done.stderr.startswith("error: ")
