"""Models of other programs, loaded by their files: the same ids, logits, continuations and bits per byte as there."""

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import reference
import served
import torch
from hypothesis import given
from hypothesis import strategies as st
from originals import FIXTURES, NAMES, fixtures, numbered, opened
from reference import NANOGPT

from extras.nanogpt import ckpt
from nanochat import chat, pickles
from nanochat.checkpoint import door, gpt2, manager, nanogpt
from nanochat.config import parse
from nanochat.engine import serving
from nanochat.engine.engine import Engine
from nanochat.engine.request import Request
from nanochat.errors import UserError
from nanochat.foreign_tokenizers import byte_characters
from nanochat.gpt import GPT
from nanochat.optim import Optimizer, Rates, adamw_groups
from nanochat.paths import checkpoints_dir
from nanochat.tokenizer import Tokenizer
from scripts import base_eval, chat_cli, chat_eval, chat_web, export, infer_bench, inference_server, sample

HAVE_TOKENIZER = ["classic", "modern", "gpt2"]
transformers = pytest.importorskip("transformers")


@fixtures
@pytest.mark.parametrize("name", NAMES)
def test_logits_and_continuations_are_the_originals(name: str, tmp_path: Path) -> None:
    loaded = opened(name, tmp_path)
    expected = json.loads((FIXTURES / name / "expected.json").read_text(encoding="utf-8"))["models"][0]
    arrays = np.load(FIXTURES / name / "expected.npz")
    assert expected["logits"] and expected["greedy"]
    with torch.no_grad():
        for case in expected["logits"]:
            logits = loaded.model(torch.tensor(case["ids"]))
            shown = logits if case["positions"] is None else logits[:, case["positions"]]
            assert (shown - torch.from_numpy(arrays[case["npz"]])).abs().max() < 2e-5, case["label"]
    # nanoGPT goes on beyond its context with the last ids; the others do not get there.
    longest = max(len(case["prompt"]) + case["max_tokens"] for case in expected["greedy"])
    max_len = loaded.model.config.sequence_len if name == "nanogpt" else longest
    engine = Engine(loaded.model, slots=2, max_len=max_len)
    for case in expected["greedy"]:
        (reply,) = engine.generate([Request(case["prompt"], case["max_tokens"], temperature=0, rolls=True)])
        assert reply.tokens == case["tokens"]


@fixtures
@pytest.mark.parametrize("name", HAVE_TOKENIZER)
def test_ids_are_the_originals(name: str, tmp_path: Path) -> None:
    tokenizer = opened(name, tmp_path).tokenizer
    expected = json.loads((FIXTURES / name / "expected.json").read_text(encoding="utf-8"))["tokenizer"]
    for case in expected["encode_plain" if name == "gpt2" else "encode"]:
        assert tokenizer.encode(case["text"]) == case["ids"]
    for case in expected["decode"]:
        assert tokenizer.decode(case["ids"]) == case["text"]
    if name == "gpt2":
        assert tokenizer.bos == expected["eot_token_id"]
        assert tokenizer.bos not in tokenizer.encode("<|endoftext|>")
        return
    assert {key: tokenizer.specials[key] for key in expected["special_tokens"]} == expected["special_tokens"]
    assert [token.hex() for token in tokenizer.tokens] == expected["token_bytes_raw"][: tokenizer.first_special]
    for case in expected["render"]:
        ids, mask = chat.render(tokenizer, case["conversation"])
        cut = case["max_tokens"]  # the original cuts inside a turn; here a turn is never cut (chat.render)
        assert (ids[:cut], mask[:cut]) == (case["ids"], case["mask"]), case["name"]
    for case in expected["render_for_completion"]:
        assert chat.prompt(tokenizer, case["conversation"]["messages"][:-1]) == case["ids"], case["name"]


def classic(folder: Path) -> None:
    """A checkpoint of the original's classic generation with its tokenizer, under base_checkpoints/."""
    c = reference.Nanochat(context=64, layers=2)
    reference.write_nanochat(folder, c, reference.draw_nanochat(c), step=20)


