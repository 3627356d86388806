"""DPO: its loss against the formula, pairs in rows, micro-batches and on ranks, and the script as a user runs it."""

import copy
import itertools
import json
import math
import shutil
from pathlib import Path

import pytest
import stages
import torch
import torch.nn.functional as F
from scripted import scripted
from stages import assert_same_run, lines, on_ranks, refused, tensors
from test_chat_rl import ONE, SAYING, model_of, undecided
from test_chat_rl import stage_of as rl_stage_of
from torch import Tensor

from nanochat import chat
from nanochat.checkpoint import door, manager
from nanochat.checkpoint import stages as stage_names
from nanochat.data.streams import batches
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.log import MetricsLog
from nanochat.loss import loss_of_rows
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.report import card
from nanochat.tokenizer import Tokenizer
from nanochat.train import preferences
from nanochat.train.loop import TrainState, train
from nanochat.train.preferences import FIGURES, Objective, PairSource, counted, log_probabilities, loss_of_pairs
from scripts import chat_cli, chat_dpo, make_pairs
from tasks.customjson import CustomJSON
from tasks.littleworld.conversations import LittleWorld
from tasks.pairs import PairsJSON, pair

T = 96


def written(text: str, role: str = "assistant") -> list[dict]:
    return [{"role": role, "content": text}]


# Of different lengths; the second has an earlier answer, which does not count, and a system message.
PAIRS = [
    {"prompt": written("12 + 30?", "user"), "chosen": written("42"), "rejected": written("It is 30.")},
    {"prompt": [*written("Be brief.", "system"), *written("Who?", "user"), *written("Ada."), *written("Cat?", "user")],
     "chosen": written("grey"), "rejected": written("the cat sleeps")},
    {"prompt": written("What is it?", "user"), "chosen": written("the bill is paid"), "rejected": written("no")},
    {"prompt": written("Rome", "user"), "chosen": written("Ada lives in Rome"), "rejected": written("Tom does")},
]  # fmt: skip


def logp(model: GPT, tokenizer: Tokenizer, each: dict, side: str) -> Tensor:
    """The log-probability of an answer, by itself in a row, summed token by token in float64."""
    ids, _ = chat.render(tokenizer, {"messages": each["prompt"] + each[side]})
    start = len(chat.prompt(tokenizer, each["prompt"]))
    known = model(torch.tensor([ids[:-1]])).double().log_softmax(-1)[0]
    return torch.stack([known[place - 1, ids[place]] for place in range(start, len(ids))]).sum()


def formula(h: Tensor, how: Objective) -> Tensor:
    """Equation 7 of Rafailov et al. with smoothed labels, or equation 17 of Azar et al."""
    if how.loss == "ipo":
        return (h - 1 / (2 * how.beta)) ** 2
    right = 1 / (1 + torch.exp(-how.beta * h))
    return -(1 - how.label_smoothing) * torch.log(right) - how.label_smoothing * torch.log(1 - right)


def moved(model: GPT) -> GPT:
    """A copy some way from the model, as after training."""
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return other


def source_of(tokenizer: Tokenizer, pairs: list[dict] = PAIRS, row_len: int = T + 1) -> PairSource:
    return PairSource(pairs, tokenizer, row_len, 96, "test")


