"""Adapters: what they learn, keep and leave alone, in our files and in peft's, which is asked what it makes of ours."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gpt2s import write_gpt2
from stages import STEPS, assert_same_run, flags, losses, on_ranks, refused, saved_state, tensors, train
from test_export import GENERATIONS, NEW, logits
from test_export import loaded as made
from test_export import modules as modules  # transformers keeps its copies of our modelling file there
from test_gpt import draw

from extras.export import exporter
from nanochat import lora
from nanochat.checkpoint import door, manager
from nanochat.data.prepare import prepare
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig, Linear
from nanochat.paths import checkpoints_dir
from nanochat.plan import cost
from scripts import export, merge, plan, push, sample
from scripts.train import main as train_as_nanogpt

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

@pytest.fixture(scope="module")
def after(worlds: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base folder with an adapter, sft:d1, of the model mid:d1."""
    base = shutil.copytree(worlds["sft"], tmp_path_factory.mktemp("after") / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(base))
        train("sft", argv(base))
    return base


@pytest.fixture
def here(after: Path, base: Path) -> Path:
    """A copy of it as this test's base folder."""
    return Path(shutil.copytree(after, base))


def argv(base: Path, *more: str) -> list[str]:
    """The command line of SFT with adapters, whose rate no factor changes."""
    usual = [flag for flag in flags("sft", base) if not flag.startswith("--init_lr_frac")]
    return [*usual, "--lora_rank=4", "--lora_lr=0.002", "--keep_last=0", *more]


def opened(name: str, merged: bool = True) -> manager.Loaded:
    found = door.find(name)
    return door.load_step(found.folder, found.tag, found.step, merged=merged)


IDS = torch.arange(60).view(2, 30) % 300


# ---------------------------------------------------------------- what is trained and saved


def test_only_the_adapter_is_trained_and_saved(here, capsys):
    folder = checkpoints_dir("sft") / "d1"
    saved, meta = tensors(folder), json.loads((folder / f"meta_{STEPS:06d}.json").read_text(encoding="utf-8"))
    assert all(name.endswith(("lora_A", "lora_B")) for name in saved) and len(saved) == 2 * 6
    assert meta["format"] == manager.ADAPTER and meta["lora"] == {"rank": 4, "alpha": 16.0, "matrices": [*lora.BLOCKS]}
    moments = {f"{name}.{kind}" for name in saved for kind in ("exp_avg", "exp_avg_sq")}
    assert saved_state(folder, STEPS).keys() == moments | {"steps", "rng"}
    assert losses(folder)[-1][1] < losses(folder)[0][1]
    parent, unmerged = door.open("mid:d1").model.state_dict(), opened("sft:d1", merged=False)
    frozen = {name: tensor for name, tensor in unmerged.model.state_dict().items() if name not in saved}
    assert frozen.keys() == parent.keys() and all(torch.equal(tensor, parent[name]) for name, tensor in frozen.items())
    trained = [name for name, parameter in unmerged.model.named_parameters() if parameter.requires_grad]
    assert sorted(trained) == sorted(saved)
    whole = (checkpoints_dir("mid") / "d1" / f"model_{STEPS:06d}.pt").stat().st_size
    assert (folder / f"model_{STEPS:06d}.pt").stat().st_size < whole / 2


def test_merged_equals_unmerged_and_is_an_ordinary_model(here):
    merged, unmerged = door.open("sft:d1"), opened("sft:d1", merged=False)
    assert merged.source == "sft" and "mid d1" in merged.note and "lora" not in merged.meta
    assert {type(module) for module in merged.model.modules() if isinstance(module, torch.nn.Linear)} <= {
        Linear, type(merged.model.smear_gate)}  # fmt: skip
    assert (logits(merged.model, IDS) - logits(unmerged.model, IDS)).abs().max() < 1e-4
    assert (logits(merged.model, IDS) - logits(door.open("mid:d1").model, IDS)).abs().max() > 0.01
    assert merged.model.state_dict().keys() == door.open("mid:d1").model.state_dict().keys()


