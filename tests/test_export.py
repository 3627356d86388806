"""What transformers makes of an export is the model that was exported, and what is not is never left behind."""

import dataclasses
import functools
import itertools
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gpt2s import write_gpt2, write_nanogpt
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_gpt import CLASSIC, FULL, draw

from extras.export import exporter, modeling_nanochat_gpt, to_transformers, tokenizer_json
from nanochat import chat
from nanochat.checkpoint import door, gpt2, hf, manager
from nanochat.errors import UserError
from nanochat.foreign_tokenizers import GPT2_PATTERN
from nanochat.gpt import GPT, GPTConfig
from nanochat.inspection import inspect
from nanochat.paths import base_dir, checkpoints_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from scripts import export as script

transformers = pytest.importorskip("transformers")
MODERN = {"sequence_len": 64, "short_window": 9, "long_window": 40, "pad_vocab_to": 64}
LATE = {**MODERN, "qk_scale": 1.15, "smear": False, "backout": False}
EARLY = {**LATE, "qk_scale": 1.0, "rope_base": 1e4, "rope_in_bfloat16": True, "ve_gate_channels": 32,
         "ve_gate_range": 2.0, "softcap": 20.0}  # fmt: skip
FIRST = {**EARLY, "value_embeds": False}
PLAIN = {**MODERN, **CLASSIC}
GENERATIONS = {"modern": MODERN, "late": LATE, "early": EARLY, "first": FIRST, "classic": PLAIN,
               "no softcap": {**PLAIN, "softcap": 0.0, "rope_base": 5e5, "rope_in_bfloat16": False}}  # fmt: skip
IN_PORT = ("classic", "no softcap")


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """transformers keeps the modelling files that it runs; here, not in the user's cache."""
    folder = tmp_path_factory.mktemp("modules")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(folder))
        yield folder


@functools.cache
def trained(specials: int) -> Tokenizer:
    text = "The cat sat on the warm oven; don't ask 1234 why. Кот, 猫, γάτα — 🐈!\n\n" * 8
    return Tokenizer.train(iter([text] * 4), 310, chat.SPECIALS[:specials])


NEW, OLD = functools.partial(trained, len(chat.SPECIALS)), functools.partial(trained, 9)


def loaded(features: dict, tokenizer: Tokenizer, **changes: object) -> manager.Loaded:
    config = dataclasses.replace(FULL, **{**features, "vocab_size": tokenizer.vocab_size, "n_embd": 48, **changes})
    return manager.Loaded(draw(config), tokenizer, {"model_config": dataclasses.asdict(config)}, Path("d4"), "d4", 7)


def opened(folder: Path, **options: object) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        out = model(ids)
    return out if isinstance(out, torch.Tensor) else out.logits


def likeliest(model: GPT, ids: list[int], count: int) -> list[int]:
    """A greedy continuation without a cache."""
    ids = list(ids)
    for _ in range(count):
        ids.append(int(logits(model, torch.tensor([ids]))[0, -1].argmax()))
    return ids[-count:]


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# ---------------------------------------------------------------- transformers runs it


@pytest.mark.parametrize("name", GENERATIONS)
def test_every_generation_gives_the_same_logits_and_continuation_and_comes_back(name: str, tmp_path: Path) -> None:
    torch.manual_seed(4)  # or now and then two tokens are so likely alike that rounding decides between them
    made = loaded(GENERATIONS[name], NEW())
    report = exporter.write(made, tmp_path / "out")
    if name in IN_PORT:
        theirs = opened(tmp_path / "out")
        assert type(theirs) is transformers.NanoChatForCausalLM
        ours = GPT(dataclasses.replace(made.model.config, rope_in_bfloat16=False))
        ours.load_state_dict(made.model.state_dict())
        assert ("port" in report.found[-1]) == made.model.config.rope_in_bfloat16
    else:
        theirs, ours = opened(tmp_path / "out", trust_remote_code=True), made.model
        assert report.kind == "nanochat_gpt"
    ids = torch.randint(made.tokenizer.vocab_size, (2, 60))
    assert logits(theirs, ids).shape == (2, 60, made.tokenizer.vocab_size)
    assert (logits(theirs, ids) - logits(ours, ids)).abs().max() < 1e-4
    theirs.generation_config.eos_token_id = None
    written = theirs.generate(ids[:1, :20], do_sample=False, max_new_tokens=32)
    assert written[0, 20:].tolist() == likeliest(ours, ids[0, :20].tolist(), 32)
    again = door.open(str(tmp_path / "out"))
    assert (again.model.config, again.tokenizer.hash) == (made.model.config, made.tokenizer.hash)
    exact(made.model, again.model)


