"""CORE: against transformers' GPT-2 in float64 on a bundle of the real format, its prompts, its bundle, its script."""

import functools
import http.server
import json
import math
import os
import random
import re
import struct
import sys
import threading
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import transformers
from hypothesis import given
from hypothesis import strategies as st

from nanochat.checkpoint import door, manager
from nanochat.data.shards import write_shards
from nanochat.data.task import CoreTask, Item
from nanochat.engine.engine import Engine
from nanochat.errors import UserError
from nanochat.eval import core
from nanochat.eval.core import Prompt, TaskScore
from nanochat.gpt import GPT, GPTConfig
from nanochat.paths import checkpoints_dir, dataset_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from scripts import base_eval
from tasks import core_bundle as bundle
from tests.corebundle import small_bundle, words, write_bundle, zipped
from tests.gpt2s import write_gpt2
from tests.scripted import scripted

CONTEXT = 160


# ---------------------------------------------------------------- against another implementation


class Reference:
    """transformers' GPT-2 in float64 with its own tokenizer, and CORE's definition written down once more."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = write_gpt2(folder, CONTEXT).double()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def ids(self, text: str) -> list[int]:
        ids = [self.tokenizer.eos_token_id, *self.tokenizer.encode(text)]
        return ids[:1] + ids[1:][-(CONTEXT - 1) :]

    def log_probs(self, ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return self.model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)

    def answer(self, entry: dict, lines: list[dict], index: int) -> int | bool:
        """The option that is chosen, or whether the continuation is what the model says."""
        delimiter, line = entry.get("continuation_delimiter", " "), lines[index]
        others = [other for other in lines if other is not line]
        shots = random.Random(1234 + index).sample(others, min(entry["num_fewshot"][0], len(others)))
        before = "".join(self.solved(shot, delimiter) + "\n\n" for shot in shots)
        if "choices" in line:
            texts = [self.ids(before + line["query"] + delimiter + choice) for choice in line["choices"]]
            start = 0
            while start < min(map(len, texts)) - 1 and len({ids[start] for ids in texts}) == 1:
                start += 1
            spans = [len(ids) - start for ids in texts]
        elif "context_options" in line:
            tail = delimiter + line["continuation"]
            texts = [self.ids(before + option + tail) for option in line["context_options"]]
            span = 0
            while len({ids[-span - 1] for ids in texts}) == 1:
                span += 1
            spans = [span] * len(texts)
        else:
            asked = before + line["context"].strip() + delimiter
            ids = self.ids(asked + line["continuation"])
            length = len(ids) - len(self.ids(asked.strip()))
            likely = self.log_probs(ids).argmax(dim=-1).tolist()
            return likely[-length - 1 : -1] == ids[-length:]
        means = []
        for ids, span in zip(texts, spans, strict=True):
            chosen = self.log_probs(ids)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[-span:]
            means.append(-chosen.mean().item())
        return means.index(min(means))

    def solved(self, line: dict, delimiter: str) -> str:
        if "choices" in line:
            return line["query"] + delimiter + line["choices"][line["gold"]]
        if "context_options" in line:
            return line["context_options"][line["gold"]] + delimiter + line["continuation"]
        return line["context"].strip() + delimiter + line["continuation"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def engine(reference: Reference) -> Engine:
    return Engine(door.open(str(reference.folder)).model, 4)


def said_greedily(reference: Reference, count: int) -> list[dict]:
    """Questions to half of which the model says the very answer."""
    draw = random.Random(5)
    lines: list[dict] = []
    while len(lines) < count:
        context = words(draw, 12)
        ids = reference.ids(context)
        for _ in range(3):
            ids.append(int(reference.log_probs(ids)[-1].argmax()))
        answer = reference.tokenizer.decode(ids[-3:])
        if answer.strip() == answer and reference.ids(context + answer) == ids:  # it may be no text at all
            wrong = answer[:-1] + ("a" if answer[-1] != "a" else "b")
            lines.append({"context": context, "continuation": answer if len(lines) % 2 else wrong})
    return lines


def test_each_answer_is_that_of_a_plain_computation(reference: Reference, engine: Engine, tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "bundle")
    tokenizer = Tokenizer.load(reference.folder)
    described = json.loads((folder / "core.yaml").read_text(encoding="utf-8"))
    entries = {entry["label"]: entry for entry in described["icl_tasks"]}
    greedy = said_greedily(reference, 8)
    said = {"num_fewshot": [0], "icl_task_type": "language_modeling", "continuation_delimiter": ""}
    tasks = [*bundle.read(folder).tasks,
             CoreTask("said", "language_modeling", 0, "", 0.0,
                  tuple(Item((line["context"],), (line["continuation"],), 0) for line in greedy))]  # fmt: skip
    right = {}
    for task in tasks:
        if task.label == "said":
            entry, lines = said, greedy
        else:
            entry = entries[task.label]
            text = (folder / "eval_data" / entry["dataset_uri"]).read_text(encoding="utf-8")
            lines = [json.loads(line) for line in text.splitlines()]
        items = list(task.items)
        for each in (lines, items):
            random.Random(1337).shuffle(each)
        expected = [reference.answer(entry, lines, i) for i in range(len(lines))]
        asked = [core.fitting(core.prompts(task, items, i, tokenizer), CONTEXT) for i in range(len(items))]
        assert all(options and options[0].ids[0] == tokenizer.bos for options in asked)
        if task.kind == "language_modeling":
            assert core.are_greedy(engine, [options[0] for options in asked if options]) == expected
            count = sum(expected)
        else:
            assert core.most_likely(engine, [options for options in asked if options]) == expected
            count = sum(answer == line["gold"] for answer, line in zip(expected, lines, strict=True))
        score = core.evaluate(engine, tokenizer, task)
        assert (score.n, score.correct, score.too_long) == (len(lines), count, 0)
        assert score.centered == pytest.approx((count / len(lines) - task.baseline) / (1 - task.baseline))
        right[task.label] = count
    assert right["said"] == 4 and 0 < right["hard"] < 15 and 0 < right["grad"] < 13


def test_few_shot_answers_that_the_model_is_known_to_give(tokenizer: Tokenizer) -> None:
    """The next letter of the alphabet, after examples of which there are fewer than wanted."""
    letters = [tokenizer.encode(letter)[0] for letter in "ABCDEFG"]
    engine = Engine(scripted(tokenizer, [letters], context=200), 2)
    items = tuple(Item((f"{context} say {letter}",), (answer,), 0)
                  for context, letter, answer in [("we", "A", "B"), ("you", "B", "CD"), ("they", "C", "E"),
                                                  ("all", "E", "FGA"), ("I", "D", "EFG")])  # fmt: skip
    task = CoreTask("letters", "language_modeling", 10, "", 0.0, items)
    score = core.evaluate(engine, tokenizer, task)
    assert (score.n, score.correct) == (5, 3)
    assert core.evaluate(engine, tokenizer, task, max_items=2).n == 2


# ---------------------------------------------------------------- prompts


@given(st.integers(1, 8), st.integers(0, 10), st.data())
def test_examples_are_others_and_as_many_as_there_are(tokenizer: Tokenizer, n: int, shots: int, data) -> None:
    index = data.draw(st.integers(0, n - 1))
    items = [Item((f"Q{i}?",) * 2, (f"yes{i}", f"no{i}"), i % 2) for i in range(n)]
    task = CoreTask("few", "multiple_choice", shots, " ", 0.5, tuple(items))
    texts = [tokenizer.decode(prompt.ids[1:]) for prompt in core.prompts(task, items, index, tokenizer)]
    for option, text in enumerate(texts):
        *examples, asked = text.split("\n\n")
        assert asked == f"Q{index}? {items[index].continuations[option]}"
        assert len(set(examples)) == len(examples) == min(shots, n - 1)
        solved = {f"Q{i}? {items[i].continuations[i % 2]}" for i in range(n) if i != index}
        assert set(examples) <= solved
    assert core.prompts(task, items, index, tokenizer) == core.prompts(task, items, index, tokenizer)


@given(st.integers(1, 60), st.integers(1, 59), st.integers(1, 70), st.integers(0, 1))
def test_what_is_too_long_loses_its_beginning_only(length: int, start: int, context: int, kept: int) -> None:
    prompt = Prompt(list(range(length)), min(start, length))
    fit = core.fitting([prompt], context, kept)
    continuation = prompt.ids[prompt.start :]
    if fit is None:
        assert len(continuation) + max(kept, 1) > context
        return
    [(ids, begin)] = fit
    assert ids[begin:] == continuation and begin >= 1
    assert len(ids) == min(length, context)
    assert ids[:kept] == prompt.ids[:kept]
    assert ids[kept:] == prompt.ids[length - len(ids) + kept :]


def test_the_judged_part_is_what_options_do_not_share(tokenizer: Tokenizer) -> None:
    def judged(task: CoreTask) -> list[str]:
        return [tokenizer.decode(ids[start:]) for ids, start in core.prompts(task, task.items, 0, tokenizer)]

    def task(kind, delimiter: str, contexts: tuple, continuations: tuple) -> CoreTask:
        return CoreTask("one", kind, 0, delimiter, 0.0, (Item(contexts, continuations, 0),))

    assert judged(task("multiple_choice", "\nAnswer: ", ("Q",) * 3, ("7Z", "7", "8"))) == ["7Z", "7", "8"]
    assert judged(task("multiple_choice", ":", ("Q",) * 2, ("7", "7Z"))) == ["7", "7Z"]  # not nothing, and not "Z"
    assert judged(task("schema", " ", ("7 fits", "8 fits"), ("on", "on"))) == [" fits on", " fits on"]
    assert judged(task("language_modeling", "\nAnswer: ", ("Q",), ("7Z",))) == [" 7Z"]


def test_a_continuation_longer_than_the_context_counts_as_wrong(tokenizer: Tokenizer) -> None:
    items = (Item(("Q", "R"), ("7" * 40,) * 2, 0), Item(("Q", "R"), ("7",) * 2, 0))
    model = scripted(tokenizer, [tokenizer.encode("Q") + tokenizer.encode("7")], context=16)
    score = core.evaluate(Engine(model, 1), tokenizer, CoreTask("long", "schema", 0, "", 0.5, items))
    assert (score.n, score.correct, score.too_long) == (2, 1, 1)


def test_a_model_that_says_nothing_but_nan_is_right_about_nothing(tokenizer: Tokenizer) -> None:
    model = scripted(tokenizer, [], context=32)
    assert model.lm_head is not None
    torch.nn.init.constant_(model.get_parameter("lm_head.weight"), float("nan"))
    task = CoreTask("nan", "multiple_choice", 0, " ", 0.5, (Item(("Q",) * 2, ("yes", "no"), 0),))
    assert core.evaluate(Engine(model, 1), tokenizer, task).correct == 0


def test_core_is_the_mean_of_what_guessing_does_not_explain() -> None:
    scores = [TaskScore("a", "schema", 0, 0.5, 4, 3, 0), TaskScore("b", "multiple_choice", 10, 0.62, 100, 62, 0),
              TaskScore("c", "multiple_choice", 10, 0.25, 8, 0, 0)]  # fmt: skip
    assert [score.centered for score in scores] == pytest.approx([0.5, 0.0, -1 / 3])
    assert core.core_metric(scores) == pytest.approx((0.5 - 1 / 3) / 3)


def on_a_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    loaded = door.open(str(Path(folder) / "model"))
    tasks = bundle.read(Path(folder) / "bundle").tasks
    scores = [core.evaluate(Engine(loaded.model, 2), loaded.tokenizer, task, 7) for task in tasks]
    counts = [[score.n, score.correct] for score in scores]
    Path(folder, f"{rank}.json").write_text(json.dumps(counts), encoding="utf-8")
    dist.destroy_process_group()


def test_ranks_share_the_questions(tmp_path: Path) -> None:
    write_gpt2(tmp_path / "model", CONTEXT)
    small_bundle(tmp_path / "bundle")
    mp.start_processes(on_a_rank, (str(tmp_path),), nprocs=2, start_method="fork")  # type: ignore[attr-defined]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2))
    loaded = door.open(str(tmp_path / "model"))
    alone = [core.evaluate(Engine(loaded.model, 2), loaded.tokenizer, task, 7)
             for task in bundle.read(tmp_path / "bundle").tasks]  # fmt: skip
    assert first == second == [[score.n, score.correct] for score in alone]
    assert [n for n, _ in first] == [7, 7, 7, 7, 7, 5]


# ---------------------------------------------------------------- the bundle


def test_a_zip_file_is_read_as_the_folder_that_is_in_it(tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "bundle")
    found = bundle.read(folder)
    assert [task.label for task in found.tasks] == ["easy", "hard", "wino", "grad", "lambada", "jeopardy"]
    easy, hard = found.tasks[:2]
    assert (easy.shots, easy.delimiter, easy.baseline, len(easy.items)) == (0, " ", 0.25, 12)
    assert (hard.shots, hard.delimiter, hard.baseline) == (3, "\nAnswer: ", 0.62)
    assert not found.tasks[4].items[0].contexts[0].endswith(" ")
    assert bundle.read(zipped(folder, tmp_path / "one.zip")) == found
    assert bundle.read(zipped(folder, tmp_path / "two.zip", top="")) == found
    (folder / "README").write_text("nobody reads this", encoding="utf-8")
    assert bundle.read(folder) == found
    with open(folder / "eval_data/words/easy.jsonl", "a", encoding="utf-8") as file:
        file.write("\n")
    assert bundle.read(folder).sha256 != found.sha256


CORE = {"icl_tasks": [{"label": "easy", "dataset_uri": "words/easy.jsonl", "num_fewshot": [0],
                       "icl_task_type": "multiple_choice"}]}  # fmt: skip


def changed(**settings: object) -> str:
    return json.dumps({"icl_tasks": [{**CORE["icl_tasks"][0], **settings}]})


@pytest.mark.parametrize("name, content, said", [
    ("core.yaml", "a: [", "core.yaml of the bundle is not YAML"),
    ("core.yaml", '{"icl_tasks": [{"label": "' + "a" * 9999 + '"}]}', "without label, dataset_uri"),
    ("core.yaml", "tasks: 3", "lists no tasks"),
    ("core.yaml", changed(icl_task_type="essay"), "icl_task_type of easy is 'essay'; expected multiple_choice, schema"),
    ("core.yaml", changed(num_fewshot=["many"]), "num_fewshot of easy is"),
    ("core.yaml", changed(continuation_delimiter=[1]), "the continuation_delimiter of easy is [1]; expected text"),
    ("core.yaml", changed(label="other"), "no Random baseline below 100 for other"),
    ("core.yaml", changed(dataset_uri="words/none.jsonl"), "no file eval_data/words/none.jsonl"),
    ("core.yaml", changed(dataset_uri="../../secret.jsonl"), "no file eval_data/../../secret.jsonl"),
    ("eval_meta_data.csv", "Eval Task,Random baseline\neasy,100", "no Random baseline below 100 for easy"),
    ("eval_data/words/easy.jsonl", "\n", "easy.jsonl of the bundle holds no questions"),
    ("eval_data/words/easy.jsonl", "\n{", "easy.jsonl:2 of the bundle is wrong: "),
    ("eval_data/words/easy.jsonl", "7", "expected an object with choices and query"),
    ("eval_data/words/easy.jsonl", '{"query": "q", "choices": [], "gold": 0}', "expected choices and query, of text"),
    ("eval_data/words/easy.jsonl", '{"query": "q", "choices": ["a"], "gold": 1}', "gold is 1; expected a number"),
    ("eval_data/words/easy.jsonl", "\udce9", "not UTF-8 at byte 0"),
])  # fmt: skip
def test_what_is_wrong_in_a_bundle_is_named(name: str, content: str, said: str, tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "bundle")
    (tmp_path / "secret.jsonl").write_text('{"query": "q", "choices": ["a"], "gold": 0}', encoding="utf-8")
    (folder / "core.yaml").write_text(json.dumps(CORE), encoding="utf-8")
    bundle.read(folder)
    (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    for place in (folder, zipped(folder, tmp_path / "b.zip")):
        with pytest.raises(UserError) as error:
            bundle.read(place)
        assert said in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_zip_file_that_may_take_any_memory_is_refused(method: int, tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "bundle")
    with zipfile.ZipFile(tmp_path / "odd.zip", "w", method) as archive:
        archive.write(folder / "core.yaml", "core.yaml")
    with pytest.raises(UserError, match=r"odd.zip is compressed by LZMA, bzip2 or the like; expected a deflated"):
        bundle.read(tmp_path / "odd.zip")


def test_a_zip_file_that_unpacks_to_gigabytes_fills_no_memory(tmp_path: Path, monkeypatch) -> None:
    folder = small_bundle(tmp_path / "bundle")
    (folder / "eval_data/words/easy.jsonl").write_bytes(b"\n" * (64 << 20))
    bomb = zipped(folder, tmp_path / "bomb.zip")
    # A size in the directory that is a lie does not help: no more is unpacked at once than is asked for.
    lying = bomb.read_bytes().replace(struct.pack("<L", 64 << 20), struct.pack("<L", 1000))
    (tmp_path / "lying.zip").write_bytes(lying)
    monkeypatch.setattr(bundle, "MOST", 1 << 20)
    for place, message in ((folder, "more than 1048576 bytes"), (bomb, "more than 1048576 bytes"),
                           (tmp_path / "lying.zip", "not a readable zip file")):  # fmt: skip
        tracemalloc.start()
        with pytest.raises(UserError, match=message):
            bundle.read(place)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
        tracemalloc.stop()


def test_an_answer_of_nothing_is_refused(tmp_path: Path) -> None:
    lines = [{"context": "a", "continuation": " "}]
    settings = {"num_fewshot": 0, "icl_task_type": "language_modeling"}
    with pytest.raises(UserError, match=r"lambada\.jsonl:1 of the bundle is wrong: the continuation is empty"):
        bundle.read(write_bundle(tmp_path / "bundle", {"lambada": (settings, 0, lines)}))


def test_what_is_not_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read .No such file"):
        bundle.read(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is neither a folder nor a regular file"):
        bundle.read(tmp_path / "pipe")
    (tmp_path / "text.zip").write_text("no zip", encoding="utf-8")
    with pytest.raises(UserError, match="not a readable zip file"):
        bundle.read(tmp_path / "text.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no core\.yaml"):
        bundle.read(tmp_path / "empty")
    whole = zipped(small_bundle(tmp_path / "bundle"), tmp_path / "whole.zip").read_bytes()
    (tmp_path / "damaged.zip").write_bytes(whole.replace(whole[400:420], bytes(20)))
    with pytest.raises(UserError, match="not a readable zip file"):
        bundle.read(tmp_path / "damaged.zip")
    entries = whole.index(b"PK\1\2")  # the directory, whose flags are at bytes 8 and 9 of each entry
    flagged = re.sub(rb"(?s)PK\x01\x02.{6}", lambda entry: entry[0][:8] + b"\1\0", whole[entries:])
    (tmp_path / "secret.zip").write_bytes(whole[:entries] + flagged)
    with pytest.raises(UserError, match="encrypted"):
        bundle.read(tmp_path / "secret.zip")


def test_nothing_is_written_for_a_zip_file_that_would_write_elsewhere(tmp_path: Path) -> None:
    file = zipped(small_bundle(tmp_path / "bundle"), tmp_path / "whole.zip")
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("../escaped", b"out")
        archive.writestr("/escaped", b"out")
    before = sorted(tmp_path.rglob("*"))
    assert len(bundle.read(file).tasks) == 6
    assert sorted(tmp_path.rglob("*")) == before and not (tmp_path.parent / "escaped").exists()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serves what is in tmp_path/www."""
    (tmp_path / "www").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


