"""The script that measures a GPU, in miniature on the CPU; and the original's step beside ours."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import fakecuda
import pytest
import torch
from children import processes
from torch._subclasses.fake_tensor import unset_fake_temporarily

from dev import gpu_check, gpu_parts
from dev.original_step import as_original, original_step
from nanochat import scaling
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.optim import Optimizer, Rates, parameter_groups
from nanochat.plan import cost, gpus
from nanochat.runtime import Runtime, compute_dtype
from tests import gpuchecks

ROOT = Path(__file__).resolve().parent.parent


def measured(out: Path, *more: str) -> tuple[int, dict]:
    code = gpu_check.main(["--device", "cpu", "--out", str(out), *more])
    return code, json.loads(out.read_text(encoding="utf-8"))["entries"]


def test_everything_in_miniature(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, entries = measured(tmp_path / "all.json")
    said = capsys.readouterr().out
    assert code == 0, said
    missing = {name: entry["not_measured"] for name, entry in entries.items() if "not_measured" in entry}
    assert set(missing) == {"checks/compiled_as_eager", "checks/a_step_waits_for_nothing",
                            "attention/varlen/0", "attention/varlen/16", "attention/flex/0", "attention/flex/16"}
    for depth in (2, 1):
        ours, theirs = (entries[f"step/d{depth}/{kind}"] for kind in (gpu_kind(), "original"))
        assert ours["last_loss"] == pytest.approx(theirs["last_loss"], rel=2e-2)  # the same ids and weights
        assert ours["tok_per_second"] == pytest.approx(2 * 64 / ours["seconds"]) and ours["mfu"] > 0
        assert 0 < ours["optimizer_seconds"] < 10 and ours["predicted"] > 1e6
    falling = entries["training"]
    assert falling["fallen"] > 0.2 and falling["off"] < 0.05
    table = said[said.index("| what |") :]
    rows = f"""| checks that passed | 11 of 13 |
