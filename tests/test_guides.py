"""The guides that people hold in their hands, walked: a bot on nanoGPT's server, nanoGPT with tools, nanoLLM_gpt.

The commands are those of the guides; behind them stand flags that make them small.
"""

import io
import json
import math
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from gpt2s import write_gpt2
from served import get, post
from walk import COVERED, PATIENCE, ROOT, Walk, documented, find_uv, walking, walks

from nanochat.checkpoint import nanogpt
from nanochat.config import parse
from nanochat.engine import serving
from nanochat.tokenizer import Tokenizer
from scripts import chat_web, inference_server

BOT, TOOLS, NANOLLM = "a bot on nanoGPT's inference server", "nanoGPT and nanochat with tools", "nanoLLM_gpt"
TEXT = "".join(f"Cat {n} sat on mat {n * 7}, and the rain fell on the roof of the baker.\n" for n in range(400))
CONTEXT = 64
CPU = "--device=cpu --compile=False"
SMALL = f"{CPU} --block_size=16 --batch_size=2 --gradient_accumulation_steps=2 --n_layer=1 --n_head=1 --n_embd=16" \
    " --max_iters=4 --eval_interval=2 --eval_iters=1 --log_interval=1 --dropout=0"  # fmt: skip
FEW = "--num_samples=2 --max_new_tokens=8 --device=cpu"


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    folder = tmp_path_factory.mktemp("walk")
    write_gpt2(folder / "gpt2", CONTEXT)
    with walking(folder, folder / "gpt2") as walk:
        for name in ("input.txt", "data/shakespeare_char/input.txt", "data/shakespeare/input.txt"):
            walk.write(name, TEXT)
        yield walk


# ---------------------------------------------------------------- installing


@walks(BOT, "pip install -r requirements.txt")
@walks(NANOLLM, 'pip install -e ".[dev,datasets,wandb]"; pytest tests/')
def test_it_installs(walk: Walk) -> None:
    """As far as that goes without a registry: both ways find the project, and its extras are known."""
    uv = find_uv()
    for wanted in ("-r requirements.txt", "-e '.[dev,datasets,wandb]'"):
        done = walk.shell(f"{uv} pip install --dry-run --offline --no-deps {wanted}", VIRTUAL_ENV=sys.prefix)
        assert done.code == 0 and f"+ nanochat @ file://{walk.folder}" in done.said, done.said
        assert "does not have" not in done.said
    extras = re.search(r"^dev = \[.*?^\]", (walk.folder / "pyproject.toml").read_text(encoding="utf-8"), re.M | re.S)
    assert extras is not None and '"pytest>=' in extras[0]


@walks(NANOLLM, "Python 3.8+", "pytest --cov, tests/integration_tests, Makefile, black/flake8/mypy",
       "examples/basic_usage.py, handbook.md", "best_ckpt.pt, training.log, logs/server.log",
       "page: start and monitor training")  # fmt: skip
def test_what_has_another_name_is_in_the_documents() -> None:
    documented("from/nanollm_gpt.md", "**Python** 3.10 or newer", "| `black`, `flake8`, `mypy`, `make test` |",
               "| `ruff check`, `pyright`, ", "`python examples/basic_usage.py`", "`handbook.md`",
               "| `best_ckpt.pt` | `ckpt_best.pt` |", "`training.log`, `logs/server.log`",
               "**Training is not started or watched on the page.**")  # fmt: skip
    assert (ROOT / "examples" / "train_on_your_text.py").is_file()


# ---------------------------------------------------------------- data


@pytest.fixture(scope="module")
def characters(walk: Walk) -> Path:
    """Shakespeare's characters."""
    done = walk.shell("python data/shakespeare_char/prepare.py")
    assert done.code == 0 and f"a vocabulary of {len(set(TEXT))} characters" in done.said, done.said
    return walk.folder / "data/shakespeare_char"


@pytest.fixture(scope="module")
def shakespeare(walk: Walk) -> Path:
    """Shakespeare in GPT-2's tokens, from within his folder and without anything installed."""
    done = walk.shell("cd data/shakespeare && python prepare.py", PYTHONPATH="")
    assert done.code == 0 and "config/finetune_shakespeare.py" in done.said, done.said
    return walk.folder / "data/shakespeare"


