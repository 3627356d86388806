"""Looking inside a model and changing what it computes, on every kind of model that loads."""

import dataclasses
from pathlib import Path

import originals
import pytest
import test_gpt
import torch

import nanochat
from nanochat import attention, inspection
from nanochat.engine.cpu_weights import pack
from nanochat.errors import UserError
from nanochat.gpt import GPT
from tests.copying import GPT2, OURS, as_model

IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
OTHER = [3, 1, 4, 1, 7, 9, 2, 6, 5, 3, 5, 8]
KINDS = ["ours", "every feature", "gpt2-shaped", "int8", *originals.NAMES]


def model_of(kind: str, folder: Path) -> nanochat.Model:
    if kind in originals.NAMES:
        if not originals.FIXTURES.is_dir():
            pytest.skip(f"the originals' models are not at {originals.FIXTURES}")
        return nanochat.open(originals.copied(kind, folder), "cpu", "float32", slots=1)
    config = {"gpt2-shaped": GPT2, "ours": OURS}.get(kind) or dataclasses.replace(test_gpt.FULL, vocab_size=40)
    gpt = test_gpt.draw(config)
    if kind == "int8":
        pack(gpt, int8=True)
    return as_model(gpt)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> nanochat.Model:
    return model_of(request.param, tmp_path_factory.mktemp("model"))


def is_untouched(gpt: GPT) -> bool:
    hooks = [hook for module in gpt.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]
    return not hooks and all(block.attn.tap is None for block in gpt.transformer.blocks)


def test_everything_is_there_and_costs_nothing_afterwards(model: nanochat.Model) -> None:
    c, T = model.config, len(IDS)
    before = model.logits(IDS)
    seen = model.inspect(IDS)
    assert torch.equal(seen.logit_lens[-1], before) and torch.equal(model.logits(IDS), before)
    assert is_untouched(model.module)
    assert seen.ids == IDS and seen.tokens == [model.tokenizer.decode([id]) for id in IDS]
    shapes = {"attention": (c.n_head, T, T), "residual": (T, c.n_embd), "heads": (T, c.n_head, c.head_size),
              "attention_out": (T, c.n_embd), "mlp": (T, 4 * c.n_embd), "mlp_out": (T, c.n_embd),
              "logit_lens": (T, c.vocab_size)}  # fmt: skip
    for name, shape in shapes.items():
        each = getattr(seen, name)
        assert len(each) == c.n_layer + (name == "residual") and {x.shape for x in each} == {shape}, name
        assert all(x.dtype == torch.float32 and x.isfinite().all() for x in each), name
    assert model.inspect(IDS, "mlp").attention == []


def test_weights_times_values_are_what_the_kernel_gave(model: nanochat.Model) -> None:
    gpt, c, given = model.module, model.config, []
    for block in gpt.transformer.blocks:
        block.attn.tap = lambda *qkvy: given.append(qkvy) or qkvy[3]
    try:
        model.logits(IDS)
    finally:
        for block in gpt.transformer.blocks:
            block.attn.tap = None
    seen = model.inspect(IDS, ["attention", "heads"])
    places = torch.arange(len(IDS))
    for layer, (q, k, v, y) in enumerate(given):
        shares = seen.attention[layer]
        assert torch.equal(shares, attention.weights(q, k, c.window(layer))[0])
        assert (attention.mixed(shares[None], v) - y).abs().max() < 1e-5 * y.abs().max()
        assert torch.equal(seen.heads[layer], y[0].float())
        assert (shares.sum(-1) - 1).abs().max() < 1e-5
        assert (shares[:, ~attention.visible(places, places, c.window(layer))] == 0).all()


def test_the_stream_adds_up(model: nanochat.Model) -> None:
    """What a layer leaves is what it was given, scaled, and what attention and MLP add."""
    gpt, seen = model.module, model.inspect(IDS, inspection.PLACES)
    for layer in range(model.config.n_layer):
        x = seen.residual[layer]
        if model.config.lambdas:
            x = gpt.resid_lambdas[layer].detach() * x + gpt.x0_lambdas[layer].detach() * seen.residual[0]
        total = x + seen.attention_out[layer] + seen.mlp_out[layer]
        assert (total - seen.residual[layer + 1]).abs().max() < 1e-4 * total.abs().max()


