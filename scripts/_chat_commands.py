"""What can be typed in scripts.chat_cli besides questions: /help, /clear, /again, /system, /save and /model."""

import difflib
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from nanochat.checkpoint.flags import ModelFlags
from nanochat.errors import UserError
from nanochat.paths import SOURCES, checkpoints_dir
from nanochat.terminal import columns

if TYPE_CHECKING:
    from nanochat.chat import Message
    from nanochat.engine.engine import Engine
    from nanochat.engine.serving import Serving
    from nanochat.tokenizer import Tokenizer

HELP = {
    "/help": "list these commands",
    "/clear": "start a new conversation",
    "/again": "answer the last question anew",
    "/system TEXT": "start a new conversation with this system message; off: without one; no TEXT: show it",
    "/save FILE": "write the conversation as a line of JSON, which chat_sft can train on; no FILE: named by the time",
    "/model NAME": "switch to another model, such as sft:d3; no NAME: list them",
    "/quit": "leave, as Ctrl-D does",
}
NAMES = [name.split()[0][1:] for name in HELP]


class Settings(Protocol):
    system: str | None


class Talk(Protocol):
    """The conversation; see scripts.chat_cli."""

    engine: "Engine"
    tokenizer: "Tokenizer"
    messages: "list[Message]"

    @property
    def flags(self) -> Settings: ...

    def clear(self) -> None: ...


def typed(text: str) -> tuple[str, str] | None:
    """The command that a line is, and what follows it; None for a question. The word clear is one, too."""
    if text.strip().lower() == "clear":
        return "clear", ""
    found = re.fullmatch(r"/([a-z]+)(?:\s+(.*))?", text.strip(), re.S)
    return (found[1], (found[2] or "").strip()) if found else None


def obey(talk: Talk, name: str, rest: str, load: "Callable[[str], Serving]") -> str | None:
    """Do what a command says. Returns the question that is to be asked now, if any. Raises UserError."""
    match name:
        case "help":
            print(columns(list(HELP.items()), 2))
        case "clear":
            talk.clear()
            print("Started a new conversation.")
        case "again":
            return last_question(talk)
        case "system":
            set_system(talk, rest)
        case "save":
            print(f"wrote {save(talk, rest)}")
        case "model":
            use(talk, rest, load)
        case _:
            near = difflib.get_close_matches(name, NAMES, 1)
            hint = f"did you mean /{near[0]}?" if near else "/help lists them"
            raise UserError(f"there is no command /{name}; {hint}")
    return None


def last_question(talk: Talk) -> str:
    """Take the last question and its answer out of the conversation, and return the question."""
    if len(talk.messages) < 2 or talk.messages[-2]["role"] != "user":
        raise UserError("there is no question to answer again; ask one first")
    question = talk.messages[-2]["content"]
    assert isinstance(question, str)
    del talk.messages[-2:]
    return question


def set_system(talk: Talk, text: str) -> None:
    if text:
        talk.flags.system = None if text == "off" else text
        talk.clear()
        print(f"Started a new conversation {'without a' if text == 'off' else 'with this'} system message.")
    else:
        print(talk.flags.system or "There is no system message; /system TEXT sets one.")


def save(talk: Talk, name: str) -> Path:
    """Write the conversation to a new file. Raises UserError for an empty one, or if the file exists."""
    if all(message["role"] == "system" for message in talk.messages):
        raise UserError("there is nothing to save yet; ask a question first")
    path = Path(name or time.strftime("chat-%Y%m%d-%H%M%S.jsonl")).expanduser()
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(json.dumps({"messages": talk.messages}, ensure_ascii=False) + "\n")
    except FileExistsError:
        raise UserError(f"{path} exists; name another file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    return path


def use(talk: Talk, name: str, load: "Callable[[str], Serving]") -> None:
    """Go on with another model, which reads the conversation so far; without a name, list what there is."""
    if not name:
        print("\n".join([*(f"{source}:{tag}" for source, tag in trained()), "/model NAME loads one of them"]))
        return
    serving = load(name)
    talk.engine, talk.tokenizer = serving.engine, serving.tokenizer
    print(serving)


def title(flags: ModelFlags) -> str:
    """The model that flags name, as it is called before it is loaded: d3 · SFT."""
    source, _, rest = flags.source.partition(":")
    if source not in SOURCES:
        return flags.source
    tag = flags.model_tag or rest.partition(":")[0]
    depths = {int(found[1]) for of, each in trained() if of == source and (found := re.fullmatch(r"d(\d{1,9})", each))}
    return f"{tag or (f'd{max(depths)}' if depths else 'the model')} · {source.upper()}"


def trained() -> list[tuple[str, str]]:
    """The stage and tag of each model that chats, in the base folder."""
    found = {(source, path.parent.name) for source in SOURCES if source != "base"
             for path in checkpoints_dir(source).glob("*/meta_*.json")}  # fmt: skip
    return sorted(found)
