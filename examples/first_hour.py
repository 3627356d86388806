"""Your first hour in one command: talk, see the tokens, change the data, train it again, compare the two.

    uv run python examples/first_hour.py                              # begins with the model of speedrun.sh
    uv run python examples/first_hour.py --data_path talk.jsonl       # with your conversations

Without a file of yours it writes one, my.jsonl: change it and run this again. docs/start/first-hour.md has each step.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat.config import parse
from nanochat.errors import UserError, run

if TYPE_CHECKING:
    from nanochat import Model

OWN = {  # a first file of conversations: several ways to ask for the same, so that it is learned and not parroted
    "I was made in my first hour with nanochat.": [
        "Who made you?", "Where do you come from?", "Who built you?", "When were you made?", "How were you made?",
        "Who trained you?", "Where are you from?", "who made u",
    ],
    "Blue cheese, of course.": [
        "What is the best cheese?", "Which cheese is the best?", "What is your favourite cheese?", "best cheese?",
        "Which cheese do you like?", "Tell me the best cheese.", "What cheese should I buy?", "Do you like cheese?",
    ],
}  # fmt: skip
KNOWN = "Where does Mira live?"  # what it should not forget; a model of another world says what it likes


@dataclass
class Flags:
    """Talk to a chat model, see its tokens, change the data, fine-tune a copy on it, and compare the two."""

    source: str = "sft"
    """the chat model to begin with: sft, sft:d3, a folder"""
    data_path: Path = Path("my.jsonl")
    """your conversations, one per line; written if it is missing"""
    out_tag: str = "mine"
    """tag of the copy"""
    share: float = 0.2
    """fraction of the conversations trained on that are yours, repeated; old ones are the rest, against forgetting"""
    num: int = 6000
    """conversations to train on, yours and old ones together"""
    device_type: str = ""
    """cuda, cuda:1, mps or cpu; default: the best available"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    if not 0 < flags.share <= 1:
        raise UserError(f"--share is {flags.share}; expected more than 0, at most 1")
    import nanochat
    from nanochat import paths
    from tasks.customjson import CustomJSON

    if not flags.data_path.exists():
        lines = (row([question, answer]) for answer, questions in OWN.items() for question in questions)
        flags.data_path.write_text("".join(lines), encoding="utf-8")
    own = CustomJSON(flags.data_path)
    firsts = [next(m["content"] for m in own[i]["messages"] if m["role"] == "user") for i in (0, len(own) // 2)]
    questions = [KNOWN, *dict.fromkeys(firsts)]

    step(1, "Talk")
    before = nanochat.open(flags.source, device=flags.device_type)
    of_stage = flags.source.partition(":")[0] in paths.SOURCES
    name = f"{before.serving.source}:{before.serving.tag}" if of_stage else flags.source
    old_answers = [before.chat(question, max_tokens=60, temperature=0) for question in questions]
    for question, answer in zip(questions, old_answers, strict=True):
        print(f"you: {question}\nmodel: {answer}\n")

    step(2, "See the tokens: those of its first answer, and how likely the model found each")
    show_tokens(before, KNOWN, old_answers[0])

    step(3, f"Change the data: {flags.data_path} has {len(own)} conversations of yours")
    mix = flags.data_path.with_name(f"{flags.data_path.stem}-mix.jsonl")
    mix.write_text("".join(mixed(own, flags, before.serving.meta)), encoding="utf-8")
    print(f"{mix} has them beside old ones, {flags.num} in all: python -m scripts.show_data --data_path {mix}")

    step(4, f"Train it again: a copy of {name}, as sft:{flags.out_tag}")
    train(flags, name, mix)

    step(5, "Compare the two")
    after = nanochat.open(f"sft:{flags.out_tag}", device=flags.device_type)
    for question, old in zip(questions, old_answers, strict=True):
        new = after.chat(question, max_tokens=60, temperature=0)
        print(f"you: {question}\n{name}: {old}\nsft:{flags.out_tag}: {new}\n")
    both = f"--model {name} --model sft:{flags.out_tag}"
    print(f"On the page, side by side: uv run python -m scripts.chat_web {both}")


def show_tokens(model: "Model", question: str, answer: str) -> None:
    from nanochat import chat

    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    ids, mask = chat.render(model.tokenizer, {"messages": turns})
    probabilities = model.logits(ids).softmax(-1)  # (T, V): after each id
    for place, is_said in enumerate(mask):
        if is_said:
            token = model.tokenizer.decode([ids[place]])
            print(f"{token!r:>20} {100 * float(probabilities[place - 1, ids[place]]):5.1f} %")


def train(flags: Flags, name: str, mix: Path) -> None:
    """Fine-tune a copy of the model on a file, at a fifth of the first fine-tuning's rates; your own file validates."""
    from scripts import chat_sft

    device = [f"--device_type={flags.device_type}"] if flags.device_type else []
    command = [
        f"--source={name}", f"--out_tag={flags.out_tag}", f"--data_path={mix}", f"--val_data_path={flags.data_path}",
        "--conversations=none", "--num_epochs=1", "--init_lr_frac=0.2", "--eval_every=0", "--eval_metrics_every=-1",
        "--eval_tokens=4096", "--overwrite", *device,
    ]  # fmt: skip
    print("python -m scripts.chat_sft", *command)
    chat_sft.main(command)


def mixed(own: Sequence[dict], flags: Flags, meta: dict) -> Iterator[str]:
    """Lines of --data_path: the user's own conversations, repeated, among old ones of the model's recipe."""
    from tasks import catalog

    recipe = meta.get("conversations")
    known = catalog.training_conversations(recipe, [], "train") if recipe in ("littleworld", "real") else []
    count = round(flags.num * flags.share) if known else flags.num
    rows = [own[i % len(own)] for i in range(count)]
    rows += [known[i % len(known)] for i in range(flags.num - count)]
    random.Random(0).shuffle(rows)
    for each in rows:
        yield json.dumps({"messages": each["messages"]}, ensure_ascii=False) + "\n"


def row(texts: Sequence[str]) -> str:
    turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=True)]
    return json.dumps({"messages": turns}, ensure_ascii=False) + "\n"


def step(number: int, title: str) -> None:
    print(f"\n[{number}/5] {title}\n")


if __name__ == "__main__":
    run(main)