@walks(BOT, "data/shakespeare_char/prepare.py")
def test_the_prepare_of_shakespeares_characters(walk: Walk, characters: Path) -> None:
    assert {"train.bin", "val.bin", "meta.pkl"} <= {path.name for path in characters.iterdir()}
    again = walk.type("python data/shakespeare_char/prepare.py").sentence
    assert "data/shakespeare_char already holds token files; replace them with --overwrite" in again
    assert walk.shell("git -C . init -q . && git status --short data").said.split() == ["??", "data/"]


@walks(BOT, "data/shakespeare, openwebtext prepare.py")
@walks(TOOLS, "cd data/shakespeare; python prepare.py")
def test_the_other_prepares(walk: Walk, shakespeare: Path, openwebtext: Path) -> None:
    assert Tokenizer.load(shakespeare).hash == Tokenizer.load(openwebtext).hash
    assert all((folder / f"{split}.bin").stat().st_size > 100
               for folder in (shakespeare, openwebtext) for split in ("train", "val"))  # fmt: skip


@pytest.fixture(scope="module")
def openwebtext(walk: Walk) -> Path:
    table = io.BytesIO()
    pq.write_table(pa.table({"text": [f"Page {n} of the web.\n" * (1 + n % 5) for n in range(3000)]}), table)
    walk.hub.add("datasets/Skylion007/openwebtext", {"plain/train-00000-of-00001.parquet": table.getvalue()})
    done = walk.type("python data/openwebtext/prepare.py")
    assert done.code == 0, done.said
    return walk.folder / "data/openwebtext"


@walks(TOOLS, "own folder with own prepare.py")
def test_an_own_prepare(walk: Walk) -> None:
    (walk.folder / "data/own").mkdir()
    for split in ("train", "val"):
        np.arange(2000, dtype=np.uint16).tofile(walk.folder / f"data/own/{split}.bin")
    done = walk.type(f"python train.py {SMALL} --dataset=own --out_dir=out-own")
    assert done.code == 0 and "2,000 tokens in data/own" in done.said, done.said


@walks(TOOLS, "dedup, PII, profanity before tokenization")
def test_cleaned_text_becomes_tokens(walk: Walk) -> None:
    documented("from/nanogpt.md", "[clean it](../guides/cleaning.md)", "base_data_mine-clean")
    walk.write("mine.txt", "Write to ada@example.com, please, about the cat.\n\n" * 5 + TEXT)
    for line in ("add_data mine.txt --name mine", "clean_data --dataset mine --name mine-clean --pii mask --workers=1"):
        done = walk.type(f"python -m scripts.{line}")
        assert done.code == 0, done.said
    cleaned = walk.home / ".cache/nanochat/base_data_mine-clean"
    done = walk.type(f"python -m scripts.prepare {cleaned} --tokenizer=char")
    assert done.code == 0, done.said
    folder = walk.folder / "data/base_data_mine-clean"
    ids = np.concatenate([np.fromfile(folder / f"{split}.bin", np.uint16) for split in ("train", "val")])
    text = Tokenizer.load(folder).decode(ids.tolist())
    assert "ada@example.com" not in text and "about the cat" in text


# ---------------------------------------------------------------- nanoGPT's train.py and sample.py


@pytest.fixture(scope="module")
def trained(walk: Walk, characters: Path) -> Path:
    """The out_dir of the first run of nanoGPT's README."""
    done = walk.type(f"python train.py config/train_shakespeare_char.py {SMALL} --lr_decay_iters=4")
    assert done.code == 0, done.said
    (walk.home / "first-run.txt").write_text(done.said, encoding="utf-8")
    return walk.folder / "out-shakespeare-char"


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@walks(BOT, "train.py config/train_shakespeare_char.py")
@walks(TOOLS, "train.py flags of the guide", "block_size, batch_size, n_layer, …", "ckpt.pt in out_dir",
       "fixed validation, perplexity every N steps", "best + latest checkpoint, delete the rest",
       "seeds in configs", "git commit + config diff per run")  # fmt: skip
