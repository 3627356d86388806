"""What a run is predicted to take, beside what runs took and what this code's tensors take.

Published: the cards and reports of the original nanochat, and what its users said of their machines.
"""

import json
import re
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig, count_parameters
from nanochat.kv_cache import KVCache
from nanochat.optim import Optimizer, Rates, parameter_groups
from nanochat.plan import cost, forecast, gpus
from nanochat.plan.forecast import Setting, classic_config
from nanochat.plan.gpus import GPUS
from nanochat.report import sections
from nanochat.scaling import config_from_depth, horizon
from scripts import plan

GB = 1e9
NEAR = 0.15
CLASSIC = {"window_pattern": "L", "lambdas": False, "value_embeds": False, "smear": False, "backout": False}


def setting(depth: int, gpu: str = "h100", count: int = 1, rows: int = 4) -> Setting:
    """A model of the original, whose settings are classic."""
    return Setting(classic_config(depth), GPUS[gpu], count, rows, 524288, classic=True, eval_tokens=10_485_760)


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.delenv("NANOCHAT_PRICE_PER_GPU_HOUR", raising=False)
    return tmp_path


# ---------------------------------------------------------------- what runs took


def test_the_published_models_have_their_size():
    for depth, parameters, flops in ((20, 560_988_160, 3.491758e9), (34, 2_217_082_880, 1.426509e10)):
        assert cost.sizes(classic_config(depth)).all == parameters
        assert cost.flops_per_token(classic_config(depth)) == pytest.approx(flops, rel=1e-6)


def test_d34_mid_training_on_one_h100_takes_56_gb_at_4_rows_and_not_32():
    d34 = setting(34)
    assert d34.memory(4).total / GB == pytest.approx(56, rel=NEAR) and d34.memory(4).fits(d34.on)
    assert not d34.memory(32).fits(d34.on)
    assert forecast.largest_rows(d34) == 4


def test_d34_mid_training_on_one_h100_takes_five_and_a_half_hours():
    assert forecast.mid(setting(34)).seconds / 3600 == pytest.approx(5.5, rel=NEAR)


def test_d34_fine_tuning_by_the_original_takes_40_gb_and_30_to_60_minutes():
    typical, fullest, seconds = forecast.original_sft(setting(34))
    assert typical.total / GB == pytest.approx(40, rel=NEAR) and typical.total < fullest.total
    assert 30 * (1 - NEAR) < seconds / 60 < 60 * (1 + NEAR)


def test_d34_answers_in_16_gb():
    assert forecast.original_serving(setting(34)).total / GB == pytest.approx(16, rel=NEAR)


def test_the_d20_speedrun_on_8_h100_takes_four_hours(capsys):
    plan.main(["--depth=20", "--gpus=8", "--gpu=h100", "--architecture=classic"])
    hours, minutes = re.findall(r"^in all.* (\d+)h(\d+)m", capsys.readouterr().out, flags=re.MULTILINE)[0]
    assert int(hours) + int(minutes) / 60 == pytest.approx(4, rel=NEAR)


def test_d20_base_training_peaks_where_the_reports_say():
    """75422 MiB at 32 rows on each of 8, gradients not yet made and the optimizer's state dealt out."""
    memory = setting(20, count=8, rows=32).memory()
    backward = memory.moments["forward and backward"]
    reached = memory.fixed["weights"] + sum(size for name, size in backward.items() if name != "gaps")
    assert reached == pytest.approx(75422 * 2**20, rel=0.05)


def test_a_d20_stage_takes_the_minutes_of_the_reports():
    d20 = setting(20, count=8, rows=32)
    assert forecast.mid(d20).seconds / 60 == pytest.approx(10.0, rel=NEAR)
    assert forecast.original_sft(d20)[2] / 60 == pytest.approx(2.4, rel=0.25)


# ---------------------------------------------------------------- what the tensors take


