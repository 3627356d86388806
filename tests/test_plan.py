"""Predictions of memory and time, compared with published runs and with the tensors of this code.

Published: the cards and reports of nanochat's first generation, and what its users measured on their machines.
"""

import json
import re
from dataclasses import replace

import pytest
import torch
from fakecuda import Memory
from hypothesis import given
from hypothesis import strategies as st

from nanochat import hub
from nanochat.checkpoint import gpt2
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig, count_parameters
from nanochat.kv_cache import KVCache
from nanochat.optim import AdamWGroup, Optimizer, Rates, parameter_groups
from nanochat.plan import cost, gpus
from nanochat.plan.gpus import GPUS
from nanochat.report import sections
from nanochat.scaling import config_from_depth, horizon
from scripts import plan, speedrun
from scripts._forecast import Setting, config_of, forecast
from scripts._marks import Marks

GB = 1e9
NEAR = 0.15
CLASSIC = {"window_pattern": "L", "lambdas": False, "value_embeds": False, "smear": False, "backout": False}


def setting(depth: int, gpu: str = "h100", count: int = 1, rows: int = 4) -> Setting:
    """A model of the first generation, with the batch and the validations that it was published with."""
    return Setting(config_of(depth, classic=True), GPUS[gpu], count, rows, 524288, eval_tokens=10_485_760)


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.delenv("NANOCHAT_PRICE_PER_GPU_HOUR", raising=False)
    return tmp_path


# ---------------------------------------------------------------- what runs took


def test_the_published_models_have_their_size():
    for depth, parameters, flops in ((20, 560_988_160, 3.491758e9), (34, 2_217_082_880, 1.426509e10)):
        config = config_of(depth, classic=True)
        assert cost.sizes(config).all == parameters
        assert cost.flops_per_token(config) == pytest.approx(flops, rel=1e-6)


def test_d34_mid_training_on_one_h100_takes_56_gb_at_4_rows_and_not_32():
    d34 = setting(34)
    four = d34.memory("mid_train", 4)
    assert sum(four.values()) / GB == pytest.approx(56, rel=NEAR) and cost.fits(four, d34.on)
    assert not cost.fits(d34.memory("mid_train", 32), d34.on)
    assert d34.largest_rows("mid_train") == 8  # that code had all logits at once and stopped at 4


def test_d34_mid_training_on_one_h100_takes_five_and_a_half_hours():
    assert forecast("mid_train", {}, setting(34)).seconds / 3600 == pytest.approx(5.5, rel=NEAR)


def test_d20_on_8_h100_takes_four_hours():
    d20 = setting(20, count=8, rows=32)
    assert forecast("mid_train", {}, d20).seconds / 60 == pytest.approx(10.0, rel=NEAR)
    asked = {"target_param_data_ratio": 20 * 561 / 477}  # 20 tokens for each of all parameters
    assert sum(forecast(stage, asked, d20).seconds for stage in plan.ALL) / 3600 == pytest.approx(4, rel=NEAR)


def test_d20_base_training_peaks_where_the_reports_say():
    """75422 MiB at 32 rows on each of 8, gradients not yet made and the optimizer's state dealt out."""
    d20 = setting(20, count=8, rows=32)
    memory = d20.memory("base_train", 32)
    logits = 4 * 32 * 2048 * d20.config.padded_vocab  # that code made all at once, in bfloat16, and their gradient
    reached = logits + sum(memory[name] for name in ("weights", "weights in 16 bits", "activations"))
    assert reached == pytest.approx(75422 * 2**20, rel=0.05)


# ---------------------------------------------------------------- what the tensors take


def small() -> tuple[GPTConfig, GPT, Optimizer]:
    config = GPTConfig(64, 128, 4, 2, 2, 128, **CLASSIC)
    model = GPT(config)
    optimizer = Optimizer(*parameter_groups(model, 0.1, 0.1, 0.02, 0.1, 0.1))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return config, model, optimizer


def test_weights_gradients_and_optimizer_state_are_counted_to_the_byte():
    config, model, optimizer = small()
    optimizer.step(Rates())
    fixed = cost.training_memory(config, 1, 64)
    assert fixed["weights"] == fixed["gradients"] == sum(p.nbytes for p in model.parameters())
    state = sum(tensor.nbytes for of in optimizer.state.values() for tensor in of.values())
    assert fixed["optimizer state"] == pytest.approx(state, rel=0.01)  # beside it only a vector for each matrix