def test_a_bundle_is_fetched_whole_or_not_at_all(server: str, base: Path, tmp_path: Path) -> None:
    file = zipped(small_bundle(tmp_path / "bundle"), tmp_path / "www" / "b.zip")
    with pytest.raises(UserError, match="127.0.0.1, which is not public; --allow_private_urls permits it"):
        bundle.fetch(f"{server}/b.zip", None)
    with pytest.raises(UserError, match=r"has the checksum .*, expected 90a7c19e28ee.*--bundle"):
        bundle.fetch(f"{server}/b.zip", allow_private=True)
    with pytest.raises(UserError, match="--max_bytes allows 100"):
        bundle.fetch(f"{server}/b.zip", None, 100, allow_private=True)
    (tmp_path / "www" / "half.zip").write_bytes(file.read_bytes()[:900])
    with pytest.raises(UserError, match="not a readable zip file"):
        bundle.fetch(f"{server}/half.zip", None, allow_private=True)
    assert not bundle.is_here() and not list(base.glob("*"))
    bundle.fetch(f"{server}/b.zip", None, allow_private=True)
    assert bundle.is_here()
    assert bundle.read(bundle.folder()) == bundle.read(file)
    with pytest.raises(UserError, match="is not empty; move it away"):
        bundle.fetch(f"{server}/b.zip", None, allow_private=True)


