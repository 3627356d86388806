"""scripts.look: what it finds in models that were trained, or built, to have it."""

import base64
import json
import re
from pathlib import Path

import pytest
import test_gpt
import torch

import nanochat
from extras.look import attribution, heads, neurons, patching, probes, similarity, texts
from nanochat.errors import UserError
from nanochat.gpt import GPT
from scripts import look
from tests.copying import GPT2, LETTERS, OURS, T, as_model, sequences, trained

KINDS = {"ours": OURS, "gpt2": GPT2}
HALF = T // 2


@pytest.fixture(scope="module", params=KINDS)
def copier(request: pytest.FixtureRequest) -> nanochat.Model:
    """A model of two layers that learned to repeat, of our kind and of GPT-2's."""
    return as_model(trained(KINDS[request.param]))


@pytest.fixture(scope="module")
def gpt2() -> nanochat.Model:
    return as_model(test_gpt.draw(GPT2))


def test_a_model_that_learned_to_copy_has_induction_heads(copier: nanochat.Model) -> None:
    found = heads.head_scores(copier, rows=4)
    untrained = heads.head_scores(as_model(GPT(copier.config)), rows=4)
    best, before = (float(each.scores["induction"].max()) for each in (found, untrained))
    print(f"induction {best:.3f}, untrained {before:.3f}; loss {found.first:.2f} and {found.again:.2f} nats")
    assert before < 0.09 and found.even["induction"] < 0.07
    assert best > (0.4 if copier.config.key_offset else 0.13)  # GPT-2's way has been learned in part only by then
    assert found.again < found.first - 2 and untrained.again > untrained.first - 0.5
    assert abs(untrained.scores["previous token"].mean() - untrained.even["previous token"]) < 0.1


def test_scores_are_of_the_places_they_name() -> None:
    """A head made to look at one place scores 1 there, and 0 elsewhere."""
    model = as_model(GPT(GPT2))
    half = 6
    for kind, back in {"induction": half - 1, "duplicate token": half, "previous token": 1}.items():
        pattern = torch.zeros(4, 2 * half, 2 * half)
        for token in range(2 * half):
            pattern[:, token, max(0, token - back)] = 1
        with model.patch({"attention.1.2": pattern[2]}):
            scores = heads.head_scores(model, rows=2, length=half).scores
        assert float(scores[kind][1, 2]) > 0.999
        assert all(float(scores[other][1, 2]) < 0.2 for other in heads.KINDS if other != kind)


def test_patching_restores_a_planted_answer(copier: nanochat.Model) -> None:
    """What follows a token comes again where the token does: all of that is in the token that followed it, at first."""
    ids = sequences(1, torch.Generator().manual_seed(5), HALF)[0].tolist()[: HALF + 4]
    answer, position = ids[4], 4  # after ids[3] comes ids[4], in both halves
    wrong = next(id for id in range(len(LETTERS)) if id not in ids)
    other = [*ids[:position], wrong, *ids[position + 1 :]]
    found = patching.restored(copier, ids, other, answer, wrong)
    assert found.clean - found.other > 3
    layers = copier.config.n_layer
    if copier.config.learned_positions:  # in ours the token itself is seen again in every layer
        assert abs(found.residual[0, position] - 1) < 1e-3
        assert abs(found.residual[layers, -1] - 1) < 1e-3
    assert found.residual[layers, -1] > 0.8
    assert found.residual[0, :position].abs().max() < 1e-4  # earlier tokens are the same
    assert found.residual[layers, position].abs() < 1e-4  # after the last layer nothing moves on
    if copier.config.key_offset:  # it is an induction head that carries it
        best = divmod(int(found.heads.argmax()), copier.config.n_head)
        assert heads.head_scores(copier, rows=2).scores["induction"][best] > 0.3