@pytest.mark.parametrize("kind", ["gpt2", "nanogpt with biases", "nanogpt without"])
def test_gpt2s_are_gpt2_again(kind: str, tmp_path: Path) -> None:
    if kind == "gpt2":
        write_gpt2(tmp_path / "in")
        made = door.open(str(tmp_path / "in"))
    else:
        write_nanogpt(tmp_path / "in", "To be, or not to be: that is the question.\n")
        made = door.open(str(tmp_path / "in"))
        if kind == "nanogpt without":
            made = dataclasses.replace(made, model=draw(dataclasses.replace(made.model.config, bias=False)))
    assert made.model.config.activation == ("gelu_tanh" if kind == "gpt2" else "gelu")
    assert exporter.write(made, tmp_path / "out").kind == "gpt2"
    theirs = opened(tmp_path / "out")
    assert type(theirs) is transformers.GPT2LMHeadModel
    assert theirs.config.n_ctx == made.model.config.sequence_len  # llama.cpp's converter asks for it
    ids = torch.randint(made.tokenizer.vocab_size, (2, 32))
    assert (logits(theirs, ids) - logits(made.model, ids)).abs().max() < 1e-4


def test_a_conversation_goes_end_to_end(tmp_path: Path, modules: Path) -> None:
    """As transformers' own documentation does it: template, generate, decode."""
    made = loaded(MODERN, NEW())
    exporter.write(dataclasses.replace(made, source="sft"), tmp_path / "out")
    assert list(modules.glob("transformers_modules/*tmp*")) == []  # transformers' copies to run them
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)
    theirs = opened(tmp_path / "out", trust_remote_code=True)
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": "cat"}]
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    written = theirs.generate(**asked, do_sample=False, max_new_tokens=8)[0, asked["input_ids"].size(1) :].tolist()
    expected = likeliest(made.model, chat.prompt(made.tokenizer, messages), 8)
    ends = [i for i, id in enumerate(expected) if id in chat.stop_ids(made.tokenizer)]
    assert written == (expected[: ends[0] + 1] if ends else expected)
    assert set(theirs.generation_config.eos_token_id) == chat.stop_ids(made.tokenizer)
    assert tokenizer.decode(written) == made.tokenizer.decode(written)
    assert tokenizer.model_max_length == 64
    record = hf.read_config(tmp_path / "out")["nanochat"]
    assert (record["source"], record["tag"], record["step"]) == ("sft", "d4", 7)
    assert record["tokenizer_hash"] == made.tokenizer.hash


# ---------------------------------------------------------------- the modelling file


@pytest.fixture(scope="module")
def ported() -> tuple[GPT, Any]:
    """Our model, and the modelling file's with its weights."""
    config = dataclasses.replace(FULL, **{**MODERN, "pad_vocab_to": 1})
    ours = draw(config)
    features = {name: value for name, value in dataclasses.asdict(config).items() if name not in exporter.LEFT_OUT}
    theirs = modeling_nanochat_gpt.NanoChatGPTForCausalLM(modeling_nanochat_gpt.NanoChatGPTConfig(**features))
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs.eval()


ROWS = [list(range(5)), list(range(7, 19)), list(range(20, 50))]


def test_rows_padded_on_the_left_are_what_they_are_alone(ported: tuple[GPT, Any]) -> None:
    ours, theirs = ported
    longest = max(map(len, ROWS))
    ids = torch.tensor([[3] * (longest - len(row)) + row for row in ROWS])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ROWS])
    with torch.inference_mode():
        together = theirs(ids, attention_mask=mask).logits
        written = theirs.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=16, pad_token_id=0)
    for row, alone, continued in zip(ROWS, together, written, strict=True):
        assert (alone[-len(row) :] - logits(ours, torch.tensor([row]))[0]).abs().max() < 1e-4
        assert continued[longest:].tolist() == likeliest(ours, row, 16)