def test_adamw_holds_two_numbers_for_each_parameter():
    config = replace(gpt2.published("gpt2"), vocab_size=128, n_layer=2, n_head=2, n_kv_head=2, n_embd=64)
    model = GPT(config)
    optimizer = Optimizer([AdamWGroup(dict(model.named_parameters()), 0.1, (0.9, 0.95))], [])
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step(Rates())
    state = sum(tensor.nbytes for of in optimizer.state.values() for tensor in of.values())
    assert cost.training_memory(config, 1, 64, muon=False)["optimizer state"] == state


def test_logits_of_a_validation_need_the_bytes_that_are_counted():
    config = GPTConfig(64, 8192, 1, 1, 1, 32, **CLASSIC)
    model, ids = GPT(config, torch.bfloat16), torch.zeros(2, 64, dtype=torch.int64)
    with torch.no_grad(), Memory("cpu") as memory:
        model(ids, ids)
    assert memory.peak / (ids.numel() * 8192) == pytest.approx(cost.VALIDATION_LOGIT, abs=2)


@given(st.integers(1, 4), st.sampled_from([1, 2, 4]), st.sampled_from([64, 128]), st.booleans(), st.integers(1, 300))
def test_all_parameters_are_counted_once(layers, heads, width, values, vocab):
    config = GPTConfig(32, vocab, layers, heads, heads, width, value_embeds=values)
    with torch.device("meta"):
        model = GPT(config)
    size = cost.sizes(config)
    assert size.all == count_parameters(model)
    assert size.matrices == layers * 12 * width**2 + sum(
        p.numel() for name, p in model.named_parameters() if name.endswith("ve_gate.weight")
    )


def test_a_cache_takes_the_bytes_that_are_counted():
    config = GPTConfig(128, 256, 3, 4, 2, 128)
    cache = KVCache(config, 5, 128, "meta", torch.bfloat16)
    assert cache.k.nbytes + cache.v.nbytes == 5 * cost.cache_bytes(config, 128)


@given(st.integers(1, 30), st.sampled_from(sorted(GPUS)), st.integers(1, 8), st.booleans())
def test_more_rows_never_need_less_nor_more_gpus_more_time(depth, gpu, count, compiled):
    config = config_from_depth(depth, 32768, 2048)
    one = Setting(config, GPUS[gpu], count, 1, 1 << 20, compiled=compiled)
    totals = [sum(one.memory("mid_train", rows).values()) for rows in (1, 2, 4, 8)]
    assert totals == sorted(totals)
    rows = one.largest_rows("mid_train")
    assert rows == 0 or cost.fits(one.memory("mid_train", rows), one.on)
    more = Setting(config, GPUS[gpu], 2 * count, 1, 1 << 20, compiled=compiled)
    assert forecast("mid_train", {}, more).step < forecast("mid_train", {}, one).step * 1.01


# ---------------------------------------------------------------- the command


def planned(capsys, *argv: str) -> str:
    plan.main(list(argv))
    return capsys.readouterr().out


def table_of(printed: str) -> dict[str, dict[str, str]]:
    """The table of a plan, as {stage: {column: cell}}."""
    head, *lines = printed[printed.index("\nstage  ") + 1 :].split("\n\n")[0].splitlines()
    ends = [(match.group(), match.end()) for match in re.finditer(r"\S+(?: \S+)*", head)]
    table = {}
    for line in lines:
        cells = {match.end(): match.group() for match in re.finditer(r"\S+(?: \S+)*", line)}
        table[line.split("  ")[0]] = {name: cells.get(end, "") for name, end in ends[1:]}
    return table


