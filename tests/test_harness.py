"""lm-evaluation-harness on the Engine: what it finds is what it finds with transformers, and what we find ourselves.

Importing the harness takes seconds, so all that needs it is in this file, and its tests import it: every worker of the
suite imports every file to see which tests it has.
"""

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import transformers
import yaml

from extras import harness
from nanochat import chat
from nanochat.checkpoint import door, manager
from nanochat.engine.engine import Engine
from nanochat.errors import UserError
from nanochat.eval import accuracy
from nanochat.gpt import GPT, GPTConfig
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from scripts import base_eval
from tasks.choices import choice, is_chosen
from tests.gpt2s import write_gpt2
from tests.scripted import scripted

CONTEXT = 64
LETTERS = "ABCD"
WORDS = "the cat hat that bell hall tell he them tin can at an ant all till then chat".split()


def asked(*arguments: tuple) -> list[Any]:
    """Requests, as far as models look at them."""
    return [SimpleNamespace(args=each, task_name="test") for each in arguments]


def words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(WORDS, k=count))


def write_tasks(folder: Path) -> Path:
    """Tasks of all the harness's kinds, with the templates of its ARC, MMLU, LAMBADA, WikiText and GSM8K."""
    draw = random.Random(3)
    folder.mkdir()
    arc = [{"question": words(draw, 4), "choices": {"text": [words(draw, 2) for _ in range(4)], "label": list(LETTERS)},
            "answerKey": draw.choice(LETTERS)} for _ in range(10)]  # fmt: skip
    mmlu = [{"question": words(draw, 5), "choices": draw.sample(WORDS, 4), "answer": draw.randrange(4)}
            for _ in range(10)]  # fmt: skip
    texts = [{"text": words(draw, count)} for count in (6, 9, 70, 120)]
    sums = [{"question": words(draw, 6), "answer": f"so\n#### {i}"} for i in range(4)]
    accuracy = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    kinds: dict[str, tuple[list[dict], dict]] = {
        "tiny_arc": (arc, {
            "output_type": "multiple_choice", "doc_to_text": "Question: {{question}}\nAnswer:",
            "doc_to_target": "{{choices.label.index(answerKey)}}", "doc_to_choice": "{{choices.text}}",
            "metric_list": [*accuracy, {**accuracy[0], "metric": "acc_norm"}]}),
        "tiny_mmlu": (mmlu, {
            "output_type": "multiple_choice", "doc_to_choice": list(LETTERS), "doc_to_target": "answer",
            "doc_to_text": "{{question}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}"
                           "\nAnswer:", "metric_list": accuracy}),
        "tiny_lambada": (texts[:2], {
            "output_type": "loglikelihood", "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
            "doc_to_target": "{{' '+text.split(' ')[-1]}}", "metric_list": accuracy}),
        "tiny_wikitext": (texts, {
            "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
            "metric_list": [{"metric": name} for name in ("word_perplexity", "bits_per_byte")]}),
        "tiny_gsm8k": (sums, {
            "output_type": "generate_until", "doc_to_text": "Question: {{question}}\nAnswer:",
            "doc_to_target": "{{answer}}", "num_fewshot": 0,
            "generation_kwargs": {"until": ["Question:"], "do_sample": False, "max_gen_toks": 12},
            "metric_list": [{**accuracy[0], "metric": "exact_match"}]}),
    }  # fmt: skip
    for name, (lines, settings) in kinds.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        source = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
        described = {"task": name, "dataset_path": "json", "dataset_kwargs": source, "test_split": "test", **settings}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    pytest.importorskip("accelerate", reason="the harness's own model needs accelerate")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("harness") / "tasks")


class Pair:
    """The same weights as the harness's transformers model and as ours, in float32."""

    def __init__(self, folder: Path) -> None:
        from lm_eval.models.huggingface import HFLM

        self.folder = folder
        model = write_gpt2(folder, CONTEXT)
        their_tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.theirs: Any = HFLM(model, tokenizer=their_tokenizer, batch_size=3)  # type: ignore[call-arg]
        loaded = door.open(str(folder))
        self.tokenizer = loaded.tokenizer
        self.engine = Engine(loaded.model, 3)
        self.ours = harness.language_model(self.engine, loaded.tokenizer)
        # They cut what they read to the context, we what is read and judged: the same with one token less.
        self.theirs._max_length = CONTEXT - 1


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(tmp_path_factory.mktemp("gpt2"))


# ---------------------------------------------------------------- beside the harness's own model