def test_attribution_adds_up_and_finds_the_head(copier: nanochat.Model) -> None:
    ids = sequences(1, torch.Generator().manual_seed(6), HALF)[0].tolist()[: HALF + 4]
    found = attribution.attribute(copier, ids, ids[4])
    assert abs(found.total - found.logit) < 1e-3 * abs(found.logit)
    difference = attribution.attribute(copier, ids, ids[4], ids[7])
    assert abs(difference.total - difference.logit) < 1e-3 * abs(difference.logit)
    if copier.config.key_offset:
        best = divmod(int(difference.heads.argmax()), copier.config.n_head)
        assert heads.head_scores(copier, rows=2).scores["induction"][best] > 0.3


@pytest.mark.parametrize("config", [GPT2, OURS, test_gpt.FULL], ids=["gpt2", "ours", "every feature"])
def test_attribution_adds_up_in_any_model(config) -> None:
    model = as_model(test_gpt.draw(config))
    for position in (0, 4, -1):
        found = attribution.attribute(model, [5, 6, 7, 8, 9, 5], 3, 8, position)
        assert abs(found.total - found.logit) < 1e-3 * max(1, abs(found.logit))


def test_a_probe_finds_what_is_there_and_nothing_else(gpt2: nanochat.Model) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(LETTERS), (240, 8), generator=generator).tolist()
    given = ["".join(LETTERS[id] for id in row) for row in rows]
    planted = ["low" if row[-1] < len(LETTERS) // 2 else "high" for row in rows]  # of the last token
    vectors = probes.vectors(gpt2, given, "last")
    found = probes.probe(vectors, planted, seed=0)
    assert len(found) == gpt2.config.n_layer + 1 and found[0].held_out == 60
    assert found[0].accuracy > 0.8 and found[1].accuracy > 0.8  # the token itself
    assert all(abs(each.shuffled - 0.5) < 0.15 for each in found)
    order = torch.randperm(len(planted), generator=generator).tolist()
    assert all(each.accuracy < 0.72 for each in probes.probe(vectors, [planted[i] for i in order], seed=0))
    first = ["low" if row[0] < len(LETTERS) // 2 else "high" for row in rows]  # of which the last token knows nothing
    assert probes.probe(vectors, first, seed=0)[0].accuracy < 0.7


def test_cka_knows_a_rotation_and_tells_noise_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(500, 20, generator=generator) for _ in range(2))
    rotation = torch.linalg.qr(torch.randn(20, 20, generator=generator)).Q
    assert abs(similarity.linear_cka(x, 3 * x @ rotation + 1) - 1) < 1e-6
    assert similarity.linear_cka(x, noise) < 0.1
    a, b = (each - each.mean(0) for each in (x, x[:, :5] @ noise[:5, :7]))
    kernels = (a @ a.T, b @ b.T)  # the definition, by the kernels of the tokens
    expected = (kernels[0] * kernels[1]).sum() / (kernels[0].norm() * kernels[1].norm())
    assert abs(similarity.linear_cka(x, x[:, :5] @ noise[:5, :7]) - float(expected)) < 1e-5


def test_a_neuron_shows_where_it_answers() -> None:
    """A neuron that is built for one place is found, with that place and what it writes."""
    model = as_model(test_gpt.draw(GPT2))
    ids = [list(range(1, 20)), list(range(20, 36)), [7, 3, 9, 30, 2]]
    block, read = model.module.transformer.blocks[1], []
    handle = block.mlp.register_forward_hook(lambda module, inputs, output: read.append(inputs[0][0]))
    for each in ids:
        model.logits(each)
    handle.remove()
    places = [(text, position) for text, x in enumerate(read) for position in range(1, len(x))]
    text, position = max(places, key=lambda place: float(read[place[0]][place[1]].norm()))  # so its product is largest
    x = read[text][position]
    with torch.no_grad():
        block.mlp.c_fc.weight[5] = 10 * x
        block.mlp.c_fc.bias[5] = -9.9 * x.square().sum()
        block.mlp.c_proj.weight[:, 5] = 50 * model.module.transformer.wte.weight[17]
    found, _ = neurons.top_neurons(model, ids, count=3, examples=2)
    (own,) = (each for each in found if (each.layer, each.number) == (1, 5))
    assert (own.examples[0].text, own.examples[0].position) == (text, position)
    assert neurons.promoted(model, 1, 5)[0] == 17


# ---------------------------------------------------------------- files, and the command


def test_labelled_files(tmp_path: Path) -> None:
    lines, table = tmp_path / "a.jsonl", tmp_path / "a.csv"
    lines.write_text('{"text": "one, two", "label": 1}\n\n{"text": "three", "label": "b"}\n', encoding="utf-8")
    table.write_text('label,text\n1,"one, two"\nb,three\n', encoding="utf-8")
    assert texts.labelled(lines) == texts.labelled(table) == (["one, two", "three"], ["1", "b"])
    for content, expected in {
        '{"text": "x", "label": "a"}\n[1]': "a.jsonl:2 is not a JSON object",
        '{"text": "x"}': "a.jsonl:1 lacks a text or a label",
        '{"text": "x", "label": "a"}': "fewer than two labels",
    }.items():
        lines.write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=expected):
            texts.labelled(lines)
    table.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(UserError, match="begins with a, b; expected a first line with the columns text and label"):
        texts.labelled(table)