def test_training(walk: Walk, trained: Path) -> None:
    said = (walk.home / "first-run.txt").read_text(encoding="utf-8")
    shown = re.findall(r"step (\d)  train_loss .*  val_loss ([\d.]+)  val_perplexity ([\d.]+)", said)
    assert [step for step, *_ in shown] == ["0", "2", "4"]
    assert all(float(perplexity) == pytest.approx(math.exp(float(loss)), rel=1e-3) for _, loss, perplexity in shown)
    assert {path.name for path in trained.glob("*.pt")} <= {"ckpt.pt", "ckpt_last.pt", "ckpt_best.pt"}
    assert nanogpt.read(trained / "ckpt.pt").config.sequence_len == 16
    config = json.loads((trained / "config.json").read_text(encoding="utf-8"))
    assert config["settings"]["seed"] == 1337 and "git_commit" in config
    assert config["changed_settings"]["block_size"] == 16 and "learning_rate" in config["changed_settings"]
    assert [row["step"] for row in metrics(trained) if "start" in row] == [0]


@walks(NANOLLM, "gpt-train --init-from resume --out-dir out")
def test_a_resumed_run_takes_its_own_settings_and_leaves_a_record(walk: Walk, trained: Path) -> None:
    shutil.copytree(trained, walk.folder / "out")
    done = walk.type("gpt-train --init-from resume --out-dir out --max-iters 6")
    assert done.code == 0 and "resumed with other settings: max_iters 4 -> 6\n" in done.said, done.said
    config = json.loads((walk.folder / "out/config.json").read_text(encoding="utf-8"))
    assert (config["settings"]["batch_size"], config["settings"]["dataset"]) == (2, "shakespeare_char")
    first, second = (row["start"] for row in metrics(walk.folder / "out") if "start" in row)
    assert first["resumed_with"] == [] and second["resumed_with"] == ["max_iters 4 -> 6"]
    assert first["changed_settings"]["max_iters"] == 4 and second["changed_settings"]["max_iters"] == 6


@walks(BOT, "train.py config/finetune_shakespeare.py")
def test_fine_tuning(walk: Walk, shakespeare: Path) -> None:
    done = walk.type(f"python train.py config/finetune_shakespeare.py {SMALL} --out_dir=out-tuned")
    assert done.code == 0 and "train: gpt2, " in done.said, done.said
    assert nanogpt.read(walk.folder / "out-tuned/ckpt.pt").config.sequence_len == 16


@walks(BOT, "torchrun … train.py config/train_gpt2.py")
def test_several_ranks(walk: Walk, openwebtext: Path) -> None:
    done = walk.shell(f"torchrun --standalone --nproc_per_node=2 train.py config/train_gpt2.py {SMALL} --out_dir=out-2")
    assert done.code == 0 and "done; step 4" in done.said, done.said


@walks(TOOLS, "sample.py flags", "save exemplar generations as regression fixtures",
       "system/user prompt format when sampling")  # fmt: skip
def test_sampling(walk: Walk, trained: Path) -> None:
    walk.write("prompt.txt", "Cat 1 sat\n")
    line = f"python sample.py --out_dir=out-shakespeare-char --start=FILE:prompt.txt {FEW} --temperature=0.8 --top_k=20"
    first, second = walk.type(line), walk.type(line)
    assert first == second and first.code == 0 and first.said.count("Cat 1 sat\n") == 2
    assert walk.type(f"{line} --output=exemplars.jsonl").code == 0
    assert walk.type(f"{line} --check=exemplars.jsonl").said.endswith("all 2 samples are the same\n")
    other = walk.type(f"{line} --check=exemplars.jsonl --seed=7")
    assert other.code == 1 and "sample 1 of 'Cat 1 sat\\n': its text differs" in other.said


# ---------------------------------------------------------------- speedrun.sh


@walks(TOOLS, "speedrun.sh, env vars for run name", "~1.9B on ~38B tokens in 4 h, $100")
def test_the_speedrun_tells_what_it_would_do(walk: Walk) -> None:
    environment = {"NANOCHAT_PYTHON": "python", "WANDB_RUN": "mine", "RECIPE": "real", "DEPTH": "20", "GPUS": "8",
                   "GPU": "h100"}  # fmt: skip
    done = walk.shell("bash speedrun.sh --dry_run", **environment)
    assert done.code == 0 and "--depth=20" in done.said and "8 x H100" in done.said, done.said
    assert "WANDB_RUN=x" in (walk.folder / "speedrun.sh").read_text(encoding="utf-8")
    assert re.search(r"in all .* \$\d", done.said) and not (walk.home / ".cache/nanochat/base_checkpoints").exists()
    documented("guides/real-data.md", "$100", "depth 20", "depth 32")
    for depth, least, most in ((20, 40, 60), (32, 500, 700)):  # dollars, as the page has them
        planned = walk.type(f"python -m scripts.plan --depth {depth} --gpu h100 --gpus 8").said
        price = re.search(r"in all .*\$([\d.]+)", planned)
        assert price is not None and least < float(price[1]) < most, planned