def test_a_base_model_learns_the_tokens_of_a_chat_in_its_output_layer(here):
    train("sft", argv(here, "--source=base", "--out_tag=new", "--lora_lr=0.001"))
    loaded, folder = opened("sft:new", merged=False), checkpoints_dir("sft") / "new"
    assert manager.read_meta(folder, STEPS)["lora"]["matrices"] == [*lora.MATRICES]
    head = loaded.model.lm_head
    assert isinstance(head, lora.Adapted) and head.lora_B.abs().max() > 0
    merged, weights = door.open("sft:new").model, torch.ones(IDS.shape)
    with torch.no_grad():
        sums = [float(model.loss(model.hidden(IDS), IDS.flip(0), weights)) for model in (loaded.model, merged)]
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)


def test_gradients_of_factors_are_those_of_the_sum():
    """The loss sees the output layer's adapter as columns of its matrix; autograd sees the sum."""
    torch.manual_seed(1)
    model = lora.attach(draw(GPTConfig(32, 70, 1, 2, 2, 32)), lora.Adapters(3, 6.0, ("lm_head",)))
    head = model.lm_head
    assert isinstance(head, lora.Adapted)
    torch.nn.init.normal_(head.lora_B)
    ids = torch.randint(70, (2, 16))
    found = []
    for compute in (lambda: model.loss(model.hidden(ids), ids.flip(1), torch.ones(2, 16)),
                    lambda: model(ids, ids.flip(1)).sum()):  # fmt: skip
        model.zero_grad()
        loss = compute()
        grads = torch.autograd.grad(loss, [head.lora_A, head.lora_B])
        found.append((loss.item(), *grads))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for ours, theirs in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- resuming, ranks


def test_resuming_equals_never_having_stopped(here, tmp_path):
    folder = checkpoints_dir("sft") / "d1"
    whole = shutil.copytree(folder, tmp_path / "whole")
    manager.delete(folder, [4, 6])
    train("sft", [flag for flag in argv(here) if "lora" not in flag])  # the run knows them
    assert_same_run(folder, whole)
    metas = [manager.read_meta(place, STEPS) for place in (folder, whole)]
    assert metas[0]["parent"] == metas[1]["parent"] and metas[0]["lora"] == metas[1]["lora"]


def test_two_ranks_learn_what_one_learns(here, tmp_path):
    folder = checkpoints_dir("sft") / "d1"
    alone = shutil.copytree(folder, tmp_path / "alone")
    manager.delete(folder, [4, 6])
    on_ranks(here, "sft", argv(here))
    assert losses(folder)[:2] == losses(alone)[:2]
    for (step, one), (_, two) in zip(losses(alone), losses(folder), strict=True):
        assert one == pytest.approx(two, rel=2e-3), step
    a, b = tensors(folder), tensors(alone)
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name] - b[name]).norm() <= 0.05 * b[name].norm() + 1e-3, name


# ---------------------------------------------------------------- the parent


def test_an_adapter_whose_parent_changed_is_refused(here, capsys):
    assert door.open("sft:d1").step == STEPS
    train("mid", flags("mid", here, "--seed=7", "--overwrite", "--resume=never"))
    with pytest.raises(UserError, match=r"is an adapter of mid:d1:6 with the weights \w{8}, but that has \w{8} now"):
        door.open("sft:d1")
    shutil.rmtree(checkpoints_dir("mid") / "d1")
    with pytest.raises(UserError, match="is an adapter of mid:d1:6, which cannot be opened: "):
        door.open("sft:d1")