def test_the_plan_of_a_stage_shows_memory_by_part_time_and_price(capsys):
    printed = planned(capsys, "--depth=34", "--gpus=1", "--gpu=h100", "--stage=mid")
    assert printed.startswith("d34, classic as published: 2.2B parameters, 34 layers of width 2176, vocabulary 65536")
    table = {line[:30].strip(): line[30:].split() for line in printed.splitlines() if line.startswith("  ")}
    assert table["GB at device_batch_size"] == ["1", "2", "4", "8", "16", "32"]
    assert table["fits"] == ["yes", "yes", "yes", "yes", "no", "no"]
    fixed = ("weights", "gradients", "optimizer state", "context and workspaces", "gaps")
    moving = sum(float(table[name][-4]) for name in ("weights in 16 bits", "activations", "loss"))
    assert sum(float(table[name][2]) for name in fixed) + moving == pytest.approx(float(table["in all"][2]), abs=0.4)
    assert "the largest that fits: 8\n" in printed and "with --device_batch_size=8;" in printed
    row = table_of(printed)["mid_train"]
    assert re.fullmatch(r"2\d(\.\d)?", row["s per step"]) and re.fullmatch(r"[45]h\d\dm", row["time"])
    assert re.fullmatch(r"\$1\d\.\d\d", row["price"])
    asked = ("--gpus=1", "--gpu=h100", "--stage=mid", "--device_batch_size=8", "--no-compile")
    eager = planned(capsys, "--depth=34", *asked)
    assert float(table_of(eager)["mid_train"]["GB"]) > float(row["GB"])


def test_the_plan_of_several_gpus_shows_each_way_to_lay_the_model_on_them(capsys):
    asked = ("--depth=48", "--gpu=h100", "--stage=base", "--device_batch_size=4")
    printed = planned(capsys, *asked, "--gpus=16")
    lines = printed.split("--parallel  GB per GPU")[1].splitlines()[1:4]
    rows = {line.split()[0]: line.split() for line in lines}
    assert [*rows] == ["replicate", "hybrid", "shard"] and "nodes of 8 GPUs" in printed
    memory = [float(row[1]) for row in rows.values()]
    assert memory == sorted(memory, reverse=True) and rows["replicate"][2] == "no" and rows["hybrid"][2] == "yes"
    assert re.search(r"parallel=hybrid \(8 parts\): each of 16 GPUs sends [\d.]+ GB in a step of base_train", printed)
    assert table_of(printed)["base_train"]["GB"] == rows["hybrid"][1]
    assert table_of(printed)["base_train"]["s per step"] == rows["hybrid"][-1]
    printed = planned(capsys, *asked, "--gpus=16", "--parallel=shard")
    assert "parallel=shard (16 parts)" in printed and table_of(printed)["base_train"]["GB"] == rows["shard"][1]
    assert "runs out of memory" in planned(capsys, *asked, "--gpus=16", "--parallel=replicate")
    assert "parallel=" not in planned(capsys, *asked, "--gpus=1")
    with pytest.raises(UserError, match="hybrid needs several whole nodes of 8 GPUs; --gpus is 8: pass --gpus 16"):
        plan.main([*asked, "--gpus=8", "--parallel=hybrid"])


def test_the_plan_shows_what_does_not_fit(capsys):
    printed = planned(capsys, "--depth=34", "--gpu=h100", "--stage=mid", "--device_batch_size=32")
    assert "mid_train runs out of memory: --device_batch_size=32 needs 222.2 of 85.0 GB, and 8 fits" in printed
    assert "not even one row fits" in planned(capsys, "--depth=34", "--gpu=rtx4090", "--stage=mid")
    assert "runs out of memory" in planned(capsys, "--depth=34", "--gpu=rtx4090")


@pytest.mark.parametrize("stage", ["all", "base", "mid", "sft", "rl", "serve"])
@pytest.mark.parametrize("gpu", ["h100", "rtx4090", "cpu"])
def test_every_stage_is_planned_on_every_accelerator(capsys, stage, gpu):
    printed = planned(capsys, "--depth=12", f"--gpu={gpu}", "--gpus=2", f"--stage={stage}")
    assert printed.startswith("d12: 286M parameters")
    assert f"2 x {'CPU' if gpu == 'cpu' else GPUS[gpu].name}" in printed
    assert "nan" not in printed and "inf " not in printed
    assert ("without --slots the Engine takes " in printed) == (stage == "serve")