def step(model: GPT, reference: Tensor, tokenizer: Tokenizer, how: Objective, rows: int, folder: Path) -> tuple:
    """The line of a step over all pairs, one in a row, `rows` rows at a time; and its gradients."""
    source = source_of(tokenizer)
    source.most = 1
    made = list(counted(itertools.islice(batches(source, rows, T), 4 // rows)))
    assert [batch.count for batch in made] == [rows] * (4 // rows)
    stage = rl_stage_of(model, iter(made))
    stage.loss, stage.also, stage.accumulation = loss_of_pairs(model, how, reference, loss_of_rows), FIGURES, 4 // rows
    stage.shown = ("margin",)
    train(stage, TrainState(), ONE, MetricsLog(folder, "dummy", {}, True))
    (line,) = lines(folder)
    return line, {name: state["exp_avg"] for name, state in stage.optimizer.state.items()}


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize("how", [Objective(0.3), Objective(0.3, 0.2), Objective(0.1, loss="ipo")], ids=str)
def test_loss_and_gradient_are_those_of_the_formula(tokenizer, tmp_path, how: Objective) -> None:
    """Of one batch of 4 pairs, and twice 2, and four times 1."""
    start = model_of(tokenizer, context=T)
    start.document_bos = tokenizer.bos
    model = moved(start)
    with torch.no_grad():
        was = [[logp(start, tokenizer, each, side) for side in preferences.SIDES] for each in PAIRS]
    now = [[logp(model, tokenizer, each, side) for side in preferences.SIDES] for each in PAIRS]
    h = torch.stack([(c - r) - (rc - rr) for (c, r), (rc, rr) in zip(now, was, strict=True)])
    expected = formula(h, how).mean()
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(expected, list(parameters.values()))

    reference = log_probabilities(start, source_of(tokenizer), 2, T, ONE)
    torch.testing.assert_close(reference[:, :2].double(), torch.tensor(was, dtype=torch.float64), rtol=1e-4, atol=1e-3)
    for rows in (4, 2, 1):
        line, found = step(model, reference, tokenizer, how, rows, tmp_path / str(rows))
        assert line["loss"] == pytest.approx(float(expected), rel=1e-4)
        assert line["margin"] == pytest.approx(float(h.mean()), abs=1e-3)
        assert line["accuracy"] == pytest.approx(float((h > 0).double().mean()))
        assert line["chosen_logp"] == pytest.approx(sum(float(c) for c, _ in now) / 4, rel=1e-4)
        assert line["rejected_logp"] == pytest.approx(sum(float(r) for _, r in now) / 4, rel=1e-4)
        assert line["drift"] > 0
        whole = torch.stack([gradient.norm() for gradient in gradients]).norm()
        for name, gradient in zip(parameters, gradients, strict=True):  # those of scalars are differences of large sums
            assert (found[name] - gradient).norm() < 1e-3 * gradient.norm() + 1e-5 * whole, name


def test_where_nothing_was_learned_the_pairs_are_even(tokenizer, tmp_path) -> None:
    model = model_of(tokenizer, context=T)
    model.document_bos = tokenizer.bos
    reference = log_probabilities(model, source_of(tokenizer), 4, T, ONE)
    measured = preferences.scores(reference, reference, Objective())
    assert measured["val_loss"] == pytest.approx(math.log(2))
    assert (measured["val_margin"], measured["val_accuracy"], measured["val_drift"]) == (0, 0.5, 0)
    line, _ = step(model, reference, tokenizer, Objective(0.2), 4, tmp_path)
    assert line["loss"] == pytest.approx(math.log(2), abs=1e-4) and abs(line["margin"]) < 1e-3


# ---------------------------------------------------------------- pairs in rows


def test_a_row_has_whole_pairs_which_do_not_see_each_other(tokenizer) -> None:
    """As many as are kept apart and fit; each pair has the same log-probabilities as alone."""
    model = model_of(tokenizer, context=T)
    model.document_bos = tokenizer.bos
    tiny = [{"prompt": written(str(n % 10), "user"), "chosen": written("a"), "rejected": written("b")}
            for n in range(30)]  # fmt: skip
    source = PairSource(tiny, tokenizer, 2 * T * 5 + 1, T, "test", first=7)
    assert source.most == 2 * T * 5 // 32 // 2 < 30
    batch = next(iter(counted(batches(source, 1, 2 * T * 5))))
    assert batch.count == source.most and batch.trained is not None
    numbered = batch.weights.flatten()[batch.trained].tolist()
    runs = [(number, len(list(run))) for number, run in itertools.groupby(numbered)]
    assert [first for first, _ in runs[::2]] == [-second for second, _ in runs[1::2]]  # chosen, rejected, chosen, ...
    assert all(8 <= first <= 37 and count == 2 for first, count in runs[::2])  # the letter and what ends the answer
    together = log_probabilities(model, source, 1, 2 * T * 5, ONE)
    alone = log_probabilities(model, PairSource(tiny, tokenizer, 33, T, "test"), 1, 32, ONE)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    assert together[:, 2:].tolist() == [[2, 2]] * 30


def test_a_pair_that_does_not_fit_is_left_out(tokenizer) -> None:
    long = {"prompt": written("12 + 30?", "user"), "chosen": written("42 " * 60), "rejected": written("no")}
    source = source_of(tokenizer, [long, *PAIRS])
    assert source.document(0) is None
    model = model_of(tokenizer, context=T)
    model.document_bos = tokenizer.bos
    table = log_probabilities(model, source, 4, T, ONE)
    assert table[0].tolist() == [0, 0, 0, 0] and bool((table[1:, 2:] > 0).all())
    some, none = preferences.scores(table, table, Objective()), preferences.scores(table[:1], table[:1], Objective())
    assert some["val_loss"] == pytest.approx(math.log(2)) and none["val_loss"] == 0


# ---------------------------------------------------------------- files of pairs

HI, HELLO, WHAT = written("Hi", "user"), written("Hello!"), written("What?")


@pytest.mark.parametrize(
    "line",
    [
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"},
        {"prompt": HI, "chosen": HELLO, "rejected": WHAT},
        {"messages": HI, "chosen": "Hello!", "rejected": WHAT[0], "score": 3},
        {"chosen": HI + HELLO, "rejected": HI + WHAT},
        {"prompt": "Hi", "messages": HI + HELLO, "chosen": HI + HELLO, "rejected": HI + WHAT},
    ],
)
def test_the_usual_shapes(line: dict) -> None:
    assert pair(line) == {"prompt": HI, "chosen": HELLO, "rejected": WHAT}


def test_a_shared_earlier_answer_belongs_to_the_prompt(tmp_path: Path) -> None:
    turns = HI + HELLO + written("And?", "user")
    path = tmp_path / "array.json"
    path.write_text(json.dumps([{"chosen": turns + HELLO, "rejected": turns + WHAT}]), encoding="utf-8")
    assert list(PairsJSON(path)) == [{"prompt": turns, "chosen": HELLO, "rejected": WHAT}]


def test_pairs_of_one_prompt_are_held_out_together(tmp_path: Path) -> None:
    from tasks.pairs import pairs

    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{n // 4}?", "chosen": "yes", "rejected": f"no {n}"} for n in range(400)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    learned, held = (list(pairs([path], [], split)) for split in ("train", "val"))
    assert len(learned) + len(held) == 400 and 0 < len(held) < 60
    asked = [{each["prompt"][0]["content"] for each in part} for part in (learned, held)]
    assert not asked[0] & asked[1]
    assert len(pairs([path], [], "val", most=3)) == 3


@pytest.mark.parametrize(
    "line, said",
    [
        ({"prompt": "Hi", "chosen": "Hello!"}, "the pair has no rejected"),
        ({"prompt": "Hi", "rejected": "Hello!"}, "the pair has no chosen"),
        ({"chosen": "Hello!", "rejected": "What?"}, "the pair has no prompt"),
        ({"prompt": "Hi", "chosen": "No", "rejected": "No"}, "chosen and rejected are the same"),
        ({"prompt": "Hi", "chosen": "", "rejected": "No"}, r"chosen: message 2 \(assistant\) is empty"),
        ({"prompt": "Hi", "chosen": 3, "rejected": "No"}, "chosen must be a text or a list"),
        ({"prompt": 3, "chosen": "Yes", "rejected": "No"}, "chosen: messages must be a list, not a number"),
        ({"chosen": HI + HELLO, "rejected": written("Ho", "user") + WHAT}, "chosen and rejected do not"),
        ({"chosen": HI + HELLO, "rejected": HI + HELLO + HI + WHAT}, "chosen and rejected do not"),
        ([1, 2], "a pair must be an object"),
    ],
)
def test_a_bad_pair_is_named_with_its_line(line: object, said: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    first = json.dumps({"prompt": "Hi", "chosen": "a", "rejected": "b"})
    path.write_text(f"{first}\n\n{json.dumps(line)}\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"pairs\.jsonl:3: {said}") as complaint:
        PairsJSON(path)
    assert "\n" not in str(complaint.value)


def test_conversations_are_no_pairs_and_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps({"messages": HI + HELLO}) + "\n", encoding="utf-8")
    assert len(CustomJSON(path)) == 1
    with pytest.raises(UserError, match=r"talk\.jsonl:1: the pair has no chosen"):
        PairsJSON(path)
    with pytest.raises(UserError, match="takes a JSONL file of pairs"):
        PairsJSON(tmp_path / "none.jsonl")


# ---------------------------------------------------------------- the script

STEPS = 6
ARGV = [
    "--device_type=cpu", "--dtype=float32", "--no-compile", f"--num_iterations={STEPS}", "--device_batch_size=2",
    "--total_batch_size=384", "--eval_every=3", "--save_every=2", "--init_lr_frac=0.1", "--beta=0.2", "--keep_last=0",
    "--warmup_ratio=0", "--model_tag=d2",
]  # fmt: skip


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A base folder with a model and 60 pairs, in which the cat is preferred to the bill."""
    folder = tmp_path_factory.mktemp("sft") / "base"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder))
        tokenizer.save(tokenizer_dir())
        meta = {"tokenizer_hash": tokenizer.hash, "conversations": "littleworld", "user_config": {"max_seq_len": T}}
        manager.save(checkpoints_dir("sft") / "d2", 5, model_of(tokenizer, context=T), None, meta)
    rows = [{"prompt": f"{n}?", "chosen": f"the cat sleeps {n}", "rejected": f"the bill is paid {n}"}
            for n in range(60)]  # fmt: skip
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture
def dpo(sft: Path, base: Path) -> Path:
    """The folder of this test's run, which does not exist yet; its base folder does."""
    shutil.copytree(sft, base)
    return checkpoints_dir("dpo") / "d2"


@pytest.fixture(scope="module")
def whole(sft: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody interrupted."""
    base = tmp_path_factory.mktemp("whole") / "base"
    shutil.copytree(sft, base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(base))
        chat_dpo.main(argv(base))
        return checkpoints_dir("dpo") / "d2"


def argv(base: Path, *more: str) -> list[str]:
    return [*ARGV, f"--data_path={base / 'pairs.jsonl'}", *more]


def test_the_margin_of_held_out_pairs_rises(whole: Path, monkeypatch, capsys) -> None:
    found = lines(whole)
    measured = {line["step"]: line for line in found if "val_margin" in line}
    assert list(measured) == [0, 3, 6]
    assert (measured[0]["val_margin"], measured[0]["val_accuracy"]) == (0, 0.5)
    assert measured[6]["val_margin"] > measured[3]["val_margin"] > 0 and measured[6]["val_accuracy"] > 0.9
    assert measured[6]["val_loss"] < measured[0]["val_loss"] == pytest.approx(math.log(2))
    learned = [line for line in found if "loss" in line]
    assert len(learned) == STEPS and all(line.keys() >= set(FIGURES) for line in learned)
    assert learned[-1]["margin"] > 1 > abs(learned[0]["margin"]) and learned[-1]["drift"] > 0
    meta = manager.read_meta(whole, STEPS)
    assert (meta["parent"]["source"], meta["parent"]["step"], meta["conversations"]) == ("sft", 5, "littleworld")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(whole.parents[1]))
    section = json.loads((whole.parents[1] / "report" / "chat_dpo.json").read_text(encoding="utf-8"))
    assert section["scores"]["val_margin"] == measured[6]["val_margin"] and section["before"]["val_margin"] == 0
    assert section["pairs"] > 0
    text = card.build()
    assert "## Preferences" in text and f"{section['pairs']} held-out pairs" in text and "chat_dpo_margin.svg" in text


def test_the_door_knows_the_stage(whole: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(whole.parents[1]))
    assert door.open("dpo").step == STEPS and door.find("dpo:d2:4").source == "dpo"
    shutil.copytree(whole, tmp_path / "elsewhere")
    assert door.find(str(tmp_path / "elsewhere")).source == "dpo"
    assert stage_names.stage_spelled("ada/nanochat-d4-dpo") == "dpo"
    capsys.readouterr()
    chat_cli.main(["-i", "dpo", "-p", "1?", "-t", "0", "--dtype=float32", "--device_type=cpu", "--max_tokens=4"])
    assert capsys.readouterr().out.strip()


def test_a_killed_run_resumes_to_the_bit_without_asking_the_reference_again(whole, dpo, base, capsys) -> None:
    child = stages.start(base, "dpo", argv(base, "--save_every=1"))
    while child.is_alive() and not list(dpo.glob("meta_000003.json")):
        child.join(0.02)
    child.kill()
    child.join()
    assert manager.steps(dpo)[-1] < STEPS
    shutil.rmtree(checkpoints_dir("sft"))  # a resumed run needs its own checkpoints only
    chat_dpo.main(argv(base))
    assert "pairs once" not in capsys.readouterr().out
    assert_same_run(dpo, whole, key="val_loss")


def test_without_its_file_a_resumed_run_asks_the_model_that_it_started_from(whole, dpo, base, capsys) -> None:
    chat_dpo.main(argv(base, "--num_iterations=2", "--eval_every=-1"))
    (kept,) = dpo.glob("reference_*.npy")
    before = kept.read_bytes()
    kept.write_bytes(before[:100])  # damaged
    capsys.readouterr()
    chat_dpo.main(argv(base, "--num_iterations=3"))
    assert "pairs once" in capsys.readouterr().out and kept.read_bytes() == before
    kept.unlink()
    shutil.rmtree(checkpoints_dir("sft"))
    said = refused("dpo", argv(base, "--num_iterations=4"), capsys)
    assert "lacks the log-probabilities" in said and "no sft checkpoint" in said


def test_two_ranks_take_the_same_steps(whole: Path, dpo: Path, base: Path) -> None:
    on_ranks(base, "dpo", argv(base))
    for ours, theirs in zip(lines(dpo), lines(whole), strict=True):
        for name in {"loss", "grad_norm", *FIGURES, "val_loss", "val_margin", "val_drift"} & ours.keys():
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-4), name
    for name, tensor in tensors(dpo).items():
        torch.testing.assert_close(tensor, tensors(whole)[name], rtol=1e-2, atol=1e-3, msg=name)


@pytest.mark.parametrize(
    "more, said",
    [
        (["--beta=0"], ["--beta is 0"]),
        (["--label_smoothing=0.5"], ["--label_smoothing is 0.5"]),
        (["--label_smoothing=0.1", "--loss=ipo"], ["belongs to --loss sigmoid"]),
        (["--no-document_mask"], ["--no-document_mask"]),
        (["--max_seq_len=193"], ["--max_seq_len 193", "192"]),
        (["--max_seq_len=32", "--total_batch_size=64"], ["none of the", "fits into 32 tokens", "--max_seq_len"]),
        (["--source=mid"], ["no mid checkpoint"]),
    ],
)
def test_mistakes(more: list[str], said: list[str], dpo: Path, base: Path, capsys) -> None:
    found = refused("dpo", argv(base, *more), capsys)
    assert all(words in found for words in said)


def test_without_pairs_it_is_told_how_to_make_them(dpo: Path, capsys) -> None:
    assert "scripts.make_pairs" in refused("dpo", ARGV, capsys)


def test_a_run_on_other_pairs_is_another_run(dpo: Path, base: Path, tmp_path: Path, capsys) -> None:
    chat_dpo.main(argv(base, "--num_iterations=1", "--eval_every=-1"))
    other = tmp_path / "other.jsonl"
    other.write_text((base / "pairs.jsonl").read_text(encoding="utf-8").replace("sleeps", "sings"), encoding="utf-8")
    assert "a run on other data" in refused("dpo", [*ARGV, f"--data_path={other}"], capsys)


# ---------------------------------------------------------------- pairs from a model


def test_pairs_are_a_right_answer_and_a_wrong_one(base: Path, tmp_path: Path, capsys) -> None:
    """Of a model that says the right thing half of the time; learning from its pairs is the next command."""
    words = Tokenizer.train(iter([SAYING + "."] * 9), 288, chat.SPECIALS)
    model = undecided(words, SAYING, "x", context=160)
    words.save(tokenizer_dir())
    meta = {"tokenizer_hash": words.hash, "conversations": "littleworld", "user_config": {"max_seq_len": 160}}
    manager.save(checkpoints_dir("sft") / "d1", 5, model, None, meta)
    out = tmp_path / "pairs.jsonl"
    made = ["--task=refusal", "--num=5", "--max_new_tokens=16", f"--out={out}", "--device=cpu", "--dtype=float32"]
    make_pairs.main(made)
    found, task = list(PairsJSON(out)), LittleWorld("refusal", "train")
    assert len(found) == 5 and f"chat_dpo --source sft --data_path {out}" in capsys.readouterr().out
    for each in found:
        conversation = {"messages": each["prompt"] + each["chosen"], "expect": {"refuse": True}}
        assert task.grade(conversation, each["chosen"][0]["content"])
        assert not task.grade(conversation, each["rejected"][0]["content"])
    with pytest.raises(UserError, match="already exists"):
        make_pairs.main(made)
    sure = scripted(words, [[words.special(chat.ASSISTANT_START), *words.encode(SAYING)]], context=160)
    manager.save(checkpoints_dir("sft") / "d2", 5, sure, None, meta)
    with pytest.raises(UserError, match="to 3 questions no answer was wrong"):
        make_pairs.main([*made, "--overwrite", "--model_tag=d2", "--temperature=0.01", "--max_questions=3"])


def test_where_no_answer_is_right_the_reference_is_chosen(tokenizer) -> None:
    from nanochat.train.rollouts import Completion

    conversation = {"messages": HI + HELLO}
    asked = chat.prompt(tokenizer, HI)
    group = [Completion([*asked, *tokenizer.encode(text)], [], 0.0) for text in (" ", "What?")]
    assert make_pairs.pair_of(tokenizer, conversation, group) == {"prompt": HI, "chosen": HELLO, "rejected": WHAT}
    assert make_pairs.pair_of(tokenizer, conversation, group[:1]) is None


def test_the_derivative_is_the_losses() -> None:
    h = torch.linspace(-30, 30, 13, dtype=torch.float64, requires_grad=True)
    for how in (Objective(0.1), Objective(2.0, 0.3), Objective(0.5, loss="ipo")):
        loss, slope = how.of(h)
        (expected,) = torch.autograd.grad(loss.sum(), h)
        torch.testing.assert_close(slope, expected)
        assert torch.isfinite(loss).all()
    assert float(Objective(1.0).of(torch.zeros(1))[0]) == pytest.approx(float(F.softplus(torch.zeros(1))))
