"""A prompting study: the same questions in several templates, with several numbers of examples in front (few-shot).

`Study` has every key of its YAML file. Questions are objects of a JSONL file; a template names their fields in braces.
With `choices` the answer is the most likely of them after the prompt, else what the model writes up to a line's end.
"""

import json
import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nanochat import chat
from nanochat.config_files import as_typed, built, mapping, read
from nanochat.engine.engine import Engine
from nanochat.engine.request import Request
from nanochat.engine.tools import calculator_tools
from nanochat.errors import UserError, shown
from nanochat.eval.accuracy import interval
from nanochat.tokenizer import Tokenizer

Row = Mapping[str, Any]
AT_ONCE = 64  # prompts that are scored in one call, each with every choice


@dataclass(frozen=True)
class Study:
    """The questions, and the ways to ask them."""

    data: str  # a JSONL file of questions, beside the study's file or with a path of its own
    templates: dict[str, str]  # name -> the text before an answer, as in "Q: {question}\nA:"
    answer: str = "answer"  # the field that holds the right answer
    choices: list[str] | None = None  # the answers to choose from
    shots: list[int] | None = None  # numbers of examples in front of a question; by default none
    examples: str = ""  # a JSONL file of examples; by default other questions
    seeds: list[int] | None = None  # which examples are drawn; by default 1
    limit: int = 200  # questions to ask
    max_tokens: int = 16  # of a written answer
    between: str = "\n\n"  # between examples
    chat: bool = False  # ask a chat model, with the examples as earlier turns
    title: str = ""


