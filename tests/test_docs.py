"""The documents tell the truth: commands exist and run in miniature, snippets run, files and counts are as written.

Each line of a ```bash block is a command. Its flags are parsed, always. Where no `<!-- not run: reason -->` stands
above the block, it is run as well, on tiny settings in a copy of a small world that the commands of start/cpu.md make.
"""

import importlib
import io
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import yaml

from dev import flags as flag_tables
from nanochat import config
from nanochat.paths import sha256
from scripts.__main__ import script_of

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S)
LINK = re.compile(r"(?<!`)\[[^\]\n]*(?:\n[^\]\n]*)?\]\(([^)\s]+)\)")
FLAGS_ELSEWHERE = {"nanochat.data.shards": "scripts.download_data", "tasks.littleworld": "tasks.littleworld.__main__"}
OTHERS = {"cd", "curl", "docker", "kubectl", "nohup", "pip", "sbatch", "sky", "ssh", "tail", "transformers", "uv",
          "vllm"}  # programs, not ours  # fmt: skip


class Block(NamedTuple):
    page: Path
    language: str
    text: str
    why: str | None
    """the reason for which it is not run"""


class Command(NamedTuple):
    """A line of a block: environment variables, and the words of the command, without `uv run`."""

    environment: dict[str, str]
    words: list[str]

    @property
    def module(self) -> tuple[str, list[str]] | None:
        """The module that python or torchrun runs, and its arguments; None for another program."""
        words = self.words
        if words[0] in GPT_COMMANDS:
            return GPT_COMMANDS[words[0]], words[1:]
        if words[0] == "nanochat" and len(words) > 1 and not words[1].startswith("--tyro-"):
            return f"scripts.{script_of(words[1])}", words[2:]
        if words[0] not in ("python", "torchrun") or "-m" not in words:
            return None
        at = words.index("-m")
        arguments = words[at + 2 :]
        return words[at + 1], arguments[1:] if arguments[:1] == ["--"] else arguments


