"""Distillation: its loss against the formula in float64, and stages that learn from a teacher."""

import json
import shutil
from pathlib import Path

import pytest
import stages
import torch
import torch.nn.functional as F
from conftest import TEXT
from stages import assert_near, assert_same_run, flags, lines, on_ranks, refused, tensors, train
from test_loss import MODEL, PADDED, B, D, T, V, example
from torch import Tensor

from nanochat import chat, loss
from nanochat.checkpoint import door, manager
from nanochat.data.batch import Batch, trained_positions
from nanochat.gpt import GPT
from nanochat.loss import Soft, distilled_rows, summed_nll
from nanochat.paths import checkpoints_dir
from nanochat.plan.cost import sizes, training_memory
from nanochat.runtime import Runtime
from nanochat.scaling import config_from_depth
from nanochat.tokenizer import Tokenizer
from nanochat.train.objective import DISTILLED, loss_of
from nanochat.train.teacher import Teacher

ONE = Runtime(torch.device("cpu"), torch.float32, 0, 1, 0)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CPU_CHUNK", 4 * PADDED)


def capped(logits: Tensor, softcap: float) -> Tensor:
    return (softcap * torch.tanh(logits / softcap) if softcap else logits)[..., :V]


def definition(
    x: Tensor, matrix: Tensor, targets: Tensor, weights: Tensor, softcap: float, soft: Soft
) -> tuple[Tensor, Tensor, Tensor]:
    """Hinton et al. 2015 in float64: (1 - a) nll + a T^2 KL(teacher || student), summed by weight; nll; KL."""
    logits = capped(x.double() @ matrix.double().T, softcap).flatten(0, 1)
    taught = capped(soft.x.double() @ soft.matrix.double().T, soft.softcap)
    nll = F.cross_entropy(logits, targets.flatten(), reduction="none")
    p = torch.softmax(taught / soft.temperature, -1)
    q = torch.softmax(logits / soft.temperature, -1)
    kl = (p * (p.log() - q.log())).sum(-1)
    w = weights.flatten().double()
    both = (1 - soft.weight) * nll + soft.weight * soft.temperature**2 * kl
    return (both * w).sum(), (nll * w).sum(), (kl * w).sum()


def soft_example(weight: float, temperature: float, softcap: float) -> Soft:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(B * T, 2 * D, generator=generator)
    return Soft(x, torch.randn(PADDED, 2 * D, generator=generator), softcap, temperature, weight)


