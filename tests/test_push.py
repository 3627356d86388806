"""Pushing: what others get is the same model, with a page that says what it is and nothing of somebody's disk."""

import json
from collections.abc import Iterator
from pathlib import Path

import fakehub
import pytest
import served
import torch
import yaml
from fakehub import FakeHub

from nanochat import hub
from nanochat.checkpoint import door, manager
from nanochat.errors import UserError
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.report.sections import write_section
from nanochat.tokenizer import Tokenizer
from scripts import pull, push

REPO = "tester/nanochat-d4"
META = {
    "val_bpb": 0.5, "accuracy/facts": 0.75, "dataset": "tinyworld", "conversations": "littleworld",
    "data_path": ["/home/somebody/mine.jsonl"], "user_config": {"data_path": ["/home/somebody/mine.jsonl"]},
    "loop_state": {"best": 0.5, "seconds": 75.0}, "total_batch_size": 1024,
    "parent": {"source": "base", "tag": "d4", "step": 1200, "sha256": None},
}  # fmt: skip


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fakehub.running(tmp_path / "huggingface", monkeypatch) as fake:
        monkeypatch.setenv("HF_TOKEN", fakehub.TOKEN)
        yield fake


@pytest.fixture
def checkpoint(tokenizer: Tokenizer) -> manager.Loaded:
    """A checkpoint of the SFT stage, d4, step 700, with its tokenizer in the base folder."""
    tokenizer.save(tokenizer_dir())
    model = served.random_model(tokenizer)
    meta = {**META, "tokenizer_hash": tokenizer.hash}
    manager.save(checkpoints_dir("sft") / "d4", 700, model, {"rng": torch.get_rng_state()}, meta)
    return door.open("sft", tag="d4", step=700)


def logits(loaded: manager.Loaded) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model(torch.arange(30)[None])


def test_what_is_pulled_is_what_was_pushed(
    fake: FakeHub, checkpoint: manager.Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    push.main(["sft", "--tag", "d4", "--step", "700", REPO])
    out = capsys.readouterr().out
    assert f"sft d4, step 700 is at {fake.url}/{REPO}" in out
    assert f"python -m scripts.pull {REPO}" in out
    assert set(fake.repos[REPO].files) - {".gitattributes"} == {
        "model_000700.pt", "meta_000700.json", "tokenizer/tokenizer.json", "tokenizer/token_bytes.json", "README.md",
    }  # fmt: skip
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "theirs"))
    pull.main([REPO])
    theirs = door.open("sft", tag="d4", step=700)
    assert theirs.folder.is_relative_to(tmp_path / "theirs")
    assert torch.equal(logits(theirs), logits(checkpoint))
    assert theirs.tokenizer.hash == checkpoint.tokenizer.hash
    assert theirs.meta["loop_state"] == META["loop_state"]
    assert (theirs.meta["parent"], theirs.meta["val_bpb"]) == (META["parent"], META["val_bpb"])
    push.main(["sft", REPO])  # and on from there
    assert len([each for each in fake.asked if each.method == "PUT"]) == 1


SECRET = "/home/alice/secret"