@walks(TOOLS, "speedrun: other dataset", "launches the web UI at the end")
def test_the_speedrun_with_another_dataset(walk: Walk) -> None:
    environment = {"RECIPE": "real", "GPUS": "8", "GPU": "h100", "REAL_DATASET": "roneneldan/TinyStories"}
    done = walk.type("python -m scripts.speedrun --dry_run", **environment)  # as speedrun.sh starts it
    assert done.code == 0 and "--dataset=roneneldan/TinyStories" in done.said, done.said
    # tests/test_speedrun.py runs one to its end, with the lines that it prints there.
    script = (walk.folder / "scripts/speedrun.py").read_text(encoding="utf-8")
    assert 'typed("scripts.chat_cli"' in script and 'typed("scripts.chat_web"' in script


# ---------------------------------------------------------------- inference_server.py


@pytest.fixture(scope="module")
def bot(walk: Walk) -> Iterator[httpx.Client]:
    """A client with the key of a server of GPT-2, which listens to other machines because it has one."""
    line = "python inference_server.py --init_from=gpt2 --device=cpu --compile"
    with walk.serving(line, NANOGPT_API_KEY="s3cret") as (address, said), httpx.Client(
        base_url=address, timeout=60, headers={"Authorization": "Bearer s3cret"}
    ) as client:
        assert "--compile has no effect" in said
        yield client


@walks(BOT, "python inference_server.py --init_from=gpt2 --port=8000", "POST /generate, body and {text}", "--compile",
       "GET / → status, model, device, dtype", "--api_key, NANOGPT_API_KEY, Bearer", "bfloat16 automatic")  # fmt: skip
def test_the_server_of_a_bot(bot: httpx.Client) -> None:
    dtype = serving.dtype_for("auto", torch.device("cpu")).name
    state = get(str(bot.base_url)).json()  # without the key
    assert state == {"status": "ok", "model": "gpt2", "device": "cpu", "dtype": dtype}
    body = {"prompt": "hello", "max_tokens": 5}
    answer = bot.post("/generate", json=body).json()
    assert set(answer) == {"text"} and not answer["text"].startswith("hello")
    for wrong in ({"Authorization": ""}, {"Authorization": "Bearer no"}):
        assert bot.post("/generate", json=body, headers=wrong).status_code == 401


@walks(BOT, "long-running bot: prompt beyond the context", "other fields (seed, stream, num_samples)",
       "max_tokens 5,000,000")  # fmt: skip
def test_what_a_bot_sends_in_the_long_run(bot: httpx.Client) -> None:
    long = bot.post("/generate", json={"prompt": "x" * (CONTEXT + 10), "max_tokens": 3, "temperature": 0})
    end = bot.post("/generate", json={"prompt": "x" * CONTEXT, "max_tokens": 3, "temperature": 0})
    assert long.json() == end.json() and long.headers["X-Prompt-Tokens-Dropped"] == "10"
    body = {"prompt": "hello", "max_tokens": 20, "seed": 5, "stream": False}
    whole = bot.post("/generate", json=body).json()["text"]
    assert bot.post("/generate", json=body).json()["text"] == whole
    stopped = bot.post("/generate", json={**body, "stop": [whole[5:7]]}).json()["text"]
    assert whole[5:7] not in stopped and whole.startswith(stopped)
    assert "4096" in bot.post("/generate", json={"prompt": "a", "max_tokens": 5_000_000}).json()["error"]["message"]


