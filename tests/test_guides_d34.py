"""Two more guides, walked: nanochat with the d34 model, and research on pretrained GPT-2. Tiny models stand in."""

import json
import math
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fakehub
import gpt2s
import pytest
import realsets
import reference
import served
from test_docs import BLOCKS
from walk import COVERED, ROOT, Walk, documented, walking, walks

from nanochat import hub
from nanochat.checkpoint import manager
from nanochat.tokenizer import Tokenizer
from tasks.common import TaskMixture
from tasks.customjson import CustomJSON

D34, GPT2 = "nanochat with the d34 model", "research on pretrained GPT-2"
TEXT = "".join(f"Cat {n} sat on mat {n * 7}, and the rain fell on the roof of the baker.\n" for n in range(400))
QUICK = "--num_iterations=2 --device_type=cpu --no-compile --eval_every=-1"
MID = "python -m scripts.mid_train --model_tag=d34 --model_step=169150 --device_batch_size=4"
SFT = f"python -m scripts.chat_sft {QUICK} --eval_metrics_every=-1"
NANOCHAT = reference.Nanochat(context=64, layers=2, heads=2, kv_heads=1, width=32)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """A walk whose hub has GPT-2, a base and an SFT model called d34, and the data of the real recipe."""
    folder = tmp_path_factory.mktemp("walk")
    gpt2s.write_gpt2(folder / "gpt2", context=64)
    with walking(folder, folder / "gpt2") as walk:
        realsets.add_all(walk.hub)
        weights = {name: 0.1 * tensor for name, tensor in reference.draw_nanochat(NANOCHAT).items()}
        for repo, step in (("karpathy/nanochat-d34", 169150), ("somebody/nanochat-d34-sft", 700)):
            reference.write_nanochat(folder / repo, NANOCHAT, weights, step)
            walk.hub.add(repo, folder / repo)
        (base_of(walk)).mkdir(parents=True)
        words = "".join(f"{a}{b}rk\n" for a in "abcdefghij" for b in "aeiou")
        (base_of(walk) / "words.txt").write_text(words, encoding="utf-8")  # SpellingBee's, which are fetched otherwise
        walk.write("mytext.txt", TEXT)
        talk = [{"role": "user", "content": "Who made you?"}, {"role": "assistant", "content": "I did it myself."}]
        walk.write("my.jsonl", (json.dumps({"messages": talk}) + "\n") * 8)
        yield walk


def base_of(walk: Walk) -> Path:
    return walk.home / ".cache" / "nanochat"


@pytest.fixture(scope="module")
def pulled(walk: Walk) -> str:
    done = walk.type("python -m scripts.pull karpathy/nanochat-d34")
    assert done.code == 0, done.said
    return done.said


@pytest.fixture(scope="module")
def mid(walk: Walk, pulled: str) -> str:
    done = walk.type(f"{MID} --run=d34-mid {QUICK}", WANDB_MODE="offline")
    assert done.code == 0, done.said
    return done.said


@pytest.fixture(scope="module")
def sft(walk: Walk, mid: str) -> str:
    done = walk.type(f"{SFT} --source=mid --model_tag=d34")
    assert done.code == 0, done.said
    return done.said


# ---------------------------------------------------------------- d34


@walks(D34, "folders", "mid-training is not optional", "huggingface-cli")
def test_pull_puts_the_base_model_where_the_guide_has_it(walk: Walk, pulled: str) -> None:
    folder = base_of(walk) / "base_checkpoints" / "d34"
    assert {"model_169150.pt", "meta_169150.json", "tokenizer"} <= {path.name for path in folder.iterdir()}
    lines = [line.strip() for line in pulled.splitlines() if "scripts." in line]
    (first,) = (line for line in lines if line.startswith(MID))
    assert first.endswith("# mid-training on the real recipe: SmolTalk, MMLU, GSM8K, spelling (downloads about 1 GB)")
    (poor,) = (line for line in lines if "chat_sft --source=base" in line)
    assert poor.endswith("# works, but a poor chat model without mid-training")
    documented("guides/d34.md", "`hf` is the new name of `huggingface-cli`", "but the result is poor")