def test_loglikelihoods_are_those_of_transformers(pair: Pair) -> None:
    draw = random.Random(1)
    pairs = [(words(draw, draw.randint(1, 9)), " " + words(draw, draw.randint(1, 4))) for _ in range(20)]
    pairs += [("", "the cat"), ("the ", "cat"), ("the cat \n", "hat"), ("Éa", "ü!"), (words(draw, 60), " cat the")]
    contexts = [words(draw, count) for count in range(1, 11)]
    said = pair.ours.generate_until(asked(*((context, {"until": [], "max_gen_toks": 1}) for context in contexts)))
    pairs += zip(contexts, said, strict=True)  # what it says itself, if that encodes as it was said
    theirs = pair.theirs.loglikelihood(asked(*pairs), disable_tqdm=True)
    ours = pair.ours.loglikelihood(asked(*pairs), disable_tqdm=True)
    assert [found for found, _ in ours] == pytest.approx([found for found, _ in theirs], abs=1e-3)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert 2 <= sum(greedy for _, greedy in ours) < 20


def test_rolling_loglikelihoods_are_those_of_transformers(pair: Pair) -> None:
    draw = random.Random(2)
    texts = asked(*((words(draw, count),) for count in (1, 20, 60, 200)))
    theirs = pair.theirs.loglikelihood_rolling(texts, disable_tqdm=True)
    assert pair.ours.loglikelihood_rolling(texts, disable_tqdm=True) == pytest.approx(theirs, abs=1e-3)


def test_greedy_replies_are_those_of_transformers(pair: Pair) -> None:
    draw = random.Random(3)
    contexts = [words(draw, count) for count in (1, 5, 9, 60)]
    plain = pair.ours.generate_until(asked(*((context, {"until": [], "max_gen_toks": 16}) for context in contexts)))
    settings = [{"until": [], "max_gen_toks": 16}, {"until": plain[1][3:5], "max_new_tokens": 9, "do_sample": False},
                {"until": [plain[2][1], plain[0][2:4]], "max_gen_toks": 16, "temperature": 0.0}]  # fmt: skip
    requests = asked(*((context, each) for context in contexts for each in settings))
    pair.theirs._max_length = CONTEXT
    try:
        theirs = pair.theirs.generate_until(requests, disable_tqdm=True)
    finally:
        pair.theirs._max_length = CONTEXT - 1
    ours = pair.ours.generate_until(requests, disable_tqdm=True)
    assert ours == theirs
    assert len(ours[4]) < len(ours[3]) and len(set(ours)) > 6


def test_tasks_end_alike(pair: Pair, tasks: Path) -> None:
    """Whole tasks: every answer to every question, and all metrics."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=tasks, include_defaults=False)
    names: list[Any] = manager.all_tasks
    found: list[Any] = [simple_evaluate(model, tasks=names, task_manager=manager, bootstrap_iters=0)
                        for model in (pair.theirs, pair.ours)]  # fmt: skip
    theirs, ours = found
    measured = {(one.task, one.metric): one.value for one in harness._measured(ours)}
    assert measured == pytest.approx({(one.task, one.metric): one.value for one in harness._measured(theirs)}, rel=1e-4)
    assert len(measured) == 7
    for task, samples in ours["samples"].items():
        for sample, other in zip(samples, theirs["samples"][task], strict=True):
            assert sample["arguments"] == other["arguments"]
            for one, another in zip(sample["filtered_resps"], other["filtered_resps"], strict=True):
                if isinstance(one, tuple):
                    assert one[1] == another[1]
                    one, another = one[0], another[0]
                assert one == another if isinstance(one, str) else one == pytest.approx(another, abs=1e-3)


# ---------------------------------------------------------------- our own models


@pytest.fixture
def ours(tokenizer: Tokenizer) -> GPT:
    """A model of ours with random weights, whose documents begin with bos."""
    torch.manual_seed(1)
    model = GPT(GPTConfig(CONTEXT, tokenizer.vocab_size, n_layer=2, n_head=2, n_kv_head=2, n_embd=32))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_our_models_see_bos_before_every_text_also_one_that_was_cut(ours: GPT, tokenizer: Tokenizer) -> None:
    model = harness.language_model(Engine(ours, 2), tokenizer)
    bos = tokenizer.special(chat.BOS)

    def plainly(ids: list[int], count: int) -> float:
        with torch.no_grad():
            log_probs = ours(torch.tensor([ids]))[0].double().log_softmax(dim=-1)
        return sum(log_probs[i - 1, ids[i]].item() for i in range(len(ids) - count, len(ids)))

    long = "Tom asked Ada about the cat. " * 40
    tail = tokenizer.encode(long + " Rome")[-CONTEXT + 1 :]
    expected = [
        plainly([bos, *tokenizer.encode("The cat sleeps")], len(tokenizer.encode("The cat sleeps"))),
        plainly([bos, *tokenizer.encode("Ada Rome")], len(tokenizer.encode("Ada Rome")) - len(tokenizer.encode("Ada"))),
        plainly([bos, *tail], len(tokenizer.encode(long + " Rome")) - len(tokenizer.encode(long.rstrip()))),
    ]
    found = model.loglikelihood(asked(("", "The cat sleeps"), ("Ada ", "Rome"), (long, " Rome")))
    assert [each for each, _ in found] == pytest.approx(expected, abs=1e-3)
    assert model.loglikelihood_rolling(asked(("The cat sleeps",))) == pytest.approx(expected[:1], abs=1e-3)


class Questions:
    """Conversations that a task's `grade` judges."""

    name = "questions"

    def __init__(self, conversations: list[dict], grade) -> None:
        self.conversations = conversations
        self.grade = grade

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> dict:
        return self.conversations[index]


