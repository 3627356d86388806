"""A checkpoint is there whole or not at all, and what is there is what was saved."""

import json
import os
import random
import signal
from pathlib import Path

import pytest
import torch
from children import processes

from nanochat.checkpoint import door, manager, parts
from nanochat.checkpoint.manager import LoadAs, Loaded
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer

CONFIG = GPTConfig(sequence_len=16, vocab_size=320, n_layer=2, n_head=2, n_kv_head=1, n_embd=32, short_window=128,
                   long_window=16)  # fmt: skip


def model(seed: int = 0, config: GPTConfig = CONFIG) -> GPT:
    torch.manual_seed(seed)
    made = GPT(config)
    made.init_weights()
    return made


STATE = "optim_{:06d}/shard-00001-model-00001-of-00001.safetensors"


def optimizer_state(value: float = 1.5) -> dict[str, torch.Tensor]:
    return {"steps": torch.tensor([3.0]), "w.exp_avg": torch.full((400,), value)}


def read_state(loaded: Loaded) -> dict[str, torch.Tensor]:
    assert isinstance(loaded.optimizer, Path)
    state = {name: torch.zeros_like(tensor) for name, tensor in optimizer_state().items()}
    assert parts.read(loaded.optimizer, {**state, "other": torch.ones(2)}, None) == {"other"}
    return state


@pytest.fixture
def folder(base: Path, tokenizer: Tokenizer) -> Path:
    """The folder of base checkpoints tagged d2, with the right tokenizer beside it."""
    tokenizer.save(tokenizer_dir())
    return checkpoints_dir("base") / "d2"


def save(folder: Path, step: int, tokenizer: Tokenizer, seed: int = 0, **meta: object) -> GPT:
    made = model(seed)
    manager.save(folder, step, made, optimizer_state(), {"tokenizer_hash": tokenizer.hash, "val_bpb": None, **meta})
    return made


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


# ---------------------------------------------------------------- there and back


def test_what_is_loaded_is_what_was_saved_to_the_bit(folder, tokenizer):
    saved = save(folder, 7, tokenizer, seed=3, dataset="mine", val_bpb=1.25)
    torch.manual_seed(99)
    loaded = manager.load_step(*manager.find("base"), with_optimizer=True)
    assert (loaded.folder, loaded.tag, loaded.step) == (folder, "d2", 7)
    assert loaded.model.config == CONFIG
    assert loaded.tokenizer.hash == tokenizer.hash
    assert (loaded.meta["dataset"], loaded.meta["val_bpb"], loaded.meta["step"]) == ("mine", 1.25, 7)
    state = loaded.model.state_dict()
    assert state.keys() == saved.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in saved.state_dict().items())
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    assert all(torch.equal(tensor, optimizer_state()[name]) for name, tensor in read_state(loaded).items())
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded.model(ids), saved(ids))
    assert door.open("base").optimizer is None


def test_the_state_of_another_model_is_refused(folder, tokenizer):
    save(folder, 42, tokenizer)
    with pytest.raises(UserError, match=r"optim_000042 cannot be read as .* optimizer .Size mismatch"):
        parts.read(folder / "optim_000042", {"w.exp_avg": torch.zeros(5)}, None)


def test_the_folder_holds_three_files_with_six_digits(folder, tokenizer):
    save(folder, 42, tokenizer)
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    assert names == ["meta_000042.json", "model_000042.pt", STATE.format(42)]
    meta = json.loads((folder / "meta_000042.json").read_text(encoding="utf-8"))
    assert GPTConfig(**meta["model_config"]) == CONFIG
    assert meta["files"].keys() == {"model_000042.pt", STATE.format(42)}
    assert meta["files"]["model_000042.pt"]["size"] == (folder / "model_000042.pt").stat().st_size
    state = torch.load(folder / "model_000042.pt", weights_only=True)
    assert state["lm_head.weight"].shape == (320, 32)


def test_weights_in_bfloat16_become_float32_on_a_cpu(folder, tokenizer):
    manager.save(folder, 1, model().bfloat16(), {}, {"tokenizer_hash": tokenizer.hash})
    for loaded in (door.open("base"), door.open("base", LoadAs(dtype=torch.bfloat16))):
        assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    for_use = door.open("base", LoadAs(dtype=torch.bfloat16, keep_float32=False)).model
    assert {parameter.dtype for parameter in for_use.parameters()} == {torch.bfloat16}