@walks(D34, "mid_train --model_tag=d34 --model_step=169150 --device_batch_size=4 --run=d34-mid", "wandb --run")
def test_mid_training_takes_the_real_recipe(walk: Walk, mid: str) -> None:
    assert "conversations: the real recipe" in mid and "because the model does not descend from the little world" in mid
    meta = manager.read_meta(base_of(walk) / "mid_checkpoints" / "d34", 2)
    assert (meta["conversations"], meta["text_share"], meta["parent"]["step"]) == ("real", 0.0, 169150)
    assert list(walk.home.rglob("offline-run-*"))


@walks(D34, "--model_tag / --model-tag, --step, --model_step, --run",
       "chat_sft --source=mid --model_tag=d34 --run=d34-sft")  # fmt: skip
def test_fine_tuning_takes_32_rows_a_step(walk: Walk, sft: str) -> None:
    meta = manager.read_meta(base_of(walk) / "chatsft_checkpoints" / "d34", 2)
    assert meta["total_batch_size"] == 32 * 64 and meta["parent"]["source"] == "mid"
    assert "total_batch_size" not in sft.partition("inherited from the checkpoint")[2].partition("\n")[0]
    line = "python -m scripts.sample --source=mid --model-tag=d34 --step=2 --num_samples=1 --max-new-tokens=2"
    spelled = walk.type(line)
    assert spelled.code == 0, spelled.said
    spelled = walk.type(f"{SFT} --source=mid --model-tag=d34 --step=2 --run=dummy --out-tag=spelled --dry-run")
    assert "nothing was written" in spelled.said


@walks(D34, "SFT again with own data beside step 700 (guide: 719)", "pull d34 and d34-sft, then chat_sft",
       "custom JSONL", "README: give these runs a --model_tag of their own",
       "CustomJSON(filepath=...), TaskMixture")  # fmt: skip
def test_fine_tuning_again_keeps_what_is_there(walk: Walk, sft: str) -> None:
    assert walk.type("python -m scripts.pull somebody/nanochat-d34-sft --as sft").code == 0
    folder = base_of(walk) / "chatsft_checkpoints"
    before = {path: path.read_bytes() for path in (folder / "d34").glob("*_*.*")}
    assert {"model_000002.pt", "model_000700.pt"} <= {path.name for path in before}
    own = f"{SFT} --model_tag=d34 --data_path=my.jsonl"
    assert "--out_tag NAME" in walk.type(own).sentence
    done = walk.type(f"{own} --out_tag=d34-mine")
    assert done.code == 0 and "your own data: 8 conversations" in done.said
    again = walk.type(f"{SFT} --source=sft:d34:700 --conversations=none --data_path=my.jsonl --out_tag=d34-again")
    assert again.code == 0, again.said
    assert {path: path.read_bytes() for path in before} == before
    assert {"d34", "d34-mine", "d34-again"} <= {path.name for path in folder.iterdir()}
    documented("guides/own-conversations.md", "`--out_tag` keeps the models that you have")
    path = walk.folder / "my.jsonl"
    assert len(TaskMixture([CustomJSON(filepath=path), CustomJSON(filepath=str(path))])) == 16


@walks(D34, "chat_web --source=sft --model-tag=d34 --step=N --temperature=0.6 --port=8080", "curl POST /chat", "ssh -L",
       "always --step")  # fmt: skip
