"""Datasets by name, alone and mixed by weight, from the flag to the checkpoint."""

import json
from collections import Counter

import numpy as np
import pytest
from conftest import TEXT

from nanochat.checkpoint import manager
from nanochat.data import texts
from nanochat.data.shards import write_shards
from nanochat.data.streams import MixedSource, TextSource
from nanochat.errors import UserError
from nanochat.paths import checkpoints_dir, dataset_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from scripts import base_train, mid_train

COMMON = [
    "--device_type=cpu", "--dtype=float32", "--no-compile", "--device_batch_size=2", "--total_batch_size=64",
    "--num_iterations=3", "--eval_every=-1", "--eval_tokens=64",
]  # fmt: skip
BASE = [*COMMON, "--sample_every=-1", "--depth=1", "--aspect_ratio=32", "--head_dim=32", "--max_seq_len=32"]


@pytest.fixture
def two(base, tokenizer: Tokenizer) -> None:
    """Two datasets, the documents of which say where they are from, and a tokenizer."""
    tokenizer.save(tokenizer_dir())
    write_shards((f"a {n} {TEXT[n : n + 50]}" for n in range(300)), dataset_dir("one"))
    write_shards((f"b {n} {TEXT[n % 40 : n % 40 + 250]}" for n in range(100)), dataset_dir("two"))


def test_one_dataset_is_read_as_it_is(two, tokenizer):
    source = texts.text_source(["one"], "train", tokenizer)
    assert isinstance(source, TextSource) and source.locate(0).size == source.reader.num_documents


@pytest.mark.parametrize("split", ["train", "val"])
def test_weights_are_shares_of_the_tokens(two, tokenizer, split):
    source = texts.text_source(["one:3", "two"], split, tokenizer)
    assert isinstance(source, MixedSource) and source.cut
    tokens = Counter()  # by the first letter, which tells the dataset
    for ids, _ in source.read(0, 4000):
        tokens[tokenizer.decode(np.asarray(ids[1:]).tolist())[0]] += len(ids)
    assert tokens["a"] / tokens.total() == pytest.approx(0.75, abs=0.01)
    (one, _), (two_, _) = source.parts
    assert len(one.read(0, 1)[0][0]) * 2 < len(two_.read(0, 1)[0][0])  # so documents would not be shared so


def test_a_mixture_is_its_weights(two):
    assert texts.mixture(["one:0.70", "two:.3"]) == texts.mixture(["a:0.7", "b:0.3"]) == "0.7:0.3"
    assert texts.mixture(["one"]) == "1"


@pytest.mark.parametrize(
    "datasets, said",
    [
        (["one:0"], "'one:0' is not NAME or NAME:WEIGHT with a weight above 0"),
        (["one:-1"], "'one:-1' is not NAME"),
        (["one:much"], "'one:much' is not NAME"),
        (["one:inf"], "'one:inf' is not NAME"),
        (["one:nan"], "'one:nan' is not NAME"),
        ([":1"], "':1' is not NAME"),
        (["one:1", "one:2"], "names one twice"),
        ([], "--dataset is empty"),
        (["one:1", "three:1"], "base_data_three: the folder does not exist"),
    ],
)
def test_what_cannot_be_meant(two, tokenizer, datasets, said):
    with pytest.raises(UserError, match=said):
        texts.text_source(datasets, "train", tokenizer)


def test_a_run_on_a_mixture(two):
    folder = checkpoints_dir("base") / "d1"
    mixture = ["--dataset", "one:0.7", "two:0.3"]
    base_train.main([*BASE, *mixture])
    meta = manager.read_meta(folder, 3)
    assert meta["dataset"] == "one:0.7 two:0.3" and meta["mixture"] == "0.7:0.3"
    base_train.main([*BASE, *mixture, "--num_iterations=5"])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5]
    with pytest.raises(UserError, match=r"whose mixture is 0.7:0.3, not 0.5:0.5"):
        base_train.main([*BASE, "--dataset=one:0.5", "--dataset=two:0.5"])
    mid_train.main([*COMMON, "--text_share=1"])
    assert manager.read_meta(checkpoints_dir("mid") / "d1", 3)["dataset"] == "one:0.7 two:0.3"
    other = ["--conversations=littleworld", "--dataset", "two:3", "one"]
    with pytest.raises(UserError, match=r"leaves no room for conversations.*are those of the run in .*--out_tag"):
        mid_train.main([*COMMON, *other])
    mid_train.main([*COMMON, *other, "--overwrite"])
    assert manager.read_meta(checkpoints_dir("mid") / "d1", 3)["dataset"] == "two:3 one"