def test_only_what_others_need_becomes_public(
    fake: FakeHub, checkpoint: manager.Loaded, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is recorded one day stays here as well, until somebody has decided that others need it."""
    private = {
        "hostname": "alice-laptop", "git_commit": "a" * 40, "git_remote": "git@host:alice/x", "wandb_id": "3k2j1h",
        "environment": {"HOME": SECRET}, "changed_flags": {"out": SECRET}, "fingerprint": 17,
        "dataset": f"a:0.7 b:0.3 {SECRET}/notes", "conversations": "C:\\Users\\alice\\secret\\talk",
        "data_path": [f"{SECRET}/mine.jsonl"], "best": SECRET,
        "user_config": {"run": "alice", "data_path": [f"{SECRET}/mine.jsonl"], "out_dir": SECRET, "names": ["alice", 1],
                        "matrix_lr": 0.02, "max": "Infinity", "compile": True,
                        "nested": {SECRET: 1, "deep": {"who": "alice", "n": 2}}},
        "loop_state": {"seconds": 75.0, "cursor": {"document": 3, "file": SECRET}, "before": {"accuracy/facts": 0.5}},
        "parent": {"source": "base", "tag": f"{SECRET}/d4", "step": 1200, "sha256": "b" * 64, "folder": SECRET},
        "accuracy/" + SECRET: 0.5, "val_loss": SECRET,
    }  # fmt: skip
    path = checkpoint.folder / "meta_000700.json"
    whole = {**json.loads(path.read_text(encoding="utf-8")), **private}
    whole.pop("checksum", None)
    path.write_text(json.dumps(whole), encoding="utf-8")
    push.main(["sft", REPO])
    out, files = capsys.readouterr().out, fake.repos[REPO].files
    meta = json.loads(files["meta_000700.json"])
    meta.pop("checksum", None)
    config, described = meta.pop("model_config"), meta.pop("files")
    assert config == whole["model_config"]
    assert described == {"model_000700.pt": whole["files"]["model_000700.pt"]}
    assert meta == {
        "format": 1, "step": 700, "source": "sft", "tokenizer_hash": checkpoint.tokenizer.hash,
        "val_bpb": 0.5, "accuracy/facts": 0.75, "total_batch_size": 1024,
        "dataset": "notes", "conversations": "talk", "data_path": ["mine.jsonl"],
        "user_config": {"data_path": ["mine.jsonl"], "matrix_lr": 0.02, "max": "Infinity", "compile": True,
                        "nested": {"deep": {"n": 2}}},
        "loop_state": {"seconds": 75.0, "cursor": {"document": 3}, "before": {"accuracy/facts": 0.5}},
        "parent": {"source": "base", "tag": "d4", "step": 1200, "sha256": "b" * 64},
    }  # fmt: skip
    sent = b"".join(content for path, content in files.items() if path[-3:] != ".pt") + fake.message.encode()
    assert not any(word in sent for word in (b"alice", b"secret", b"tmp", b"home"))
    assert "not uploaded from the meta file: accuracy//home/alice/secret, best, changed_flags, environment" in out


def test_the_page_says_what_the_model_is(fake: FakeHub, checkpoint: manager.Loaded) -> None:
    base = {"dataset": "fineweb-edu", "total_batch_size": 2500, "loop_state": {"total_training_time": 231.0}}
    manager.save(checkpoints_dir("base") / "d4", 1200, checkpoint.model, None, base)
    score = {"facts": {"n": 200, "correct": 190, "interval": [0.91, 0.975]}, "one|two": {"n": 0, "correct": 0,
             "interval": [0.0, 1.0]}}  # fmt: skip
    write_section("chat_eval_sft", {"source": "sft", "tag": "d4", "step": 700, "tasks": score})
    other = {"facts": {"n": 200, "correct": 2, "interval": [0.0, 0.1]}}  # of another checkpoint
    write_section("chat_eval_mid", {"source": "mid", "tag": "d4", "step": 700, "tasks": other})
    push.main(["sft", REPO, "--license", "mit", "--private"])
    assert fake.repos[REPO].private
    page = fake.repos[REPO].files["README.md"].decode()
    front = yaml.safe_load(page.split("---")[1])
    assert front == {"library_name": "nanochat", "pipeline_tag": "text-generation", "tags": ["nanochat", "sft"],
                     "license": "mit"}  # fmt: skip
    assert "# nanochat-d4\n" in page
    assert "The sft stage of a modern nanochat, " in page
    assert f"python -m scripts.pull {REPO}\npython -m scripts.chat_eval --source=sft --model_tag=d4 --step=700" in page
    assert (
        "| base | fineweb-edu | 1.2k | 3.0M | 3m51s |\n| sft | littleworld, mine.jsonl | 700 | 717k | 1m15s |" in page
    )
    assert "| accuracy/facts (validation) | 0.75 |" in page
    assert "| facts | 95.0 % of 200 (95 % interval 91–98) |" in page
    assert "| one\\|two | – of 0" in page
    assert "1.0 % of 200" not in page


def test_the_optimizer_goes_only_where_it_is_wanted(fake: FakeHub, checkpoint: manager.Loaded) -> None:
    push.main(["sft", REPO, "--with_optimizer"])
    (state,) = (checkpoint.folder / "optim_000700").iterdir()
    assert fake.repos[REPO].files[f"optim_000700/{state.name}"] == state.read_bytes()
    state.unlink()
    with pytest.raises(UserError, match="has no optimizer of step 700; leave out --with_optimizer"):
        push.main(["sft", REPO, "--with_optimizer"])


def test_a_dry_run_shows_what_becomes_public_and_sends_nothing(
    fake: FakeHub, checkpoint: manager.Loaded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    push.main(["sft", REPO, "--dry_run"])
    out = capsys.readouterr().out
    assert fake.asked == []
    monkeypatch.setenv("HF_TOKEN", fakehub.TOKEN)
    push.main(["sft", REPO])
    assert capsys.readouterr().out.startswith(out)
    files = {path: content for path, content in fake.repos[REPO].files.items() if path != ".gitattributes"}
    assert out.startswith(files["README.md"].decode())
    assert files["meta_000700.json"].decode() in out
    _, _, listed = out.partition(f"{REPO} (public) gets\n")
    assert listed.splitlines() == [f"{hub.in_bytes(len(files[path])):>8}  {path}" for path in sorted(files)]
    push.main(["sft", REPO, "--dry_run", "--private"])
    assert f"{REPO} (private) gets\n" in capsys.readouterr().out


def test_the_page_can_be_typed(fake: FakeHub, checkpoint: manager.Loaded) -> None:
    """What a pulled model's meta file says of its parent leads nowhere else, and a base model is told from its own."""
    base = {"dataset": "fineweb-edu", "parent": {"source": "sft", "tag": "../../x", "step": []}, "tokenizer_hash": None}
    manager.save(checkpoints_dir("base") / "d4;$(id)", 5, checkpoint.model, None, base)
    push.main(["base", "tester/a.b"])
    page = fake.repos["tester/a.b"].files["README.md"].decode()
    assert "python -m scripts.pull tester/a.b\n" in page and "$(id)" not in page
    start = "python -m scripts.mid_train --model_tag=a.b --model_step=5 --device_batch_size=4"
    assert f"{start}  # mid-training on the real recipe: SmolTalk" in page


def test_what_cannot_be_pushed_says_why(
    fake: FakeHub, checkpoint: manager.Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nanochat", "a/b/c", "user/a b", "user/$(id)"):
        with pytest.raises(UserError, match="is not a repository name; expected user/name"):
            push.main(["sft", name])
    with pytest.raises(UserError, match="--license 'do what you like' is not a license name"):
        push.main(["sft", REPO, "--license", "do what you like"])
    with pytest.raises(UserError, match="no sft checkpoint is tagged 'd5'"):
        push.main(["sft", REPO, "--tag", "d5"])
    with pytest.raises(UserError, match="no base checkpoint in"):
        push.main(["base", REPO])
    with pytest.raises(UserError, match="answers 403 for other/nanochat-d4"):
        push.main(["sft", "other/nanochat-d4"])
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="uploading needs a token with write permission"):
        push.main(["sft", REPO])
    assert fake.repos == {}
    (checkpoint.folder / "model_000700.pt").write_bytes(b"damaged")
    with pytest.raises(UserError, match="model_000700.pt is damaged"):
        push.main(["sft", REPO])
