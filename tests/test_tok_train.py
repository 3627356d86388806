"""A new tokenizer never takes the place of one that models need, unless that is asked for in so many words."""

import shutil
from pathlib import Path

import pytest

from nanochat import paths
from nanochat.checkpoint import manager
from nanochat.data import shards
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig
from nanochat.tokenizer import Tokenizer
from scripts import tok_train

CLASSIC = Path(__file__).parents[2] / "shared" / "fixtures" / "classic"
AGAIN = ["--dataset=ships", "--vocab_size=310"]  # not the tokenizer of `trained`


@pytest.fixture(autouse=True)
def ships(base: Path) -> None:
    texts = [f"{n} ships and {n} boats sailed past the lighthouse, counted by its keeper." for n in range(30)]
    shards.write_shards(texts, paths.dataset_dir("ships"))


@pytest.fixture
def trained(base: Path) -> Tokenizer:
    tok_train.main(["--dataset=ships", "--vocab_size=300"])
    return Tokenizer.load(paths.tokenizer_dir())


def keep_model(source: str, tag: str, tokenizer_hash: str | None, step: int = 1) -> Path:
    model = GPT(GPTConfig(sequence_len=8, vocab_size=300, n_layer=1, n_head=1, n_kv_head=1, n_embd=32))
    folder = paths.checkpoints_dir(source) / tag
    manager.save(folder, step, model, None, {} if tokenizer_hash is None else {"tokenizer_hash": tokenizer_hash})
    return folder


def copy(folder: Path, to: Path) -> None:
    shutil.copytree(folder, to, dirs_exist_ok=True)
    for path in [to, *to.rglob("*")]:
        path.chmod(0o755)  # what is shared may be read-only


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_models_of_every_stage_keep_their_tokenizer(base: Path, trained: Tokenizer, capsys) -> None:
    for source in ("base", "rl"):
        keep_model(source, "d1", trained.hash)
    keep_model("mid", "d1", "0" * 64)  # of a tokenizer that is gone already
    keep_model("sft", "mine", trained.hash)
    keep_model("sft", "mine", "0" * 64, step=2)  # trained again, but the older checkpoint is still there
    before = contents(base)
    with pytest.raises(UserError, match=r"holds tokenizer \w+, but .*: base d1, sft mine, rl d1; set NANOCHAT_BASE"):
        tok_train.main(AGAIN)
    assert contents(base) == before
    tok_train.main(["--dataset=ships", "--vocab_size=300"])  # the same one again is welcome
    capsys.readouterr()
    tok_train.main([*AGAIN, "--overwrite"])
    assert "in place of " + trained.hash[:12] + "; now unusable: base d1, sft mine, rl d1" in capsys.readouterr().out
    assert Tokenizer.load(paths.tokenizer_dir()).vocab_size == 310


def test_a_tokenizer_of_the_same_size_is_compared_after_training(base: Path, trained: Tokenizer) -> None:
    keep_model("base", "d1", trained.hash)
    shards.write_shards([f"{n} goats grazing upon grassy ground, {n} geese." for n in range(30)],
                        paths.dataset_dir("goats"))  # fmt: skip
    with pytest.raises(UserError, match="models need theirs there: base d1;"):
        tok_train.main(["--dataset=goats", "--vocab_size=300"])
    assert Tokenizer.load(paths.tokenizer_dir()).hash == trained.hash


@pytest.mark.parametrize("place", [".", "tokenizer"])
def test_a_model_with_a_tokenizer_of_its_own_needs_no_other(base: Path, trained: Tokenizer, place: str) -> None:
    trained.save(keep_model("base", "d1", trained.hash) / place)
    tok_train.main(AGAIN)
    assert Tokenizer.load(paths.tokenizer_dir()).vocab_size == 310


def test_the_originals_models_record_no_hash(base: Path) -> None:
    """Its tokenizer.pkl must not be shadowed, nor its token_bytes.pt deleted; the size alone may be the same."""
    copy(CLASSIC, base)
    before = contents(base)
    for size in (310, 500):
        with pytest.raises(UserError, match=r"base d2 \(records no tokenizer hash\)"):
            tok_train.main(["--dataset=ships", f"--vocab_size={size}"])
    assert contents(base) == before
    copy(base / "tokenizer", base / "base_checkpoints" / "d2" / "tokenizer")
    tok_train.main(AGAIN)
    assert Tokenizer.load(manager.tokenizer_folder(base / "base_checkpoints" / "d2")).vocab_size == 500


def test_the_originals_models_never_meet_a_tokenizer_that_is_not_theirs(base: Path) -> None:
    """Without any, a new one of the right size would be taken for theirs."""
    copy(CLASSIC / "base_checkpoints", base / "base_checkpoints")
    with pytest.raises(UserError, match=r"holds no readable tokenizer, but .*: base d2 \(records no tokenizer hash\)"):
        tok_train.main(AGAIN)


def test_a_damaged_meta_file_may_be_of_a_model_that_needs_it(base: Path, trained: Tokenizer) -> None:
    meta = keep_model("base", "d1", "0" * 64) / "meta_000001.json"
    whole = meta.read_bytes()
    for damaged in (b"", b"[]", whole[:-9], whole.replace(b'"tokenizer_hash": "00', b'"tokenizer_hash": "01')):
        meta.write_bytes(damaged)
        with pytest.raises(UserError, match=r"base d1 \(the meta file of step 1 cannot be read\)"):
            tok_train.main(AGAIN)
    meta.write_bytes(whole)
    tok_train.main(AGAIN)


def test_a_damaged_tokenizer_is_replaced_by_the_same_one_only(base: Path, trained: Tokenizer) -> None:
    keep_model("base", "d1", trained.hash)
    file = paths.tokenizer_dir() / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    with pytest.raises(UserError, match="no readable tokenizer, but models need theirs there: base d1;"):
        tok_train.main(AGAIN)
    tok_train.main(["--dataset=ships", "--vocab_size=300"])
    assert Tokenizer.load(paths.tokenizer_dir()).hash == trained.hash


def test_check_trains_nothing(base: Path, capsys) -> None:
    before = contents(base)
    tok_train.main([*AGAIN, "--check"])
    assert contents(base) == before and capsys.readouterr().out == ""
    keep_model("base", "d1", None)
    with pytest.raises(UserError, match="base d1"):
        tok_train.main([*AGAIN, "--check"])
