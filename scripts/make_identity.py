"""Write conversations in which the model learns who it is: from templates, or through any OpenAI-compatible server."""

import hashlib
import json
import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from nanochat import chat
from nanochat.config import parse
from nanochat.errors import UserError, run
from nanochat.log import Progress
from nanochat.paths import refusal, write_text
from tasks.identity import conversations, identity_path, parse_facts

TRIES = 4  # answers of a server that are no conversation, after which it is given up


@dataclass
class Flags:
    """Write conversations in which a model learns its name and facts about itself, for mid_train and chat_sft."""

    name: str = "nanochat"
    """what the model is called"""
    facts: list[str] = field(default_factory=list)
    """what it knows of itself, such as "maker: I was made by Ada." or "I like tea."; also files with one a line"""
    num: int = 1000
    """how many conversations"""
    seed: int = 42
    """seed of the conversations"""
    base_url: str | None = None
    """have a server with OpenAI's API write them, such as http://localhost:8000/v1; its key: OPENAI_API_KEY"""
    model: str | None = None
    """model to use there"""
    workers: int = 4
    """requests at once to that server"""
    out: Path | None = None
    """the file; default: identity_conversations.jsonl in the base folder"""
    overwrite: bool = False
    """replace the file where there is one"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    for name in ("num", "workers"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name} is {getattr(flags, name)}; expected 1 or more")
    if not flags.name.strip():
        raise UserError("--name is empty; expected what the model is called")
    if (flags.base_url is None) != (flags.model is None):
        raise UserError("--base_url and --model go together: where to ask, and whom")
    out = flags.out or identity_path()
    if out.exists() and not flags.overwrite:
        raise UserError(f"{out} is there already; replace it with --overwrite, or name another with --out")
    lines = facts_from(flags.facts)
    written = conversations(flags.name, parse_facts(lines), flags.num, flags.seed)
    settings = json.dumps([flags.name, lines, flags.num, flags.seed, flags.base_url, flags.model])
    draft = out.with_name(f".{out.name}.{hashlib.sha256(settings.encode()).hexdigest()[:12]}.draft")
    if flags.base_url:
        written = asked_for(flags, lines, written, draft)
    write_text(out, "".join(json.dumps(each["messages"], ensure_ascii=False) + "\n" for each in written))
    draft.unlink(missing_ok=True)
    print(f"{len(written)} conversations of {flags.name} are in {out}")


def facts_from(given: Sequence[str]) -> list[str]:
    """Facts as they are typed, and the lines of those that are files. Raises UserError for a file that is not text."""
    lines = []
    for each in given:
        if len(each) > 200 or not Path(each).is_file():
            lines.append(each)
            continue
        try:
            lines += Path(each).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the facts in {each} ({error}); expected text in UTF-8") from error
    return lines


def asked_for(flags: Flags, facts: Sequence[str], examples: Sequence[dict], draft: Path) -> list[dict]:
    """Conversations of a server, one for each example, which tells it how to begin.

    They are kept in `draft` as they come, so that an interrupted run goes on where it was. Raises UserError for a
    server that does not answer, or with no conversation.
    """
    there = _drafted(draft)
    missing = [n for n in range(len(examples)) if n not in there]
    try:
        draft.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(draft, "a", encoding="utf-8") as kept,
            Progress(len(examples), f"asking {flags.model}", "conversations") as progress,
            ThreadPoolExecutor(flags.workers) as workers,
        ):
            progress.update(len(there))
            try:
                asked = {workers.submit(_conversation, flags, facts, examples[n], n): n for n in missing}
                for answer in as_completed(asked):
                    n = asked[answer]
                    there[n] = answer.result()
                    kept.write(json.dumps({"n": n, **there[n]}) + "\n")
                    kept.flush()
                    progress.update(len(there))
            except BaseException:
                workers.shutdown(cancel_futures=True)
                raise
    except OSError as error:
        if said := refusal(error, draft):
            raise said from error
        raise
    finally:
        if draft.exists() and draft.stat().st_size == 0:
            draft.unlink()
    return [there[n] for n in range(len(examples))]


def _drafted(path: Path) -> dict[int, dict]:
    """What an interrupted run has left; a line that was cut short is not among it, and goes."""
    if not path.exists():
        return {}
    whole, _, rest = path.read_text(encoding="utf-8").rpartition("\n")
    if rest:
        write_text(path, whole + "\n" if whole else "")
    lines = [json.loads(line) for line in whole.splitlines()]
    return {line["n"]: {"messages": line["messages"]} for line in lines}


def _conversation(flags: Flags, facts: Sequence[str], example: dict, n: int) -> dict:
    rng = random.Random(f"{flags.seed}/{n}")
    first = example["messages"][0]["content"]
    asked = f"""Write a conversation between a user and an assistant, a small language model called {flags.name}.

What is true of the assistant:
{chr(10).join(f"- {fact}" for fact in facts) or "- It was trained with nanochat, an open program."}

The user is {rng.choice(_USERS)} and begins, in their own words, with something like: {first}
The user says {rng.choice(("one thing", "two things", "three things"))}, and each time the assistant answers in
{rng.choice(("one sentence", "one or two sentences", "a short paragraph"))}, plainly and truthfully: it claims nothing
about itself that does not stand above.

Answer with JSON and nothing else: a list of messages [{{"role": "user", "content": "…"}}, {{"role": "assistant",
"content": "…"}}, …], user and assistant in turn, the assistant last."""
    reason = ""
    for attempt in range(TRIES):
        text = _completion(flags, asked, flags.seed + n + attempt * 1_000_003)
        try:
            messages = json.loads(text[text.index("[") : text.rindex("]") + 1])
            chat.check({"messages": messages})
            return {"messages": [{"role": each["role"], "content": each["content"]} for each in messages]}
        except ValueError as error:  # also what JSON raises, and a text without brackets
            reason = str(error)
    raise UserError(f"{flags.model} wrote {TRIES} times what is no conversation ({reason}); try a larger --model")


_USERS = (
    "a child", "a student", "an engineer", "a teacher", "a journalist", "somebody in a hurry", "somebody suspicious",
    "somebody who loves to chat", "somebody whose English is poor", "somebody who has never met a chatbot",
)  # fmt: skip


def _completion(flags: Flags, text: str, seed: int) -> str:
    import httpx2

    url = f"{str(flags.base_url).rstrip('/')}/chat/completions"
    key = os.environ.get("OPENAI_API_KEY")
    body = {"model": flags.model, "messages": [{"role": "user", "content": text}], "temperature": 1.0, "seed": seed}
    try:
        answer = httpx2.post(url, json=body, headers={"Authorization": f"Bearer {key}"} if key else {}, timeout=120)
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["message"]["content"])
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise UserError(f"{url} does not answer ({' '.join(str(error).split())}); check --base_url, --model and "
                        "OPENAI_API_KEY, and start again: what has come is kept") from error  # fmt: skip
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{url} does not speak OpenAI's API ({error!r}); check --base_url") from error


if __name__ == "__main__":
    run(main)