@walks(BOT, "--init_from=resume --out_dir=…", "bot behind a proxy / container name")
def test_a_trained_model_is_served_behind_a_proxy(walk: Walk, trained: Path) -> None:
    assert "train a model first" in walk.type("python inference_server.py --init_from=resume --out_dir=no").sentence
    line = "python inference_server.py --init_from=resume --out_dir=out-shakespeare-char --device=cpu"
    with walk.serving(line) as (address, _):
        assert post(f"{address}/generate", json={"prompt": "Cat", "max_tokens": 4}).status_code == 200
        refused = get(f"{address}/health", headers={"Host": "stitch.internal"})
        hint = re.search(r"--allowed_host[= ]\S+", refused.json()["error"]["message"])
    assert refused.status_code == 403 and hint is not None, refused.text
    with walk.serving(f"{line} {hint[0].rstrip('.,;')}") as (address, _):
        assert get(f"{address}/health", headers={"Host": "stitch.internal"}).status_code == 200


@walks(BOT, "--device=cuda/cpu/mps")
def test_a_device_that_is_not_there(walk: Walk) -> None:
    assert "mps is not available on this machine" in walk.type("python inference_server.py --device=mps").sentence


@walks(TOOLS, "system prompt in the UI", "FP16 / FP32 serving")
@walks(NANOLLM, "page: Generate")
def test_the_page_and_its_flags(bot: httpx.Client) -> None:
    page = bot.get("/", headers={"Accept": "text/html"})
    assert page.status_code == 200 and "<html" in page.text
    assert parse(chat_web.Flags, ["--system", "Be brief."]).system == "Be brief."
    for dtype in ("float16", "float32"):
        assert parse(inference_server.Flags, [f"--dtype={dtype}"]).dtype == dtype


# ---------------------------------------------------------------- gpt-generate


@walks(NANOLLM, "gpt-generate --model gpt2 --prompt / --checkpoint / --interactive",
       "gpt-generate defaults, --prompt-file, help/set when interactive", "missing checkpoint")  # fmt: skip
def test_generating(walk: Walk, trained: Path) -> None:
    walk.write("poem.txt", "Once upon\n\na time")
    bare = walk.type("gpt-generate --device=cpu --max-tokens=5")
    assert bare.code == 0 and bare.said.count("Hello, I'm a language model,") == 1, bare.said
    assert walk.type("gpt-generate --prompt-file poem.txt --max-tokens 5").said.count("Once upon\n\na time") == 1
    chars = walk.type('gpt-generate --checkpoint out-shakespeare-char/ckpt.pt --prompt "Cat" --max-tokens 5')
    assert chars.code == 0 and "Cat" in chars.said, chars.said
    typed = "help\nset temperature 0.9\nset max_tokens 4\nhello\nquit\n"
    spoken = walk.type("gpt-generate --model gpt2 --interactive", stdin=typed)
    assert spoken.code == 0 and "temperature is now 0.9" in spoken.said and "max_new_tokens  100" in spoken.said
    missing = walk.type("gpt-generate --checkpoint nowhere/ckpt.pt").sentence
    assert missing == "error: the file nowhere/ckpt.pt is missing; train a model first, or check the path"


# ---------------------------------------------------------------- gpt-train


@walks(NANOLLM, "gpt-train --data-path input.txt --max-iters 5000")
def test_a_cpu_is_told_how_long_it_will_take(walk: Walk) -> None:
    small = "--n-layer 1 --n-head 1 --n-embd 64 --gradient-accumulation-steps 40000 --device=cpu --out-dir out-big"
    with walk.start(f"gpt-train --data-path input.txt --max-iters 5000 {small}") as (process, output):
        deadline = time.monotonic() + PATIENCE
        while "on this CPU" not in (said := output.read_text(encoding="utf-8")):
            assert process.is_alive() and time.monotonic() < deadline, said
            time.sleep(0.05)
    assert re.search(r"on this CPU a validation takes roughly \S+ and a step \S+; for a try-out lower --eval", said)


