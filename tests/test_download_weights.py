"""GPT-2's weights: fetched once, found without a network, and tried out on a text."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fakehub
import gpt2s
import pytest
import served
import torch
import transformers
from fakehub import FakeHub

from nanochat import gpt2_tokenizer, hub
from nanochat.checkpoint import door, manager
from nanochat.errors import UserError
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from scripts import download_weights, verify_weights


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fakehub.running(tmp_path / "huggingface", monkeypatch) as fake:
        yield fake


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """A folder with a GPT-2 of toy size that knows how often each token occurs in English, and nothing else."""
    folder = tmp_path / "gpt2"
    model = gpt2s.write_gpt2(folder, context=256)
    ids = verify_weights.text_ids(Tokenizer.load(folder))
    counts = torch.bincount(torch.tensor(ids), minlength=model.config.vocab_size) + 0.1
    with torch.no_grad():
        model.transformer.wte.weight[:, 0] = (counts / counts.sum()).log()
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.zero_()
        model.transformer.ln_f.bias[0] = 1.0
    model.save_pretrained(folder)
    return folder


def test_all_sizes_are_fetched_and_found_without_a_network(
    fake: FakeHub, gpt2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    for repo in hub.GPT2.values():
        fake.add(repo, gpt2)
        fake.repos[repo].files["tf_model.h5"] = b"another program's"
    download_weights.main(["--model", "gpt2-large"])
    assert {each.path.split("/")[2] for each in fake.sent("/resolve/")} == {"gpt2-large"}
    capsys.readouterr()
    download_weights.main(["--all"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:4]] == list(hub.GPT2)
    assert [line.split()[2] == "nothing" for line in lines[:4]] == [True, True, False, True]
    assert "  python -m scripts.verify_weights --model gpt2 gpt2-medium gpt2-large gpt2-xl" in lines
    assert fake.sent("tf_model") == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in hub.GPT2:
        assert door.open(name).tag == name
    verify_weights.main(["--all"])
    out = capsys.readouterr().out
    assert out.count("good") == 4


LOADS = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
for name in sys.argv[1:]:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    print(name, model.generate(**tokenizer("the cat", return_tensors="pt"), max_new_tokens=2).shape)
"""