def test_beams_and_drafts_find_with_the_cache_what_they_find_without(ported: tuple[GPT, Any]) -> None:
    ids = torch.tensor([ROWS[2]])
    for options in ({"num_beams": 3}, {"prompt_lookup_num_tokens": 3}):
        common = {"do_sample": False, "max_new_tokens": 16, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
        cached = ported[1].generate(ids, **common, **options)
        plain = ported[1].generate(ids, **common, **{**options, "prompt_lookup_num_tokens": None}, use_cache=False)
        assert torch.equal(cached, plain)


def test_its_loss_is_the_mean_over_the_next_tokens(ported: tuple[GPT, Any]) -> None:
    ours, theirs = ported
    ids = torch.tensor([ROWS[2]])
    with torch.inference_mode():
        expected = ours(ids[:, :-1], ids[:, 1:]).mean()
        assert abs(theirs(ids, labels=ids).loss - expected) < 1e-5


def test_hidden_states_and_attentions_are_those_of_each_layer(ported: tuple[GPT, Any]) -> None:
    ours, theirs = ported
    ids, seen = torch.tensor([ROWS[2]]), []
    hooks = [block.register_forward_hook(lambda _, inputs, out: seen.append(out)) for block in ours.transformer.h]
    expected = logits(ours, ids)
    for hook in hooks:
        hook.remove()
    with torch.inference_mode():
        assert theirs(ids).hidden_states is None
        states = theirs(ids, output_hidden_states=True).hidden_states
        last = theirs.lm_head(states[-1])
    assert len(states) == ours.config.n_layer + 1
    for ours_after, state in zip(seen[:-1], states[1:-1], strict=True):
        assert (ours_after - state).abs().max() < 1e-4
        assert (ours.config.softcap * torch.tanh(last / ours.config.softcap) - expected).abs().max() < 1e-4
    common = {"max_new_tokens": 3, "pad_token_id": 0, "return_dict_in_generate": True}
    steps = theirs.generate(ids, output_hidden_states=True, **common).hidden_states
    assert [step[0].size(1) for step in steps] == [ids.size(1), 1, 1]
    with torch.inference_mode():
        seen = theirs(ids, output_attentions=True)
    expected = inspect(ours, ids[0].tolist(), ["attention"])["attention"]
    assert len(seen.attentions) == len(expected) == ours.config.n_layer
    for own, their in zip(expected, seen.attentions, strict=True):
        assert (own - their[0]).abs().max() < 1e-5
    later = theirs.generate(ids, output_attentions=True, **common).attentions[-1]  # of a query with a cache
    assert later[0].shape == (1, ours.config.n_head, 1, ids.size(1) + 2) and abs(later[0].sum(-1) - 1).max() < 1e-5


def test_a_cache_of_another_kind_is_refused(ported: tuple[GPT, Any]) -> None:
    ids = torch.tensor([ROWS[0]])
    with pytest.raises(ValueError, match="with a DynamicCache only, not with a StaticCache"):
        ported[1].generate(ids, max_new_tokens=2, cache_implementation="static", pad_token_id=0)


# ---------------------------------------------------------------- and back


def exact(first: GPT, second: GPT) -> None:
    """The same tensors, padding rows aside, and the same logits to the bit."""
    before, after = (to_transformers.cut(model.config, model.state_dict()) for model in (first, second))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    ids = torch.arange(min(first.config.sequence_len, 200))[None] * 7 % first.config.vocab_size
    assert torch.equal(logits(first, ids), logits(second, ids))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_stored_in_the_dtype_asked_for(dtype: str, tmp_path: Path) -> None:
    made = loaded(MODERN, NEW())
    exporter.write(made, tmp_path / "out", dtype)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in stored.values()} == {f"torch.{dtype}"}
    assert opened(tmp_path / "out", trust_remote_code=True).dtype == getattr(torch, dtype)
    again = door.open(str(tmp_path / "out"))  # what is rounded once stays as it is
    exporter.write(again, tmp_path / "again", dtype)
    second = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(stored[name], second[name]) for name in stored)