# ---------------------------------------------------------------- the loss


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("softcap", [0.0, 15.0])
def test_loss_and_gradients_are_those_of_the_formula(softcap: float, temperature: float) -> None:
    x, matrix, targets, weights = example()
    soft = soft_example(0.7, temperature, 15.0 - softcap)
    got = summed_nll(x, matrix, targets, weights, trained_positions(weights), softcap, V, None, soft)
    expected = definition(x, matrix, targets, weights, softcap, soft)
    torch.testing.assert_close(got.double(), torch.stack(expected), rtol=1e-4, atol=1e-4)
    for one, other in zip(
        torch.autograd.grad(got[0] * 0.5, [x, matrix]), torch.autograd.grad(expected[0] * 0.5, [x, matrix]),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
        assert one.abs().max() > 0.1


def test_a_teacher_without_weight_changes_nothing(small_chunks: None) -> None:
    x, matrix, targets, weights = example()
    alone = summed_nll(x, matrix, targets, weights, None, 15.0, V)
    beside = summed_nll(x, matrix, targets, weights, None, 15.0, V, None, soft_example(0.0, 3.0, 15.0))
    torch.testing.assert_close(beside[0], alone)
    torch.testing.assert_close(beside[1], alone)
    pairs = zip(
        torch.autograd.grad(alone, [x, matrix]), torch.autograd.grad(beside[0], [x, matrix]), strict=True
    )  # fmt: skip
    for one, other in pairs:
        torch.testing.assert_close(one, other)


def test_a_sure_teacher_of_padding_gives_no_nan(small_chunks: None) -> None:
    """Logits far apart: probabilities that are 0, where the difference of logarithms would be inf - inf."""
    x, matrix, targets, weights = example()
    soft = soft_example(1.0, 0.05, 0.0)
    with torch.no_grad():
        matrix[V:] = 1e6
    got = summed_nll(x, matrix, targets, weights, None, 15.0, V, None, soft)
    (gradient,) = torch.autograd.grad(got[0], [matrix])
    assert torch.isfinite(got).all() and torch.isfinite(gradient).all() and gradient[V:].abs().max() == 0


def test_the_models_own_predictions_teach_nothing(small_chunks: None) -> None:
    """KL is 0 with itself, also where documents share a row, and in a smaller chunk than the batch."""
    torch.manual_seed(0)
    model = GPT(MODEL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.document_bos = 3
    ids = torch.randint(V, (2, 17))
    batch = Batch(ids[:, :-1], ids[:, 1:], torch.ones(2, 16), 0.0, {})
    both = GPT(MODEL)
    both.load_state_dict(model.state_dict())
    teacher = Teacher(both, {}, 0.5, 1.0)
    found = loss_of(model, False, ONE, teacher)(batch)
    assert both.document_bos == 3 and not any(p.grad is not None for p in both.parameters())
    assert abs(float(found[2].detach())) < 1e-4 < float(found[1].detach())
    torch.testing.assert_close(found[1], model(batch.inputs, batch.targets).sum())
    torch.testing.assert_close(found[0], 0.5 * found[1])


def test_compiled_it_is_the_same(small_chunks: None) -> None:
    x, matrix, targets, weights = example()
    soft = soft_example(0.5, 2.0, 15.0)
    compiled = torch.compile(distilled_rows, backend="aot_eager", dynamic=False)
    one, other = (
        summed_nll(x, matrix, targets, weights, trained_positions(weights), 15.0, V, rows, soft)
        for rows in (None, compiled)
    )
    torch.testing.assert_close(one, other)


# ---------------------------------------------------------------- stages

TAUGHT = ["--teacher=base:d1", "--teacher_weight=0.6", "--teacher_temperature=1.5"]


@pytest.fixture(scope="module")
def whole(worlds: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a base run with a teacher that nobody interrupted."""
    base = tmp_path_factory.mktemp("taught") / "base"
    shutil.copytree(worlds["mid"], base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(base))
        train("base", student(base))
        return checkpoints_dir("base") / "small"


def student(base: Path, *more: str) -> list[str]:
    return flags("base", base, "--model_tag=small", "--aspect_ratio=24", "--head_dim=24", "--seed=3", *TAUGHT, *more)


def test_a_base_model_learns_from_a_teacher(whole: Path, monkeypatch) -> None:
    found = [line for line in lines(whole) if "loss" in line]
    assert all(line.keys() >= set(DISTILLED) for line in found)
    for line in found:
        assert line["loss"] == pytest.approx(0.4 * line["hard_loss"] + 0.6 * 1.5**2 * line["teacher_kl"], rel=1e-4)
    assert found[-1]["teacher_kl"] < found[0]["teacher_kl"]
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(whole.parents[1]))
    teacher = door.find("base:d1")
    record = manager.read_meta(whole, stages.STEPS)["teacher"]
    assert record == manager.record_of(teacher.meta, "base", "d1", teacher.step) and len(record["sha256"]) == 64
    section = json.loads((whole.parents[1] / "report" / "base_train.json").read_text(encoding="utf-8"))
    assert section["flags"]["teacher"] == "base:d1"


def test_a_killed_run_resumes_to_the_bit(whole: Path, worlds: dict[str, Path], base: Path) -> None:
    """The teacher is that of the run, also where it is not passed again."""
    shutil.copytree(worlds["mid"], base)
    ours = checkpoints_dir("base") / "small"
    child = stages.start(base, "base", student(base, "--save_every=1", "--keep_last=0"))
    while child.is_alive() and not list(ours.glob("meta_000003.json")):
        child.join(0.02)
    child.kill()
    child.join()
    assert manager.steps(ours)[-1] < stages.STEPS
    train("base", [word for word in student(base) if word not in TAUGHT])
    assert_same_run(ours, whole)


def test_two_ranks_and_micro_batches_take_the_same_steps(whole: Path, worlds, base: Path) -> None:
    shutil.copytree(worlds["mid"], base)
    ours = checkpoints_dir("base") / "small"
    on_ranks(base, "base", student(base))
    shutil.move(ours, two := ours.with_name("two"))
    train("base", student(base, "--device_batch_size=4"))
    for folder in (two, ours):
        for one, other in zip(lines(folder), lines(whole), strict=True):
            for name in {"loss", "grad_norm", *DISTILLED, "val_bpb"} & one.keys():
                assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), name
        assert_near(tensors(folder), tensors(whole), 0.02, 1e-3)


@pytest.mark.parametrize("stage", ["mid", "sft"])
def test_later_stages_learn_from_one_too(stage: str, world, base: Path) -> None:
    ours = world(stage)
    train(stage, flags(stage, base, *TAUGHT, "--num_iterations=2", "--eval_every=-1"))
    kl = [line["teacher_kl"] for line in lines(ours) if "loss" in line]
    assert len(kl) == 2 and kl[1] > 0  # the first step of mid starts from the teacher's own weights
    assert manager.read_meta(ours, 2)["teacher"]["tag"] == "d1"


def test_mistakes(world, base: Path, capsys) -> None:
    world("mid")
    for more, said in (
        (["--teacher_weight=1.5"], "--teacher_weight is 1.5"),
        (["--teacher_temperature=0"], "--teacher_temperature is 0"),
        (["--teacher=sft"], "no sft checkpoint"),
        (["--max_seq_len=64"], "has a context of 32 tokens, but rows have 64; train with --max_seq_len=32"),
    ):
        assert said in refused("base", student(base, *more), capsys)


def test_a_teacher_with_another_tokenizer_is_refused(world, base: Path, tmp_path: Path, capsys) -> None:
    world("mid")
    other = Tokenizer.train(iter([TEXT] * 8), 310, chat.SPECIALS)
    config = door.find("base:d1").load().model.config
    model = GPT(type(config)(**{**vars(config), "vocab_size": other.vocab_size}))
    manager.save(tmp_path / "odd", 1, model, None, {"tokenizer_hash": other.hash})
    other.save(tmp_path / "odd" / "tokenizer")
    said = refused("base", student(base, f"--teacher={tmp_path / 'odd'}"), capsys)
    assert other.hash[:12] in said and "trained with the same tokenizer" in said


def test_another_teacher_is_another_run(world, base: Path, capsys) -> None:
    world("mid")
    train("base", student(base, "--num_iterations=2", "--eval_every=-1"))
    train("base", flags("base", base, "--model_tag=other", "--num_iterations=1", "--eval_every=-1"))
    said = refused("base", student(base, "--teacher=base:other"), capsys)
    assert "a run that learned from base d1 step 6" in said and "not from base other step 1" in said


def test_the_plan_counts_the_teacher() -> None:
    small, large = (config_from_depth(depth, 32768, 2048) for depth in (4, 20))
    alone = training_memory(small, 64, 2048)
    taught = training_memory(small, 64, 2048, teacher=large)
    assert taught["the teacher's weights"] == 2 * sizes(large).all
    assert sum(taught.values()) > sum(alone.values()) + 2 * sizes(large).all + 2 * 64 * 2048 * large.n_embd