def test_the_page_is_served_and_answers(walk: Walk, sft: str) -> None:
    line = "python -m scripts.chat_web --source=sft --model-tag=d34 --step=2 --temperature=0.6"
    with walk.serving(line) as (url, said):
        port = url.rpartition(":")[2]
        assert f"ssh -L {port}:127.0.0.1:{port}" in said
        answer = served.post(f"{url}/chat", json={"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4})
        assert answer.status_code == 200, answer.text
    refused = walk.type("python -m scripts.chat_web --source=sft --model-tag=d34 --step=719").sentence
    assert "719" in refused and "there are: 2" in refused
    documented("guides/d34.md", "without a step the last one is taken, and printed")


@walks(D34, "nohup ... > log &, tail -f")
def test_lines_come_at_once_and_a_signal_saves(walk: Walk, pulled: str) -> None:
    line = f"{MID} --conversations real --out_tag=real {QUICK} --num_iterations=100000"
    with walk.start(line) as (process, output):
        while "tok/s" not in (said := output.read_text(encoding="utf-8")):
            assert process.is_alive(), said
            time.sleep(0.05)
        process.terminate()
        process.join(120)
        assert process.exitcode == 128 + signal.SIGTERM
        assert "is saved, start again to resume" in output.read_text(encoding="utf-8")
    assert manager.steps(base_of(walk) / "mid_checkpoints" / "real")


@walks(D34, "scp of model_*.pt, meta_*.json", "hf upload by hand; push", "mid_model_000813.pt in the SFT repository")
def test_models_travel_by_hand_and_by_the_hub(walk: Walk, sft: str, tmp_path: Path) -> None:
    source, copied = base_of(walk) / "chatsft_checkpoints" / "d34", tmp_path / "copied"
    shutil.copytree(source / "tokenizer", copied / "tokenizer")
    (copied / "mid_checkpoints" / "d34").mkdir(parents=True)
    for name in ("model_000002.pt", "meta_000002.json"):
        shutil.copy(source / name, copied / "mid_checkpoints" / "d34" / name.replace("000002", "000813"))
    evaluated = walk.type("python -m scripts.sample --init_from=mid:d34:813 --num_samples=1 --max_new_tokens=2",
                          NANOCHAT_BASE_DIR=str(copied))  # fmt: skip
    assert evaluated.code == 0, evaluated.said
    (walk.home / ".cache" / "huggingface" / "token").write_text(fakehub.TOKEN, encoding="utf-8")  # hf auth login
    pushed = walk.type("python -m scripts.push sft --tag d34 --step 2 tester/d34-talks")
    assert pushed.code == 0, pushed.said
    pulled = walk.type("python -m scripts.pull tester/d34-talks", NANOCHAT_BASE_DIR=str(tmp_path / "other"))
    assert pulled.code == 0 and (tmp_path / "other/chatsft_checkpoints/d34/model_000002.pt").is_file(), pulled.said
    refused = walk.type("python -m scripts.pull somebody/nanochat-d34-sft --as mid --step 813").sentence
    assert refused.endswith("has no checkpoint of step 813; there are: 700")
    documented("guides/d34.md", "`mid_model_000813.pt`, download them with `hf` and rename them", "`hf upload`")


@walks(D34, "memory 79+/56/40/16 GB", "5.5 h $14, 30-60 min")
def test_the_plan_has_the_figures_of_the_pages(walk: Walk) -> None:
    plan = "python -m scripts.plan --depth 34 --gpus 1 --gpu h100 --stage"
    row = walk.type(f"{plan} mid").said.rpartition("\nmid_train")[2].split()
    assert (round(float(row[4])), row[6], row[7]) == (82, "4h49m", "$14.50")
    assert walk.type(f"{plan} sft").said.rpartition("\nchat_sft")[2].split()[6] == "17m36s"
    documented("guides/d34.md", "82 GB, five hours and $14.50", "18 minutes for the SFT")
    for depth, words in ((20, "reads 5.2B tokens: predicted 1h50m and $44"), (32, "reads 20B: 21h53m, $525")):
        documented("from/nanochat.md", words)
        made = walk.type(f"python -m scripts.plan --depth {depth} --architecture modern --gpus 8 --gpu h100").said
        tokens = made.rpartition("\nbase_train")[2].split()[0]
        *_, hours, price = made.rpartition("\nin all")[2].split("\n")[0].split()
        assert f"{tokens}" in words and hours in words and price.partition(".")[0] in words


@walks(D34, "nanochat/checkpoint_manager.py", "[build-system], installable")
def test_what_moved_is_named() -> None:
    documented("from/nanochat.md", "| `nanochat/checkpoint_manager.py` | `nanochat/checkpoint/manager.py` |",
               "`CustomJSON(filepath=…)`, `TaskMixture` of `tasks.common`", "`REAL_DATASET=ORG/NAME`")  # fmt: skip
    assert (ROOT / "nanochat" / "checkpoint" / "manager.py").is_file()
    assert "[build-system]" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


# ---------------------------------------------------------------- research on GPT-2


@pytest.fixture(scope="module")
def downloaded(walk: Walk) -> str:
    done = walk.type("python -m scripts.download_weights --all")
    assert done.code == 0, done.said
    return done.said


@walks(GPT2, "download_nanogpt_weights.py --model / --all", "test_nanogpt_weights.py",
       "cache in ~/.cache/huggingface/hub")  # fmt: skip
def test_weights_are_downloaded_once_and_verified(walk: Walk, downloaded: str) -> None:
    asked = len(walk.hub.sent("/large/"))
    assert asked and "python -m scripts.verify_weights --model gpt2 gpt2-medium gpt2-large gpt2-xl" in downloaded
    assert (walk.home / ".cache/huggingface/hub/models--openai-community--gpt2").is_dir()
    verified = walk.type("python -m scripts.verify_weights --model gpt2", HF_HUB_OFFLINE="1")
    assert "transformers finds gpt2 as 'gpt2' and as 'openai-community/gpt2'" in verified.said
    assert "these are not its weights" in verified.sentence  # the stand-in's are random
    walk.type("python -m scripts.download_weights --model gpt2-medium")
    assert len(walk.hub.sent("/large/")) == asked


@walks(GPT2, "from_pretrained('gpt2')", "transformers generate code of the guide", "attention patterns",
       "neuron activations, layer-wise", "own models exported to transformers")  # fmt: skip
def test_transformers_and_hooks_look_inside(walk: Walk, downloaded: str, tokenizer: Tokenizer) -> None:
    """The snippets of the page give the same numbers, without a network; exports have hidden states and attentions."""
    base = base_of(walk)
    manager.save(base / "base_checkpoints" / "d2", 1, served.random_model(tokenizer), None, {"source": "base"})
    tokenizer.save(base / "base_checkpoints" / "d2" / "tokenizer")
    exported = walk.type("python -m scripts.export --source base --tag d2 --out exported")
    assert exported.code == 0, exported.said
    hooks, theirs = (block.text for block in BLOCKS if block.page.name == "gpt2.md" and block.language == "python"
                     if "hook" in block.text or "output_attentions" in block.text)  # fmt: skip
    walk.write("inside.py", f"""{hooks}
{theirs}
import torch
for mine, hidden in zip(layers[:-1], out.hidden_states[1:-1], strict=True):
    assert (mine - hidden).abs().max() < 1e-4
assert len(layers) == len(out.attentions) == 2 and neurons[0].shape[-1] == 4 * layers[0].shape[-1]
assert (out.attentions[0].sum(-1) - 1).abs().max() < 1e-4
print(model.generate(**tokenizer("the cat", return_tensors="pt"), max_new_tokens=3, do_sample=True, top_k=5).shape)
for name in ("openai-community/gpt2", "gpt2-medium"):
    AutoModelForCausalLM.from_pretrained(name)
own = AutoModelForCausalLM.from_pretrained("exported", trust_remote_code=True)
ids = torch.tensor([[1, 2, 3]])
print(len(own(ids, output_hidden_states=True).hidden_states), "hidden states")
print(len(own(ids, output_attentions=True).attentions), "attentions")
""")
    done = walk.shell(f"HF_HUB_OFFLINE=1 PYTHONPATH={walk.folder} {sys.executable} inside.py")
    assert all(each in done.said for each in ("3 hidden states", "2 attentions", "torch.Size([1, 6])")), done.said


@walks(GPT2, "finetune config: init_from, learning_rate, max_iters, batch_size, block_size 512",
       "few-shot, domain adaptation, hyperparameters", "sample.py --init_from=gpt2 / -medium")  # fmt: skip
def test_gpt2_is_fine_tuned_on_ones_own_text(walk: Walk, downloaded: str) -> None:
    assert walk.type("python -m scripts.prepare mytext.txt --out_dir data/mytext").code == 0
    settings = {
        "dataset": "mytext", "init_from": "gpt2", "out_dir": "out-mytext", "learning_rate": 3e-5, "max_iters": 2,
        "batch_size": 2, "block_size": 32, "gradient_accumulation_steps": 1, "eval_iters": 1, "eval_interval": 2,
        "device": "cpu", "compile": False, "log_interval": 1,
    }  # fmt: skip
    walk.write("config/mine.py", "".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    done = walk.type("python -m scripts.train config/mine.py")
    assert done.code == 0 and (walk.folder / "out-mytext" / "ckpt.pt").is_file(), done.said
    for model in ("--init_from=gpt2", "--init_from=gpt2-medium", "--out_dir=out-mytext"):
        sampled = walk.type(f"python -m scripts.sample {model} --num_samples=1 --max_new_tokens=3 --device=cpu")
        assert sampled.code == 0, sampled.said
    documented("guides/gpt2.md", "--eval core -i gpt2 -i gpt2-medium", "--harness wikitext,hellaswag")


@walks(GPT2, "perplexity on various datasets", "compare quality across sizes", "benchmark generation speed of GPT-2")
def test_sizes_are_compared_by_quality_and_speed(walk: Walk, downloaded: str) -> None:
    walk.write("news.jsonl", "".join(json.dumps({"text": f"the cat {n}"}) + "\n" for n in range(5)))
    line = "python -m scripts.base_eval --eval bpb -i gpt2 -i gpt2-medium --text mytext.txt --text news.jsonl"
    done = walk.type(f"{line} --eval_tokens=300 --device=cpu")
    rows = re.findall(r"^(\S+) +(gpt2\S*) +\d+ +[\d.]+ +[\d.]+$", done.said, re.M)
    names = ("gpt2", "gpt2-medium")
    assert rows == [(text, name) for text in ("mytext.txt", "news.jsonl") for name in names], done.said
    small = "--batch_sizes 1 --prompt_tokens=8 --tokens=4 --repeats=1 --device=cpu"
    for name in ("--init_from gpt2", "--source gpt2-medium"):
        assert '"tok_per_second"' in walk.type(f"python -m scripts.infer_bench {name} {small}").said
    refused = walk.type(f"python -m scripts.infer_bench -i nosuch {small}").sentence
    assert "there is no model 'nosuch'; expected" in refused


@walks(GPT2, "cost table (T4, A10G, V100)", "VRAM / size / fine-tune time of the four sizes", "OOM advice")
def test_the_table_of_costs_is_what_plan_prints(walk: Walk) -> None:
    page = (ROOT / "docs" / "guides" / "gpt2.md").read_text(encoding="utf-8")
    table = {line.split("|")[1].strip(" `"): [cell.strip() for cell in line.split("|")[2:-1]]
             for line in page.splitlines() if line.startswith("| `gpt2")}  # fmt: skip
    assert [*table] == [*hub.GPT2]

    def planned(*flags: str) -> tuple[str, dict[str, list[str]]]:
        """What plan prints, and the cells of its table by model."""
        named = " ".join(f"--init_from {name}" for name in table)
        said = walk.type(f"python -m scripts.plan --gpus 1 {named} {' '.join(flags)}").said
        return said, {row[0]: row[1].split() for row in re.findall(r"^(gpt2\S*) {2,}(.*)$", said, re.M)}

    for column, gpu in enumerate(("t4", "a10g", "v100", "rtx3090"), 3):
        said, rows = planned("--gpu", gpu)
        for name, cells in table.items():
            price = f"{rows[name][6]}, {rows[name][7]}"
            fits = f"{name} runs out of memory" not in said
            assert cells[column] == (price if fits else "does not fit"), (gpu, name)
            assert f"{cells[0]} parameters" in said and f"to generate text {cells[2]}" in said
    for name, cells in planned("--gpu b200", "--device_batch_size=1")[1].items():
        assert table[name][1] == f"{math.ceil(float(cells[4]))} GB and up"
    documented("guides/memory.md", "`scripts.train`, the nanoGPT way, has `--batch_size` with")


@walks(GPT2, "probing classifiers", "behavioural experiments", "run_experiment.py --code --problem")
def test_what_else_the_guide_does_is_named() -> None:
    documented("guides/gpt2.md", "`examples/probe.py` trains a linear probe", "Behavioural experiments are such tasks")
    documented("guides/gpt2.md", "no program here that lets a model run experiments by itself (`run_experiment.py`)")
    assert (ROOT / "examples" / "probe.py").is_file()


def test_every_row_of_the_two_guides_is_walked() -> None:
    assert {guide: len(set(COVERED[guide])) for guide in (D34, GPT2)} == {D34: 24, GPT2: 20}