def found_in_chat(model: Any, folder: Path, name: str, lines: list[dict], settings: dict) -> list[dict]:
    """What the harness makes of each line of a task that is asked as in a chat."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    folder.mkdir()
    (folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    source = {"data_files": {"test": str(folder / "lines.jsonl")}, "cache_dir": str(folder / "cache")}
    described = {"task": name, "dataset_path": "json", "dataset_kwargs": source, "test_split": "test", **settings}
    (folder / "task.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    manager = TaskManager(include_path=folder, include_defaults=False)
    results: Any = simple_evaluate(model, tasks=[name], task_manager=manager, bootstrap_iters=0,
                                   apply_chat_template=True, fewshot_as_multiturn=True)  # fmt: skip
    return results["samples"][name]


def test_letters_are_chosen_as_by_chat_eval(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """MMLU's and ARC's questions in a chat: the same letter of each, also of three and where they are figures."""
    torch.manual_seed(1)
    model = GPT(GPTConfig(512, tokenizer.vocab_size, n_layer=2, n_head=2, n_kv_head=2, n_embd=32))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    engine = Engine(model, 2)
    draw = random.Random(4)
    conversations = []
    for i in range(24):
        letters = (("A", "B", "C", "D"), ("1", "2", "3", "4"), ("A", "B", "C"))[i % 3]
        options = [words(draw, 2) for _ in letters]
        conversations.append(choice(words(draw, 5), options, letters, draw.choice(letters)))
    result = accuracy.evaluate(Questions(conversations, is_chosen), engine, tokenizer)
    lines = [{"asked": each["messages"][0]["content"], "letters": each["letters"],
              "gold": each["letters"].index(each["messages"][1]["content"])} for each in conversations]  # fmt: skip
    found = found_in_chat(
        harness.language_model(engine, tokenizer), tmp_path / "task", "letters", lines,
        {"output_type": "multiple_choice", "doc_to_text": "{{asked}}", "doc_to_choice": "{{letters}}",
         "doc_to_target": "gold", "metric_list": [{"metric": "acc"}]},
    )  # fmt: skip
    assert [sample["acc"] for sample in found] == [float(example.correct) for example in result.examples]
    assert 0 < result.correct < 24
    assert found[0]["arguments"][0][0].startswith(f"{chat.BOS}{chat.USER_START}Multiple Choice question: ")


def test_a_conversation_has_its_special_tokens_and_a_users_text_has_none(tokenizer: Tokenizer) -> None:
    model = scripted(tokenizer, [[tokenizer.special(chat.ASSISTANT_START), *tokenizer.encode("Rome")]])
    ours = harness.language_model(Engine(model, 1), tokenizer)
    history = [{"role": "user", "content": f"Where? {chat.USER_END}"}]
    asks = ours.apply_chat_template(history)
    settings = {"until": [], "max_gen_toks": 20}
    assert ours.generate_until(asked((asks, settings), (f"Where?{chat.ASSISTANT_START}", settings))) == ["Rome", ""]
    begun = ours.apply_chat_template([*history, {"role": "assistant", "content": "Ro"}], add_generation_prompt=False)
    assert begun == f"{asks}Ro" and ours.generate_until(asked((begun, settings)))[0] != "Rome"
    assert ours.loglikelihood(asked((asks, "Rome"), (asks, "rome")))[0][1] is True
    with pytest.raises(UserError, match="not a conversation: there is no question to answer"):
        ours.apply_chat_template([*history, {"role": "assistant", "content": "Ro"}])


def test_samples_of_one_question_differ_and_come_again(pair: Pair) -> None:
    settings = {"until": ["\n\n"], "do_sample": True, "temperature": 1.5, "top_p": 0.9, "max_gen_toks": 8}
    requests = asked(*[("the cat", settings)] * 4)
    one = pair.ours.generate_until(requests)
    assert len(set(one)) > 2
    assert pair.ours.generate_until(requests) == one


# ---------------------------------------------------------------- what cannot be


def test_requests_that_cannot_be_met_are_named(pair: Pair) -> None:
    with pytest.raises(UserError, match="replies with num_beams, which the Engine does not have"):
        pair.ours.generate_until(asked(("a", {"until": [], "num_beams": 4, "max_gen_toks": 4})))
    with pytest.raises(UserError, match="replies of 64 tokens, the context holds 64; leave it out"):
        pair.ours.generate_until(asked(("a", {"until": [], "max_gen_toks": 64})))
    with pytest.raises(UserError, match="does not fit into the context of 64 tokens"):
        pair.ours.loglikelihood(asked(("a", " b" * 64)))


def test_unsuitable_tasks_are_named(pair: Pair, tasks: Path, tmp_path: Path) -> None:
    def run(name: str, folder: Path) -> None:
        harness.evaluate(pair.engine, pair.tokenizer, [name], include_path=folder)

    with pytest.raises(UserError, match="--harness_chat needs a model with chat tokens"):
        harness.evaluate(pair.engine, pair.tokenizer, ["tiny_arc"], as_chat=True)
    with pytest.raises(UserError, match="nowhere is not a folder"):
        run("tiny_arc", tmp_path / "nowhere")
    described = yaml.safe_load((tasks / "tiny_arc.yaml").read_text(encoding="utf-8"))
    for name, changes in {"gone": {"dataset_kwargs": {"data_files": {"test": str(tmp_path / "gone.jsonl")}}},
                          "code": {"unsafe_code": True}}.items():  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**described, "task": name, **changes}), encoding="utf-8")
    with pytest.raises(UserError, match="cannot load gone: .*") as error:
        run("gone", tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="task code runs model-written code"):
        run("code", tmp_path)


# ---------------------------------------------------------------- ranks, and scripts/base_eval.py


def on_a_rank(rank: int, folder: str, tasks: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    loaded = door.open(str(Path(folder)))
    names = ["tiny_arc", "tiny_gsm8k", "tiny_wikitext"]
    measured = harness.evaluate(Engine(loaded.model, 2), loaded.tokenizer, names, 3, Path(tasks))
    Path(folder, f"{rank}.json").write_text(json.dumps(measured), encoding="utf-8")
    dist.destroy_process_group()


def test_ranks_share_the_questions(pair: Pair, tasks: Path) -> None:
    mp.start_processes(on_a_rank, (str(pair.folder), str(tasks)), nprocs=2, start_method="fork")  # type: ignore[attr-defined]
    first, second = (json.loads((pair.folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2))
    names = ["tiny_arc", "tiny_gsm8k", "tiny_wikitext"]
    alone = harness.evaluate(pair.engine, pair.tokenizer, names, 3, tasks)
    assert second == []
    assert [one[:2] + one[4:] for one in first] == [[one.task, one.metric, one.n] for one in alone]
    assert [one[2] for one in first] == pytest.approx([one.value for one in alone], rel=1e-4)


def test_the_script_prints_a_table_and_leaves_a_section(
    ours: GPT, tokenizer: Tokenizer, tasks: Path, base: Path, capsys: pytest.CaptureFixture
) -> None:
    tokenizer.save(tokenizer_dir())
    manager.save(checkpoints_dir("base") / "d2", 7, ours, {}, {"tokenizer_hash": tokenizer.hash})
    base_eval.main(["--eval=", "--harness=tiny_mmlu,tiny_lambada", f"--harness_include_path={tasks}",
                    "--harness_limit=5", "--device_type=cpu", "--dtype=float32", "--device_batch_size=4"])  # fmt: skip
    section = json.loads((base / "report" / "base_eval.json").read_text(encoding="utf-8"))
    alone = harness.evaluate(Engine(ours, 2), tokenizer, ["tiny_mmlu", "tiny_lambada"], 5, tasks)
    assert section["harness"] == [one._asdict() for one in alone]
    [row] = [one for one in alone if one.task == "tiny_mmlu"]
    assert (row.metric, row.n) == ("acc", 5) and row.error is not None
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["tiny_mmlu", "acc", "5", f"{row.value:.4f}", "±", f"{row.error:.4f}"] in shown