def test_scores_are_added_later(folder, tokenizer):
    save(folder, 3, tokenizer, note="kept")
    manager.update_meta(folder, 3, {"val_bpb": 2.5})
    meta = manager.read_meta(folder, 3)
    assert (meta["val_bpb"], meta["note"], meta["step"]) == (2.5, "kept", 3)
    door.open("base")


# ---------------------------------------------------------------- which one


def test_the_largest_number_wins_not_the_last_in_the_alphabet(folder, tokenizer):
    for tag, step in (("d10", 20), ("d10", 100), ("d2", 3), ("zebra", 999)):
        save(folder.parent / tag, step, tokenizer)
    loaded = door.open("base")
    assert (loaded.tag, loaded.step) == ("d10", 100)
    assert manager.find("base", "d2") == (folder, "d2", 3)
    assert manager.find("base", "d10", 20)[2] == 20
    save(folder.parent / "d10", 1_000_000, tokenizer)  # a step of seven digits
    assert manager.find("base")[2] == 1_000_000


def test_a_copy_or_a_date_never_wins_by_itself(folder, tokenizer):
    save(folder.parent / "mine", 1, tokenizer)
    assert manager.find("base")[1] == "mine"  # the only one is meant, whatever its name
    for tag in ("d4_backup", "d20240101-try", "2026"):
        save(folder.parent / tag, 1, tokenizer)
    with pytest.raises(UserError, match=r"several models \(2026, d20240101-try, d4_backup, mine\); choose one"):
        manager.find("base")
    save(folder, 1, tokenizer)
    (folder.parent / "d9").mkdir()  # where a run has begun that has saved nothing yet
    assert manager.find("base")[1] == "d2"


@pytest.mark.parametrize("source, command", [("base", "scripts.base_train"), ("sft", "scripts.chat_sft")])
def test_no_checkpoint_at_all(base, source, command):
    with pytest.raises(UserError, match=f"no {source} checkpoint .* python -m {command}"):
        door.open(source)
    assert not base.exists()


def test_an_unknown_tag_or_step_is_told_what_there_is(folder, tokenizer):
    for step in (3, 6):
        save(folder, step, tokenizer)
    with pytest.raises(UserError, match=r"tagged 'd4' .*there are: d2"):
        door.open("base", tag="d4")
    with pytest.raises(UserError, match=r"step 5.*there are: 3, 6"):
        door.open("base", tag="d2", step=5)
    manager.delete(folder, [3])
    (folder / "meta_000006.json").unlink()
    with pytest.raises(UserError, match="no complete checkpoint"):
        door.open("base", tag="d2")


def test_foreign_files_in_the_folder_are_ignored(folder, tokenizer):
    save(folder, 3, tokenizer)
    for name in ("notes.txt", "model_best.pt", "meta_last.json", "meta_000009.json", "model_000012.pt", ".x.tmp"):
        (folder / name).write_text("{}", encoding="utf-8")
    assert manager.steps(folder) == [3]
    assert door.open("base").step == 3


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("name", ["model_000006.pt", STATE.format(6)])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove", "empty"])
def test_a_damaged_file_is_named_and_the_step_before_is_offered(folder, tokenizer, name, harm):
    for step in (2, 4, 6):
        save(folder, step, tokenizer)
    path = folder / name
    whole = path.read_bytes()
    if harm == "remove":
        path.unlink()
    else:
        flipped = whole[:999] + bytes([whole[999] ^ 1]) + whole[1000:]
        path.write_bytes({"cut": whole[:-100], "flip": flipped, "empty": b""}[harm])
    if harm == "remove" and name.startswith("model"):
        assert door.open("base").step == 4  # without its model it is no checkpoint
        return
    with pytest.raises(UserError, match=rf"{name} is (damaged|missing).*the previous checkpoint is step 4"):
        manager.load_step(*manager.find("base"), with_optimizer=True)
    manager.delete(folder, [2])
    (folder / "model_000004.pt").rename(folder / "gone")
    with pytest.raises(UserError, match="there is no earlier checkpoint"):
        manager.load_step(*manager.find("base"), with_optimizer=True)
    (folder / "gone").rename(folder / "model_000004.pt")
    assert manager.load_step(*manager.find("base", step=4), with_optimizer=True).step == 4
    if name.startswith("optim"):
        assert door.open("base").step == 6  # to generate, the optimizer is not needed