# ---------------------------------------------------------------- scripts/base_eval.py

CPU = ["--device_type=cpu", "--dtype=float32", "--device_batch_size=4"]


@pytest.fixture
def trained(base: Path, tokenizer: Tokenizer) -> GPT:
    """A base checkpoint with random weights."""
    torch.manual_seed(1)
    config = GPTConfig(96, tokenizer.vocab_size, n_layer=1, n_head=2, n_kv_head=2, n_embd=32)
    model = GPT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokenizer.save(tokenizer_dir())
    manager.save(checkpoints_dir("base") / "d1", 7, model, {}, {"tokenizer_hash": tokenizer.hash})
    return model


def test_the_script_fetches_asks_and_records(
    trained: GPT, tokenizer: Tokenizer, server: str, base: Path, tmp_path: Path, capsys
) -> None:
    zipped(small_bundle(tmp_path / "bundle"), tmp_path / "www" / "b.zip")
    base_eval.main(["--eval=sample", "--num_samples=1", "--prompts", "A", "--max_new_tokens=3", *CPU])
    arguments = ["--eval=core", "--max_per_task=6", f"--bundle_url={server}/b.zip", "--allow_private_urls", *CPU]
    base_eval.main(arguments)
    said = capsys.readouterr().out
    assert f"fetching the questions of CORE from {server}/b.zip" in said
    section = json.loads((base / "report" / "base_eval.json").read_text(encoding="utf-8"))
    found = section["core"]
    engine = Engine(trained, 4)
    expected = [core.evaluate(engine, tokenizer, task, 6) for task in bundle.read(bundle.folder()).tasks]
    assert found["core"] == core.core_metric(expected)
    assert {label: task["correct"] for label, task in found["tasks"].items()} == {s.label: s.correct for s in expected}
    assert (found["max_per_task"], found["tasks"]["hard"]["shots"], found["tasks"]["jeopardy"]["n"]) == (6, 3, 5)
    table = [line.split() for line in said.splitlines()]
    assert ["CORE", f"{found['core']:.4f}"] in table
    assert ["hard", "3", "6", f"{expected[1].accuracy:.4f}", f"{expected[1].centered:.4f}"] in table
    assert [sample["prompt"] for sample in section["samples"]] == ["", "A"]  # of the first run
    assert section["seconds"] > 0 and section["flags"]["num_samples"] == 1 and section["flags"]["max_per_task"] == 6
    base_eval.main(arguments)
    assert "fetching" not in capsys.readouterr().out


