"""Pulling: what a repository holds lands where the stages find it, whole, checked, with its tokenizer, or nowhere."""

import io
import json
import os
import pickle
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import fakehub
import gpt2s
import pytest
import tiktoken
import torch
from fakehub import FakeHub
from torch import Tensor

from extras.export import exporter
from extras.nanogpt import ckpt
from nanochat import hub
from nanochat.checkpoint import door, gpt2, manager
from nanochat.config import parse
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig
from nanochat.log import short
from nanochat.paths import alone_in, base_dir, checkpoints_dir
from nanochat.tokenizer import Tokenizer
from scripts import _repository, base_eval, chat_sft, mid_train, pull, push, sample
from tasks.catalog import recipe_of

REPO = "karpathy/nanochat-d34"
ROOT = Path(__file__).resolve().parent.parent
BASE_META = {"step": 169150, "val_bpb": 0.7, "user_config": {"depth": 2}, "device_batch_size": 4, "max_seq_len": 64,
             "dataloader_state_dict": {"pq_idx": 0, "rg_idx": 3}, "loop_state": {"min_val_bpb": 0.7}}  # fmt: skip
SFT_META = {"step": 700, "val_loss": 1.0, "mmlu_acc": 0.4, "arc_easy_acc": 0.6}
EITHER_META = {"step": 700, "val_bpb": 0.7, "user_config": {}}


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(hub, "PAUSE", 0.01)
    with fakehub.running(tmp_path / "huggingface", monkeypatch) as fake:
        yield fake


