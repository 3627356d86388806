"""Training in float8: the numbers of the recipe, what stays in 16 bits, and what is refused."""

import functools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import stages
import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat import fp8, scaling
from nanochat.checkpoint import manager
from nanochat.errors import UserError
from nanochat.gpt import GPT, Linear

CPU = torch.device("cpu")


def model(dtype: torch.dtype = torch.float32, depth: int = 1, vocab_size: int = 96) -> GPT:
    torch.manual_seed(0)
    made = GPT(scaling.config_from_depth(depth, vocab_size, 32), dtype)
    for parameter in made.parameters():  # matrices that start at zero would hide what is behind them
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return made


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x as numbers of a float8 format, scaled so that the largest is the largest that the format has."""
    scale = torch.finfo(dtype).max / x.abs().max()
    return (x * scale).to(dtype).float() / scale


def gradients(made: GPT, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    made.zero_grad()
    loss = F.cross_entropy(made(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rows", [32, 23])
def test_the_products_are_those_of_the_recipe(rows: int) -> None:
    """Against the recipe written out: e4m3 for weights and activations, e5m2 for gradients, a scale per tensor."""
    made = model()
    fp8.convert(made, CPU, emulate=True)
    layer = made.transformer.blocks[0].mlp.c_fc
    x = torch.randn(rows, 128, requires_grad=True)
    upstream = torch.randn(rows, 512)
    layer(x).backward(upstream)
    x8, w8 = rounded(x.detach(), torch.float8_e4m3fn), rounded(layer.weight.detach(), torch.float8_e4m3fn)
    g8 = rounded(upstream, torch.float8_e5m2)
    near = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(layer(x), x8 @ w8.T, **near)
    torch.testing.assert_close(x.grad, g8 @ w8, **near)
    torch.testing.assert_close(layer.weight.grad, g8.T @ x8, **near)
    assert not torch.allclose(layer(x), x @ layer.weight.T, rtol=1e-3, atol=1e-3)  # it is not the product in float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_converted_model_has_the_same_parameters_and_trains_nearly_alike(dtype: torch.dtype) -> None:
    made, ids = model(dtype), torch.arange(66).view(2, 33) % 50
    before, parameters = gradients(made, ids), dict(made.named_parameters())
    record = fp8.convert(made, CPU, emulate=True)
    assert record == {"recipe": "tensorwise", "forward": "e4m3", "gradients": "e5m2", "matrices": 6}
    assert all(now is then for now, then in zip(made.parameters(), parameters.values(), strict=True))
    assert [*made.state_dict()] == [*parameters]
    after = gradients(made, ids)
    torch.testing.assert_close(after[0], before[0], rtol=1e-3, atol=0)
    for name, gradient in after[1].items():
        assert gradient.dtype == torch.float32
        if ".h." in name and not name.endswith("ve_gate.weight"):
            off = (gradient - before[1][name]).norm() / before[1][name].norm()
            assert 0 < off < 0.2, name


def test_without_gradients_nothing_changes() -> None:
    made, ids = model(), torch.arange(32)[None]
    with torch.no_grad():
        before = made(ids)
        fp8.convert(made, CPU, emulate=True)
        assert torch.equal(made(ids), before)
    assert not torch.equal(made(ids), before)


def test_gates_embeddings_and_odd_sizes_stay_as_they_are() -> None:
    made = model()
    fp8.convert(made, CPU, emulate=True)
    converted = {name for name, module in made.named_modules() if isinstance(module, fp8.Float8)}
    attention = {f"transformer.h.0.attn.{name}" for name in ("c_q", "c_k", "c_v", "c_proj")}
    assert converted == attention | {"transformer.h.0.mlp.c_fc", "transformer.h.0.mlp.c_proj"}
    assert fp8.allows(Linear(32, 48)) and not fp8.allows(Linear(24, 48)) and not fp8.allows(Linear(32, 40))


def test_it_is_captured_as_one_graph() -> None:
    made, ids = model(), torch.arange(66).view(2, 33) % 50
    fp8.convert(made, CPU, emulate=True)
    eager = made(ids)
    captured = torch.compile(made, backend="aot_eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(captured(ids), eager)


def test_what_cannot_multiply_float8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="compute capability 8.9 or later .*, but the device is cpu; train without"):
        fp8.convert(model(), CPU)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(UserError, match="but NVIDIA A100 has 8.0; train without --fp8"):
        fp8.check(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    fp8.check(torch.device("cuda"))


def test_without_torchao_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(UserError, match="needs the package torchao, which is not installed; .*uv sync --extra fp8"):
        fp8.convert(model(), CPU, emulate=True)


def test_a_model_without_such_matrices_is_refused() -> None:
    narrow = GPT(scaling.config_from_depth(1, 96, 32, aspect_ratio=24, head_dim=24))
    with pytest.raises(UserError, match="sides are multiples of 16, and this model, 24 wide, has none"):
        fp8.convert(narrow, CPU, emulate=True)


def test_a_run_records_the_recipe_and_its_checkpoints_look_as_usual(
    world: Callable[[str], Path], base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A base run in float8, emulated: recorded, resumed with the recipe, and loaded like any other model."""
    folder = world("base")
    monkeypatch.setattr(fp8, "convert", functools.partial(fp8.convert, emulate=True))
    argv = stages.flags("base", base, "--fp8", "--model_tag=d1", "--num_iterations=4", "--save_every=2")
    stages.train("base", argv)
    meta = manager.read_meta(folder, 4)
    assert meta["fp8"] == {"recipe": "tensorwise", "forward": "e4m3", "gradients": "e5m2", "matrices": 6}
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["fp8"] == meta["fp8"]
    assert "6 matrices are multiplied in float8 (tensorwise scaling)" in capsys.readouterr().out
    whole, loss = stages.tensors(folder, 4), stages.losses(folder)[-1][1]
    (folder / "meta_000004.json").unlink()  # as if the run had been killed before
    stages.train("base", [flag for flag in argv if flag != "--fp8"])  # a resumed run keeps the flags it had
    assert "6 matrices are multiplied in float8" in capsys.readouterr().out
    again = stages.tensors(folder, 4)
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())
    shutil.rmtree(folder)
    stages.train("base", [flag for flag in argv if flag != "--fp8"])
    plain = stages.tensors(folder, 4)
    assert [(name, weight.shape, weight.dtype) for name, weight in plain.items()] == [
        (name, weight.shape, weight.dtype) for name, weight in whole.items()
    ]
    assert "fp8" not in manager.read_meta(folder, 4)
    assert stages.losses(folder)[-1][1] == pytest.approx(loss, rel=1e-2)
    matrix = "transformer.h.0.mlp.c_fc.weight"  # a few steps from zero the loss does not show it yet, the weights do
    assert not torch.equal(plain[matrix], whole[matrix])