def test_what_was_found_of_other_weights_is_not_kept(
    trained: GPT, tokenizer: Tokenizer, base: Path, tmp_path: Path
) -> None:
    def section(*more: str) -> dict:
        base_eval.main([*more, "--eval_tokens=64", "--num_samples=1", "--prompts", "A", "--max_new_tokens=3", *CPU])
        return json.loads((base / "report" / "base_eval.json").read_text(encoding="utf-8"))

    for name in ("one", "two"):
        write_shards((f"{name} {n} cats. " * 20 for n in range(20)), dataset_dir(name))
    small_bundle(tmp_path / "bundle")
    section("--eval=core", "--bundle", str(tmp_path / "bundle"))
    section("--eval=bpb", "--dataset=one")
    both = section("--eval=bpb", "--dataset=one", "--split=val")
    assert both["dataset"] == "one" and {"core", "train_bpb", "val_bpb"} <= both.keys()
    other = section("--eval=bpb", "--dataset=two", "--split=val")
    assert other["dataset"] == "two" and {"core", "val_bpb"} <= other.keys() and "train_bpb" not in other
    torch.nn.init.zeros_(next(trained.parameters()))
    manager.save(checkpoints_dir("base") / "d1", 7, trained, {}, {"tokenizer_hash": tokenizer.hash})
    again = section("--eval=sample")
    assert "samples" in again and not {"core", "dataset", "train_bpb", "val_bpb"} & again.keys()
    assert len(again["sha256"]) == 64