@pytest.mark.parametrize("layout", ["top", "below", "base"])
def test_a_tokenizer_is_found_wherever_a_download_puts_it(layout: str, base: Path) -> None:
    folder = checkpoints_dir("base") / "d2"
    classic(folder)
    place = {"top": folder, "below": folder / "tokenizer", "base": base / "tokenizer"}[layout]
    place.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.pkl", "token_bytes.pt"):
        (folder / name).rename(place / name)
    loaded = door.open("base")
    assert (loaded.tag, loaded.step, loaded.tokenizer.vocab_size) == ("d2", 20, reference.VOCAB)
    with pytest.raises(UserError, match="trained by the original nanochat, whose run cannot be resumed"):
        manager.load_step(*manager.find("base"), with_optimizer=True)


def test_the_tokenizer_beside_a_checkpoint_wins_over_the_base_folders(base: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(base / "tokenizer")
    folder = checkpoints_dir("base") / "d2"
    classic(folder)
    own = Tokenizer.load(folder)
    (folder / "tokenizer.pkl").unlink()
    with pytest.raises(UserError, match=f"vocabulary of {own.vocab_size} tokens, but the tokenizer in .* has 320"):
        door.open("base")
    manager.keep_tokenizer(folder, own)
    assert door.open("base").tokenizer.hash == own.hash


# ---------------------------------------------------------------- what is not to be believed


class Evil:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["tokenizer.pkl", "meta.pkl", "model_000005.pt", "pytorch_model.bin", "ckpt.pt"])
def test_no_file_runs_code(
    name: str, tmp_path: Path, tokenizer: Tokenizer, recwarn: pytest.WarningsRecorder
) -> None:
    mark, folder = tmp_path / "owned", tmp_path / "model"
    tiny_gpt2(folder, tokenizer)
    (folder / "model.safetensors").unlink()
    (folder / "meta_000005.json").write_text('{"model_config": {}}', encoding="utf-8")
    for value in (Evil(mark), {"itos": Evil(mark)}, {"model": Evil(mark), "model_args": {}}):
        if name.endswith(".pkl"):
            contents = [pickle.dumps(value)]
        else:  # as torch writes it, and a bare pickle
            torch.save(value, folder / name)
            contents = [(folder / name).read_bytes(), pickle.dumps(value, protocol=4)]
        for content in contents:
            (folder / name).write_bytes(content)
            with pytest.raises(UserError, match=rf"{name} (was not read: it .*uses|cannot be read)"):
                Tokenizer.load(folder) if name.endswith(".pkl") else door.open(str(folder))
    assert not mark.exists() and not recwarn.list
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists()  # so the pickle was as bad as it looks


ODD_TOKENIZERS: list[tuple[dict, str]] = [
    ({"model": {"type": "Unigram"}}, "type 'Unigram'; expected byte-level BPE"),
    ({"normalizer": {"type": "Lowercase"}}, "Lowercase.*without a normalizer"),
    ({"pre_tokenizer": {"type": "Whitespace"}}, "splits texts by Whitespace"),
    *((change, "tokenizer.json") for change in (
        {"model": []}, {"model": "x"}, {"normalizer": "x"}, {"added_tokens": None}, {"added_tokens": [1]},
        {"added_tokens": [{"content": "x"}]}, {"pre_tokenizer": "x"}, {"pre_tokenizer": {"type": "Sequence"}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}},
        {"model": {"type": "BPE", "vocab": {"a": "x"}, "merges": [1]}},
        {"model": {"type": "WordLevel", "vocab": {"\ud800": 0}}},
    )),
]  # fmt: skip


@pytest.mark.parametrize("change, said", ODD_TOKENIZERS, ids=str)
def test_a_tokenizer_of_another_kind_is_one_sentence(change: dict, said: str, tmp_path: Path) -> None:
    plain = {"model": {"type": "BPE", "vocab": {}, "merges": []}, "pre_tokenizer": {"type": "ByteLevel"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps({**plain, **change}), encoding="utf-8")
    with pytest.raises(UserError, match=said):
        Tokenizer.load(tmp_path)


@given(st.binary(max_size=200))
def test_no_pickle_ends_in_a_traceback(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("pickle") / "meta.pkl"
    path.write_bytes(content)
    try:
        pickles.load(path)
    except UserError as error:
        assert str(path) in str(error)


# ---------------------------------------------------------------- GPT-2


def tiny_gpt2(folder: Path, tokenizer: Tokenizer, **changes: object) -> "transformers.GPT2LMHeadModel":
    """A GPT-2 folder as transformers writes it, with a tokenizer of ours beside it."""
    settings = {"vocab_size": tokenizer.vocab_size, "n_positions": 32, "n_embd": 48, "n_layer": 3, "n_head": 4}
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**settings, **changes}))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    tokenizer.save(folder / "tokenizer")
    return model.eval()