GPT_COMMANDS = {
    "gpt-train": "scripts.train",
    "gpt-generate": "scripts.sample",
    "gpt-server": "scripts.inference_server",
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    found = FENCE.finditer(page.read_text(encoding="utf-8"))
    return [Block(page, match["language"], match["text"], match["why"]) for match in found]


def command(line: str) -> Command:
    words = shlex.split(line, comments=True)
    if ">" in words:
        words = words[: words.index(">")]
    if words[:1] == ["nohup"]:
        words = words[1:]
    environment = {}
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        key, _, environment[key] = words.pop(0).partition("=")
    if words[:2] == ["uv", "run"]:
        words = words[4:] if words[2] == "--group" else words[2:]
    return Command(environment, words)


def commands(block: Block) -> list[Command]:
    lines = block.text.replace("\\\n", " ").splitlines()
    return [command(line) for line in lines if line.strip() and not line.startswith("#")]


BLOCKS = [block for page in PAGES for block in blocks(page)]
BASH = [block for block in BLOCKS if block.language == "bash"]
ids = [f"{name(block.page)}:{number}" for number, block in enumerate(BASH)]


# ---------------------------------------------------------------- every command exists, with its flags


def check(module: str, arguments: list[str]) -> None:
    """Parse the arguments of a module; raises UserError for an unknown flag or a value that does not fit."""
    made = importlib.import_module(FLAGS_ELSEWHERE.get(module, module)).Flags
    config.parse(made, arguments)


@pytest.mark.parametrize("block", BASH, ids=ids)
def test_commands_exist_and_know_their_flags(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipe = "".join((ROOT / file).read_text(encoding="utf-8") for file in ("speedrun.sh", "scripts/speedrun.py")
                     if (ROOT / file).exists())  # fmt: skip
    for environment, words in (item := commands(block)):
        if words and words[0] == "bash":
            assert (ROOT / words[1]).is_file()
            assert all(re.search(rf"\b{key}\b", recipe) for key in environment.keys() - {"NANOCHAT_BASE_DIR"})
    for item in commands(block):
        if item.module:
            module, arguments = item.module
            if not module.startswith("sglang"):
                check(module, arguments)
        elif item.words and item.words[0] == "python":
            assert (ROOT / item.words[1]).is_file() or block.why
        elif item.words and item.words[0] not in ("bash", "export"):
            assert item.words[0] in {*OTHERS, "nanochat", "pytest", "zensical"}, item.words


def in_tables() -> Iterator[tuple[str, str]]:
    """Our commands among the code spans of tables (the last column) and of running text, with their page."""
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        for line in text.splitlines():
            cell = re.split(r"(?<!\\)\|", line)[-2] if line.startswith("|") else line
            for span in re.findall(r"`((?:uv run )?(?:python|torchrun|gpt-|nanochat [a-z])[^`]*)`", cell):
                yield name(page), span.replace("\\|", "|").replace("…", "")


@pytest.mark.parametrize("page, span", list(in_tables()))
def test_commands_in_tables_know_their_flags(page: str, span: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = command(span).module
    if found and found[0].partition(".")[0] in ("scripts", "nanochat", "tasks") and "<" not in span:
        check(*found)


def test_every_script_is_documented() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES if page.name != "flags.md")
    scripts = {path.stem for path in (ROOT / "scripts").glob("[!_]*.py")}
    assert {script for script in scripts if not re.search(rf"\b{script}\b", text)} == set()


# ---------------------------------------------------------------- run in miniature

TINY_RUN = ["--device_type=cpu", "--dtype=float32", "--no-compile", "--eval_every=-1", "--save_every=-1"]
TINY_BATCH = ["--device_batch_size=2", "--eval_tokens=256"]
TINY_BASE = [*TINY_RUN, *TINY_BATCH, "--aspect_ratio=8", "--head_dim=32", "--max_seq_len=128", "--total_batch_size=256",
             "--warmup_steps=1"]  # fmt: skip
TINY_EVAL = ["--device=cpu", "--dtype=float32", "--max_problems=2", "--max_new_tokens=8", "--batch_size=4"]
TINY_TEXT = ["--device=cpu", "--dtype=float32", "--max_new_tokens=5"]
MINIATURE = {  # flags that make a command small; they come last and win
    "tasks.littleworld": ["--num_documents=400"],
    "scripts.tok_train": ["--vocab_size=400", "--max_chars=100000"],
    "scripts.base_train": TINY_BASE,
    "scripts.mid_train": [*TINY_RUN, *TINY_BATCH],
    "scripts.chat_sft": [*TINY_RUN, *TINY_BATCH, "--eval_metrics_every=-1", "--target_examples_per_step=2"],
    "scripts.chat_rl": [*TINY_RUN, "--num_iterations=1", "--examples_per_step=2", "--num_samples=2",
                        "--max_new_tokens=8", "--eval_examples=2", "--eval_samples=1"],
    "scripts.make_pairs": ["--device=cpu", "--dtype=float32", "--num=4", "--num_samples=2", "--max_new_tokens=8",
                           "--max_questions=32"],
    "scripts.chat_dpo": [*TINY_RUN, "--device_batch_size=2", "--total_batch_size=512"],
    "scripts.chat_eval": TINY_EVAL,
    "scripts.base_eval": ["--device=cpu", "--dtype=float32", "--max_new_tokens=4", "--num_samples=1", "--prompts=Once",
                          "--eval_tokens=256", "--device_batch_size=2"],
    "scripts.chat_cli": ["--device=cpu", "--dtype=float32", "--max_tokens=5"],
    "scripts.sample": [*TINY_TEXT, "--num_samples=1"],
    "scripts.chat_web": ["--device=cpu", "--dtype=float32", "--port=0", "--slots=2"],
    "scripts.inference_server": ["--device=cpu", "--dtype=float32", "--port=0", "--slots=2"],
    "scripts.infer_bench": ["--device=cpu", "--dtype=float32", "--batch_sizes=1", "--tokens=4", "--prompt_tokens=4",
                            "--repeats=1"],
    "scripts.train": ["--device=cpu", "--no-compile", "--block_size=16", "--batch_size=2", "--n_layer=1", "--n_head=1",
                      "--n_embd=16", "--max_iters=2", "--eval_iters=1", "--eval_interval=2"],
    "scripts.make_identity": ["--num=20", "--overwrite"],
    "scripts.clean_data": ["--min_chars=0", "--workers=1"],
    "scripts.show_data": ["--num=1"],
    "scripts.look": ["--device=cpu", "--tokens=200", "--rows=1", "--neurons=1", "--examples=1"],
}  # fmt: skip
WORDS = [start + end for start in "ba ce di fo gu ha je ki lo mu na pe".split() for end in "r ln st mp nd rk".split()]
DRAW = random.Random(0)
TEXT = "\n".join(" ".join(DRAW.choices(WORDS, k=12)) + "." for _ in range(120))


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the documents speak of, beside the checkout's own config."""
    folder = tmp_path_factory.mktemp("desk")
    for sub in ("config", "dev"):
        (folder / sub).symlink_to(ROOT / sub)
    (folder / "books").mkdir()
    for file in ("books/one.txt", "books/two.txt", "notes.txt", "letters.txt", "shakespeare.txt"):
        (folder / file).write_text(f"{file}. {TEXT}", encoding="utf-8")
    lines = [json.dumps({"text": f"Story {number}. {TEXT}"}) for number in range(20)]
    (folder / "more.jsonl").write_text("\n".join(lines), encoding="utf-8")
    talk = next(block.text for block in BLOCKS if block.page.name == "README.md" and block.language == "json")
    own = next(block.text for block in BLOCKS if block.page.name == "own-conversations.md" and block.language == "json")
    (folder / "my.jsonl").write_text(talk + own, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, desk: Path) -> Path:
    """A base folder with all that the commands of start/cpu.md make: text, tokenizer, and tiny models tagged d3."""
    base = tmp_path_factory.mktemp("small") / "base"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        patch.setenv("NANOCHAT_BASE_DIR", str(base))
        run_block(next(block for block in BASH if block.page.name == "cpu.md" and "tasks.littleworld" in block.text))
    return base


def run_block(block: Block) -> None:
    for item in commands(block):
        if item.words[0] == "export":
            key, _, value = item.words[1].partition("=")
            os.environ[key] = value.replace("~", os.environ["NANOCHAT_BASE_DIR"] + "-")  # the caller restores it
        elif item.module:
            run_module(*item.module)
        else:
            assert item.words[0] == "curl", f"{name(block.page)}: {shlex.join(item.words)} needs a marker"


def run_module(module: str, arguments: list[str]) -> None:
    """What `python -m module arguments` does, with small settings, in this process."""
    small = list(MINIATURE.get(module, []))
    made = importlib.import_module(FLAGS_ELSEWHERE.get(module, module))
    steps = getattr(config.parse(made.Flags, arguments), "num_iterations", None)
    if steps is not None and module != "scripts.chat_rl":
        small.append(f"--num_iterations={max(2, steps // 100)}")
    importlib.import_module(FLAGS_ELSEWHERE.get(module, module)).main([*arguments, *small])


@pytest.fixture
def there(small: Path, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small world as the base folder; the terminal says quit; servers stop once they are ready."""
    from nanochat.web.server import Server

    base = tmp_path / "base"
    shutil.copytree(small, base)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base))
    monkeypatch.chdir(desk)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello!\nquit\n"))
    startup = Server.startup

    async def ready(self: Server, sockets: list | None = None) -> None:
        await startup(self, sockets)
        self.stop()

    monkeypatch.setattr(Server, "startup", ready)
    return base


def runnable(page: Path) -> list[Block]:
    """The blocks of a page that are run, but for the one that `small` has run."""
    wanted = [block for block in BASH if block.page == page and block.why is None]
    return [block for block in wanted if "tasks.littleworld" not in block.text]


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=name)
def test_a_page_runs_in_miniature(page: Path, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "--dataset mine" in page.read_text(encoding="utf-8") and "add_data" not in page.read_text(encoding="utf-8"):
        shutil.copytree(there / "base_data_tinyworld", there / "base_data_mine")
    before = {path: sha256(path) for path in there.rglob("model_*.pt")}
    for block in runnable(page):
        run_block(block)
    kept = {path for path, digest in before.items() if path.exists() and sha256(path) == digest}
    assert kept or page.name == "resuming.md"


def test_the_road_of_the_readme_ends_with_the_models(small: Path) -> None:
    for stage in ("base", "mid", "chatsft"):
        assert list((small / f"{stage}_checkpoints" / "d3").glob("meta_*.json"))
    assert "chat_eval" in (small / "report" / "report.md").read_text(encoding="utf-8").replace(" ", "_")


@pytest.fixture(scope="module")
def server(small: Path, desk: Path) -> Iterator[str]:
    """The address of a server of the small world's models."""
    import served

    from nanochat.checkpoint import door
    from nanochat.engine import serving

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(small))
        models = [[serving.serve_model(door.find(each), "cpu", "float32", 2)] for each in ("sft:d3", "base:d3")]
        with served.served(*models) as live:
            yield live.url


CURLS = [(block, item) for block in BASH if block.why is None for item in commands(block) if item.words[0] == "curl"]


@pytest.mark.parametrize("block, item", CURLS, ids=lambda value: name(value.page) if isinstance(value, Block) else "")
def test_curl_is_answered(block: Block, item: Command, server: str) -> None:
    url = next(word for word in item.words if word.startswith("http://localhost:8000"))
    body = item.words[item.words.index("-d") + 1]
    response = httpx.post(url.replace("http://localhost:8000", server), content=body, timeout=60)
    assert response.status_code == 200, response.text


PYTHON = [block for block in BLOCKS if block.language == "python" and block.why is None]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: name(block.page))
def test_snippets_run(block: Block, server: str, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(small))
    text = block.text.replace("http://localhost:8000", server).replace('open("gpt2"', 'open("base:d3"')
    exec(compile(text, name(block.page), "exec"), {})


# ---------------------------------------------------------------- what is written about files


def test_the_readme_is_short_and_its_counts_are_true() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 250
    rows = flag_tables.COUNTED.findall(readme)
    assert len(rows) == 22
    for file, stated in rows:
        lines = len((ROOT / file).read_text(encoding="utf-8").splitlines())
        assert abs(int(stated) - lines) <= max(10, lines // 10), f"{file}: run uv run python dev/flags.py --write"


def test_the_readme_leads_a_newcomer_in_order() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    order = ["bash speedrun.sh", "bash dev/test.sh", "scripts.add_data books/", "nanochat/engine/sampling.py"]
    places = [readme.index(each) for each in order]
    assert places == sorted(places)


def test_every_folder_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    folders = {path.partition("/")[0] for path in listed if "/" in path and not path.startswith(".")}
    rooms = {"/".join(path.split("/")[:2]) for path in listed if path.startswith("nanochat/") and path.count("/") > 1}
    assert {folder for folder in folders | rooms if f"]({folder}" not in readme} == set()


def test_flags_are_those_of_the_scripts() -> None:
    page = flag_tables.PAGE.read_text(encoding="utf-8")
    assert flag_tables.replace(page, flag_tables.tables()) == page, "run: uv run python dev/flags.py --write"


LINKED = [*PAGES, ROOT / "CHANGELOG.md"]


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert ROOT / "docs" in file.parents or ROOT / "docs" not in page.parents, f"{target} leaves the site"
        assert not anchor or anchor in anchors(file), target


def test_files_named_in_the_documents_exist() -> None:
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        for path in re.findall(r"`((?:nanochat|scripts|tasks|extras|config|dev|tests|examples)/[\w./]*)`", text):
            assert (ROOT / path).exists() or "from/" in name(page), f"{name(page)}: {path}"


def test_messages_in_troubleshooting_are_printed() -> None:
    """What stands in the first column as code occurs in the sources, but for what differs from case to case (…)."""
    files = [*(ROOT / "dev").glob("*.sh"), *(path for room in ("nanochat", "scripts", "tasks", "extras")
             for path in (ROOT / room).rglob("*.py"))]  # fmt: skip
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    source = re.sub(r'"\s*\\?\n\s*f?"', "", source)  # a sentence over several lines
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    for cell in re.findall(r"^\|([^|]*)\|", page, re.M):
        for span in re.findall(r"`([^`]+)`", cell):
            fragments = [part.strip() for part in span.split("…") if " " in part.strip()]
            missing = [part for part in fragments if part not in source and "CUDA" not in part]
            assert missing == []


def test_the_site_builds_without_a_dead_link(tmp_path: Path) -> None:
    zensical = shutil.which("zensical", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if zensical is None:
        pytest.skip("zensical is not installed; uv run --group docs zensical build --strict")
    for item in ("docs", "nanochat"):
        shutil.copytree(ROOT / item, tmp_path / item)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    done = subprocess.run([zensical, "build", "--strict"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# ---------------------------------------------------------------- containers, CI, issue forms


def test_the_container_serves_the_page() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    for step, rest in steps:
        if step == "COPY" and "--from" not in rest:
            for source in [word for word in rest.split() if not word.startswith("--")][:-1]:
                assert (ROOT / source).exists(), source
    last = dict(steps)
    assert last["USER"].strip() not in ("root", "0")
    entry, arguments = json.loads(last["ENTRYPOINT"]), json.loads(last["CMD"])
    assert entry[-2] == "-m"
    check(entry[-1], arguments)
    assert "/health" in last["HEALTHCHECK"]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv"} <= set(ignored)


def test_compose_serves_the_page_to_this_machine() -> None:
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]["nanochat"]
    check("scripts.chat_web", service.get("command", []))
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_hosted_ci_runs_what_ci_runs() -> None:
    flow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = [step for job in flow["jobs"].values() for step in job["steps"]]
    assert "bash .ci/run" in [step.get("run", "").strip() for step in steps]
    assert flow["permissions"] == {"contents": "read"}


def test_issue_forms_ask_for_the_command() -> None:
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    for path in folder.glob("*.yml"):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.name != "config.yml":
            assert form["name"] and form["description"] and form["body"]