| step/d2/{gpu_kind()}: tokens/s |
| d2: peak memory | not measured: torch counts the memory of GPUs only |
| attention blocks, window 16 |
| d1, 4 at a time, compiled: of the bandwidth's limit | not measured:
| eight H100s as fast as step/d2/float8: minutes to GPT-2's CORE | not predicted from a CPU
not measured: varlen_attn needs CUDA"""
    for row in rows.splitlines():
        assert row in table
    assert "failed" not in table and "figures say nothing about a GPU" in said


def gpu_kind() -> str:
    return str(compute_dtype("auto", torch.device("cpu"))).removeprefix("torch.")


def test_a_run_continues_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, taken = tmp_path / "some.json", []

    def broken(device: torch.device) -> None:
        taken.append("broken")
        raise AssertionError("off by 3")

    def whole(device: torch.device) -> None:
        taken.append("whole")

    monkeypatch.setattr(gpuchecks, "CHECKS", (broken, whole))
    only = ("--parts", "checks")
    code, entries = measured(out, *only, "--minutes", "-1")
    assert code == 0 and taken == [] and "minutes were over" in entries["checks/whole"]["not_measured"]
    code, entries = measured(out, *only)
    assert code == 1 and taken == ["broken", "whole"]
    assert entries["checks/broken"]["failed"] == "AssertionError: off by 3" and entries["checks/whole"]["passed"]
    assert measured(out, *only)[0] == 1 and taken == ["broken", "whole", "broken"]  # what failed is measured anew
    measured(out, *only, "--again", "checks/whole")
    assert taken[3:] == ["broken", "whole"]
    saved = json.loads(out.read_text(encoding="utf-8"))
    saved["about"]["device"] = "NVIDIA H200"
    out.write_text(json.dumps(saved), encoding="utf-8")
    measured(out, *only)
    assert taken[5:] == ["broken", "whole"]  # another machine's figures do not count
    out.write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="does not hold figures of this script; pass another --out"):
        measured(out, *only)


def test_figures_of_other_code_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = gpu_check._machine(Runtime(torch.device("cpu"), torch.float32, 0, 1, 0))
    results = gpu_check.Results(tmp_path / "old.json", machine, gpu_parts.MINIATURE)
    results.note("decode/1", {"tok_per_second": 12345.0, "first_token_seconds": 0.5})
    assert "tokens/s | 12,345 |" in gpu_check.table(results, gpu_parts.MINIATURE, machine)
    monkeypatch.setattr(gpu_check, "code_hash", lambda: "another")
    again = gpu_check.Results(tmp_path / "old.json", machine, gpu_parts.MINIATURE)
    said = gpu_check.table(again, gpu_parts.MINIATURE, machine)
    assert "tokens/s | 12,345 (of other code) |" in said and "tokens/s | not measured yet |" in said


def test_eight_gpus_are_predicted_from_one(tmp_path: Path) -> None:
    """The table of a GPU: figures beside their goals, and the run of eight that follows from one's MFU."""
    rt = Runtime(torch.device("cuda"), torch.bfloat16, 0, 1, 0)
    machine = gpu_parts.Machine(rt, "NVIDIA H200", gpus.GPUS["h200"])
    results = gpu_check.Results(tmp_path / "h200.json", machine, gpu_parts.ON_GPU)
    step = {"seconds": 0.5, "tok_per_second": 131072.0, "mfu": 0.5, "optimizer_seconds": 0.02, "allocated": 8e10,
            "reserved": 9e10, "predicted": 7.6e10}  # fmt: skip
    results.note("step/d20/bfloat16", step)
    results.note("step/d20/original", {**step, "tok_per_second": 100000.0, "allocated": 1e11})
    results.note("decode/64/compiled", {"tok_per_second": 12345.0, "of_limit": 0.7, "first_token_seconds": 0.25})
    said = gpu_check.table(results, gpu_parts.ON_GPU, machine)
    minutes = cost.seconds_to_gpt2(replace(gpus.GPUS["h100"], mfu=0.5), ranks=8) / 60
    rows = f"""| step/d20/bfloat16: MFU | 50.0% | ≥ 55 % |
| d20: speed, ours / the original's | 1.31 | ≥ 1.10 |
| d20: the optimizer's share of a step | 4.0% | ≤ 5 % |
| d20: peak memory | 80.0 GB of 90.0 reserved |
| d20: peak memory, ours / the original's | 0.80 | ≤ 0.80 |
| d20: peak memory, measured / plan's | 1.05 | ±10 % |
| d20: speed, float8 / bfloat16 | not measured yet | ≥ 1.15 |
| d20, 64 at a time, compiled: tokens/s | 12,345 | ≥ 10,000 |
minutes to GPT-2's CORE | {minutes:.0f}, predicted by plan from this MFU, not measured | < 80 |"""
    for row in rows.splitlines():
        assert row in said


# ---------------------------------------------------------------- a GPU that is not there

# These read no numbers but in their last comparison, so they run with tensors that have none.
WITHOUT_NUMBERS = (
    gpuchecks.attention_and_its_gradient, gpuchecks.attention_to_pages, gpuchecks.documents_apart,
    gpuchecks.the_loss_in_chunks, gpuchecks.gradients_as_on_the_cpu, gpuchecks.optimizer_as_on_the_cpu,
    gpuchecks.float8_products,
)  # fmt: skip


def the_originals_step(device: torch.device) -> None:
    model = gpuchecks.on(gpuchecks.small_model(bigram_rows=0, key_offset=False, backout=True), device)
    step, trained = original_step(model, compiled=False)
    batch = gpuchecks.some_batch(model.config, device)
    with mock.patch.object(torch.Tensor, "item", lambda tensor: tensor.device.type):
        assert step([(batch.inputs, batch.targets)]) == "cuda"
    assert {parameter.device for parameter in trained.parameters()} == {device}


def two_devices(device: torch.device) -> None:
    """A mistake, to see that it is found."""
    gpuchecks.loss_of(gpuchecks.on(gpuchecks.small_model(), device), gpuchecks.some_batch(CONFIG, torch.device("cpu")))


CONFIG = scaling.config_from_depth(2, 300, 256)