def test_other_peoples_models_are_asked_too(base: Path, tmp_path: Path, capsys) -> None:
    write_gpt2(tmp_path / "gpt2", CONTEXT)
    small_bundle(tmp_path / "bundle")
    base_eval.main(["--init_from", str(tmp_path / "gpt2"), "--eval=core", "--bundle", str(tmp_path / "bundle"), *CPU])
    said = capsys.readouterr().out
    assert "\nCORE" in said and str(tmp_path / "gpt2") in said
    assert not base.exists()  # the report is of one's own model


def test_several_models_and_texts_are_one_table(trained: GPT, base: Path, tmp_path: Path, capsys) -> None:
    """Perplexities of GPT-2s are those of transformers, window by window; a text may have several documents."""
    theirs, stride = write_gpt2(tmp_path / "gpt2", 32), 16
    write_shards((f"{n} cats. " * 20 for n in range(20)), dataset_dir("one"))
    (tmp_path / "rain.txt").write_text("the cat sat in the rain", encoding="utf-8")
    documents = [{"body": "the hat"}, {"body": "a cat and the hat. " * 12}, {"body": "x"}]
    (tmp_path / "hats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents), encoding="utf-8")
    models = ["--source", "base:d1", "--source", str(tmp_path / "gpt2")]
    texts = ["--text", str(tmp_path / "rain.txt"), "--text", str(tmp_path / "hats.jsonl"), "--column=body"]
    base_eval.main([*models, *texts, "--eval=bpb", "--dataset=one", "--split=val", "--eval_tokens=96", *CPU])
    said = capsys.readouterr().out
    table = said[said.index("\ntext ") + 1 :].splitlines()
    assert table[0].split("  ")[0] == "text" and table[0].endswith("tokens  perplexity  bits per byte")
    rows = [re.fullmatch(r"(.+?) {2,}(\S+) +(\d+) +(\S+) +(\S+)", line) for line in table[1:]]
    found = {(row[1], row[2]): (int(row[3]), float(row[4]), float(row[5])) for row in rows if row}
    names = ["base:d1", "gpt2"]
    assert [*found] == [(text, name) for text in ("one, val", "rain.txt", "hats.jsonl") for name in names]
    tokenizer = Tokenizer.load(tmp_path / "gpt2")
    content = {"rain.txt": ["the cat sat in the rain"], "hats.jsonl": [row["body"] for row in documents]}
    for text, parts in content.items():
        nll, size, count = 0.0, 0, 0
        for ids in filter(lambda ids: len(ids) > 1, map(tokenizer.encode, parts)):
            ids = ids[: 97 - count]  # --eval_tokens
            for last in range(1, len(ids)):
                first = max(0, last // stride - 1) * stride
                logits = theirs(torch.tensor([ids[first:last]])).logits[0, -1]
                nll -= logits.double().log_softmax(-1)[ids[last]].item()
            size, count = size + sum(len(tokenizer.tokens[id]) for id in ids[1:]), count + len(ids) - 1
        tokens, perplexity, bits = found[text, names[1]]
        assert tokens == count and perplexity == pytest.approx(math.exp(nll / count), rel=1e-3)
        assert bits == pytest.approx(nll / math.log(2) / size, rel=1e-3)
    section = json.loads((base / "report" / "base_eval.json").read_text(encoding="utf-8"))
    assert section["val_perplexity"] == pytest.approx(found["one, val", "base:d1"][1], abs=0.01)
    assert section["dataset"] == "one" and "train_perplexity" not in section


def test_the_harness_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # as where it is not installed
    with pytest.raises(UserError, match="--harness needs lm-evaluation-harness .*; install it with `uv sync"):
        base_eval.main(["--harness=hellaswag", *CPU])


def test_the_script_names_what_cannot_be(base: Path) -> None:
    for arguments, said in [
        (["--eval=core,essay"], "--eval 'essay' is unknown; expected some of core, bpb, sample"),
        (["--eval="], "there is nothing to do"),
        (["--init_from=gpt2", "-g", "d4"], r"a tag \(d4\) chooses a model of a stage"),
        (["--harness= "], "--harness names no task"),
        (["--harness=a", "--harness_limit=0"], "--harness_limit is 0"),
        (["--eval=core", "--bundle=nowhere"], "nowhere cannot be read"),
    ]:
        with pytest.raises(UserError, match=said):
            base_eval.main([*arguments, *CPU])
    assert not base.exists()