@pytest.fixture
def opened(gpt2: nanochat.Model, monkeypatch: pytest.MonkeyPatch) -> nanochat.Model:
    monkeypatch.setattr("nanochat.api.open", lambda *given: gpt2)
    return gpt2


def test_the_command_answers_all_it_can_on_one_page(
    opened: nanochat.Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = torch.Generator().manual_seed(3)
    lines = ["".join(LETTERS[int(id)] for id in torch.randint(40, (12,), generator=generator)) for _ in range(40)]
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines), encoding="utf-8")
    rows = [json.dumps({"text": line, "label": "<script>" if n % 2 else "b|c"}) for n, line in enumerate(lines)]
    (tmp_path / "labels.jsonl").write_text("\n".join(rows), encoding="utf-8")
    one, two = LETTERS[:9], LETTERS[:4] + LETTERS[9] + LETTERS[5:9]
    look.main(["--text", one, "--other", two, "--answer", LETTERS[1], "--wrong", LETTERS[2], "--neurons=1",
               f"--file={tmp_path / 'texts.jsonl'}", f"--labelled={tmp_path / 'labels.jsonl'}", "--rows=1",
               f"--out={tmp_path / 'o'}"])  # fmt: skip
    assert "look.html" in capsys.readouterr().out
    data = json.loads((tmp_path / "o/look.json").read_text(encoding="utf-8"))
    assert list(data) == ["model", "heads", "lens", "neurons", "similarity", "probes", "patching", "attribution"]
    last = opened.logits(one)[-1].softmax(-1)
    assert abs(data["lens"]["probability"][-1][-1] - float(last.max())) < 1e-4
    page = (tmp_path / "o/look.html").read_text(encoding="utf-8")
    pictures = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)
    assert len(pictures) == len(list((tmp_path / "o").glob("*.svg"))) == 13
    assert all(base64.b64decode(each).startswith(b"<svg") for each in pictures)
    assert "<script>" not in page and re.findall(r"(?:src|href)=\"(?!data:|#)", page) == []
    assert page.count("<h2") == 7 and "b|c" in page


@pytest.mark.parametrize("given, expected", [
    (["--what", "lens"], "--what lens needs --text"),
    (["--what", "patching", "--text", "x"], "needs --other"),
    (["--what", "probes"], "needs --labelled"),
    (["--rows=0"], "--rows is 0; expected 1 or more"),
    (["--text", LETTERS[:3], "--other", LETTERS[:4], "--wrong", LETTERS[5], "--answer", LETTERS[6]], "3 and 4 tokens"),
    (["--text", LETTERS[:3], "--other", LETTERS[1:4], "--wrong", LETTERS[5], "--answer", LETTERS[5]], "two different"),
    (["--text", LETTERS[:3], "--answer", LETTERS[:2]], "is 2 tokens of this model; expected one"),
])  # fmt: skip
def test_mistakes_are_sentences(opened: nanochat.Model, given: list[str], expected: str, tmp_path: Path) -> None:
    what = ["--what", "patching" if "--other" in given else "attribution"] if "--answer" in given else []
    with pytest.raises(UserError, match=expected):
        look.main([*given, *what, f"--out={tmp_path}"])