BROKEN: list[tuple[str, object, str]] = [
    ("activation_function", "swish", "activation_function is 'swish'"), ("n_inner", 7, "n_inner is 7; only models"),
    ("scale_attn_by_inverse_layer_idx", True, "scale_attn_by_inverse_layer_idx is True"),
    *((key, value, "") for key, value in (
        ("n_layer", "2"), ("n_layer", 2.0), ("n_layer", None), ("n_layer", -1), ("n_head", 0), ("n_head", "x"),
        ("n_embd", "x"), ("n_embd", 0), ("n_positions", -1), ("n_positions", "x"), ("vocab_size", None),
        ("layer_norm_epsilon", "x"), ("layer_norm_epsilon", -1), ("resid_pdrop", "x"), ("model_type", ["gpt2"]),
        ("activation_function", ["a"]),
    )),
]  # fmt: skip


@pytest.mark.parametrize("key, value, said", BROKEN, ids=str)
def test_a_config_that_is_not_known_is_one_sentence(
    key: str, value: object, said: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    tiny_gpt2(tmp_path, tokenizer)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    for broken in ({**config, key: value}, {name: config[name] for name in config if name not in (key, "n_inner")}):
        (tmp_path / "config.json").write_text(json.dumps(broken), encoding="utf-8")
        if key in broken or key in ("n_layer", "n_head", "n_embd", "n_positions", "vocab_size", "model_type"):
            with pytest.raises(UserError, match=(said if key in broken else "") or None) as error:
                door.open(str(tmp_path))
            assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_dropout_is_for_training_alone(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tiny_gpt2(tmp_path, tokenizer, resid_pdrop=0.5)
    model = door.open(str(tmp_path)).model
    ids = torch.randint(tokenizer.vocab_size, (1, 16))
    assert model.config.dropout == 0.5
    assert not torch.equal(model(ids), model(ids))
    with torch.no_grad():
        assert torch.equal(model(ids), model(ids))
        quiet = model(ids)
    model.eval()
    assert torch.equal(model(ids), quiet)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_gpt2_is_served_in_every_dtype(dtype: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    theirs = tiny_gpt2(tmp_path, tokenizer)
    served = serving.serve_model(door.find(str(tmp_path)), "cpu", dtype, slots=3)
    assert served.source == "sft"  # this tokenizer has the tokens of conversations
    prompts = [[5, 9, 3], [7] * 20, [250, 4]]
    together = served.engine.generate([Request(prompt, 8, temperature=0) for prompt in prompts])
    for prompt, reply in zip(prompts, together, strict=True):
        assert served.engine.generate([Request(prompt, 8, temperature=0)])[0].tokens == reply.tokens
        if dtype == "float32":
            expected = theirs.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, pad_token_id=0)
            assert reply.tokens == expected[0, len(prompt) :].tolist()


def test_rolling_equals_cropping_by_hand(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tiny_gpt2(tmp_path, tokenizer)
    loaded = door.open(str(tmp_path))
    engine = Engine(loaded.model, slots=3, prefill_chunk=10)
    prompts = [[3, 1, 4], list(range(40)), [9] * 32]
    replies = engine.generate([Request(prompt, 45, temperature=0, rolls=True) for prompt in prompts])
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(45):
                ids.append(int(loaded.model(torch.tensor([ids[-32:]]))[0, -1].argmax()))
        assert reply.tokens == ids[len(prompt) :]
        assert reply.finish == "length"
    with pytest.raises(UserError, match="needs a limit; set max_tokens"):
        Request([1], rolls=True)
    with pytest.raises(ValueError, match="33 tokens exceed the 32 positions"):
        loaded.model(torch.zeros(1, 33, dtype=torch.long))


def test_who_rolls_lets_others_begin(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """It reads a whole context for each of its tokens, and a step reads only so much."""
    tiny_gpt2(tmp_path, tokenizer)
    engine = Engine(door.open(str(tmp_path)).model, slots=2, prefill_chunk=16)
    rolling = engine.submit(Request([1, 2, 3], 300, temperature=0, rolls=True))
    said = 0
    while said < 60:
        said += sum(event.token is not None for event in engine.step())
    other = engine.submit(Request([5, 6, 7], 3, temperature=0))
    tokens = {rolling: 0, other: 0}
    while tokens[other] < 3:
        for event in engine.step():
            tokens[event.request_id] += event.token is not None
    assert tokens[rolling] < 10


@pytest.mark.parametrize("content", [
    b"\x80\x04})" + b"\x85" * 200_000 + b"K\x01s.", b"\x80\x04K\x01r\xff\xff\xff\x0f.",
], ids=["a hash that overflows the stack", "a memo of 4 GB"])  # fmt: skip
def test_a_pickle_that_would_exhaust_its_reader_does_not(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "meta.pkl").write_bytes(content)
    with pytest.raises(UserError, match="it is built to exhaust the reader"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("end, first, said", [
    (0, 1, "gives its special token 'end' the id 0, among those of its text; only tokenizers whose"),
    (257, 0, "has no token of the id 256; only tokenizers whose ids are 0, 1, 2"),
    (256, 0, None),
])  # fmt: skip
def test_ids_that_cannot_be_are_told(end: int, first: int, said: str | None, tmp_path: Path) -> None:
    vocabulary = {char: first + id for id, char in enumerate(byte_characters())} | {"end": end}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    if said is None:
        assert Tokenizer.load(tmp_path).bos == end
        return
    with pytest.raises(UserError, match=said):
        Tokenizer.load(tmp_path)


# ---------------------------------------------------------------- weights that are none


@pytest.mark.parametrize("content, said", [
    ([torch.zeros(2)], "holds a list; expected the weights of a model"),
    ({"model": {"lm_head.weight": torch.zeros(2)}}, "'model' is a dict; expected the weights"),
    ({1: torch.zeros(2)}, "'1' is a Tensor; expected"),
    ({"lm_head.weight": torch.zeros(2, dtype=torch.int32)}, "lm_head.weight is of int32; expected weights in floating"),
], ids=["list", "nested", "numbered", "int32"])  # fmt: skip
@pytest.mark.parametrize("kind", ["model_000005.pt", "pytorch_model.bin", "ckpt.pt"])
def test_weights_that_are_none_are_one_sentence(
    kind: str, content: object, said: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    tokenizer.save(tmp_path)
    if kind == "model_000005.pt":
        (tmp_path / "meta_000005.json").write_text('{"model_config": {}}', encoding="utf-8")
    elif kind == "pytorch_model.bin":
        tiny_gpt2(tmp_path, tokenizer)
        (tmp_path / "model.safetensors").unlink()
    else:
        args = {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 4, "vocab_size": 320}
        content = {"model": content, "model_args": args}
    torch.save(content, tmp_path / kind)
    with pytest.raises(UserError, match=said) as error:
        door.open(str(tmp_path))
    assert kind in str(error.value)


# ---------------------------------------------------------------- nanoGPT


@pytest.fixture
def original(tmp_path: Path) -> tuple[Path, dict]:
    """A ckpt.pt as nanoGPT's training writes it, and its content."""
    reference.write_nanogpt(tmp_path / "run", NANOGPT, reference.draw_gpt2(NANOGPT))
    return tmp_path / "run/ckpt.pt", torch.load(tmp_path / "run/ckpt.pt", weights_only=True)


def test_a_ckpt_is_written_as_nanogpt_writes_it(original: tuple[Path, dict], tmp_path: Path) -> None:
    """Read, and written again: every key and tensor is there, the optimizer's included."""
    path, before = original
    read = nanogpt.read(path)
    assert (read.iter_num, read.best_val_loss) == (10, 3.25)
    model = GPT(read.config)
    model.load_state_dict(read.state)
    optimizer = ckpt.optimizer_of(read, path)
    assert optimizer is not None
    ckpt.write(tmp_path / "ckpt.pt", model, optimizer, read.settings, 10, 3.25, {"cursor": 7})
    written = torch.load(tmp_path / "ckpt.pt", weights_only=True)
    assert written["nanochat"] == {"cursor": 7}
    assert list(written["model"]) == list(before["model"])
    assert all(torch.equal(written["model"][name], tensor) for name, tensor in before["model"].items())
    for key in ("model_args", "config", "iter_num", "best_val_loss"):
        assert written[key] == before[key]
    assert written["optimizer"]["param_groups"] == before["optimizer"]["param_groups"]
    for i, state in before["optimizer"]["state"].items():
        assert all(torch.equal(written["optimizer"]["state"][i][name], value) for name, value in state.items())


def test_its_adamw_goes_on_as_torchs_does(original: tuple[Path, dict]) -> None:
    path, before = original
    read = nanogpt.read(path)
    model = GPT(read.config)
    model.load_state_dict(read.state)
    optimizer = Optimizer(adamw_groups(model, 6e-4, (0.9, 0.95), 0.1), [])
    saved = ckpt.optimizer_of(read, path)
    assert saved is not None
    optimizer.load_state_dict(saved)
    ids = torch.randint(NANOGPT.vocab, (2, 17), generator=torch.Generator().manual_seed(0))
    model(ids[:, :-1], ids[:, 1:]).mean().backward()
    # The same step by torch's own AdamW, on nanoGPT's parameters as its file numbers them.
    names = [name for name in before["model"] if name != "lm_head.weight"]
    names = sorted(names, key=lambda name: before["model"][name].ndim < 2)
    gradients = gpt2.join({name: parameter.grad for name, parameter in model.named_parameters()})
    parameters = [torch.nn.Parameter(before["model"][name].clone()) for name in names]
    for name, parameter in zip(names, parameters, strict=True):
        parameter.grad = gradients[name].clone()
    matrices = sum(parameter.ndim >= 2 for parameter in parameters)
    theirs = torch.optim.AdamW([{"params": parameters[:matrices]}, {"params": parameters[matrices:]}])
    theirs.load_state_dict(before["optimizer"])
    theirs.step()
    optimizer.step(Rates())
    _, after = ckpt.to_nanogpt(model.config, model.state_dict())
    for name, parameter in zip(names, parameters, strict=True):
        assert (after[name] - parameter.detach()).abs().max() < 1e-7
        assert not torch.equal(after[name], before["model"][name])


def written_ckpt(folder: Path, rows: int, ours: dict | None = None, **settings: object) -> Path:
    """A tiny ckpt.pt of so many rows."""
    args = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 4, "vocab_size": rows, "bias": True}
    config = gpt2.from_nanogpt(args, {}, folder)[0]
    path = folder / "ckpt.pt"
    ckpt.write(path, GPT(config), {"steps": 0, "state": {}}, {"dataset": "x", **settings}, 3, 1.5, ours)
    return path


@pytest.mark.parametrize("kind", ["ckpt", "gpt2"])
@pytest.mark.parametrize("tokens, fits", [(320, True), (300, True), (257, True), (256, False), (321, False)])
def test_rows_beyond_the_tokenizer_are_padding_up_to_the_next_64(
    kind: str, tokens: int, fits: bool, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """nanoGPT rounds its vocabulary up and does not record how many tokens there are; the tokenizer does."""
    if kind == "ckpt":
        written_ckpt(tmp_path, 320)
        numbered(tokens).save(tmp_path)
    else:
        tiny_gpt2(tmp_path, tokenizer)
        numbered(tokens).save(tmp_path / "tokenizer")
    if fits:
        model = door.open("resume", out_dir=tmp_path).model
        assert (model.config.vocab_size, model.config.padded_vocab) == (tokens, 320)
        assert model(torch.tensor([[1, 2]])).shape == (1, 2, tokens)  # padding is never sampled
        return
    with pytest.raises(UserError, match=f"has 320 tokens, but the tokenizer in .* has {tokens}: they do not belong"):
        door.open(str(tmp_path))


def test_a_ckpt_that_names_its_tokenizer_is_believed(tmp_path: Path) -> None:
    known = numbered(100)
    path = written_ckpt(tmp_path, 320, {"tokenizer_hash": known.hash})  # whatever its padding
    known.save(tmp_path)
    assert door.open(str(path)).model.config.vocab_size == 100
    Tokenizer.characters("".join(map(chr, range(0x5000, 0x5000 + 320)))).save(tmp_path)
    with pytest.raises(UserError, match=f"was trained with the tokenizer {known.hash[:12]}, but .* put the right one"):
        door.open(str(path))


def test_nanogpts_rows_for_data_of_unknown_tokens_are_told(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = written_ckpt(tmp_path, 50304)
    tokenizer.save(tmp_path)
    loaded = door.open(str(path))
    assert loaded.model.config.vocab_size == 320
    assert "how many of its 50304 rows are tokens is not recorded; 320 assumed, as in" in str(loaded)
    numbered(320).save(tmp_path)  # of characters nanoGPT knows how many there are
    with pytest.raises(UserError, match="has 50304 tokens, but the tokenizer in .* has 320"):
        door.open(str(path))


def test_what_there_is_not_to_choose_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = written_ckpt(tmp_path, 320)
    tokenizer.save(tmp_path)
    tiny_gpt2(tmp_path / "gpt2", tokenizer)
    for place in (path, tmp_path, tmp_path / "gpt2"):
        with pytest.raises(UserError, match=r"a step \(3\) chooses among nanochat's checkpoints .* is a single model"):
            door.find(str(place), step=3)
    for name in (str(path), "gpt2", "resume", "some/repository"):
        with pytest.raises(UserError, match=r"a tag \(d4\) chooses a model of a stage .*, which .* is not"):
            door.find(name, tag="d4", out_dir=tmp_path)
    with pytest.raises(UserError, match="gpt2 is a single model"):
        door.find("gpt2", step=3)
    for tag, step in (("d4", None), (None, 700)):
        with pytest.raises(UserError, match="sft:d4:700 already names its tag or step"):
            door.find("sft:d4:700", tag, step)


# ---------------------------------------------------------------- the stage


@pytest.mark.parametrize("place, meta, stage", [
    ("base_checkpoints/d1", {}, "base"),
    ("chatsft_checkpoints/d1", {"loop_state": {}}, "sft"),
    ("elsewhere", {"loop_state": {}}, "base"),
    ("elsewhere", {"source": "mid", "loop_state": {}}, "mid"),
    ("elsewhere", {"loop_state": {}, "val_loss": 1.0, "user_config": {"init_from": "base:d4"}}, "base"),
    ("elsewhere", {"loop_state": {}, "val_loss": 1.0, "user_config": {"init_from": "my-sft-model"}}, ""),
    ("nanochat-rl", {}, "rl"),
    ("elsewhere", {}, ""),
])  # fmt: skip
def test_the_stage_is_what_is_known_of_a_folder(
    place: str, meta: dict, stage: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    folder = tmp_path / place
    manager.save(folder, 5, served.random_model(tokenizer), None, meta)
    tokenizer.save(folder / "tokenizer")
    assert door.open(str(folder)).source == stage
    answers = serving.serve_model(door.find(str(folder)), "cpu", "float32", slots=1)
    assert answers.source == (stage or "sft")
    assert ("its stage is not recorded" in str(answers)) == (stage == "")


@pytest.mark.parametrize("origin, stage", [("scratch", "base"), ("gpt2-xl", "base"), ("sft:d4", "sft"), ("mine", "")])
def test_the_stage_of_a_run_is_that_of_what_it_began_with(
    origin: str, stage: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path = written_ckpt(tmp_path, 320, init_from=origin)
    tokenizer.save(tmp_path)
    assert door.open(str(path)).source == stage


def test_lengths_go_with_a_tokenizer_to_the_next_stage(tmp_path: Path, base: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(base / "tokenizer")
    kept = Tokenizer.load(base / "tokenizer")
    kept.token_bytes = [length + 1 for length in kept.token_bytes]
    for name in ("first", "second"):  # the second finds them there
        manager.save(tmp_path / name, 5, served.random_model(tokenizer), None, {})
        manager.keep_tokenizer(tmp_path / name, kept)
        assert door.open(str(tmp_path / name)).tokenizer.token_bytes == kept.token_bytes
    manager.keep_tokenizer(tmp_path / "second", tokenizer)
    assert door.open(str(tmp_path / "second")).tokenizer.token_bytes == tokenizer.token_bytes
    assert not (tmp_path / "second/tokenizer/token_bytes.pt").exists()
    manager.keep_tokenizer(tmp_path / "plain", tokenizer)
    assert not (tmp_path / "plain").exists()  # the base folder's will do


def test_a_ckpt_reads_its_meta_pickle(tmp_path: Path) -> None:
    text = "Hello, café!\n"
    tokenizer = Tokenizer.characters(text)
    written_ckpt(tmp_path, tokenizer.vocab_size)
    with pytest.raises(UserError, match="there is no tokenizer for it; expected tokenizer.json or meta.pkl"):
        door.open(str(tmp_path / "ckpt.pt"))
    itos = dict(enumerate(sorted(set(text))))
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"itos": itos}))
    loaded = door.open(str(tmp_path / "ckpt.pt"))
    assert [itos[id] for id in loaded.tokenizer.encode("café")] == list("café")
    assert loaded.tokenizer.decode(loaded.tokenizer.encode(text)) == text
    with pytest.raises(UserError, match="the character 'z' is none of the 12"):
        loaded.tokenizer.encode("z")
    with pytest.raises(UserError, match="no token that begins a document"):
        _ = loaded.tokenizer.bos
    assert chat.text_prompt(loaded.tokenizer, "") == loaded.tokenizer.encode("\n")
    assert Tokenizer.load(tmp_path).hash == tokenizer.hash
    tokenizer.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").tokens == tokenizer.tokens


@pytest.mark.parametrize("name, said", [
    ("nowhere", "there is no model 'nowhere'; expected a stage"),
    ("sft:d4:last", "sft:d4:last names no checkpoint"),
    ("sft:d4", "no sft checkpoint"),
    ("{tmp}", "holds nothing; expected a folder with"),
    ("./gone", "there is no model './gone'"),
    ("out/ckpt.pt", "the file out/ckpt.pt is missing; train a model first"),
    ("./out/ckpt.pth", "the file ./out/ckpt.pth is missing; train a model first"),
    ("{tmp}/last.pt", "last.pt is missing; train a model first"),
])  # fmt: skip
def test_a_name_that_means_nothing_is_told(name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        door.open(name.format(tmp=tmp_path))


def test_a_missing_file_is_told_with_those_beside_it(tmp_path: Path) -> None:
    for name in ("ckpt.pt", "ckpt_best.pt", "config.json"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"best_ckpt\.pt is missing; .* has ckpt\.pt, ckpt_best\.pt$"):
        door.open(str(tmp_path / "best_ckpt.pt"))


def our_checkpoint(folder: Path, tokenizer: Tokenizer, step: int = 5) -> Path:
    manager.save(folder, step, served.random_model(tokenizer), None, {"tokenizer_hash": tokenizer.hash})
    tokenizer.save(folder / "tokenizer")
    return folder


@pytest.mark.parametrize("name, tag, step, found", [
    ("sft", None, None, 7), ("sft", "d1", 5, 5), ("sft:d1", None, None, 7), ("sft:d1", None, 5, 5),
    ("sft:d1:5", None, None, 5), ("{folder}", None, None, 7), ("{folder}", None, 5, 5),
    ("resume", None, None, 7),
])  # fmt: skip
def test_a_name_finds_a_checkpoint_without_its_weights(
    name: str, tag: str | None, step: int | None, found: int, tokenizer: Tokenizer
) -> None:
    folder = our_checkpoint(checkpoints_dir("sft") / "d1", tokenizer)
    our_checkpoint(folder, tokenizer, 7)
    (folder / f"model_{found:06d}.pt").write_bytes(b"damaged")
    model = door.find(name.format(folder=folder), tag, step, out_dir=folder)
    assert (model.kind, model.folder, model.source, model.tag, model.step) == ("nanochat", folder, "sft", "d1", found)
    assert model.meta["step"] == found and str(model) == f"sft d1, step {found} of {folder}"
    with pytest.raises(UserError, match=f"model_{found:06d}.pt is damaged"):
        model.load()


# ---------------------------------------------------------------- files that say what is not so


def with_meta(folder: Path, **changes: object) -> None:
    meta = manager.read_meta(folder, 5)
    meta["model_config"] |= changes.pop("model_config", {}) if isinstance(changes.get("model_config"), dict) else {}
    (folder / "meta_000005.json").write_text(json.dumps({**meta, **changes}), encoding="utf-8")


@pytest.mark.parametrize("changes, said", [
    ({"format": 3}, "has the format 3; this version knows 2"),
    ({"format": True}, "has the format True"),
    ({"model_config": {"flux": 1}}, "its configuration has flux, which this version does not know"),
    ({"model_config": [1]}, "has no model_config"),
    ({"files": ["model_000005.pt"]}, r"its files is \['model_000005.pt'\]"),
    ({"files": {"model_000005.pt": {"size": 7}}}, "it has no size and sha256 of 'model_000005.pt'"),
    ({"files": {"model_000005.pt": {"size": "x", "sha256": []}}}, "bytes, x expected"),
    ({"tokenizer_hash": 12}, "its tokenizer_hash is 12"),
    ({"source": ["sft"]}, r"its source is \['sft'\]"),
    ({"user_config": "sft"}, "its user_config is 'sft'"),
    ({"model_config": {"n_layer": 5000}}, "claims 5000 layers, but holds 2"),
    ({"model_config": {"n_layer": "2"}}, "claims '2' layers, but holds 2"),
    ({"model_config": {"n_embd": 1 << 20}}, "does not fit its architecture"),
    ({"model_config": {"activation": "swish"}}, "activation is 'swish', expected one of relu2"),
    ({"model_config": {"qk_scale": "1"}}, "qk_scale is '1', expected a value such as 1.2"),
    ({"model_config": {"smear": 1}}, "smear is 1, expected a value such as True"),
])  # fmt: skip
def test_a_meta_file_that_lies_is_one_sentence(changes: dict, said: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    with_meta(our_checkpoint(tmp_path, tokenizer), **changes)
    with pytest.raises(UserError, match=said) as error:
        door.open(str(tmp_path))
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("kind", ["ckpt", "gpt2", "early nanochat"])
def test_layers_are_counted_before_they_are_built(kind: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(tmp_path)
    claimed = 10**13  # no machine could make as many
    if kind == "ckpt":
        path = written_ckpt(tmp_path, 320)
        content = torch.load(path, weights_only=True)
        content["model_args"]["n_layer"] = claimed
        torch.save(content, path)
        path.with_name("ckpt.pt.sha256").unlink(missing_ok=True)
    elif kind == "early nanochat":
        c = reference.GENERATIONS["11 to 15 January 2026"]
        weights = reference.draw_nanochat(c)
        del weights["x0_lambdas"]  # as files of a few days, whose layers are counted to fill them in
        reference.write_nanochat(tmp_path, replace(c, layers=claimed), weights)
    else:
        tiny_gpt2(tmp_path, tokenizer)
        config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
        (tmp_path / "config.json").write_text(json.dumps({**config, "n_layer": claimed}), encoding="utf-8")
    with pytest.raises(UserError, match=f"claims {claimed} layers, but holds"):
        door.open(str(tmp_path))


@pytest.mark.parametrize("kind, name", [
    ("ours", "meta_000005.json"), ("ours", "model_000005.pt"), ("ours", "tokenizer/tokenizer.json"),
    ("gpt2", "config.json"), ("gpt2", "model.safetensors"), ("gpt2", "tokenizer.json"), ("ckpt", "ckpt.pt"),
    ("ckpt", "meta.pkl"),
])  # fmt: skip
def test_a_pipe_is_not_opened(kind: str, name: str, tmp_path: Path, tokenizer: Tokenizer) -> None:
    if kind == "ours":
        our_checkpoint(tmp_path, tokenizer)
    elif kind == "gpt2":
        tiny_gpt2(tmp_path, tokenizer)
        tokenizer.save(tmp_path)
    else:
        written_ckpt(tmp_path, 320)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    for place in (tmp_path, tmp_path / name) if name == "ckpt.pt" else (tmp_path,):
        with pytest.raises(UserError, match=f"{name} is not a regular file"):
            door.open(str(place))


# ---------------------------------------------------------------- the flags of every script

SCRIPTS = [chat_cli, chat_web, chat_eval, base_eval, sample, inference_server, export, infer_bench]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_every_script_takes_the_same_names(script: ModuleType) -> None:
    for name in ("--source", "--init_from", "--init-from", "-i"):
        flags = parse(script.Flags, [name, "sft", "-g", "d4", "-s", "700"])
        assert flags.source in ("sft", ["sft"]) and (flags.model_tag, flags.step) == ("d4", 700)
    assert parse(script.Flags, ["--tag=d4"]).model_tag == "d4"
    with pytest.raises(UserError, match="--source and --init_from are the same flag; pass only one"):
        parse(script.Flags, ["--source=a", "--init_from", "b"])
    with pytest.raises(UserError, match="unknown flag --softcap"):
        parse(script.Flags, ["--softcap=20"])
    if script not in (chat_web, inference_server):  # which look at their port first
        with pytest.raises(UserError, match="there is no model 'sfd:d4'; expected a stage"):
            script.main(["--init_from=sfd:d4"])