@originals.fixtures
def test_gpt2_is_seen_as_transformers_sees_it(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = originals.copied("gpt2", tmp_path)
    seen = nanochat.open(folder, "cpu", "float32", slots=1).inspect(IDS)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        out = theirs(torch.tensor([IDS]), output_attentions=True, output_hidden_states=True)
        lens = [theirs.lm_head(theirs.transformer.ln_f(x))[0] for x in out.hidden_states[1:-1]]
    for mine, their in zip(seen.attention, out.attentions, strict=True):
        assert (mine - their[0]).abs().max() < 1e-5
    for mine, their in zip(seen.residual[:-1], out.hidden_states[:-1], strict=True):
        assert (mine - their[0]).abs().max() < 1e-4
    for mine, their in zip(seen.logit_lens, [*lens, out.logits[0]], strict=True):
        assert (mine - their).abs().max() < 1e-3


def test_heads_can_be_removed_and_restored(model: nanochat.Model) -> None:
    before, seen = model.logits(IDS), model.inspect(IDS, inspection.PLACES)
    with model.patch({"heads.0.1": 0.0}):
        without = model.inspect(IDS)
        assert (without.heads[0][:, 1] == 0).all() and torch.equal(without.heads[0][:, 0], seen.heads[0][:, 0])
        assert torch.equal(without.logit_lens[-1], model.logits(IDS))
        assert not torch.equal(without.logit_lens[-1], before)
        with model.patch({"heads.0.1": seen}):  # the inner one comes later
            assert torch.equal(model.logits(IDS), before)
    assert torch.equal(model.logits(IDS), before) and is_untouched(model.module)
    with model.patch({"attention.0.1": seen, "mlp.0": seen, "attention_out.1": seen, "residual.1": seen}):
        assert (model.logits(IDS) - before).abs().max() < 1e-3 * before.abs().max()


def test_with_all_of_another_text_the_model_says_what_it_says_of_that(model: nanochat.Model) -> None:
    seen, other = model.inspect(IDS, "residual"), model.inspect(OTHER, "residual")
    expected = model.logits(IDS)
    everything = {f"residual.{layer}": seen for layer in range(len(other.residual))}
    with model.patch(everything):
        assert torch.equal(model.logits(OTHER), expected)
    changed = IDS.index(9) - 1
    assert not torch.equal(model.logits(OTHER), expected)
    with model.patch(everything, positions=[-1]):  # the last token's prediction, and no other's
        patched = model.logits(OTHER)
    assert torch.allclose(patched[-1], expected[-1], atol=1e-4)
    assert torch.equal(patched[:changed], model.logits(OTHER)[:changed])
    assert not torch.allclose(patched[changed], expected[changed], atol=1e-4)


def test_attention_goes_where_a_patch_sends_it() -> None:
    model = as_model(test_gpt.draw(GPT2))
    seen = model.inspect(IDS, ["attention", "heads"])
    gpt, values = model.module, []
    gpt.transformer.blocks[0].attn.tap = lambda q, k, v, y: values.append(v[0]) or y
    model.logits(IDS)
    to_first = torch.zeros(2, len(IDS))
    to_first[:, 0] = 1
    with model.patch({"attention.0.3": to_first}, positions=[5, -1]):
        after = model.inspect(IDS, ["attention", "heads"])
    for position in (5, -1):
        assert torch.equal(after.attention[0][3, position], to_first[0])
        assert (after.heads[0][position, 3] - values[0][0, 3]).abs().max() < 1e-6
    assert torch.equal(after.heads[0][:, :3], seen.heads[0][:, :3])
    assert (after.heads[0][:5, 3] - seen.heads[0][:5, 3]).abs().max() < 1e-6


@pytest.mark.parametrize("changes, positions, expected", [
    ({"resid.0": 0.0}, None, "no 'resid.0'; expected one of residual, attention"),
    ({"residual.3": 0.0}, None, "below 2"),
    ({"mlp.0.1": 0.0}, None, "no 'mlp.0.1'"),
    ({"heads.1.4": 0.0}, None, "heads.0.0 (of a head)"),
    ({"mlp.1": torch.zeros(5)}, None, "has the shape (5,); expected (12, 128)"),
    ({"mlp.1": 0.0}, [12], "position 12 is outside the text, which has 12 tokens; expected -12 to 11"),
], ids=str)  # fmt: skip
def test_a_patch_that_does_not_fit_is_refused(changes: dict, positions: list | None, expected: str) -> None:
    model = as_model(test_gpt.draw(GPT2))
    with pytest.raises(UserError) as refused, model.patch(changes, positions):
        model.logits(IDS)
    assert expected in str(refused.value)
    assert is_untouched(model.module) and model.logits(IDS).isfinite().all()


def test_other_mistakes_are_sentences() -> None:
    model = as_model(test_gpt.draw(GPT2))
    short = model.inspect(IDS[:5], "mlp")
    with pytest.raises(UserError, match="has no heads; ask for it, as in inspect"), model.patch({"heads.0": short}):
        pass
    with pytest.raises(UserError, match="outside the inspected text, which has 5"), model.patch({"mlp.0": short}, [6]):
        pass
    with pytest.raises(UserError, match=r"shape \(5, 128\); expected \(12, 128\)"), model.patch({"mlp.0": short}):
        model.logits(IDS)
    with pytest.raises(UserError, match="what has 'atention'"):
        model.inspect(IDS, ["atention"])  # type: ignore[list-item]
    with pytest.raises(UserError, match="maximum context length is 24 tokens"):
        model.inspect(IDS * 4)
    with model.patch({"mlp.0": 0.0}):
        for call in (model.generate, model.perplexity):
            with pytest.raises(UserError, match="leave its with block first"):
                call("\u4e00\u4e01")
    assert model.generate("\u4e00\u4e01", max_tokens=2)


def test_too_much_for_the_memory_is_refused_before_it_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "memory_of", lambda device: 10_000)
    with pytest.raises(UserError, match=r"this machine has 0.0 GB; shorten the text, or ask for less"):
        as_model(test_gpt.draw(GPT2)).inspect(IDS)