def saved_bytes(config: GPTConfig, rows: int, length: int, dtype: torch.dtype, compiled: bool) -> int:
    """What is kept from a forward pass to its backward, besides the parameters."""
    model = GPT(config, dtype)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.nbytes() and storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor
        return tensor

    if compiled:
        torch._dynamo.reset()
    # The partitioner of inductor without its code generation: the same tensors are kept, and no compiler is needed.
    forward = torch.compile(model, backend="aot_eager_decomp_partition", dynamic=False) if compiled else model
    ids = torch.zeros(rows, length, dtype=torch.int64)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward(ids, ids)
    assert loss.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def predicted_bytes(config: GPTConfig, rows: int, length: int, itemsize: int, compiled: bool) -> float:
    size = cost.sizes(config)
    copies = 2 * (size.matrices + size.rest) if itemsize == 2 else 0
    # Compiled only the product is kept, otherwise its sigmoid and the log-softmax in float32.
    logits = rows * length * config.padded_vocab * (itemsize if compiled else 8)
    return cost.activation_bytes(config, rows, length, itemsize, compiled) + copies + logits


@pytest.mark.parametrize("features", [CLASSIC, {}, {"window_pattern": "L"}, {"value_embeds": False}, {"smear": False}])
@pytest.mark.parametrize(
    "layers, heads, kv_heads, width, rows, length, vocab",
    [(3, 2, 2, 128, 2, 128, 256), (4, 4, 4, 256, 1, 256, 1000), (5, 4, 2, 128, 3, 192, 640),
     (6, 8, 1, 256, 2, 96, 320)],
)  # fmt: skip
def test_activations_are_those_that_autograd_keeps(features, layers, heads, kv_heads, width, rows, length, vocab):
    config = GPTConfig(
        length, vocab, layers, heads, kv_heads, width, short_window=length // 2, long_window=length, **features
    )
    measured = saved_bytes(config, rows, length, torch.float32, compiled=False)
    assert predicted_bytes(config, rows, length, 4, False) == pytest.approx(measured, rel=0.03)


def test_activations_are_those_that_a_compiled_model_keeps():
    config = GPTConfig(128, 256, 2, 2, 2, 128, short_window=64, long_window=128)
    measured = saved_bytes(config, 2, 128, torch.bfloat16, compiled=True)
    assert predicted_bytes(config, 2, 128, 2, True) == pytest.approx(measured, rel=0.03)