def with_transformers(fake: FakeHub, home: Path, offline: bool, *names: str) -> str:
    """Load and generate with transformers in a process of its own; returns what it prints."""
    setup = {**fakehub.environment(fake, home), "HF_HUB_OFFLINE": str(int(offline))}
    done = subprocess.run([sys.executable, "-c", LOADS, *names], env={**os.environ, **setup}, capture_output=True,
                          encoding="utf-8")  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_transformers_finds_what_was_downloaded_by_either_name(
    fake: FakeHub, gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import scan_cache_dir

    fake.add(hub.GPT2["gpt2"], gpt2)
    download_weights.main([])
    verify_weights.main([])
    assert "transformers finds gpt2 as 'gpt2' and as 'openai-community/gpt2'" in capsys.readouterr().out
    names = ["gpt2", "openai-community/gpt2"]
    assert with_transformers(fake, tmp_path / "huggingface", True, *names).count("Size([1, ") == 2
    assert {each.repo_id for each in scan_cache_dir(hub.cache()).repos} == {*names} and len(fake.sent("/large/")) == 1


def test_what_transformers_fetched_is_found_and_not_fetched_again(
    fake: FakeHub, gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    for name in ("gpt2", "gpt2-medium"):
        fake.add(name, gpt2)
        fake.add(hub.GPT2[name], gpt2)
    gpt2_tokenizer.load()  # so gpt2 has two folders later, and gpt2-medium one
    hub._in_cache("gpt2").unlink()
    with_transformers(fake, tmp_path / "huggingface", False, "gpt2", "gpt2-medium")
    fetched = len(fake.sent("/large/"))
    for name in ("gpt2", "gpt2-medium"):
        assert not hub._in_cache(name).is_symlink()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert door.open(name).tag == name
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        download_weights.main(["--model", name])
    assert len(fake.sent("/large/")) == fetched > 0


def test_the_disk_must_hold_all_of_them_together(
    fake: FakeHub, gpt2: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(small_disk / "hub"))
    for repo in hub.GPT2.values():
        fake.add(repo, gpt2)
        fake.repos[repo].files["model.safetensors"] += bytes(1_500_000)
    with pytest.raises(UserError, match="fetching gpt2, gpt2-medium, gpt2-large, gpt2-xl needs .* but only"):
        download_weights.main(["--all"])
    assert fake.sent("/resolve/|/large/") == []


def test_names_that_are_unknown(fake: FakeHub) -> None:
    with pytest.raises(UserError, match="--model 'gpt3' is unknown; expected one of gpt2, gpt2-medium"):
        download_weights.main(["--model", "gpt3"])
    with pytest.raises(UserError, match="has no openai-community/gpt2, or it is private"):
        download_weights.main([])
    with pytest.raises(UserError, match="there is no model 'gpt3'"):
        verify_weights.main(["--model", "gpt3"])


def test_models_of_every_kind_are_verified(
    gpt2: Path, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer.save(tokenizer_dir())
    ours = served.random_model(tokenizer)
    with torch.no_grad():  # it guesses, a little better than by chance
        ours.state_dict()["lm_head.weight"].zero_()
        ours.state_dict()["lm_head.weight"][tokenizer.encode(" t")[0]] += 1e-3
    manager.save(checkpoints_dir("base") / "d2", 5, ours, None, {})
    verify_weights.main([str(gpt2)])
    out = capsys.readouterr().out
    assert "good" in out and "wrong" not in out
    guessing = verify_weights.verify("base:d2:5", torch.device("cpu"), "float32")
    assert guessing.perplexity == pytest.approx(tokenizer.vocab_size, rel=1e-2)
    assert "where guessing has 320 and a model that was trained on such texts less than 160" in guessing.wrong


def test_weights_that_are_wrong_are_told(gpt2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = tmp_path / "random"
    gpt2s.write_gpt2(random, context=256)
    with pytest.raises(
        UserError, match=r"random has a perplexity of \S+ on plain English, where guessing has 265 and a model"
    ):
        verify_weights.main([str(random)])
    assert "wrong" in capsys.readouterr().out
    broken = transformers.GPT2LMHeadModel.from_pretrained(gpt2)
    with torch.no_grad():
        broken.state_dict()["transformer.h.0.mlp.c_fc.weight"][0, 0] = float("nan")
    broken.save_pretrained(gpt2)
    with pytest.raises(UserError, match="gpt2 gives logits that are not finite; download"):
        verify_weights.main([str(gpt2)])


def test_letters_are_enough_for_a_model_of_characters(tmp_path: Path) -> None:
    folder = tmp_path / "letters"
    folder.mkdir()
    gpt2s.write_nanogpt(folder, "abcdefgh ijklmnop")
    ids = verify_weights.text_ids(Tokenizer.load(folder))
    assert Tokenizer.load(folder).decode(ids).startswith("he fe lea")
    gpt2s.write_nanogpt(folder, "абв")
    with pytest.raises(UserError, match="knows no character of the text; pass a --text"):
        verify_weights.main([str(folder / "ckpt.pt")])


def test_a_model_of_other_texts_is_tried_on_them(gpt2: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text(verify_weights.TEXT * 3 + "ÿþýüûúùø÷ö" * 300, encoding="utf-8")
    with pytest.raises(UserError, match="on the text, where guessing has 265"):  # beyond the first context, too
        verify_weights.main([str(gpt2), f"--text={own}"])
    own.write_text(verify_weights.TEXT[:600], encoding="utf-8")
    verify_weights.main([str(gpt2), f"--text={own}"])
    own.write_text("ÿþýüûúùø÷ö" * 20, encoding="utf-8")
    with pytest.raises(UserError, match="on the text, where guessing has 265"):
        verify_weights.main([str(gpt2), f"--text={own}"])
    with pytest.raises(UserError, match="--text .*missing.txt cannot be read"):
        verify_weights.main([str(gpt2), f"--text={tmp_path / 'missing.txt'}"])