def test_the_price_comes_from_the_flag_or_the_environment(capsys, monkeypatch):
    first = planned(capsys, "--depth=12", "--gpu=h100", "--price_per_gpu_hour=10")
    monkeypatch.setenv("NANOCHAT_PRICE_PER_GPU_HOUR", "20")
    second = planned(capsys, "--depth=12", "--gpu=h100")
    cheap, dear = (float(table_of(printed)["in all"]["price"].removeprefix("$")) for printed in (first, second))
    assert dear == pytest.approx(2 * cheap, abs=0.02) and "$10.00 an hour each\n" in first


def test_flags_change_the_model_and_the_batch(capsys):
    printed = planned(capsys, "--depth=4", "--gpu=h100", "--gpus=1", "--vocab_size=4096", "--max_seq_len=512",
                      "--stage=base", "--total_batch_size=65536", "--target_param_data_ratio=20")  # fmt: skip
    assert "vocabulary 4096, context 512" in printed
    tokens = 20 * (4 * 12 * 256**2 + 4096 * 256)
    assert table_of(printed)["base_train"]["steps"] == str(round(tokens / 65536))
    more = planned(capsys, "--depth=12", "--gpu=h100", "--gpus=1", "--stage=mid", "--text_share=0.3")
    less = planned(capsys, "--depth=12", "--gpu=h100", "--gpus=1", "--stage=mid")
    assert table_of(more)["mid_train"]["tokens"] == "791M"
    assert re.fullmatch(r"42\dM", table_of(less)["mid_train"]["tokens"])


def test_fine_tuning_gpt2_is_planned_for_all_four_sizes(capsys):
    sizes = [cost.sizes(gpt2.published(name)).all for name in hub.GPT2]
    assert sizes == [124_439_808, 354_823_168, 774_030_080, 1_557_611_200]
    named = [f"--init_from={name}" for name in hub.GPT2]
    printed = planned(capsys, *named, "--gpu=t4", "--gpus=1", "--num_iterations=500")
    assert "1 x T4, 15.7 GB, at 30% of 65 TFLOP/s in float16; $0.53 an hour each" in printed
    table = table_of(printed)
    assert [*table][:4] == [*hub.GPT2] and "in all" not in table
    seconds = [float(table[name]["s per step"]) for name in hub.GPT2]
    assert seconds == sorted(seconds) and float(table["gpt2-xl"]["GB"]) > 16 * sizes[-1] / GB
    assert table["gpt2"].items() >= {"steps": "500", "tokens": "16M", "tokens per step": "33k"}.items()
    dollars = 0.53 * (500 * seconds[0] + 90) / 3600
    assert float(table["gpt2"]["price"].removeprefix("$")) == pytest.approx(dollars, abs=0.01)
    assert "gpt2-xl runs out of memory: --device_batch_size=1 needs 32.5 of 15.7 GB" in printed
    assert "124M parameters; train with --batch_size=32 --gradient_accumulation_steps=1 --block_size=1024;" in printed
    assert "gpt2-xl: 1.6B parameters; to generate text 4.4 GB" in printed
    changed = ("--max_seq_len=512", "--device_batch_size=8", "--no-compile")
    short = planned(capsys, "-i", "gpt2", "--gpu=a10g", "--gpus=2", *changed)
    assert "--batch_size=8 --gradient_accumulation_steps=8 --block_size=512" in short and "2 x A10G" in short


def test_a_checkpoint_is_planned_from_its_meta_file(base, capsys):
    for tag, described in {
        "d3": {**config_from_depth(3, 4096, 256).__dict__},
        "d5": {"sequence_len": 512, "vocab_size": 65536, "n_layer": 5, "n_head": 3, "n_kv_head": 3, "n_embd": 384},
    }.items():
        folder = base / "mid_checkpoints" / tag
        folder.mkdir(parents=True)
        (folder / "model_000007.pt").touch()
        (folder / "meta_000007.json").write_text(json.dumps({"model_config": described}), encoding="utf-8")
    printed = planned(capsys, "--source=mid", "--model_tag=d3", "--gpu=h100")
    assert "mid d3, step 7: 12M parameters, 3 layers" in printed
    printed = planned(capsys, "--source=mid", "--gpu=h100", "--stage=serve")
    assert "mid d5, step 7: 59M parameters, 5 layers of width 384, vocabulary 65536, context 512" in printed
    meta = base / "mid_checkpoints" / "d5" / "meta_000007.json"
    meta.write_text('{"model_config": {"n_layer": 2}}', encoding="utf-8")
    with pytest.raises(UserError, match="does not describe its model's shape"):
        plan.main(["--source=mid", "--gpu=h100"])


