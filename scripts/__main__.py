"""One command for all scripts: `nanochat chat` is `python -m scripts.chat_cli`, with the same flags.

    nanochat                                    lists the commands
    nanochat base-train --help                  what a command does, and its flags
    nanochat --tyro-print-completion bash       what a shell needs to complete commands and flags (bash, zsh, fish)
"""

import difflib
import importlib
import sys
from collections.abc import Sequence

from nanochat.config import write_completion
from nanochat.errors import UserError, run, shown
from nanochat.terminal import BOLD, columns, styled

SHORT = {"chat": "chat_cli", "web": "chat_web"}  # the other commands are called as their scripts are
COMMANDS = {
    "Start here": {
        "speedrun": "from text to a chat model: every stage, one after another",
        "chat": "talk to a model in the terminal, or ask it one question",
        "web": "serve models: a chat page and an API for OpenAI's clients",
        "report": "the report card: scores, times, cost and curves",
        "plan": "memory, time and price of a run, before it is started",
    },
    "Data": {
        "add-data": "make a dataset of your own text",
        "download-data": "download a published dataset",
        "clean-data": "remove duplicates, personal data and poor text",
        "show-data": "show conversations as the model sees them",
        "make-identity": "make conversations that give a model a name",
        "make-pairs": "let a model answer, and pair its good and bad answers",
    },
    "Train": {
        "tok-train": "train the tokenizer",
        "base-train": "pretrain: learn to continue text",
        "mid-train": "go on with text and conversations together",
        "chat-sft": "fine-tune on conversations",
        "chat-dpo": "learn which of two answers is preferred",
        "chat-rl": "learn from graded answers of its own",
        "merge": "merge an adapter into its model",
    },
    "Measure": {
        "tok-eval": "compare the tokenizer's compression with others",
        "base-eval": "bits per byte, samples, CORE and other benchmarks",
        "chat-eval": "accuracy on held-out questions, task by task",
        "measure": "compare models: perplexity, speed and memory",
        "look": "look inside a model: heads, layers and neurons",
        "infer-bench": "measure how fast a model generates",
        "experiment": "run and judge an experiment with several seeds",
        "compare": "compare runs that have finished",
        "dashboard": "runs, training and models in the browser",
    },
    "Models of others": {
        "pull": "download a model from the hub",
        "push": "upload a checkpoint to the hub",
        "export": "write a model for transformers, vLLM and others",
        "download-weights": "download GPT-2",
        "verify-weights": "check that models load and write sense",
    },
    "In nanoGPT's way": {
        "prepare": "make token files of a text",
        "train": "train a GPT-2 with nanoGPT's flags",
        "sample": "continue texts with any model",
        "inference-server": "serve one model that continues texts",
    },
}


def main(argv: Sequence[str] | None = None) -> int | None:
    """Run a command, or list them all. Raises UserError for one that does not exist."""
    words = sys.argv[1:] if argv is None else [*argv]
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return None
    if words[0].startswith("--tyro-"):
        return complete(words)
    script = script_of(words[0])
    sys.argv = [f"{program()} {words[0]}", *words[1:]]  # what --help and the script's parser read
    return importlib.import_module(f"scripts.{script}").main()


def program() -> str:
    """How this program was started: as nanochat, or as a module."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.parent}" if spec is not None and spec.name.endswith(".__main__") else "nanochat"


def script_of(command: str) -> str:
    """The script of a command, which may be spelled with _ as well. Raises UserError for an unknown one."""
    names = {name: SHORT.get(name, name.replace("-", "_")) for group in COMMANDS.values() for name in group}
    spelled = command.replace("_", "-")
    if spelled in names:
        return names[spelled]
    if spelled.replace("-", "_") in names.values():  # chat_cli, as the script is called
        return spelled.replace("-", "_")
    near = difflib.get_close_matches(spelled[:100], names, 1)
    hint = f"did you mean {near[0]}?" if near else f"{program()} lists the commands"
    raise UserError(f"there is no command {shown(command)}; {hint}")


def overview() -> str:
    """All commands, each with a line."""
    rows = [(name, about) for group in COMMANDS.values() for name, about in group.items()]
    lines = iter(columns(rows, 2).splitlines())
    parts = [f"usage: {program()} COMMAND [flags]"]
    for title, group in COMMANDS.items():
        parts.append("\n".join([styled(title, BOLD), *(f"  {next(lines)}" for _ in group)]))
    return "\n\n".join([*parts, f"{program()} COMMAND --help explains a command and its flags."])


def complete(words: Sequence[str]) -> None:
    """Write what a shell needs to complete the commands and their flags. Raises UserError if no shell is named."""
    if len(words) < 2:
        raise UserError(f"{words[0]} needs the name of a shell: bash, zsh, fish or tcsh")
    names = [name for group in COMMANDS.values() for name in group]
    write_completion(
        {name: importlib.import_module(f"scripts.{script_of(name)}").Flags for name in names}, "nanochat", words
    )


def cli() -> None:
    run(main)


if __name__ == "__main__":
    cli()