def test_hooks_of_pytorch_work_on_the_module() -> None:
    """Also while text is generated, which passes by the same modules."""
    model = as_model(test_gpt.draw(OURS))
    prompt, seen = "\u4e03\u4e05", []
    plain = model.generate(prompt, max_tokens=8, temperature=0)
    block = model.module.transformer.h[0]
    handle = block.mlp.register_forward_hook(lambda module, inputs, output: seen.append(output) or output * 0)
    model.engine.forget()  # what it keeps of earlier texts was read without the hook
    without = model.generate(prompt, max_tokens=8, temperature=0)
    handle.remove()
    model.engine.forget()
    assert without != plain and model.generate(prompt, max_tokens=8, temperature=0) == plain
    assert [x.shape for x in seen] == [(1, 2, 32), *[(1, 1, 32)] * 7]


def test_a_compiled_model_is_one_graph_with_and_without_a_tap() -> None:
    gpt, graphs = test_gpt.draw(OURS), []
    compiled = torch.compile(gpt, backend=lambda graph, inputs: graphs.append(graph) or graph.forward, fullgraph=True)
    ids = torch.tensor([IDS])
    with torch.no_grad():
        expected = gpt(ids)
        assert torch.allclose(compiled(ids), expected, atol=1e-6)
        gpt.transformer.blocks[0].attn.tap = lambda q, k, v, y: y * 0
        tapped = compiled(ids)
        gpt.transformer.blocks[0].attn.tap = None
        assert torch.allclose(compiled(ids), expected, atol=1e-6) and not torch.allclose(tapped, expected)