@pytest.mark.parametrize(
    "argv, sentence",
    [
        (["--depth=0"], "--depth is 0; expected 1 or more"),
        (["--depth=12", "--gpus=0"], "--gpus is 0; expected 1 or more"),
        (["--depth=12", "--source=sft"], "--depth names a new model"),
        (["--source=sft"], "no sft checkpoint"),
        (["--depth=12", "--device_batch_size=0"], "--device_batch_size is 0; expected 1 or more"),
        (["--stage=mid"], "--stage belongs to the plan of one model; leave out --recipe, and name one"),
        (["--recipe=real", "--source=sft"], "--source belongs to the plan of one model"),
        (["--depth=12", "--price_per_gpu_hour=-3"], "--price_per_gpu_hour is -3"),
        (["--depth=12", "--text_share=1"], "--text_share is 1.0"),
        (["--depth=12", "--gpu=rtx2080"], "'rtx2080' is not known; there are: h100"),
        (["--init_from=gpt2", "--stage=sft"], "--stage does not belong to the plan of fine-tuning GPT-2"),
        (["--init_from=gpt2", "--source=sft"], "the same flag; pass only one"),
        (["-i", "gpt2", "-i", "sft"], "--source 'sft' is not a GPT-2"),
        (["--init_from=gpt3"], "--source gpt3 cannot be planned; expected one of base, mid, sft, dpo, rl, or any"),
    ],
)
def test_requests_that_cannot_be_planned(argv, sentence):
    with pytest.raises(UserError, match=sentence):
        plan.main(["--gpu=h100", *argv])


# ---------------------------------------------------------------- the recipe


def recipe(capsys, *argv: str) -> tuple[str, dict[str, dict[str, str]]]:
    """What is printed of the real recipe, and its table."""
    printed = planned(capsys, "--recipe=real", *argv)
    return printed, table_of(printed)


def test_the_recipe_has_a_row_for_each_command_and_their_sum(capsys):
    printed, table = recipe(capsys, "--depth=20", "--gpus=8", "--gpu=h100")
    assert "--standalone --nproc_per_node=8 -m scripts.base_train -- --dataset=climbmix --depth=20" in printed
    assert "897M parameters" in printed
    commands = re.findall(r"^  to do +(\S+)", printed, flags=re.MULTILINE)
    assert [*table] == [*(name for name in commands if name != "identity"), "in all"]
    for stage in ("base_train", "mid_train", "chat_sft"):
        assert all(table[stage].values())
    for stage in ("base_eval", "chat_eval_mid", "chat_eval_sft"):
        assert all(table[stage][column] for column in ("tokens", "FLOPs", "time", "price"))
    prices = [float(row["price"].removeprefix("$")) for row in table.values()]
    assert sum(prices[:-1]) == pytest.approx(prices[-1], abs=0.06)
    expected = {"tokens": "5.2B", "FLOPs": "1.5e+19", "steps": "4980", "tokens per step": "1.0M"}
    assert table["base_train"].items() >= expected.items()
    assert (table["chat_sft"]["steps"], table["chat_sft"]["tokens per step"]) == ("157", "66k")
    assert "runs out of memory" not in printed


def test_the_tiny_recipe_inherits_its_batch(capsys, monkeypatch):
    monkeypatch.setenv("TINY_BASE_STEPS", "400")
    monkeypatch.setenv("TINY_MID_STEPS", "200")
    table = table_of(planned(capsys, "--recipe=tiny"))
    found = {name: (row["steps"], row["tokens per step"], row["tokens"]) for name, row in table.items()}
    assert found == {"base_train": ("400", "4.1k", "1.6M"), "mid_train": ("200", "4.1k", "819k"),
                     "chat_sft": ("1550", "4.1k", "6.3M"), "in all": ("", "", "8.8M")}  # fmt: skip