def test_a_large_model_is_stored_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = loaded(MODERN, NEW())
    exporter.write(made, tmp_path / "one")
    monkeypatch.setattr(exporter, "SHARD", 100_000)
    exporter.write(made, tmp_path / "many")
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 2 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert all(path.stat().st_size < 110_000 for path in files)
    one, many = hf.tensors(tmp_path / "one"), hf.tensors(tmp_path / "many")
    assert one.keys() == many.keys() and all(torch.equal(one[name], many[name]) for name in one)


def test_what_rounding_changes_is_said_apart(tmp_path: Path) -> None:
    made = loaded(MODERN, NEW())
    found = " ".join(exporter.write(made, tmp_path / "out", "bfloat16").found)
    assert "with the weights as stored, at 64 positions" in found
    moved, others = re.search(r"rounding the weights to bfloat16 moves the logits by up to (\S+): at (\d+) of 64",
                              found).groups()  # type: ignore[union-attr]  # fmt: skip
    ids = exporter._ids(made.tokenizer, 64)
    before, after = logits(made.model, ids), logits(door.open(str(tmp_path / "out")).model, ids)
    assert float(moved) == pytest.approx((before - after).abs().max().item(), rel=0.06) and float(moved) > 1e-3
    assert int(others) == (before.argmax(-1) != after.argmax(-1)).sum()
    again = door.open(str(tmp_path / "out"))
    assert "rounding" not in " ".join(exporter.write(again, tmp_path / "again", "bfloat16").found)


# ---------------------------------------------------------------- the tokenizer


@functools.cache
def theirs_of(tokenizer: Callable[[], Tokenizer]) -> Any:
    """transformers' tokenizer from our files."""
    return read_by_transformers(tokenizer())


def read_by_transformers(tokenizer: Tokenizer) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        for name, text in tokenizer_json.files(tokenizer, 64).items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        return transformers.AutoTokenizer.from_pretrained(folder)


texts = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \n\t'sdLLve12aA,.é猫\u0301ी่\ufe0f"), max_size=60
).filter(lambda text: not any(name in text for name in chat.SPECIALS))


@given(text=texts)
@settings(max_examples=200)
def test_any_text_has_the_same_ids(text: str) -> None:
    for tokenizer in (NEW, OLD):
        assert theirs_of(tokenizer)(text)["input_ids"] == tokenizer().encode(text)
        assert theirs_of(tokenizer).decode(tokenizer().encode(text)) == text


@given(st.lists(st.binary(min_size=2, max_size=5), max_size=40, unique=True).map(tuple), st.randoms(), texts)
@settings(max_examples=40)
def test_whatever_the_merges_and_the_order_of_the_ids(tokens: tuple[bytes, ...], random: Any, text: str) -> None:
    """Also tokens that no merge reaches, and single bytes in another order, as GPT-2 has them."""
    pieces = [*(bytes([byte]) for byte in range(256)), *tokens, b"ab", b"abc", b"bc", b"aa", b"aaa"]
    random.shuffle(pieces)
    ranks = {piece: rank for rank, piece in enumerate(dict.fromkeys(pieces))}
    ours = Tokenizer(ranks, [chat.BOS])
    theirs = read_by_transformers(ours)
    for sample in (text, "aabcabcaaaa abc aaab bcaa", b" ".join(tokens).decode("utf-8", "replace")):
        assert theirs(sample)["input_ids"] == ours.encode(sample)


def test_text_that_spells_a_special_token_becomes_it_unless_split() -> None:
    """What transformers does with every tokenizer; ours never does."""
    theirs, ours = theirs_of(NEW), NEW()
    spelled = f"a{chat.USER_END}b"
    assert theirs(spelled)["input_ids"] == [*ours.encode("a"), ours.special(chat.USER_END), *ours.encode("b")]
    assert theirs(spelled, split_special_tokens=True)["input_ids"] == ours.encode(spelled)