def run_with_fake_tensors(out: str) -> None:
    """Run each of these on a fake GPU, and write how they ended, by name."""
    ended, small_model = {}, gpuchecks.small_model

    def fake_model(**changes: object) -> GPT:
        with unset_fake_temporarily():
            model = small_model(**changes)
            weights = {name: weight.detach() for name, weight in model.state_dict().items()}
        model.load_state_dict({name: mode.from_tensor(weight) for name, weight in weights.items()}, assign=True)
        return model

    gpuchecks.small_model, gpuchecks.assert_near = fake_model, lambda *_: None
    for check in (*WITHOUT_NUMBERS, the_originals_step, two_devices):
        with fakecuda.fake_cuda() as mode:
            try:
                check(torch.device("cuda", 0))
                ended[check.__name__] = "fits"
            except Exception as error:
                ended[check.__name__] = f"{type(error).__name__}: {error}"
    Path(out).write_text(json.dumps(ended), encoding="utf-8")


def test_checks_and_the_originals_step_fit_a_gpu(tmp_path: Path) -> None:
    """None mixes tensors of the CPU and of the GPU, or shapes and dtypes that no kernel takes; float8 included.

    In a process of its own: after a backward on the CPU torch no longer believes in another device.
    """
    out = tmp_path / "ended.json"
    child = processes.Process(target=run_with_fake_tensors, args=(str(out),))
    child.start()
    child.join(300)
    assert child.exitcode == 0
    ended = json.loads(out.read_text(encoding="utf-8"))
    assert "device" in ended.pop("two_devices")
    assert ended == {check.__name__: "fits" for check in (*WITHOUT_NUMBERS, the_originals_step)}


# ---------------------------------------------------------------- without packages

WITHOUT_PACKAGES = """
import sys, importlib.abc
import numpy, torch, torch._dynamo  # with whatever they import themselves

class Bare(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Bare())
from dev import gpu_check
sys.exit(gpu_check.main(["--device", "cpu", "--out", sys.argv[2], "--parts", "checks", "step"]))
"""


def test_it_needs_torch_and_numpy_only(tmp_path: Path) -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(item for extra in extras for item in extra)]
    named = {item.split(";")[0].rstrip(" 0123456789.,<>=").split("[")[0] for item in wanted}
    named = {{"pyyaml": "yaml"}.get(name, name).replace("-", "_") for name in named} - {"torch", "numpy"}
    assert {"yaml", "rich", "tiktoken", "torchao", "pytest", "tyro"} <= named
    out = tmp_path / "bare.json"
    done = subprocess.run([sys.executable, "-c", WITHOUT_PACKAGES, ",".join(named), str(out)], cwd=ROOT, text=True,
                          capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    entries = json.loads(out.read_text(encoding="utf-8"))["entries"]
    assert "needs the package torchao" in entries["step/d2/float8"]["not_measured"]
    assert entries[f"step/d2/{gpu_kind()}"]["seconds"] > 0 and entries["checks/the_loss_in_chunks"]["passed"]


# ---------------------------------------------------------------- the original's step


def test_the_originals_step_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same loss and the same new weights: two implementations of one description, both wholly in float32."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.float)
    torch.manual_seed(0)
    model = GPT(as_original(replace(scaling.config_from_depth(3, 317, 64), short_window=16)))
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    step, trained = original_step(model, compiled=False)
    optimizer = Optimizer(*parameter_groups(model, 0.3, 0.008, 0.02, 0.5, 0.28))
    ids = torch.randint(0, 317, (4, 65))
    inputs, targets = ids[:, :-1], ids[:, 1:]
    weights = torch.ones(4, 64)
    loss = model.loss(model.hidden(inputs), targets, weights) / 256
    with optimizer.reducing():
        loss.backward()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    theirs = step([(inputs[:2], targets[:2]), (inputs[2:], targets[2:])])
    assert theirs == pytest.approx(loss.item(), rel=1e-5)
    optimizer.reduce()
    optimizer.step(Rates())
    optimizer.wait()
    other = dict(trained.named_parameters())
    for name, parameter in model.named_parameters():
        ours, their = (weight.detach() - before[name] for weight in (parameter, other[name]))
        assert (ours - their).norm() <= 5e-3 * ours.norm(), name  # where an update is nearly 0, decay is on or off


def test_the_original_learns_what_ours_learns() -> None:
    config = as_original(scaling.config_from_depth(1, 64, 32))
    torch.manual_seed(0)
    model = GPT(config)
    step, _ = original_step(model, compiled=False)
    batches = gpu_parts.batches(config, 8, 32)
    losses = [step([(batch.inputs, batch.targets)]) for batch, _ in zip(batches, range(30), strict=False)]
    assert losses[-1] < 0.7 * losses[0]