def test_depth_and_gpus_of_the_recipe_come_from_the_flags(capsys, monkeypatch):
    monkeypatch.setenv("DEPTH", "20")
    monkeypatch.setenv("RL", "1")
    printed, table = recipe(capsys, "--depth=6", "--gpus=1", "--gpu=h200")
    assert "--depth=6" in printed and "torch.distributed.run" not in printed and "1 x H200" in printed
    _, two = recipe(capsys, "--depth=6", "--gpus=2", "--gpu=h200")
    assert table["chat_rl"]["steps"] == two["chat_rl"]["steps"] and float(table["chat_rl"]["GB"]) > 5
    assert float(two["base_train"]["s per step"]) < float(table["base_train"]["s per step"])
    steps = {recipe(capsys, "--depth=4", f"--gpus={n}", "--gpu=h100")[1]["base_train"]["steps"] for n in (1, 8)}
    assert steps == {str(horizon(config_from_depth(4, 32768, 2048)).num_iterations)}


def test_an_unknown_gpu_does_not_stop_the_recipe(capsys, monkeypatch):
    monkeypatch.setattr(sections, "machine", lambda: {"GPU": "2 x NVIDIA GeForce RTX 2080"})
    printed, table = recipe(capsys, "--depth=6", "--gpus=2")
    assert "The GPU here, 2 x NVIDIA GeForce RTX 2080, is not known" in printed and "nproc_per_node=2" in printed
    columns = ["tokens", "FLOPs", "steps", "tokens per step"]
    assert [*table["base_train"]] == columns and all(table["base_train"].values())
    like = recipe(capsys, "--depth=6", "--gpus=2", "--gpu=h100")[1]["base_train"]
    assert table["base_train"].items() <= like.items()
    tiny = planned(capsys, "--recipe=tiny")
    for word in ("$", "H100", " GB", "about"):
        assert word not in printed and word not in tiny
    with pytest.raises(UserError, match="RTX 2080, is not known; name one that is like it with --gpu"):
        plan.main(["--depth=6"])


def test_finished_stages_are_not_to_do(base, capsys):
    asked = ("--depth=6", "--gpus=1", "--gpu=h100", "--price_per_gpu_hour=100")
    assert "still to do" not in recipe(capsys, *asked)[0]
    marks = Marks(base)
    data, history, _ = next(speedrun.walk(speedrun.recipe_for({"RECIPE": "real", "DEPTH": "6"}, marks).stages, marks))
    marks.write(data.name, "done", history)
    (base / "base_data_climbmix").mkdir()
    (base / "base_data_climbmix" / "shard_00000.parquet").touch()
    printed, table = recipe(capsys, *asked)
    assert re.search(r"^  done +data ", printed, flags=re.MULTILINE) and "data" in table
    whole, rest = (float(table[name]["price"].removeprefix("$")) for name in ("in all", "still to do"))
    assert 0 < rest < whole


@pytest.mark.parametrize(
    "described, name",
    [("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H200", "h200"), ("NVIDIA A100-SXM4-80GB", "a100"),
     ("NVIDIA A100-SXM4-40GB", "a100-40"), ("NVIDIA L40S", "l40s"), ("NVIDIA GeForce RTX 4090", "rtx4090"),
     ("NVIDIA B200", "b200"), ("Tesla T4", "t4"), ("NVIDIA A10G", "a10g"), ("NVIDIA L4", "l4"),
     ("Tesla V100-SXM2-16GB", "v100"), ("Tesla V100-SXM2-32GB", "v100-32"), ("NVIDIA GeForce RTX 3090", "rtx3090"),
     ("NVIDIA L40", None), ("NVIDIA T400 4GB", None), ("NVIDIA A10", None), ("none", None)],
)  # fmt: skip
def test_gpus_are_known_by_what_nvidia_smi_calls_them(described, name, monkeypatch):
    assert gpus.known(f"8 x {described}") == name
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: described)
    assert gpus.peak_of(torch.device("cuda")) == (GPUS[name].peak if name else 0)
    assert gpus.peak_of(torch.device("cpu")) == 0


def test_the_processor_is_measured():
    cpu = gpus.accelerator("cpu")
    assert cpu.peak > 1e9 and cpu.memory > 1 * gpus.GiB and cpu.price == 0