@pytest.mark.parametrize("content", ["", '{"step": 4, "model_con', "\x00" * 50])
def test_a_damaged_meta_file(folder, tokenizer, content):
    for step in (2, 4):
        save(folder, step, tokenizer)
    (folder / "meta_000004.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"meta_000004.json cannot be read.*previous checkpoint is step 2"):
        door.open("base")


def test_a_file_that_vouches_for_nothing_must_still_be_a_torch_file(folder, tokenizer):
    """Checkpoints of other programs have no checksums."""
    for step in (2, 4):
        save(folder, step, tokenizer)
    meta = manager.read_meta(folder, 4)
    del meta["files"]
    (folder / "meta_000004.json").write_text(json.dumps(meta), encoding="utf-8")
    assert door.open("base").step == 4
    (folder / "model_000004.pt").write_bytes((folder / "model_000004.pt").read_bytes()[:2000])
    with pytest.raises(UserError, match=r"model_000004.pt cannot be read.*previous checkpoint is step 2"):
        door.open("base")


def test_another_tokenizer_of_the_same_size(folder, tokenizer):
    save(folder, 2, tokenizer)
    tokens = list(tokenizer.tokens)
    tokens[-1], tokens[-2] = tokens[-2], tokens[-1]
    swapped = Tokenizer({token: rank for rank, token in enumerate(tokens)}, list(tokenizer.specials))
    assert swapped.vocab_size == tokenizer.vocab_size
    swapped.save(tokenizer_dir())
    with pytest.raises(UserError, match=rf"{tokenizer.hash[:12]}.*{swapped.hash[:12]}.*NANOCHAT_BASE_DIR"):
        door.open("base")


def test_tensors_that_do_not_fit_are_named(folder, tokenizer):
    save(folder, 2, tokenizer)
    state = model().state_dict()
    state["surplus"] = torch.zeros(1)
    del state["x0_lambdas"]
    state["lm_head.weight"] = torch.zeros(320, 31)
    meta = manager.read_meta(folder, 2)
    del meta["files"]
    torch.save(state, folder / "model_000002.pt")
    (folder / "meta_000002.json").write_text(json.dumps(meta), encoding="utf-8")
    misfits = r"Missing key.*x0_lambdas.*Unexpected key.*surplus.*lm_head.weight: .*\[320, 31\]"
    with pytest.raises(UserError, match=misfits):
        door.open("base")


# ---------------------------------------------------------------- pruning


@pytest.mark.parametrize("keep_last, kept", [(1, [2, 5]), (2, [2, 4, 5]), (9, [1, 2, 3, 4, 5]), (0, [1, 2, 3, 4, 5])])
def test_the_newest_and_the_best_stay(folder, tokenizer, keep_last, kept):
    for step, score in ((1, float("nan")), (2, 1.0), (3, None), (4, 2.0), (5, None)):
        save(folder, step, tokenizer, val_bpb=score)
    assert manager.prune(folder, keep_last) == []  # nothing is damaged
    assert manager.steps(folder) == kept
    assert len(listing(folder)) == 4 * len(kept)  # two files, and a folder with one
    for step in kept:
        manager.load_step(*manager.find("base", step=step), with_optimizer=True)


@pytest.mark.parametrize("keep_last", [0, 2])
def test_passing_checkpoints_make_way_for_the_next(folder, tokenizer, keep_last):
    for step, score in ((1, None), (2, 0.5), (3, None), (4, None)):
        save(folder, step, tokenizer, val_bpb=score, passing=step != 1)
    manager.prune(folder, keep_last)
    assert manager.steps(folder) == ([1, 2, 4] if keep_last == 0 else [2, 4])  # 2 is the best, 4 the newest


def test_what_is_damaged_is_named_and_left_alone(folder, tokenizer):
    for step in (1, 2, 3, 4):
        save(folder, step, tokenizer)
    meta = folder / "meta_000002.json"
    meta.write_text(meta.read_text(encoding="utf-8").replace('"step": 2', '"step": 7'), encoding="utf-8")
    [damage] = manager.prune(folder, 1)
    assert "meta_000002.json is damaged: its checksum is wrong" in damage
    assert manager.steps(folder) == [2, 4]


# ---------------------------------------------------------------- kills and full disks


def save_without_end(base: str, generation: int) -> None:
    """Saves step after step, each full of one number, again from the last one on; keeps two."""
    os.environ["NANOCHAT_BASE_DIR"] = base
    torch.set_num_threads(1)
    folder = checkpoints_dir("base") / "d2"
    made = model()
    step = max(manager.steps(folder), default=1)
    while True:
        number = float(1000 * generation + step)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.fill_(number)
        manager.save(folder, step, made, optimizer_state(number), {"number": number, "val_bpb": number})
        manager.update_meta(folder, step, {"scored": True})
        manager.prune(folder, 2)
        step += 1


class Killing(dict):
    """What nobody can save: looking at it kills the process."""

    def items(self):
        os.kill(os.getpid(), signal.SIGKILL)


def save_half(base: str) -> None:
    """Save step 5 once more, and die after its model, before its optimizer."""
    os.environ["NANOCHAT_BASE_DIR"] = base
    manager.save(checkpoints_dir("base") / "d2", 5, model(1), Killing(steps=torch.ones(1)), {})


def test_a_step_that_is_saved_again_is_vouched_for_by_no_old_meta(base, folder, tokenizer):
    save(folder, 4, tokenizer)
    save(folder, 5, tokenizer)
    saver = processes.Process(target=save_half, args=(str(base),))
    saver.start()
    saver.join(60)
    assert saver.exitcode == -signal.SIGKILL
    assert manager.steps(folder) == [4] and (folder / "model_000005.pt").exists()


def test_a_kill_at_any_moment_leaves_whole_checkpoints_only(base, folder):
    chance = random.Random(5)
    newest = 0
    for generation in range(6):
        saver = processes.Process(target=save_without_end, args=(str(base), generation))
        saver.start()
        while saver.is_alive() and max(manager.steps(folder), default=0) <= newest:
            saver.join(0.002)
        saver.join(chance.random() * 0.05)
        assert saver.is_alive(), "it was to save without end"
        saver.kill()
        saver.join()
        there = manager.steps(folder)
        # A kill may undo the step that was just being replaced, never the one before it.
        assert there and there[-1] >= newest
        newest = there[-1]
        for step in there:
            loaded = manager.load_step(*manager.find("base", step=step), with_optimizer=True)
            values = {float(p.detach().unique()) for p in loaded.model.parameters()}
            values |= {float(read_state(loaded)["w.exp_avg"].unique())}
            assert values == {loaded.meta["number"]}
    assert len(manager.steps(folder)) <= 4


@pytest.mark.parametrize("room", ["for half a model", "for the model only", "for all but the meta file"])
def test_a_full_disk_leaves_the_checkpoint_before_and_nothing_else(small_disk, monkeypatch, tokenizer, room):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(small_disk))
    tokenizer.save(tokenizer_dir())
    folder = checkpoints_dir("base") / "d2"
    saved = save(folder, 2, tokenizer)
    before = listing(small_disk)
    files = folder / "model_000002.pt", folder / STATE.format(2)
    model_pages, optimizer_pages = (-(-path.stat().st_size // 4096) for path in files)
    leave = {
        "for half a model": model_pages // 2,
        "for the model only": model_pages,
        "for all but the meta file": model_pages + optimizer_pages,
    }[room]
    disk = os.statvfs(small_disk)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 4096 * (disk.f_bavail * disk.f_frsize // 4096 - leave))
    with pytest.raises(UserError, match="the disk is full"):
        save(folder, 4, tokenizer, seed=1)
    filler.unlink()
    assert listing(small_disk) == before
    loaded = manager.load_step(*manager.find("base"), with_optimizer=True)
    assert loaded.step == 2
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), saved.parameters(), strict=True))
    save(folder, 4, tokenizer, seed=1)
    assert door.open("base").step == 4