class Live(TorchDispatchMode):
    """Counts the bytes of all storages that are made within it and not yet gone."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self.known = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self.count, made)
        return made

    def count(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage not in self.known:
            self.known[storage] = True
            self.bytes += storage.nbytes()
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self.gone, storage.nbytes())
        return tensor

    def gone(self, size: int) -> None:
        self.bytes -= size


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
    fixed = cost.training_memory(config, 1, 64).fixed
    assert fixed["weights"] == fixed["gradients"] == sum(p.nbytes for p in model.parameters())
    state = sum(tensor.nbytes for of in optimizer.state.values() for tensor in of.values())
    assert fixed["optimizer state"] == pytest.approx(state, rel=0.01)  # beside it only a vector for each matrix


def test_muon_needs_as_much_as_is_said():
    _, _, optimizer = small()
    group = max(optimizer.muon, key=lambda group: sum(p.numel() for p in group.parameters.values()))
    optimizer.step(Rates())
    with torch.no_grad(), Live() as live:
        optimizer._muon(group, Rates())
    elements = sum(p.numel() for p in group.parameters.values())
    # What is written in place, weights and momentum, was there before.
    assert live.peak / elements - 8 == pytest.approx(cost.MUON_ELEMENT, abs=5)


@pytest.mark.parametrize("with_gradient, expected", [(True, cost.EAGER_LOGIT), (False, cost.VALIDATION_LOGIT)])
def test_logits_need_as_much_as_is_said(with_gradient, expected):
    config = GPTConfig(64, 8192, 1, 1, 1, 32, **CLASSIC)
    model, ids = GPT(config, torch.bfloat16), torch.zeros(2, 64, dtype=torch.int64)
    with torch.set_grad_enabled(with_gradient), Live() as live:
        nll = model(ids, ids)
        if with_gradient:
            nll.sum().backward()
    assert live.peak / (ids.numel() * 8192) == pytest.approx(expected, abs=2)


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


def test_a_cache_takes_what_is_said():
    config = GPTConfig(128, 256, 3, 4, 2, 128)
    cache = KVCache(config, 5, 128, "meta", torch.bfloat16)
    assert cache.k.nbytes + cache.v.nbytes == 5 * cost.cache_bytes(config, 128)


@given(st.integers(1, 30), st.sampled_from(sorted(GPUS)), st.integers(1, 8), st.booleans())
def test_more_rows_never_need_less_nor_more_gpus_more_time(depth, gpu, count, compiled):
    config = config_from_depth(depth, 32768, 2048)
    one = Setting(config, GPUS[gpu], count, 1, 1 << 20, compiled=compiled)
    totals = [one.memory(rows).total for rows in (1, 2, 4, 8)]
    assert totals == sorted(totals)
    rows = forecast.largest_rows(one)
    assert rows == 0 or one.memory(rows).fits(one.on)
    more = Setting(config, GPUS[gpu], 2 * count, 1, 1 << 20, compiled=compiled)
    assert forecast.mid(more).step < forecast.mid(one).step * 1.01


# ---------------------------------------------------------------- the command


def planned(capsys, *argv: str) -> str:
    plan.main(list(argv))
    return capsys.readouterr().out


def test_the_plan_of_a_stage_says_memory_by_part_time_and_price(capsys):
    said = planned(capsys, "--depth=34", "--gpus=1", "--gpu=h100", "--stage=mid")
    assert said.startswith("d34, classic as published: 2.2B parameters, 34 layers of width 2176, vocabulary 65536")
    table = {line[:30].strip(): line[30:].split() for line in said.splitlines() if line.startswith("  ")}
    assert table["GB at device_batch_size"] == ["1", "2", "4", "8", "16", "32"]
    assert table["fits"] == ["yes", "yes", "yes", "no", "no", "no"]
    whole = [float(number) for number in table["at the fullest moment"]]
    fixed = ("weights", "gradients", "optimizer state", "context and workspaces")
    always = sum(float(table[name][2]) for name in fixed)
    moving = sum(float(table[name][2]) for name in ("weights in bfloat16", "activations", "logits", "gaps"))
    assert always + moving == pytest.approx(whole[2], abs=0.4)
    assert float(table["without torch.compile"][2]) > whole[2]
    assert "the largest that fits: 4\n" in said
    assert re.search(r"^--device_batch_size=4: 2\d\.\d s a step, [45]h\d\dm, \$1\d\.\d\d$", said, flags=re.MULTILINE)


def test_what_does_not_fit_is_said(capsys):
    said = planned(capsys, "--depth=34", "--gpu=h100", "--stage=mid", "--device_batch_size=32")
    needed = "--device_batch_size=32 needs 236.3 GB, and of the 85.0 there are 97% can be used"
    assert f"{needed}: it runs out of memory" in said
    assert "not even one row fits" in planned(capsys, "--depth=34", "--gpu=rtx4090", "--stage=mid")
    assert "it runs out of memory" in planned(capsys, "--depth=34", "--gpu=rtx4090")


@pytest.mark.parametrize("stage", ["all", "base", "mid", "sft", "rl", "serve"])
@pytest.mark.parametrize("gpu", [*GPUS, "cpu"])
def test_every_stage_is_planned_on_every_accelerator(capsys, stage, gpu):
    said = planned(capsys, "--depth=12", f"--gpu={gpu}", "--gpus=2", f"--stage={stage}")
    assert said.startswith("d12: 286M parameters") and f"2 x {'CPU' if gpu == 'cpu' else GPUS[gpu].name}" in said
    assert "nan" not in said and "inf " not in said


def test_the_original_stands_beside_this_code(capsys):
    assert "the original's chat_sft" in planned(capsys, "--depth=34", "--gpu=h100", "--gpus=1", "--stage=sft")
    assert re.search(r"the original's chat_web.*: 16 GB", planned(capsys, "--depth=34", "--gpu=h100", "--stage=serve"))
    assert "original" not in planned(capsys, "--depth=20", "--gpu=h100", "--stage=serve")


def test_the_price_is_what_one_says(capsys, monkeypatch):
    told = planned(capsys, "--depth=12", "--gpu=h100", "--price_per_gpu_hour=10")
    monkeypatch.setenv("NANOCHAT_PRICE_PER_GPU_HOUR", "20")
    twice = planned(capsys, "--depth=12", "--gpu=h100")
    cheap, dear = (float(re.findall(r"in all .*\$(\S+)", said)[0]) for said in (told, twice))
    assert dear == pytest.approx(2 * cheap, abs=0.02) and "$10.00 an hour each\n" in told
    assert "which is typical" in planned(capsys, "--depth=12", "--gpu=h100", "--price_per_gpu_hour=3")


def test_flags_change_the_model_and_the_batch(capsys):
    said = planned(capsys, "--depth=4", "--gpu=h100", "--gpus=1", "--vocab_size=4096", "--max_seq_len=512",
                   "--stage=base", "--total_batch_size=65536", "--target_param_data_ratio=20")  # fmt: skip
    assert "vocabulary 4096, context 512" in said
    tokens = 20 * (4 * 12 * 256**2 + 4096 * 256)
    assert f"in {round(tokens / 65536)} steps" in said
    more = planned(capsys, "--depth=12", "--gpu=h100", "--gpus=1", "--stage=mid", "--text_share=0.3")
    less = planned(capsys, "--depth=12", "--gpu=h100", "--gpus=1", "--stage=mid")
    assert re.search(r"791M tokens", more) and re.search(r"42\dM tokens", less)


def test_a_checkpoint_is_planned_from_its_meta_file(base, capsys):
    for tag, described in {
        "d3": {**config_from_depth(3, 4096, 256).__dict__},
        "d5": {"sequence_len": 512, "vocab_size": 65536, "n_layer": 5, "n_head": 3, "n_kv_head": 3, "n_embd": 384},
    }.items():
        folder = base / "mid_checkpoints" / tag
        folder.mkdir(parents=True)
        (folder / "model_000007.pt").touch()
        (folder / "meta_000007.json").write_text(json.dumps({"model_config": described}), encoding="utf-8")
    said = planned(capsys, "--source=mid", "--model_tag=d3", "--gpu=h100")
    assert "mid d3, step 7: 6.6M parameters, 3 layers" in said
    said = planned(capsys, "--source=mid", "--gpu=h100", "--stage=serve")
    assert "mid d5, step 7: 59M parameters, 5 layers of width 384, vocabulary 65536, context 512" in said
    assert "the original's chat_web" in said
    (base / "mid_checkpoints" / "d5" / "meta_000007.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="says nothing of its model's shape"):
        plan.main(["--source=mid", "--gpu=h100"])


@pytest.mark.parametrize(
    "argv, sentence",
    [
        (["--depth=0"], "--depth is 0; expected 1 or more"),
        (["--depth=12", "--gpus=0"], "--gpus is 0; expected 1 or more"),
        (["--depth=12", "--source=sft"], "--depth names a new model"),
        (["--source=sft"], "no sft checkpoint"),
        (["--depth=12", "--device_batch_size=0"], "--device_batch_size is 0; expected 1 or more"),
        (["--depth=12", "--vocab_size=-1"], "--vocab_size is -1; expected 1 or more"),
        (["--stage=mid"], "--stage is of the plan of one model; leave out --recipe, and name one with --depth"),
        (["--recipe=real", "--source=sft"], "--source is of the plan of one model"),
        (["--recipe=real", "--depth=0"], "--depth is 0; expected 1 or more"),
        (["--depth=12", "--price_per_gpu_hour=-3"], "--price_per_gpu_hour is -3"),
        (["--depth=12", "--text_share=1"], "--text_share is 1.0"),
    ],
)
def test_what_cannot_be_planned(argv, sentence):
    with pytest.raises(UserError, match=sentence):
        plan.main([*argv, "--gpu=h100"])


# ---------------------------------------------------------------- the recipe


def recipe(capsys, *argv: str) -> tuple[str, dict[str, dict[str, str]]]:
    """What is printed, and its table: {stage: {column: cell}}."""
    said = planned(capsys, "--recipe=real", *argv)
    head, *lines = said[said.index("\nstage  ") + 1 :].split("\n\n")[0].splitlines()
    ends = [(match.group(), match.end()) for match in re.finditer(r"\S+(?: \S+)*", head)]
    table = {}
    for line in lines:
        cells = {match.end(): match.group() for match in re.finditer(r"\S+(?: \S+)*", line[: ends[-1][1]])}
        table[line.split("  ")[0]] = {name: cells.get(end, "") for name, end in ends[1:]}
    return said, table


def test_the_recipe_has_a_row_for_each_command_and_their_sum(capsys):
    said, table = recipe(capsys, "--depth=20", "--gpus=8", "--gpu=h100")
    assert "torchrun --standalone --nproc_per_node=8 -m scripts.base_train" in said and "--depth=20" in said
    assert "897M parameters, 4980 steps of 1.0M tokens = 5.2B tokens" in said
    commands = re.findall(r"^  to do +(\S+)", said, flags=re.MULTILINE)
    assert [*table] == [*(name for name in commands if name != "identity"), "in all"]
    for stage in ("base_train", "mid_train", "chat_sft"):
        assert all(table[stage].values())
    for stage in ("base_eval", "chat_eval_mid", "chat_eval_sft"):
        assert all(table[stage][column] for column in ("tokens", "FLOPs", "GB", "time", "price"))
    prices = [float(row["price"].removeprefix("$")) for row in table.values()]
    assert sum(prices[:-1]) == pytest.approx(prices[-1], abs=0.06)
    assert table["base_train"]["tokens"] == "5.2B" and table["base_train"]["FLOPs"] == "1.5e+19"
    [rows] = re.findall(r"-m scripts.base_train .*--device_batch_size=(\d+)", said)
    base = forecast.base(Setting(config_from_depth(20, 32768, 2048), GPUS["h100"], 8, int(rows), 1 << 20))
    assert base.memory is not None
    assert float(table["base_train"]["GB"]) == pytest.approx(base.memory.total / GB, abs=0.1)


def test_depth_and_gpus_of_the_recipe_are_those_that_one_names(capsys, monkeypatch):
    monkeypatch.setenv("DEPTH", "20")
    monkeypatch.setenv("RL", "1")
    said, table = recipe(capsys, "--depth=6", "--gpus=1", "--gpu=h200")
    assert "--depth=6" in said and "torchrun" not in said and "1 x H200" in said and "out of memory" not in said
    _, two = recipe(capsys, "--depth=6", "--gpus=2", "--gpu=h200")
    assert table["chat_rl"]["steps"] == two["chat_rl"]["steps"] and float(table["chat_rl"]["GB"]) > 5
    assert float(two["base_train"]["s a step"]) < float(table["base_train"]["s a step"])


def test_the_recipe_says_what_does_not_fit_and_what_does(capsys):
    said, _ = recipe(capsys, "--depth=20", "--gpus=1", "--gpu=a100-40")
    needs = r"it runs out of memory: \d+ rows need (\S+) GB, and of the 42.4 there are 97% can be used"
    sentence = rf"{needs}; --device_batch_size=(\d+) fits"
    found = re.findall(sentence, said)
    assert found and all(float(needed) > 42.4 and int(rows) in (1, 2, 4, 8) for needed, rows in found)


def test_the_recipe_counts_the_steps_that_its_stages_take(capsys):
    said, table = recipe(capsys, "--depth=20", "--gpus=8", "--gpu=h100")
    assert table["chat_sft"]["steps"] == "157" and "157 steps of 66k tokens = 10M tokens" in said
    [steps] = {recipe(capsys, "--depth=4", f"--gpus={n}", "--gpu=h100")[1]["base_train"]["steps"] for n in (1, 8)}
    assert int(steps) == horizon(config_from_depth(4, 32768, 2048)).num_iterations


def test_a_gpu_that_is_not_known_does_not_stop_the_recipe(capsys, monkeypatch):
    monkeypatch.setattr(sections, "machine", lambda: {"GPU": "2 x NVIDIA GeForce RTX 3090"})
    said, table = recipe(capsys, "--depth=6", "--gpus=2")
    assert "The GPU here, 2 x NVIDIA GeForce RTX 3090, is not known" in said and "nproc_per_node=2" in said
    assert [*table["base_train"]] == ["tokens", "FLOPs", "steps"] and all(table["base_train"].values())
    like = recipe(capsys, "--depth=6", "--gpus=2", "--gpu=h100")[1]["base_train"]
    assert table["base_train"].items() <= like.items()
    tiny = planned(capsys, "--recipe=tiny")
    for word in ("$", "H100", " GB", "memory:", "about"):
        assert word not in said and word not in tiny
    with pytest.raises(UserError, match="'rtx3090' is not known; there are: h100"):
        plan.main(["--recipe=real", "--gpu=rtx3090"])
    with pytest.raises(UserError, match="RTX 3090, is not known; name one that is like it with --gpu"):
        plan.main(["--depth=6"])


def test_what_is_done_is_not_to_do(base, capsys):
    asked = ("--depth=6", "--gpus=1", "--gpu=h100", "--price_per_gpu_hour=100")
    assert "still to do" not in recipe(capsys, *asked)[0]
    listed = plan.stages_of("real", {"DEPTH": 6, "GPUS": 1})
    at = [stage.name for stage in listed].index("data")
    (base / "speedrun").mkdir()
    history = "\n".join(stage.command for stage in listed[: at + 1])  # a mark holds all commands up to its own
    (base / "speedrun" / "data.done").write_text(history, encoding="utf-8")
    (base / "base_data_climbmix").mkdir()
    (base / "base_data_climbmix" / "shard_00000.parquet").touch()
    said, table = recipe(capsys, *asked)
    assert re.search(r"^  done +data ", said, flags=re.MULTILINE) and "data" in table
    prices = re.findall(r"(?:in all|still to do).*\$(\S+)$", said, flags=re.MULTILINE)
    assert len(prices) == 2 and 0 < float(prices[1]) < float(prices[0])


@pytest.mark.parametrize(
    "described, name",
    [("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H200", "h200"), ("NVIDIA A100-SXM4-80GB", "a100"),
     ("NVIDIA A100-SXM4-40GB", "a100-40"), ("NVIDIA L40S", "l40s"), ("NVIDIA GeForce RTX 4090", "rtx4090"),
     ("NVIDIA B200", "b200"), ("NVIDIA T4", None), ("none", None)],
)  # fmt: skip
def test_gpus_are_known_by_what_nvidia_smi_calls_them(described, name):
    assert gpus.named(f"8 x {described}") == name
    if name is None:
        with pytest.raises(UserError, match="is not known; there are: h100"):
            gpus.accelerator(described)


def test_the_processor_is_measured():
    cpu = gpus.accelerator("cpu")
    assert cpu.peak > 1e9 and cpu.memory > 1 * gpus.GiB and cpu.price == 0