def test_a_checkpoint_that_an_adapter_needs_is_not_pruned(here):
    folder = checkpoints_dir("mid") / "d1"
    parent = door.open("mid:d1")
    manager.delete(folder, [step for step in manager.steps(folder) if step != STEPS])
    manager.update_meta(folder, STEPS, {"val_bpb": None})  # or it is kept for its score
    for step in (7, 8):
        manager.save(folder, step, parent.model, None, {**parent.meta, "val_bpb": None})
        manager.prune(folder, keep_last=1)
    assert manager.steps(folder) == [STEPS, 8] and door.open("sft:d1").step == STEPS
    shutil.rmtree(checkpoints_dir("sft") / "d1")
    manager.prune(folder, keep_last=1)
    assert manager.steps(folder) == [8]


def test_later_stages_start_from_it(here):
    train("sft", flags("sft", here, "--source=sft:d1", "--out_tag=whole", "--num_iterations=2"))
    assert "transformer.wte.weight" in tensors(checkpoints_dir("sft") / "whole", 2)
    train("sft", argv(here, "--source=sft:d1", "--out_tag=second", "--num_iterations=2"))
    first, second = door.open("sft:d1").model, door.open("sft:second").model
    assert 0 < (logits(first, IDS) - logits(second, IDS)).abs().max() < 5
    on_first = opened("sft:second", merged=False).model  # its frozen weights are those of the first adapter, merged
    weights = [dict(model.named_parameters())["transformer.h.0.mlp.c_fc.weight"] for model in (first, on_first)]
    assert torch.equal(*weights)


def test_merging_makes_an_ordinary_checkpoint(here, capsys, tmp_path):
    merge.main(["--source=sft:d1"])
    assert "its name is sft:d1-merged" in capsys.readouterr().out
    expected = door.open("sft:d1").model
    shutil.rmtree(checkpoints_dir("mid"))
    again = door.open("sft:d1-merged")
    assert again.source == "sft" and torch.equal(logits(again.model, IDS), logits(expected, IDS))
    for words, said in ((["--source=sft:d1-merged"], "is not an adapter"), (["--source=base"], "is not an adapter")):
        with pytest.raises(UserError, match=said):
            merge.main(words)
    with pytest.raises(UserError, match="is an adapter, which needs its parent.*scripts.merge --source sft:d1:6"):
        push.main(["sft", "user/name", "--tag=d1", "--dry_run"])


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "more, said",
    [
        (["--lora_rank=-1"], "--lora_rank is -1; expected 1 or more"),
        (["--lora_alpha=0"], "--lora_alpha is 0; expected a number above 0"),
        (["--lora_matrices", "c_attn"], "--lora_matrices 'c_attn' is not a matrix of these models; expected attn"),
        (["--matrix_lr=0.1"], "--matrix_lr has no effect on adapters, whose rate is --lora_lr"),
        (["--fp8"], "--fp8 multiplies weights that learn"),
        (["--lora_rank=0"], "--lora_lr belongs to adapters; pass a --lora_rank"),
        (["--lora_lr=-1"], "--lora_lr is -1.0; expected 0 or more"),
        (["--lora_rank=8"], "holds a run of LoRA of rank 4, alpha 16, on attn.c_q"),
    ],
)
def test_mistakes_are_one_sentence(more, said, here, capsys):
    assert said in refused("sft", argv(here, *more), capsys)


def test_a_run_of_all_weights_does_not_become_one_of_adapters(here, capsys):
    train("sft", flags("sft", here, "--out_tag=whole"))
    assert "holds a run of all weights, not of LoRA" in refused("sft", argv(here, "--out_tag=whole"), capsys)


# ---------------------------------------------------------------- scripts.train