SECTIONS = """
model:
  n_layer: 1
  n_head: 1
  n_embd: 16
  block_size: 16
data_path: input.txt
max_iters: 2
learning_rate: 6.0e-4
batch_size: 2
"""
SMALL_MODEL = """
model:
  n_layer: 1
  n_head: 1
  n_embd: 8
  block_size: 16
  vocab_size: 320
  dropout: 0.1
  bias: false
"""
PROJECTS_OWN = """
model: {block_size: 16, vocab_size: 320, n_layer: 1, n_head: 1, n_embd: 8, dropout: 0.0, bias: true}
init_from: scratch
data_path: null
dataset: custom
out_dir: out-own-config
max_iters: 2
eval_iters: 1
batch_size: 2
gradient_accumulation_steps: 1
dtype: float32
train_val_split: 0.2
num_workers: 4
wandb_log: false
wandb_project: gpt-training
backend: nccl
"""


@walks(NANOLLM, "gpt-train --config train_config.yaml (guide's)", "small_model.yaml of the guide (vocab_size: 50304)")
def test_training_from_the_guides_files(walk: Walk) -> None:
    walk.write("config/train_config.yaml", SECTIONS)
    rest = f"{CPU} --eval_iters=1 --gradient_accumulation_steps=1"
    done = walk.type(f"gpt-train --config config/train_config.yaml {rest} --out-dir out-config")
    assert done.code == 0, done.said
    walk.write("config/small_model.yaml", SMALL_MODEL)
    rest = f"{CPU} --max-iters 2 --batch-size 2 --gradient-accumulation-steps 1 --eval-iters 1 --out-dir out-small"
    done = walk.type(f"gpt-train --config config/small_model.yaml --data-path input.txt {rest}")
    assert done.code == 0 and nanogpt.read(walk.folder / "out-small/ckpt.pt").config.vocab_size == 320, done.said


@walks(NANOLLM, "the project's own train_config.yaml", "gradient checkpointing, num_workers", "DDP / FSDP", "wandb_log")
def test_training_from_the_projects_file(walk: Walk) -> None:
    walk.write("config/own.yaml", PROJECTS_OWN)
    lacking = walk.type(f"gpt-train --config config/own.yaml {CPU}").sentence
    assert "make them with python -m scripts.prepare TEXT --out_dir=data/custom" in lacking
    line = f"gpt-train --config config/own.yaml {CPU} --data-path input.txt"
    done = walk.type(f"{line} --gradient-checkpointing --fsdp true")
    assert done.code == 0, done.said
    for name in ("num_workers", "--gradient-checkpointing", "--fsdp"):
        assert f"{name} has no effect here; " in done.said
    (folder,) = (walk.folder / "data").glob("custom-*-0.2")
    train, val = ((folder / f"{split}.bin").stat().st_size for split in ("train", "val"))
    assert val / (train + val) == pytest.approx(0.2, abs=0.01)
    documented("from/nanollm_gpt.md", "| FSDP | not there", "| gradient checkpointing |", "| `num_workers` |")
    refused = walk.type(f"{line} --wandb-log --out-dir out-wandb", WANDB_BASE_URL="http://127.0.0.1:9").sentence
    assert "log in with wandb login" in refused


@walks(NANOLLM, "URL as data_path")
def test_training_on_the_text_at_an_address(walk: Walk) -> None:
    walk.hub.add("some/texts", {"data.txt": TEXT.encode()})
    line = f"gpt-train --data-path {walk.hub.url}/some/texts/resolve/main/data.txt {SMALL} --out-dir out-url"
    assert "--allow_private_urls permits it" in walk.type(line).sentence
    done = walk.type(f"{line} --allow_private_urls")
    assert done.code == 0 and "tokens of GPT-2 in data/data-" in done.said, done.said


@walks(NANOLLM, "torchrun --nproc_per_node=4 gpt-train …")
def test_torchrun_wants_a_module() -> None:
    documented("from/nanollm_gpt.md", "| `torchrun --nproc_per_node=4 gpt-train …` | "
               "`torchrun --nproc_per_node=4 -m scripts.train …` |")  # fmt: skip


# ---------------------------------------------------------------- gpt-server

SERVER_CONFIG = """
host: 0.0.0.0
port: 8080
debug: false
model_type: gpt2
checkpoint_path: null
device: cpu
dtype: auto
compile: false
max_batch_size: 16
cors_enabled: true
default_generation: {max_new_tokens: 7, temperature: 0.8, top_k: 200, top_p: 1.0}
"""