def test_characters_have_the_same_ids_and_others_are_an_error(tmp_path: Path) -> None:
    made = loaded(MODERN, Tokenizer.characters("Ünïcödé 猫\n\t abc"))
    assert "chat template" not in " ".join(exporter.write(made, tmp_path / "out").found)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert theirs("abc\n猫 Ü")["input_ids"] == made.tokenizer.encode("abc\n猫 Ü")
    assert theirs.decode(made.tokenizer.encode("abc\n猫 Ü")) == "abc\n猫 Ü"
    with pytest.raises(Exception, match="WordLevel"):
        theirs("z")


@pytest.mark.parametrize("features", [MODERN, PLAIN, None], ids=["own", "port", "gpt2"])
def test_a_character_model_has_no_ids_of_special_tokens(features: dict | None, tmp_path: Path) -> None:
    """Those that transformers takes by default may be any character, or none."""
    if features is None:
        write_nanogpt(tmp_path / "in", "To be, or not to be: that is the question.\n")
        made = door.open(str(tmp_path / "in"))
    else:
        made = loaded(features, Tokenizer.characters("To be, or not"))
    exporter.write(made, tmp_path / "out")
    theirs = opened(tmp_path / "out", trust_remote_code=features is MODERN)
    for config in (theirs.config, theirs.generation_config):
        assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, None, None)


def test_a_special_token_that_is_also_text_is_refused() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256}
    with pytest.raises(UserError, match="has ab as text and as a special token"):
        tokenizer_json.files(Tokenizer(ranks, ["ab"]), 64)


# ---------------------------------------------------------------- the chat template


replies = texts | st.lists(  # neighbouring texts as one have other ids than each by itself
    st.tuples(st.sampled_from(["text", "python", "python_output"]), texts), max_size=4
).filter(lambda parts: all(not a == b == "text" for (a, _), (b, _) in itertools.pairwise(parts))).map(
    lambda parts: [{"type": kind, "text": text} for kind, text in parts]
)
exchanges = st.lists(st.tuples(texts, replies), min_size=1, max_size=3)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict]:
    system = draw(st.none() | texts)
    messages: list[dict] = [] if system is None else [{"role": "system", "content": system}]
    for asked, answered in draw(exchanges):
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return messages


@given(messages=conversations())
def test_conversations_have_the_same_ids(messages: list[dict]) -> None:
    for tokenizer in (NEW, OLD):
        template = functools.partial(theirs_of(tokenizer).apply_chat_template, return_dict=True)
        assert template(messages)["input_ids"] == chat.render(tokenizer(), {"messages": messages})[0]
        expected = chat.prompt(tokenizer(), messages[:-1])
        assert template(messages[:-1], add_generation_prompt=True)["input_ids"] == expected


def test_contents_in_parts_are_the_same_text() -> None:
    """vLLM hands a template lists where clients sent strings."""
    for tokenizer in (NEW, OLD):
        words = [("system", "Be kind."), ("user", "Hello "), ("assistant", "Hi."), ("user", "12 + 3?")]
        plain = [{"role": role, "content": text} for role, text in words]
        parts = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in words]
        rendered = [theirs_of(tokenizer).apply_chat_template(messages, tokenize=False) for messages in (plain, parts)]
        assert rendered[0] == rendered[1]


@pytest.mark.parametrize("roles", [["assistant"], ["user", "user"], ["user", "system"], ["user", "tool"]])
def test_turns_out_of_order_are_an_error(roles: list[str]) -> None:
    with pytest.raises(Exception, match="it is the turn of the"):
        theirs_of(NEW).apply_chat_template([{"role": role, "content": "x"} for role in roles])


# ---------------------------------------------------------------- what is not right is noticed