SMALL = [
    "--device=cpu", "--dtype=float32", "--compile=False", "--dataset=cats", "--block_size=16", "--batch_size=2",
    "--gradient_accumulation_steps=2", "--max_iters=6", "--lr_decay_iters=6", "--warmup_iters=1", "--dropout=0.1",
    "--learning_rate=1e-2", "--eval_interval=2", "--eval_iters=2", "--log_interval=1000",
]  # fmt: skip


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with GPT-2 of toy size in small/, token files in data/cats, and its adapter in out/."""
    folder = tmp_path_factory.mktemp("tuned")
    write_gpt2(folder / "small")
    (folder / "cats.txt").write_text("the cat sat on the hat. " * 200, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare("cats.txt", folder / "data" / "cats", tokenizer=str(folder / "small"))
        train_as_nanogpt([*SMALL, "--init_from=small", "--lora_rank=4", "--lora_matrices", "attn", "mlp.c_fc"])
    return folder


@pytest.fixture
def tuned_here(tuned: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tuned)  # no copy: the adapter knows its parent by its path
    return tuned


def test_nanogpts_way_trains_adapters_and_resumes(tuned_here, capsys):
    whole = door.find("out")
    meta = manager.read_meta(Path("out"), 6)
    assert meta["lora"]["matrices"] == ["attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj", "mlp.c_fc"]
    expected = tensors(whole.folder, 6)
    shutil.move("small", "elsewhere")
    with pytest.raises(UserError, match="small, which cannot be opened"):
        door.open("out")
    shutil.move("elsewhere", "small")
    train_as_nanogpt([*SMALL, "--init_from=small", "--out_dir=half", "--lora_rank=4", "--lora_matrices", "attn",
                      "mlp.c_fc", "--max_iters=2", "--overwrite"])  # fmt: skip
    train_as_nanogpt(["--init_from=resume", "--out_dir=half", "--max_iters=6"])
    assert tensors(Path("half"), 6).keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(Path("half"), 6).items())
    capsys.readouterr()
    sample.main(["--out_dir=out", "--start=the", "--num_samples=1", "--max_new_tokens=3", "--device=cpu"])
    assert "the" in capsys.readouterr().out


@pytest.mark.parametrize(
    "more, said",
    [
        (["--init_from=scratch"], "--lora_rank adapts a trained model; name one with --init_from"),
        (["--init_from=resume", "--lora_rank=8"], "--lora_rank 8 does not fit the run in out, which has 4"),
        (["--init_from=small", "--lora_matrices=lm_head", "--out_dir=new"], "output layer is its embedding"),
    ],
)
def test_mistakes_of_nanogpts_way(more, said, tuned_here):
    with pytest.raises(UserError, match=said):
        train_as_nanogpt([*SMALL, "--lora_rank=4", *more])


# ---------------------------------------------------------------- peft


def with_peft(base: Path | str, folder: Path) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(base, trust_remote_code=True)
    return peft.PeftModel.from_pretrained(model, folder).eval()


@pytest.mark.filterwarnings("ignore")
def test_peft_reads_our_adapter_of_gpt2(tuned_here, capsys):
    export.main(["--source=out", "--format=peft", "--out=theirs"])
    config = json.loads(Path("theirs/adapter_config.json").read_text(encoding="utf-8"))
    assert config["fan_in_fan_out"] and config["base_model_name_or_path"] == str(tuned_here / "small")
    theirs, ours = with_peft("small", Path("theirs")), door.open("out").model
    ids = torch.randint(200, (2, 20))
    assert (logits(theirs, ids) - logits(ours, ids)).abs().max() < 1e-4
    assert (logits(ours, ids) - logits(door.open(str(tuned_here / "small")).model, ids)).abs().max() > 1e-3
    assert (logits(door.open("theirs").model, ids) - logits(ours, ids)).abs().max() < 1e-4


@pytest.mark.filterwarnings("ignore")
def test_peft_reads_our_adapter_of_a_modern_model(here, capsys):
    export.main(["--source=mid:d1"])
    export.main(["--source=sft:d1", "--format=peft"])
    folder = here / "exports" / "sft-d1-000006-peft"
    base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    assert Path(base) == here / "exports" / "mid-d1-000006-hf"
    theirs, ours = with_peft(base, folder), door.open("sft:d1").model
    assert (logits(theirs, IDS) - logits(ours, IDS)).abs().max() < 1e-4


def random_adapter(model: Any, folder: Path, **settings: Any) -> Any:
    """An adapter that peft makes of a model, with a B that is not zero, saved in a folder."""
    made = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    made.save_pretrained(folder)
    return made.eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "settings",
    [
        {"r": 3, "lora_alpha": 7, "target_modules": ["c_attn", "c_proj", "c_fc"]},
        {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": ["attn.c_proj"]},
        {"r": 2, "target_modules": ["c_attn", "c_fc"], "rank_pattern": {"c_fc": 5}, "alpha_pattern": {r"h\.0\..*": 3}},
    ],
)
def test_we_read_pefts_adapter_of_gpt2(settings, tmp_path):
    theirs = random_adapter(write_gpt2(tmp_path / "gpt2"), tmp_path / "adapter", fan_in_fan_out=True, **settings)
    path = tmp_path / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "base_model_name_or_path": str(tmp_path / "gpt2")}), encoding="utf-8")
    ids = torch.randint(200, (2, 20))
    assert (logits(theirs, ids) - logits(door.open(str(tmp_path / "adapter")).model, ids)).abs().max() < 1e-4
    with pytest.raises(UserError, match="use_dora is True; only models with False are known"):
        path.write_text(json.dumps({**config, "base_model_name_or_path": str(tmp_path / "gpt2"), "use_dora": True}),
                        encoding="utf-8")  # fmt: skip
        door.open(str(tmp_path / "adapter"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["modern", "classic"])
def test_we_read_pefts_adapter_of_our_models(name, tmp_path, base):
    exporter.write(made(GENERATIONS[name], NEW()), tmp_path / "model")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", trust_remote_code=True)
    matrices = ["c_q", "mlp.c_proj", "lm_head"] if name == "modern" else ["q_proj", "fc2", "lm_head"]
    theirs = random_adapter(model, tmp_path / "adapter", r=2, lora_alpha=4, target_modules=matrices)
    merge.main([f"--source={tmp_path / 'adapter'}", "--out_tag=theirs"])
    ours, ids = door.open("sft:theirs").model, torch.randint(300, (2, 40))
    assert (logits(theirs, ids) - logits(ours, ids)).abs().max() < (1e-4 if name == "modern" else 0.05)


# ---------------------------------------------------------------- figures


def test_weights_gradients_and_optimizer_state_are_counted_to_the_byte():
    from nanochat.optim import Optimizer, Rates, parameter_groups

    config, adapters = GPTConfig(64, 128, 4, 2, 1, 128), lora.Adapters(8, 16.0, lora.MATRICES)
    model = lora.attach(GPT(config).bfloat16(), adapters)
    optimizer = Optimizer(*parameter_groups(model, 0, 0, 0, 0, 0, 0.1))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert sum(parameter.numel() for parameter in trained) == lora.count(config, adapters)
    for parameter in trained:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step(Rates())
    planned = cost.training_memory(config, 1, 64, adapters=adapters)
    state = sum(tensor.nbytes for of in optimizer.state.values() for tensor in of.values())
    assert planned["optimizer state"] == state and planned["gradients"] == sum(p.nbytes for p in trained)
    assert planned["weights"] == sum(parameter.nbytes for parameter in model.parameters())


def test_the_plan_has_them(capsys):
    def planned(*more: str) -> Iterator[float]:
        plan.main(["--depth=12", "--gpu=h100", "--stage=sft", "--device_batch_size=8", *more])
        for line in capsys.readouterr().out.splitlines():
            if line.split()[:2] in (["optimizer", "state"], ["in", "all"]):
                yield float(line.split()[-1])

    whole, adapted = [*planned()], [*planned("--lora_rank=8")]
    assert adapted[0] < 0.1 < whole[0] and adapted[1] < whole[1]
