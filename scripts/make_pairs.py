"""Write pairs for chat_dpo: of the answers of a model to graded questions, a right one against a wrong one."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from nanochat.checkpoint.flags import ServingFlags
from nanochat.config import parse
from nanochat.errors import UserError, run
from nanochat.paths import write_text

if TYPE_CHECKING:
    from nanochat.data.task import Task
    from nanochat.tokenizer import Tokenizer
    from nanochat.train.rollouts import Completion, Policy, Sampling

AT_ONCE = 32  # questions whose answers are sampled together


@dataclass
class Flags(ServingFlags):
    """Write pairs of a right and a wrong answer, sampled from a model, for chat_dpo."""

    EXAMPLE: ClassVar = "--source sft:d3 --num 500"

    # --- data
    task: str = "spelling|counting"
    """tasks to ask from their training questions: facts, numbers, spelling, GSM8K, ...; several joined by |"""
    num: int = 1000
    """number of pairs"""
    max_questions: int = 20000
    """most questions to ask, where the model is seldom wrong"""

    # --- generation
    num_samples: int = 8
    """answers sampled for each question; one of them has to be wrong"""
    max_new_tokens: int = 128
    """longest answer in tokens; the model's context may allow less"""
    temperature: float = 1.0
    """sampling temperature"""
    top_k: int = 0
    """sample from the k most likely tokens; 0: from all"""
    seed: int = 42
    """seed of the samples"""

    # --- output
    out: Path = Path("pairs.jsonl")
    """output file"""
    overwrite: bool = False
    """replace an existing file"""

    # --- machine
    dtype: str = "auto"
    """compute dtype: auto, float32, bfloat16 or float16"""



def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    check(flags)
    from nanochat import runtime
    from nanochat.checkpoint.manager import LoadAs
    from nanochat.engine.serving import slots_that_fit
    from nanochat.log import Progress
    from nanochat.train.rollouts import Policy, Sampling
    from scripts.chat_rl import select
    from tasks import catalog

    with runtime.start(flags.device_type, flags.dtype, flags.seed) as rt:
        if rt.world > 1:
            raise UserError("make_pairs runs on one device; start it with python, not torchrun")
        loaded = flags.find().load(LoadAs(rt.device, rt.dtype))
        rt.print(f"asking {loaded}")
        tasks = [catalog.task(name, "train") for name in select(flags.task)]
        slots = min(AT_ONCE * flags.num_samples, slots_that_fit(loaded.model.config, rt.dtype, rt.device))
        policy = Policy(loaded.model.eval(), loaded.tokenizer, slots)
        sampling = Sampling(flags.num_samples, flags.max_new_tokens, flags.temperature, flags.top_k, flags.seed)
        written: list[dict] = []
        asked = 0
        with Progress(flags.num, "pairs", "pairs") as progress:
            for asked, pair in answered(tasks, policy, sampling, flags.max_questions):
                written += [pair] if pair else []
                progress.update(len(written), questions=asked)
                if len(written) == flags.num:
                    break
    if not written:
        raise UserError(
            f"to {asked} questions no answer was wrong, so there is nothing to prefer; ask other tasks with --task, or "
            "raise --num_samples, --temperature or --max_questions"
        )
    write_text(flags.out, "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in written))
    print(f"{len(written)} pairs from {asked} questions are in {flags.out}; learn from them with")
    print(f"  python -m scripts.chat_dpo --source {flags.source} --data_path {flags.out}")


def check(flags: Flags) -> None:
    """Check the flags before anything is loaded. Raises UserError."""
    for name in ("num", "max_questions", "max_new_tokens"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name} is {getattr(flags, name)}; expected 1 or more")
    if flags.num_samples < 2:
        raise UserError(f"--num_samples is {flags.num_samples}; expected 2 or more, since answers are compared")
    if flags.temperature <= 0:
        raise UserError(f"--temperature is {flags.temperature}; expected more than 0, or all answers are the same")
    if flags.out.exists() and not flags.overwrite:
        raise UserError(f"{flags.out} already exists; replace it with --overwrite, or name another with --out")


def answered(
    tasks: "Sequence[Task]", policy: "Policy", sampling: "Sampling", questions: int
) -> "Iterator[tuple[int, dict | None]]":
    """How many questions were asked so far, and the pair that the last of them gave, or None."""
    from nanochat.train.rollouts import Prompts

    prompts = Prompts(tasks, sampling.seed)
    questions = min(questions, prompts.size)
    for start in range(0, questions, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, questions))
        dealt = [(n, *prompts[n]) for n in numbers]
        for (n, _, conversation), group in zip(dealt, policy.sample(dealt, sampling), strict=True):
            yield n + 1, pair_of(policy.tokenizer, conversation, group)


def pair_of(tokenizer: "Tokenizer", conversation: dict, group: "Sequence[Completion]") -> dict | None:
    """The first right answer and the first wrong one of a group; the reference answer where none is right.

    None where none is wrong, or where a wrong one is empty.
    """
    from nanochat import chat

    *prompt, reference = conversation["messages"]
    asked = len(chat.prompt(tokenizer, prompt))
    right, wrong = ([each for each in group if (each.reward > 0.5) is good] for good in (True, False))
    answers = [chat.reply_parts(tokenizer, each.ids[asked:]) for each in (*right[:1], *wrong)]
    chosen = answers[0] if right else reference["content"]
    said = [each for each in answers[len(right[:1]) :] if "".join(part["text"] for part in each).strip()]
    if not said:
        return None
    sides = {"chosen": chosen, "rejected": said[0]}
    return {"prompt": prompt} | {name: [{"role": "assistant", "content": _plain(text)}] for name, text in sides.items()}


def _plain(content: str | list[dict]) -> str | list[dict]:
    """A content of one text part as a string."""
    if isinstance(content, list) and len(content) == 1 and content[0]["type"] == "text":
        return content[0]["text"]
    return content


if __name__ == "__main__":
    run(main)