def classic(
    tokenizer: Tokenizer, meta: Mapping = BASE_META, model_in: str = "", tokenizer_in: str = "", **features: object
) -> dict[str, bytes]:
    """A repository as users of the original upload it: a classic model, its meta file, its pickled tokenizer."""
    torch.manual_seed(0)
    config = GPTConfig(
        **{"sequence_len": 64, "vocab_size": tokenizer.vocab_size, "n_layer": 2, "n_head": 2, "n_kv_head": 2,
           "n_embd": 32, "window_pattern": "L", "rope_base": 10000.0, "rope_in_bfloat16": True, "qk_scale": 1.0,
           "lambdas": False, "value_embeds": False, "smear": False, "backout": False, **features}
    )  # fmt: skip
    model = GPT(config)
    model.init_weights()
    state = {f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    state["_orig_mod.transformer.wte.weight"] = state["_orig_mod.transformer.wte.weight"].bfloat16()
    shape = {name: asdict(config)[name] for name in
             ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd")}  # fmt: skip
    ranks = {token: rank for rank, token in enumerate(tokenizer.tokens)}
    encoding = tiktoken.Encoding(
        "rustbpe", pat_str=str(tokenizer.pattern), mergeable_ranks=ranks, special_tokens=tokenizer.specials
    )
    step = meta.get("step", 5)
    return {
        "README.md": b"# nanochat",
        f"{model_in}model_{step:06d}.pt": saved(state),
        f"{model_in}meta_{step:06d}.json": json.dumps({**meta, "model_config": shape}).encode(),
        f"{tokenizer_in}tokenizer.pkl": pickle.dumps(encoding),
        f"{tokenizer_in}token_bytes.pt": saved(torch.tensor(tokenizer.token_bytes, dtype=torch.int32)),
    }


def saved(content: object) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def logits(model: torch.nn.Module, length: int = 20) -> Tensor:
    with torch.no_grad():
        return model(torch.arange(length)[None] % 50)


# ---------------------------------------------------------------- nanochat's own


def test_a_classic_base_model_lands_where_mid_training_finds_it(
    fake: FakeHub, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.add(REPO, {**classic(tokenizer), "optim_169150_rank0.pt": b"large", "picture.png": b"png"})
    pull.main([REPO])
    assert files_below(base_dir()) == {
        f"base_checkpoints/d34/{name}" for name in
        ("model_169150.pt", "meta_169150.json", "tokenizer/tokenizer.json", "tokenizer/token_bytes.json",
         "tokenizer/token_bytes.pt")
    }  # fmt: skip
    loaded = door.open("base", tag="d34", step=169150)
    assert loaded.tokenizer.hash == tokenizer.hash
    assert loaded.meta["loop_state"] == BASE_META["loop_state"]
    state = torch.load(checkpoints_dir("base") / "d34/model_169150.pt", weights_only=True)
    assert saved(state) == fake.repos[REPO].files["model_169150.pt"]
    parameters = sum(tensor.numel() for tensor in loaded.model.state_dict().values())
    out = capsys.readouterr().out
    assert f"base d34, step 169150: classic nanochat, {short(parameters)} parameters, context 64, vocabulary" in out
    command = "  python -m scripts.mid_train --model_tag=d34 --model_step=169150 --device_batch_size=4"
    recipe = "the real recipe: SmolTalk, MMLU, GSM8K, spelling (downloads about 1 GB)"
    assert f"{command}  # mid-training on {recipe}\n" in out
    assert not (base_dir() / ".pull").exists()


@pytest.mark.parametrize(
    "meta, name, stage",
    [
        (BASE_META, "tester/nanochat-d20-sft", "base"),
        (SFT_META, "tester/nanochat-d20", "sft"),
        (EITHER_META, "tester/nanochat-d20-mid", "mid"),
        (EITHER_META, "tester/nanochat-d20-sft", "sft"),
        (EITHER_META, "tester/nanochat-d20", "mid"),
        ({}, "tester/nanochat-d20", "rl"),
    ],
)
def test_the_stage_is_what_the_files_and_the_name_say(
    meta: Mapping, name: str, stage: str, fake: FakeHub, tokenizer: Tokenizer
) -> None:
    fake.add(name, classic(tokenizer, meta))
    pull.main([name])
    assert manager.steps(checkpoints_dir(stage) / "d20")


@pytest.mark.parametrize(
    "place",
    [
        {"tokenizer_in": "tokenizer/"},
        {"model_in": "mid_checkpoints/d7/", "tokenizer_in": "tokenizer/"},
        {"model_in": "cache/mid_checkpoints/d7/", "tokenizer_in": "cache/mid_checkpoints/d7/"},
    ],
)
def test_every_layout_is_understood(place: dict[str, str], fake: FakeHub, tokenizer: Tokenizer) -> None:
    fake.add("tester/a-model", classic(tokenizer, EITHER_META, **place))
    pull.main(["tester/a-model"])
    tag = "d7" if "model_in" in place else "a-model"
    assert door.open("mid", tag=tag, step=700).tokenizer.hash == tokenizer.hash


def test_of_several_checkpoints_the_last_or_the_one_that_is_named(fake: FakeHub, tokenizer: Tokenizer) -> None:
    files = {**classic(tokenizer), **classic(tokenizer, {**BASE_META, "step": 5})}
    fake.add(REPO, files)
    with pytest.raises(UserError, match="has no checkpoint of step 6; there are: 5, 169150"):
        pull.main([REPO, "--step", "6"])
    pull.main([REPO, "--step", "5"])
    pull.main([REPO])
    assert manager.steps(checkpoints_dir("base") / "d34") == [5, 169150]
    assert len(fake.sent("/large/")) == 2 + 2 * 2  # a model and, twice, the tokenizer with its lengths


def test_of_several_stages_one_is_chosen(fake: FakeHub, tokenizer: Tokenizer) -> None:
    base = classic(tokenizer, BASE_META, model_in="base_checkpoints/d4/", tokenizer_in="tokenizer/")
    fake.add("tester/all", {**base, **classic(tokenizer, SFT_META, model_in="chatsft_checkpoints/d4/")})
    with pytest.raises(UserError, match="holds several checkpoints .* choose one with --as and --tag"):
        pull.main(["tester/all"])
    pull.main(["tester/all", "--as=sft"])
    assert manager.find("sft") == (checkpoints_dir("sft") / "d4", "d4", 700)


def test_what_is_there_is_not_replaced(fake: FakeHub, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    fake.add(REPO, classic(tokenizer))
    pull.main([REPO])
    fake.asked.clear()
    capsys.readouterr()
    pull.main([REPO])
    assert f"base d34, step 169150 of {REPO} is already in" in capsys.readouterr().out
    assert not any(fakehub.sha256(fake.repos[REPO].files["model_169150.pt"]) in each.path for each in fake.asked)
    fake.repos[REPO].files["model_169150.pt"] += b"other"
    with pytest.raises(UserError, match="holds another checkpoint of step 169150; choose another --tag"):
        pull.main([REPO])


def test_what_is_there_is_the_same_only_with_the_same_tokenizer(fake: FakeHub, tokenizer: Tokenizer) -> None:
    fake.add(REPO, classic(tokenizer))
    pull.main([REPO])
    other = Tokenizer({token: id for id, token in enumerate(reversed(tokenizer.tokens))}, list(tokenizer.specials))
    fake.repos[REPO].files["tokenizer.pkl"] = classic(other)["tokenizer.pkl"]
    fake.add("tester/other-d34", classic(other, {**BASE_META, "step": 7}))
    for repo in (REPO, "tester/other-d34"):
        with pytest.raises(UserError, match="holds checkpoints with another tokenizer; choose another --tag"):
            pull.main([repo])
    assert manager.steps(checkpoints_dir("base") / "d34") == [169150]


EARLY = {"lambdas": True, "value_embeds": True, "ve_gate_channels": 32, "ve_gate_range": 2.0}


def test_a_softcap_is_written_down_once(
    fake: FakeHub, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    fake.add(REPO, classic(tokenizer, **EARLY))
    with pytest.raises(UserError, match="--softcap is 17; the checkpoints that do not record theirs have 15 or 20"):
        pull.main([REPO, "--softcap=17"])
    pull.main([REPO, "--tag=plain"])
    said = capsys.readouterr().out
    folder = checkpoints_dir("base") / "plain"
    assert f"record 20 with python -m scripts.pull --set_softcap {folder} --softcap 20\n" in said
    pull.main([REPO, "--softcap=20"])
    assert "its softcap of 20 is recorded" in capsys.readouterr().out
    loaded = door.open("base", tag="d34")
    assert (loaded.model.config.softcap, loaded.note) == (20, "")
    assert door.open("base", tag="plain").model.config.softcap == 15
    pull.main([REPO, "--softcap=15"])  # it was the wrong one
    assert door.open("base", tag="d34").model.config.softcap == 15
    pull.main([REPO, "--softcap=20"])
    monkeypatch.setenv("HF_TOKEN", fakehub.TOKEN)
    push.main(["base", "tester/again-d34", "--tag=d34"])
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "theirs"))
    pull.main(["tester/again-d34"])
    theirs = door.open("base", tag="d34")
    assert theirs.model.config.softcap == 20
    assert torch.equal(logits(theirs.model), logits(loaded.model))


def test_a_softcap_is_recorded_for_files_that_came_by_hand(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "by hand"
    folder.mkdir()
    for files in (classic(tokenizer, **EARLY), classic(tokenizer, {**BASE_META, "step": 7}, **EARLY),
                  classic(tokenizer, {**BASE_META, "step": 5})):  # fmt: skip
        for name, content in files.items():
            (folder / name).write_bytes(content)
    note = door.open(str(folder)).note
    before = (folder / "meta_000005.json").read_bytes()
    pull.main(shlex.split(note.partition("scripts.pull ")[2]))
    assert capsys.readouterr().out == f"{folder}: a softcap of 20 is recorded for step 7, 169150\n"
    loaded = door.open(str(folder))
    assert (loaded.model.config.softcap, loaded.note, loaded.meta["val_bpb"]) == (20, "", BASE_META["val_bpb"])
    assert door.open(str(folder), step=7).model.config.softcap == 20
    assert (folder / "meta_000005.json").read_bytes() == before  # a classic one, which leaves no doubt
    pull.main(["--set_softcap", str(folder), "--softcap", "15"])
    assert door.open(str(folder)).model.config.softcap == 15


@pytest.mark.parametrize(
    "args, said",
    [
        (["--set_softcap=here"], "--set_softcap needs the softcap, 15 or 20, as in python -m scripts.pull"),
        (["--set_softcap=here", "--softcap=17"], "--softcap is 17; the checkpoints that do not record theirs have"),
        (["--set_softcap=here", "--softcap=20"], "--set_softcap here holds no checkpoint; expected model_"),
        (["--set_softcap=classic", "--softcap=20"], "do not record theirs; classic does, so leave it out"),
        (["--set_softcap=here", "--softcap=20", REPO, "--tag=x"], "downloads nothing, so leave out repo, tag"),
        ([], "no repository is named; name one, as in python -m scripts.pull"),
    ],
)
def test_a_softcap_that_cannot_be_recorded(
    args: list[str], said: str, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("classic").mkdir()
    for name, content in classic(tokenizer).items():
        Path("classic", name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        pull.main(args)


def test_a_softcap_where_there_is_no_doubt_is_refused(
    fake: FakeHub, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    fake.add(REPO, classic(tokenizer))
    with pytest.raises(UserError, match="--softcap is for checkpoints that do not record theirs"):
        pull.main([REPO, "--softcap=20"])
    assert not (base_dir() / "base_checkpoints").exists()
    fake.asked.clear()
    pull.main([REPO])  # and what has come is not lost
    assert fake.sent("/large/") == []
    gpt2s.write_gpt2(tmp_path / "gpt2")
    fake.add("tester/gpt2", tmp_path / "gpt2")
    with pytest.raises(UserError, match="--softcap is for checkpoints of the original nanochat; tester/gpt2 holds"):
        pull.main(["tester/gpt2", "--softcap=20"])
    assert fake.sent("tester/gpt2/.*safetensors") == []


# ---------------------------------------------------------------- what it says to do next


def printed(out: str) -> list[str]:
    return [line.strip() for line in out.splitlines() if line.startswith("  python -m scripts.")]


@pytest.mark.parametrize("tag", ["d3;$(touch evil)", "d3 `id` \"'", "-d3", "d 3"])
def test_what_is_printed_can_be_typed(
    tag: str, fake: FakeHub, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.add(REPO, classic(tokenizer, model_in=f"base_checkpoints/{tag}/"))
    pull.main([REPO])
    place = _repository.Place("base", tag, 169150)
    meant = {"scripts.base_eval": (base_eval, tag), "scripts.mid_train": (mid_train, tag),
             "scripts.chat_sft": (chat_sft, tag), "scripts.sample": (sample, f"base:{tag}:169150")}  # fmt: skip
    lines = printed(capsys.readouterr().out)
    assert len(lines) == len(meant)
    for line in lines:
        words = subprocess.run(["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True)
        _, _, name, *args = words.stdout.splitlines()
        script, value = meant[name]
        assert value in vars(parse(script.Flags, args)).values()
    assert door.open(f"base:{tag}:169150").folder == place.folder


def test_a_base_model_is_told_from_one_of_the_little_world(
    fake: FakeHub, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The comments say what the commands train on, which follows from what the model was trained on before."""
    mid = {"parent": {}, "text_share": 0.3}
    for number, (meta, recipe, said) in enumerate([
        (BASE_META, "real", "mid-training on the real recipe: SmolTalk, MMLU"),
        ({**BASE_META, "dataset": "tinyworld"}, "littleworld", "mid-training on the little world"),
        ({**mid, "dataset": "tinyworld", "conversations": "real"}, "real", "fine-tuning on the real recipe: SmolTalk"),
        ({**mid, "conversations": "littleworld"}, "littleworld", "fine-tuning on the little world"),
    ]):  # fmt: skip
        repo = f"tester/a-d{number}"
        fake.add(repo, classic(tokenizer, meta))
        pull.main([repo])
        lines = printed(capsys.readouterr().out)
        step = meta.get("step", 5)
        assert recipe_of(dict(meta)) == recipe
        assert [line for line in lines if f"_step={step} --device_batch_size=4  # {said}" in line], lines
        poor = [line for line in lines if line.endswith("  # works, but a poor chat model without mid-training")]
        assert [line.split()[3] for line in poor] == (["--source=base"] if "loop_state" in meta else [])


# ---------------------------------------------------------------- what goes wrong


def nothing_is_placed() -> bool:
    return files_below(base_dir()) == set() if base_dir().exists() else True


@pytest.mark.parametrize(
    "change, said",
    [
        ({"tokenizer.pkl": None}, "has no tokenizer"),
        ({"meta_169150.json": b"{"}, "meta_169150.json cannot be read"),
        ({"model_169150.pt": b"no tensors"}, "cannot be read as a torch file; get it again"),
        ({"model_169150.pt": pickle.dumps([1.0], 4)}, "cannot be read as a torch file; get it again"),
        ({"model_169150.pt": None}, "holds no known model"),
    ],
)
def test_what_is_unfit_ends_in_a_sentence(
    change: dict[str, bytes | None], said: str, fake: FakeHub, tokenizer: Tokenizer
) -> None:
    files = {**classic(tokenizer), **change}
    fake.add(REPO, {path: content for path, content in files.items() if content is not None})
    with pytest.raises(UserError, match=said):
        pull.main([REPO])
    assert nothing_is_placed()


def test_a_wrong_checksum_places_nothing(fake: FakeHub, tokenizer: Tokenizer) -> None:
    fake.add(REPO, classic(tokenizer))
    digest = fakehub.sha256(fake.repos[REPO].files["model_169150.pt"])
    fake.fail(digest, corrupt=True, times=2)
    with pytest.raises(UserError, match="model_169150.pt .* arrived twice with another checksum"):
        pull.main([REPO])
    assert not (base_dir() / "base_checkpoints").exists()
    pull.main([REPO])
    assert manager.steps(checkpoints_dir("base") / "d34") == [169150]


def test_an_interrupted_pull_goes_on(fake: FakeHub, tokenizer: Tokenizer) -> None:
    fake.add(REPO, classic(tokenizer))
    digest = fakehub.sha256(fake.repos[REPO].files["model_169150.pt"])
    fake.fail(digest, cut=100_000)
    fake.fail("model_169150.pt", skip=1, times=6, status=502)
    with pytest.raises(UserError, match="answers 502"):
        pull.main([REPO])
    assert not (base_dir() / "base_checkpoints").exists()
    fake.asked.clear()
    pull.main([REPO])
    assert [each.range is not None for each in fake.sent(digest)] == [True]
    assert fake.sent("tokenizer.pkl") == []
    assert door.open("base", tag="d34").step == 169150


def test_names_that_cannot_be(fake: FakeHub) -> None:
    for tag in ("../x", "", "..", ".x", "a:b", "a\nb", "é" * 101):
        with pytest.raises(UserError, match="--tag '.* (cannot be the name of .* folder; expected|has a colon, which)"):
            pull.main([REPO, "--tag", tag])
    assert fake.asked == []
    with pytest.raises(UserError, match="has no karpathy/nanochat-d34"):
        pull.main([REPO])
    fake.add("tester/llama", {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"weights"})
    with pytest.raises(UserError, match="tester/llama holds no known model; expected one of nanochat"):
        pull.main(["tester/llama"])
    assert fake.sent("/large/") == []
    assert nothing_is_placed()


@pytest.mark.parametrize("tag", [".hidden", "a:b"])
def test_folders_of_a_repository_that_make_no_tag(tag: str, fake: FakeHub, tokenizer: Tokenizer) -> None:
    fake.add(REPO, classic(tokenizer, model_in=f"base_checkpoints/{tag}/"))
    with pytest.raises(UserError, match="karpathy/nanochat-d34 calls its model .*; choose a name for it with --tag"):
        pull.main([REPO])
    assert nothing_is_placed()
    pull.main([REPO, "--tag=d34"])
    assert manager.steps(checkpoints_dir("base") / "d34") == [169150]


@pytest.mark.parametrize("kind", ["model", "tokenizer", "folder", "link", "file"])
def test_nothing_that_is_there_is_replaced(kind: str, fake: FakeHub, tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = checkpoints_dir("base") / "d34"
    folder.mkdir(parents=True)
    other = Tokenizer({bytes([byte]): byte for byte in range(256)}, list(tokenizer.specials))
    said = f"{folder / 'model_169150.pt'} already exists with other content; move it away, or choose another --tag"
    if kind == "model":  # whose meta file is lost
        (folder / "model_169150.pt").write_bytes(b"mine")
    elif kind == "tokenizer":
        other.save(folder / "tokenizer")
        said = f"{folder} holds another tokenizer; choose another --tag"
    elif kind == "folder":
        (folder / "meta_169150.json").mkdir()
        said = "meta_169150.json already exists"
    elif kind == "link":
        (folder / "model_169150.pt").symlink_to(tmp_path / "elsewhere")
    else:
        folder.rmdir()
        folder.write_bytes(b"mine")
        said = f"cannot write .*: {folder} is not a folder"
    before = {path: path.is_file() and path.read_bytes() for path in folder.parent.rglob("*")}
    fake.add(REPO, classic(tokenizer))
    with pytest.raises(UserError, match=said):
        pull.main([REPO])
    assert {path: path.is_file() and path.read_bytes() for path in folder.parent.rglob("*")} == before
    assert not (tmp_path / "elsewhere").exists()
    pull.main([REPO, "--tag=other"])
    assert door.open("base", tag="other").step == 169150


def test_a_pull_that_was_killed_while_it_placed_files_is_completed(fake: FakeHub, tokenizer: Tokenizer) -> None:
    fake.add(REPO, classic(tokenizer))
    pull.main([REPO])
    folder = checkpoints_dir("base") / "d34"
    (folder / "meta_169150.json").unlink()
    (folder / "tokenizer" / "token_bytes.json").unlink()
    (folder / "tokenizer" / "tokenizer.json").unlink()
    pull.main([REPO])
    assert door.open("base", tag="d34").tokenizer.hash == tokenizer.hash


def test_two_pulls_of_a_repository_do_not_mix(fake: FakeHub, tokenizer: Tokenizer) -> None:
    fake.add(REPO, classic(tokenizer))
    said = f"nanochat-d34 is in use by process {os.getpid()} .*; wait until it has finished"
    with alone_in(base_dir() / ".pull" / "karpathy--nanochat-d34"), pytest.raises(UserError, match=said):
        pull.main([REPO])
    assert fake.sent("/large/") == []
    pull.main([REPO])
    assert not (base_dir() / ".pull").exists()


def test_a_listing_may_say_anything(fake: FakeHub, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    """A step in other words is another file, and a name that is a pattern is a name."""
    files = classic(tokenizer, {**BASE_META, "step": 5}, model_in="[ab]*/")
    fake.add(REPO, {**files, **{f"{kind}_{step}.{end}": b"{}" for kind, end in (("model", "pt"), ("meta", "json"))
                                for step in ("0000000009", "٠٠٠٠٠٩", "9" * 100)}})  # fmt: skip
    pull.main([REPO])
    assert manager.steps(checkpoints_dir("base") / "d34") == [5]
    for meta in ({"source": []}, {"user_config": {}, "model_config": 5}, {"parent": 5}):
        fake.add("tester/odd", {**classic(tokenizer), "meta_169150.json": json.dumps(meta).encode()})
        with pytest.raises(UserError):
            pull.main(["tester/odd"])


def test_a_dry_run_says_what_would_be_downloaded(
    fake: FakeHub, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.add(REPO, classic(tokenizer))
    pull.main([REPO, "--dry_run"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:-1]] == [
        "model_169150.pt", "meta_169150.json", "tokenizer.pkl", "token_bytes.pt"]  # fmt: skip
    assert "in all" in lines[-1]
    assert fake.sent("resolve|large") == []
    assert not base_dir().exists()


def test_the_cache_will_do_where_there_is_no_hub(
    fake: FakeHub, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    fake.add(REPO, classic(tokenizer))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="is not in the cache, and HF_HUB_OFFLINE is set"):
        pull.main([REPO])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = hub.fetch(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    pull.main([REPO])
    assert door.open("base", tag="d34").step == 169150
    assert files_below(folder) == set(fake.repos[REPO].files)
    pull.main([REPO])


# ---------------------------------------------------------------- others' models


def test_gpt2_becomes_a_checkpoint_of_ours(fake: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = gpt2s.write_gpt2(tmp_path / "gpt2")
    fake.add("openai-community/gpt2", tmp_path / "gpt2")
    pull.main(["openai-community/gpt2"])
    loaded = door.open("base", tag="gpt2", step=0)
    with torch.no_grad():
        expected = theirs(torch.arange(20)[None] % 50).logits
    assert (logits(loaded.model)[..., : expected.size(-1)] - expected).abs().max() < 2e-5
    assert "base gpt2, step 0: GPT-2, " in capsys.readouterr().out
    pull.main(["openai-community/gpt2"])
    assert "is already in" in capsys.readouterr().out
    fake.repos["openai-community/gpt2"].files["README.md"] = b"new"
    with pytest.raises(UserError, match="holds another checkpoint of step 0; choose another --tag"):
        pull.main(["openai-community/gpt2"])


def test_nanogpts_checkpoint_becomes_one_of_ours(fake: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    theirs = gpt2s.write_nanogpt(tmp_path / "letters", "".join(map(chr, range(60, 123))))
    fake.add("tester/letters", tmp_path / "letters")
    pull.main(["tester/letters"])
    loaded = door.open("base", tag="letters", step=5)
    with torch.no_grad():
        expected = theirs(torch.arange(20)[None] % 50).logits
    assert (logits(loaded.model)[..., : expected.size(-1)] - expected).abs().max() < 2e-5


def test_the_weights_wait_for_gpt2s_tokenizer(fake: FakeHub, tmp_path: Path) -> None:
    """A ckpt.pt of GPT-2's tokens does not hold them, and the hub may fail while they are fetched."""
    args = {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 8, "vocab_size": 50304, "bias": True}
    model = GPT(gpt2.from_nanogpt(args, {}, tmp_path)[0])
    ckpt.write(tmp_path / "ckpt.pt", model, {"steps": 0, "state": {}}, {}, 5, 1.5)
    content = (tmp_path / "ckpt.pt").read_bytes()
    fake.add("tester/story", {"ckpt.pt": content})
    with pytest.raises(UserError, match="has no openai-community/gpt2"):
        pull.main(["tester/story"])
    assert fake.sent("/large/") == []
    gpt2s.write_tokenizer(tmp_path / "gpt2")
    fake.add("openai-community/gpt2", tmp_path / "gpt2")
    with pytest.raises(UserError, match="has 50304 tokens, but the tokenizer in openai-community/gpt2 has 265"):
        pull.main(["tester/story"])  # this one is a toy
    assert nothing_is_placed()


def test_an_export_comes_back_with_its_stage_and_step(fake: FakeHub, tokenizer: Tokenizer, tmp_path: Path) -> None:
    fake.add(REPO, classic(tokenizer))
    pull.main([REPO, "--as=sft"])
    before = door.open("sft", tag="d34")
    exporter.write(before, tmp_path / "export")
    fake.add("tester/exported-d34", tmp_path / "export")
    opened = door.open("tester/exported-d34")
    assert (opened.source, opened.step) == ("sft", 169150)
    pull.main(["tester/exported-d34", "--tag=again"])
    again = door.open("sft", tag="again", step=169150)
    assert torch.equal(logits(again.model), logits(before.model))