@dataclass(frozen=True)
class Asked:
    """The answers of a model to all questions, asked in one way; `correct` is the mean over the seeds."""

    model: str
    template: str
    shots: int
    n: int
    correct: float
    answers: list[str]  # those with the first seed

    @property
    def accuracy(self) -> float:
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, over the questions; other examples in front of the same questions make no more of them."""
        return interval(self.correct, self.n)


def load(path: Path) -> tuple[Study, list[Row], list[Row]]:
    """A study, its questions, and the examples to draw from. Raises UserError, naming the file and the key."""
    keys = {name: value for name, (value, _) in read(path).items()}
    if "templates" in keys:
        texts = mapping(keys["templates"], f"{path}: templates")
        keys["templates"] = {name: as_typed(str, text, f"{path}: templates: {name}") for name, text in texts.items()}
    study = built(Study, keys, str(path), ("templates",))
    _check(study, path)
    questions = rows(path.parent / study.data)
    examples = rows(path.parent / study.examples) if study.examples else questions
    for row in [*questions, *(examples if study.shots else [])]:
        for text in study.templates.values():
            _rendered(study, text, row, path)
    return study, questions[: study.limit], examples


def _check(study: Study, path: Path) -> None:
    if not study.templates:
        raise UserError(f"{path}: templates is empty; give it a name and a text, as in plain: 'Q: {{question}}'")
    for name in ("limit", "max_tokens"):
        if getattr(study, name) < 1:
            raise UserError(f"{path}: {name} is {getattr(study, name)}; expected 1 or more")
    if min(study.shots or [0]) < 0:
        raise UserError(f"{path}: shots has {min(study.shots or [0])}; expected 0 or more")
    if study.choices is not None and len(set(study.choices)) < 2:
        raise UserError(f"{path}: choices has {len(set(study.choices))} answers; expected two or more different ones")


def rows(path: Path) -> list[Row]:
    """The objects of a JSONL file. Raises UserError, naming the line."""
    found: list[Row] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}:{number} is not JSON ({error}); expected an object such as {{...}}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number} is {shown(row)}; expected an object such as {{...}}")
        found.append(row)
    if not found:
        raise UserError(f"{path} holds no questions; expected one object per line")
    return found


def _rendered(study: Study, template: str, row: Row, where: Path) -> tuple[str, str]:
    """A question and its answer as texts."""
    names = {name.split(".")[0].split("[")[0] for _, name, _, _ in string.Formatter().parse(template) if name}
    if missing := sorted({*names, study.answer} - row.keys()):
        raise UserError(f"{where}: a question has no field {missing[0]!r}; it has {', '.join(map(str, row))}")
    answer = str(row[study.answer])
    if study.choices is not None and answer not in study.choices:
        raise UserError(f"{where}: a question's answer is {answer!r}; expected one of {', '.join(study.choices)}")
    return template.format_map(row), answer


def ask(
    study: Study, questions: Sequence[Row], examples: Sequence[Row], model: str, engine: Engine, tokenizer: Tokenizer
) -> list[Asked]:
    """Ask a model all questions in every way. Raises UserError for a prompt that the context cannot hold."""
    found = []
    for name, template in study.templates.items():
        for shots in study.shots or [0]:
            right, answers = 0.0, []
            # Without examples all seeds ask the same.
            seeds = (study.seeds or [1]) if shots else [1]
            for seed in seeds:
                prompts = [_prompt(study, template, row, examples, shots, f"{seed} {i}", tokenizer)
                           for i, row in enumerate(questions)]  # fmt: skip
                _check_lengths(study, prompts, shots, engine)
                if study.choices:
                    joint = "" if study.chat else _joint(template)
                    given = _chosen([f"{joint}{each}" for each in study.choices], prompts, engine, tokenizer)
                else:
                    given = _written(study, prompts, engine, tokenizer)
                given = [text.strip() for text in given]
                answers = answers or given
                expected = [str(row[study.answer]) for row in questions]
                right += sum(_same(*pair) for pair in zip(given, expected, strict=True))
            found.append(Asked(model, name, shots, len(questions), right / len(seeds), answers))
    return found


def _prompt(
    study: Study, template: str, row: Row, examples: Sequence[Row], shots: int, key: str, tokenizer: Tokenizer
) -> list[int]:
    """The ids of a question with `shots` others in front of it, drawn by the key alone."""
    others = [example for example in examples if example != row]
    if len(others) < shots:
        raise UserError(f"shots is {shots}, but there are {len(others)} examples; give more, or fewer shots")
    drawn = random.Random(key).sample(others, shots)
    pairs = [(template.format_map(each), str(each[study.answer])) for each in drawn]
    question = template.format_map(row)
    if study.chat:
        turns = [{"role": role, "content": text} for pair in pairs
                 for role, text in zip(("user", "assistant"), pair, strict=True)]  # fmt: skip
        return chat.prompt(tokenizer, [*turns, {"role": "user", "content": question}])
    parts = [f"{asked}{_joint(template)}{answer}" for asked, answer in pairs]
    return chat.text_prompt(tokenizer, study.between.join([*parts, question]))


def _joint(template: str) -> str:
    """What stands between a question and its answer: a space, unless the template ends in one or in a new line."""
    return "" if template[-1:].isspace() else " "


def _check_lengths(study: Study, prompts: Sequence[list[int]], shots: int, engine: Engine) -> None:
    # A token of a choice has a character at least, but for special ones, which text never becomes.
    room = engine.max_len - (max(len(each) + 1 for each in study.choices) if study.choices else study.max_tokens)
    if (longest := max(map(len, prompts))) > room:
        raise UserError(
            f"with {shots} examples a prompt has {longest} tokens, and the context of {engine.max_len} has room for "
            f"{room}; use fewer shots, or shorter questions"
        )


def _chosen(choices: Sequence[str], prompts: Sequence[list[int]], engine: Engine, tokenizer: Tokenizer) -> list[str]:
    """The choice with the highest probability after each prompt."""
    ids = [tokenizer.encode(choice) for choice in choices]
    given = []
    for start in range(0, len(prompts), AT_ONCE):
        batch = prompts[start : start + AT_ONCE]
        scores = engine.score([prompt + choice for prompt in batch for choice in ids])
        nll = torch.stack([score[-len(ids[i % len(ids)]) :].sum() for i, score in enumerate(scores)])
        given += [choices[best] for best in nll.view(len(batch), len(ids)).argmin(dim=1).tolist()]
    return given


def _written(study: Study, prompts: Sequence[list[int]], engine: Engine, tokenizer: Tokenizer) -> list[str]:
    """The first line that the model writes after each prompt, with the most likely token every time.

    A chat model may use the calculator.
    """
    stops, tools = chat.stop_ids(tokenizer), calculator_tools(tokenizer) if study.chat else None
    requests = [Request(each, study.max_tokens, temperature=0, stop_ids=stops, tools=tools) for each in prompts]
    written: list[list[int]] = [[] for _ in prompts]
    for row, event in engine.stream(requests):
        if event.token is not None:
            written[row].append(event.token)
    return [chat.reply_text(tokenizer, ids).strip().partition("\n")[0] for ids in written]


def _same(given: str, expected: str) -> bool:
    """Whether two answers are the same but for case, a full stop at the end, and spaces."""
    one, other = (" ".join(text.casefold().split()).rstrip(".!") for text in (given, expected))
    return one == other
