"""Write conversations in which the model learns who it is: from templates, or with any OpenAI-compatible server."""

import hashlib
import json
import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from nanochat.config import parse
from nanochat.errors import UserError, run
from nanochat.paths import refusal, write_text

TRIES = 4  # requests to a server whose replies are not conversations


@dataclass
class Flags:
    """Write conversations that teach a model its name and facts about itself, for mid_train and chat_sft."""

    EXAMPLE: ClassVar = "--name Ada --num 500"

    name: str = "nanochat"
    """name of the model"""
    facts: list[str] = field(default_factory=list)
    """facts about the model, such as "maker: I was made by Ada." or "I like tea.", or files with one fact per line"""
    num: int = 1000
    """number of conversations"""
    seed: int = 42
    """seed of the conversations"""
    base_url: str | None = None
    """have an OpenAI-compatible server write them, such as http://localhost:8000/v1 (key: OPENAI_API_KEY)"""
    model: str | None = None
    """model to use on that server"""
    workers: int = 4
    """parallel requests to that server"""
    out: Path | None = None
    """output file; default: identity_conversations.jsonl in the base folder"""
    overwrite: bool = False
    """replace an existing file"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)

    from tasks.identity import conversations, identity_path, parse_facts  # slow to import

    for name in ("num", "workers"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name} is {getattr(flags, name)}; expected 1 or more")
    if not flags.name.strip():
        raise UserError("--name is empty; expected the model's name")
    if (flags.base_url is None) != (flags.model is None):
        raise UserError("--base_url and --model go together; give both or neither")
    out = flags.out or identity_path()
    if out.exists() and not flags.overwrite:
        raise UserError(f"{out} already exists; replace it with --overwrite, or name another with --out")
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
    """Facts as typed; files among them are replaced by their lines. Raises UserError for a file that is not text."""
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
    """Conversations written by a server, one per example, which suggests how to begin.

    They are appended to `draft` as they come, so that an interrupted run can be resumed. Raises UserError for a server
    that does not answer, or does not answer with conversations.
    """
    from nanochat.log import Progress

    done = _drafted(draft)
    missing = [n for n in range(len(examples)) if n not in done]
    try:
        draft.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(draft, "a", encoding="utf-8") as kept,
            Progress(len(examples), f"asking {flags.model}", "conversations") as progress,
            ThreadPoolExecutor(flags.workers) as workers,
        ):
            progress.update(len(done))
            try:
                asked = {workers.submit(_conversation, flags, facts, examples[n], n): n for n in missing}
                for answer in as_completed(asked):
                    n = asked[answer]
                    done[n] = answer.result()
                    kept.write(json.dumps({"n": n, **done[n]}) + "\n")
                    kept.flush()
                    progress.update(len(done))
            except BaseException:
                workers.shutdown(cancel_futures=True)
                raise
    except OSError as error:
        if message := refusal(error, draft):
            raise message from error
        raise
    finally:
        if draft.exists() and draft.stat().st_size == 0:
            draft.unlink()
    return [done[n] for n in range(len(examples))]


def _drafted(path: Path) -> dict[int, dict]:
    """The conversations that an interrupted run has left; a line that was cut short is removed."""
    if not path.exists():
        return {}
    whole, _, rest = path.read_text(encoding="utf-8").rpartition("\n")
    if rest:
        write_text(path, whole + "\n" if whole else "")
    lines = [json.loads(line) for line in whole.splitlines()]
    return {line["n"]: {"messages": line["messages"]} for line in lines}


def _conversation(flags: Flags, facts: Sequence[str], example: dict, n: int) -> dict:
    from nanochat import chat

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
    raise UserError(f"{flags.model} wrote no valid conversation in {TRIES} tries ({reason}); try a larger --model")


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
                        "OPENAI_API_KEY, and run it again; finished conversations are kept") from error  # fmt: skip
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{url} does not speak OpenAI's API ({error!r}); check --base_url") from error


if __name__ == "__main__":
    run(main)