def change(path: Path, edit: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def nudge(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["transformer.h.1.attn.c_k.weight"][3, 3] += 0.5
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def drop(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["smear_lambda"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def cut_short(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def unmerge(folder: Path) -> None:
    change(folder / "tokenizer.json", lambda content: content["model"]["merges"].pop(0))


def untemplate(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text(encoding="utf-8").replace("END_USER -", "'' -"), encoding="utf-8")


def uncached(folder: Path) -> None:
    path = folder / "modeling_nanochat_gpt.py"
    code = path.read_text(encoding="utf-8")
    assert "if past else before" in code
    path.write_text(code.replace("if past else before", "if False else before"), encoding="utf-8")


@pytest.mark.parametrize(
    "spoil, said",
    [
        (nudge, "its logits are up to"),
        (drop, "transformers finds missing keys"),
        (cut_short, "transformers cannot load it"),
        (unmerge, "its tokenizer gives other ids for"),
        (untemplate, "its chat template gives other ids for"),
        (uncached, "its greedy continuation differs from token"),
    ],
)
def test_an_export_that_was_changed_is_found_out(spoil: Callable, said: str, tmp_path: Path) -> None:
    made = loaded(MODERN, NEW())
    exporter.write(made, tmp_path / spoil.__name__)
    exporter.verify(tmp_path / spoil.__name__, made)
    spoil(tmp_path / spoil.__name__)
    with pytest.raises(UserError, match=said):
        exporter.verify(tmp_path / spoil.__name__, made)


@pytest.mark.parametrize("features", [MODERN, PLAIN], ids=["own", "port"])
def test_an_export_with_another_tokenizer_is_not_read(features: dict, tmp_path: Path) -> None:
    made = loaded(features, NEW())
    exporter.write(made, tmp_path / "out")
    other = Tokenizer({token: id for id, token in enumerate(reversed(NEW().tokens))}, list(NEW().specials))
    for name, text in tokenizer_json.files(other, 64).items():
        (tmp_path / "out" / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"was trained with the tokenizer {NEW().hash[:12]}, but .*out holds"):
        door.open(str(tmp_path / "out"))


@pytest.mark.parametrize("style", ["hf", "nanogpt"])
@pytest.mark.parametrize("source", ["base", "rl", ""])
def test_the_stage_and_step_come_back(source: str, style: exporter.Style, tmp_path: Path) -> None:
    config = gpt2.from_nanogpt(
        {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 64, "vocab_size": NEW().vocab_size}, {}, tmp_path
    )[0]
    made = dataclasses.replace(loaded(MODERN, NEW()), source=source, model=draw(config))
    exporter.write(made, tmp_path / "out", style=style)
    again = door.open(str(tmp_path / "out"))
    assert (again.source, again.step) == (source, 7)


def test_code_is_run_only_where_it_is_ours(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    made = loaded(PLAIN, NEW())
    exporter.write(made, tmp_path / "out")
    code = f"open({str(mark)!r}, 'w')\nfrom transformers import NanoChatConfig as C, NanoChatForCausalLM as M\n"
    (tmp_path / "out" / "evil.py").write_text(code, encoding="utf-8")
    change(tmp_path / "out/config.json", lambda content: content.update(
        auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}))  # fmt: skip
    exporter.verify(tmp_path / "out", made)
    assert not mark.exists()


def test_a_model_of_nans_leaves_nothing_behind(tmp_path: Path) -> None:
    made = loaded(MODERN, NEW())
    with torch.no_grad():
        made.model.transformer.wte.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="its logits are up to nan"):
        exporter.write(made, tmp_path / "out")
    assert listing(tmp_path) == []


def test_a_full_disk_leaves_nothing_behind(small_disk: Path) -> None:
    made = loaded(MODERN, NEW(), n_embd=192, n_layer=6)
    with pytest.raises(UserError, match="the disk is full"):
        exporter.write(made, small_disk / "out")
    assert listing(small_disk) == []


@pytest.mark.parametrize("changes", [{"layer_norm": True}, {"qk_norm": False}, {"activation": "gelu"}, {"tied": True}])
def test_an_architecture_between_the_families_is_refused(changes: dict, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"neither GPT-2's nor nanochat's: its {next(iter(changes))} is"):
        exporter.write(loaded(MODERN, NEW(), **changes), tmp_path / "out")
    assert listing(tmp_path) == []


def test_a_folder_that_holds_something_is_not_written_over(tmp_path: Path) -> None:
    made = loaded(PLAIN, NEW())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it", encoding="utf-8")
    (tmp_path / "file").write_text("a file", encoding="utf-8")
    for name in ("mine", "file"):
        with pytest.raises(UserError, match=f"{name} exists and is not an export"):
            exporter.write(made, tmp_path / name, overwrite=True)
    assert listing(tmp_path) == ["file", "mine", "mine/thesis.txt"]


def test_an_export_is_replaced_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()  # empty: as good as none
    exporter.write(loaded(MODERN, NEW()), tmp_path / "out")
    with pytest.raises(UserError, match="holds an export already; .* or replace it with --overwrite"):
        exporter.write(loaded(PLAIN, NEW()), tmp_path / "out")
    exporter.write(loaded(PLAIN, NEW()), tmp_path / "out", overwrite=True)
    assert listing(tmp_path) == ["out", *(f"out/{name}" for name in (
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json"))]  # fmt: skip
    assert hf.read_config(tmp_path / "out")["model_type"] == "nanochat"


# ---------------------------------------------------------------- the programs this one grew from


def test_a_model_of_characters_goes_to_nanogpt_and_back(tmp_path: Path) -> None:
    write_nanogpt(tmp_path / "in", "To be, or not to be: that is the question.\n")
    made = door.open(str(tmp_path / "in"))
    assert exporter.write(made, tmp_path / "out", style="nanogpt").kind == "nanogpt"
    assert listing(tmp_path / "out") == ["ckpt.pt", "ckpt.pt.sha256", "meta.pkl"]
    assert (tmp_path / "out/meta.pkl").read_bytes() == (tmp_path / "in/meta.pkl").read_bytes()
    before, after = (torch.load(tmp_path / place / "ckpt.pt", weights_only=True) for place in ("in", "out"))
    assert before["model_args"] == after["model_args"] and before["config"] == after["config"]
    assert (after["iter_num"], after["best_val_loss"]) == (5, 1.5)
    assert all(torch.equal(before["model"][name], after["model"][name]) for name in before["model"])


def test_gpt2_in_nanogpt_is_told_to_differ(tmp_path: Path) -> None:
    write_gpt2(tmp_path / "in")
    report = exporter.write(door.open(str(tmp_path / "in")), tmp_path / "out", style="nanogpt")
    assert "approximates otherwise" in report.found[-1]  # nanoGPT's GELU is the exact one
    assert door.open(str(tmp_path / "out")).tokenizer.hash == Tokenizer.load(tmp_path / "in").hash


@pytest.mark.parametrize("features", [
    MODERN, {**PLAIN, "softcap": 20.0}, {**PLAIN, "rope_base": 500.0}, {**PLAIN, "key_offset": True},
    {**PLAIN, "bigram_rows": 31},
], ids=str)  # fmt: skip
def test_what_the_originals_do_not_know_is_refused(features: dict, tmp_path: Path) -> None:
    refusals = {"nanogpt": "nanoGPT knows GPT-2's architecture only", "nanochat": "does not know this architecture"}
    for style, said in refusals.items():
        with pytest.raises(UserError, match=said):
            exporter.write(loaded(features, NEW()), tmp_path / "out", style=style)  # type: ignore[arg-type]
    assert listing(tmp_path) == []


def test_classic_files_are_those_of_the_original(tmp_path: Path) -> None:
    made = loaded(PLAIN, OLD())
    exporter.write(made, tmp_path / "out", style="nanochat")
    assert listing(tmp_path / "out") == ["meta_000007.json", "model_000007.pt", "token_bytes.pt", "tokenizer.pkl"]
    meta = json.loads((tmp_path / "out/meta_000007.json").read_text(encoding="utf-8"))
    assert sorted(meta["model_config"]) == ["n_embd", "n_head", "n_kv_head", "n_layer", "sequence_len", "vocab_size"]
    assert door.open(str(tmp_path / "out")).model.config.rope_in_bfloat16
    assert b"tiktoken.core" in (tmp_path / "out/tokenizer.pkl").read_bytes()
    exact(made.model, door.open(str(tmp_path / "out")).model)


# ---------------------------------------------------------------- the command


@pytest.fixture
def checkpoint(base: Path) -> GPTConfig:
    made = loaded(PLAIN, NEW())
    made.tokenizer.save(tokenizer_dir())
    manager.save(checkpoints_dir("sft") / "d4", 700, made.model, None, {"tokenizer_hash": made.tokenizer.hash})
    return made.model.config


def test_the_command_says_what_was_found_and_what_comes_next(checkpoint: GPTConfig, capsys) -> None:
    script.main(["--source", "sft", "--tag", "d4", "--format", "hf", "--dtype", "bfloat16"])
    folder = base_dir() / "exports" / "sft-d4-000700-hf"
    said = capsys.readouterr().out
    for words in ("tokenizer: the same ids", "chat template: the same ids", "logits: within", "the same 32 tokens",
                  f"wrote {folder}", f"vllm serve {folder} --model-impl transformers"):  # fmt: skip
        assert words in said
    assert door.open(str(folder)).model.config == checkpoint
    script.main(["--source", str(folder), "--format", "nanochat", "--out", str(base_dir() / "again")])
    assert (base_dir() / "again" / "tokenizer.pkl").exists()


def test_a_folder_that_is_taken_is_noticed_first(checkpoint: GPTConfig) -> None:
    script.main(["--tag", "d4"])
    (checkpoints_dir("sft") / "d4/model_000700.pt").write_bytes(b"would be noticed while it is loaded")
    with pytest.raises(UserError, match="sft-d4-000700-hf holds an export already"):
        script.main([])


def test_the_server_is_named_with_its_model(base: Path, capsys) -> None:
    made = loaded(MODERN, NEW())
    made.tokenizer.save(tokenizer_dir())
    manager.save(checkpoints_dir("mid") / "d4", 70, made.model, None, {})
    script.main(["--source=mid", f"--out={base / 'out'}"])
    assert "  python -m scripts.chat_web --source=mid --model_tag=d4 --step=70\n" in capsys.readouterr().out
    script.main([f"--source={base / 'out'}", f"--out={base / 'again'}"])
    assert f"  python -m scripts.inference_server --init_from={base / 'again'}\n" in capsys.readouterr().out
    assert door.open(str(base / "again")).source == "mid"


def test_nanogpt_is_told_where_its_characters_go(tmp_path: Path, capsys) -> None:
    write_nanogpt(tmp_path / "in", "To be, or not to be: that is the question.\n")
    out = tmp_path / "out"
    script.main([f"--source={tmp_path / 'in'}", "--format=nanogpt", f"--out={out}"])
    said = capsys.readouterr().out
    assert f"mkdir -p data/letters && cp {out}/meta.pkl data/letters\n  python sample.py --out_dir={out}" in said
    stored = torch.load(out / "ckpt.pt", weights_only=True)
    assert stored["config"]["dataset"] == "letters"
    made = dataclasses.replace(door.open(str(out)), meta={}, tag="my model")
    exporter.write(made, tmp_path / "named", style="nanogpt")
    assert torch.load(tmp_path / "named/ckpt.pt", weights_only=True)["config"]["dataset"] == "my-model"


def test_programs_that_know_gpt2s_tokenizer_alone_are_named_for_it_alone(tmp_path: Path, capsys) -> None:
    write_gpt2(tmp_path / "in")
    for style, said, unsaid in (
        ("hf", "vllm serve", "convert_hf_to_gguf"), ("nanogpt", "scripts.sample --init_from", "python sample.py"),
    ):  # fmt: skip
        script.main([f"--source={tmp_path / 'in'}", f"--format={style}", f"--out={tmp_path / style}"])
        out = capsys.readouterr().out
        assert said in out and unsaid not in out
        made, report = door.open(str(tmp_path / "in")), exporter.Report(tmp_path, {"hf": "gpt2"}.get(style, style), [])
        ranks = {bytes([n]): n for n in range(256)} | {n.to_bytes(3, "big"): n for n in range(256, 50256)}
        as_gpt2 = Tokenizer(ranks, ["end"], GPT2_PATTERN)
        out = script.usage(report, dataclasses.replace(made, tokenizer=as_gpt2))
        assert unsaid in out


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--source", "mid"], "no mid checkpoint"),
        (["--dtype", "int3"], "--dtype is 'int3'"),
        (["--format", "gguf"], "format"),
    ],
)
def test_the_command_refuses_in_one_sentence(arguments: list[str], said: str, checkpoint: GPTConfig) -> None:
    with pytest.raises(UserError, match=said):
        script.main(arguments)
    assert not (base_dir() / "exports").exists()


def test_without_the_extra_the_sentence_names_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="exporting needs tokenizers, .* `uv sync --extra export`"):
        script.main(["--source=sft"])