@pytest.fixture(scope="module")
def server(walk: Walk) -> Iterator[str]:
    """The address of a server of GPT-2 whose settings are in the guide's file and in that of the project."""
    walk.write("config/server_config.yaml", SERVER_CONFIG)
    with walk.serving("gpt-server --config config/server_config.yaml") as (address, said):
        for name in ("debug", "max_batch_size"):
            assert f"{name} has no effect here; " in said
        yield address


@walks(NANOLLM, "gpt-server (bare), port 8080, host 0.0.0.0, gpt2")
def test_a_bare_server() -> None:
    flags = parse(inference_server.GptServerFlags, [])
    assert (flags.source, flags.port) == ("gpt2", 8080)
    documented("from/nanollm_gpt.md", "`gpt-server` listens on this machine only, unless you pass `--host 0.0.0.0`")


@walks(NANOLLM, "server_config.yaml (guide's)", "cors_enabled, debug, max_batch_size, default_generation",
       'client.chat.completions.create(model="gpt", …) and curl', 'chat on GPT-2 ("local ChatGPT-like service")',
       "completions", "/health, /v1/models")  # fmt: skip
def test_the_server_answers_as_the_guide_asks(server: str) -> None:
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="not-needed", max_retries=0)
    talk: list = [{"role": "system", "content": "You are a helpful assistant."},
                  {"role": "user", "content": "Write a haiku."}]  # fmt: skip
    answer = client.chat.completions.create(model="gpt", messages=talk)
    assert answer.model == "gpt2" and answer.choices[0].message.content is not None
    assert answer.usage is not None and answer.usage.completion_tokens <= 7  # the default of the file
    text = client.completions.create(model="gpt", prompt="Once upon a time", max_tokens=9, temperature=0.8)
    assert text.usage is not None and text.usage.completion_tokens <= 9
    assert [model.id for model in client.models.list()] == ["gpt2"]
    assert get(f"{server}/health").status_code == 200
    body = {"model": "gpt", "messages": [{"role": "user", "content": "Hello!"}], "temperature": 0.8, "max_tokens": 5}
    curled = post(f"{server}/v1/chat/completions", json=body, headers={"Origin": "https://a.example"})
    assert curled.status_code == 200 and curled.headers["access-control-allow-origin"] == "*"


@walks(NANOLLM, "page: API reference (/api)")
def test_the_api_reference(server: str) -> None:
    page, documentation = (get(f"{server}/{path}", follow_redirects=True) for path in ("api", "docs"))
    assert page.status_code == 200 and page.text == documentation.text and "API" in page.text


# ---------------------------------------------------------------- from Python

PROGRAM = """
import nanochat

for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"):
    model = nanochat.open(name, device="cpu", slots=2)
    print(name, len(model.generate("Once upon a time", max_new_tokens=5, seed=1)) > 0)
print(len(model.generate("Once upon a time", max_new_tokens=5, temperature=0.9, top_p=0.95, num_samples=3)))
print(len(model.generate(["Once", "upon"], max_new_tokens=5)), "".join(model.stream("a", max_new_tokens=5)) > "")
made = nanochat.prepare_data("input.txt", "data/python", val_fraction=0.2)
print(made.val_tokens > 0, nanochat.open("gpt2", device="cpu", dtype="int8").generate("a", max_new_tokens=3) > "")
"""


@walks(BOT, "gpt2, -medium, -large, -xl")
@walks(NANOLLM, "DataPreparer, ModelLoader, InferencePipeline, GenerationConfig",
       "streaming, batches, KV cache, int8, OpenAI API")  # fmt: skip
def test_from_python(walk: Walk) -> None:
    walk.write("program.py", PROGRAM)
    done = walk.type("python program.py")
    assert done.code == 0, done.said
    for line in ("gpt2 True", "gpt2-medium True", "gpt2-large True", "gpt2-xl True", "3", "2 True", "True True"):
        assert f"{line}\n" in done.said
    documented("from/nanollm_gpt.md", "`DataPreparer()", "`ModelLoader.load_model(", "`InferencePipeline()",
               "`GenerationConfig(max_new_tokens")  # fmt: skip


# ---------------------------------------------------------------- the count


def test_every_row_of_the_guides_is_walked() -> None:
    rows = {guide: len(set(COVERED[guide])) for guide in (BOT, TOOLS, NANOLLM)}
    assert rows == {BOT: 19, TOOLS: 19, NANOLLM: 30}
