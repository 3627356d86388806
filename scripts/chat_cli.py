"""Talk to a trained model in the terminal."""

import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, TextIO

from nanochat.checkpoint.flags import ServingFlags
from nanochat.config import CONFIG_FILES, alias, parse, positional
from nanochat.errors import UserError, run
from nanochat.terminal import BOLD, DIM, Wrapped, interrupts, keys_unseen, lines_typed, styled, tolerate_odd_text
from scripts import _chat_commands as commands

if TYPE_CHECKING:  # main imports these after parsing, so that --help is quick
    from nanochat import chat
    from nanochat.engine.engine import Engine
    from nanochat.engine.request import Request
    from nanochat.engine.serving import Serving
    from nanochat.engine.text import ReplyText, TextChunk
    from nanochat.runtime import Runtime
    from nanochat.tokenizer import Tokenizer


@dataclass
class Flags(ServingFlags):
    """Talk to a trained model, or ask it one question. In the conversation, /help lists what else can be typed."""

    EXAMPLE: ClassVar = '"What is 123 + 456?"'

    question: Annotated[list[str], positional] = field(default_factory=list)
    """answer this and exit; stdout gets the answer only"""
    prompt: Annotated[str | None, alias("-p")] = None
    """the same, as a flag"""
    system: str | None = None
    """system message to begin the conversation with"""

    # --- generation
    temperature: Annotated[float, alias("-t")] = 0.6
    """sampling temperature; 0 takes the most likely token"""
    top_k: Annotated[int, alias("-k")] = 50
    """sample from the k most likely tokens; 0: from all"""
    max_tokens: int = 256
    """maximum tokens of an answer"""
    seed: int | None = None
    """random seed: the same seed and questions give the same answers; default: a random one"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    question = _question(flags)
    if flags.max_tokens < 1:
        raise UserError(f"--max_tokens is {flags.max_tokens}; expected 1 or more")
    tolerate_odd_text()
    notes = sys.stdout if question is None else sys.stderr
    with contextlib.ExitStack() as stack:
        with keys_unseen():
            if notes.isatty():
                print(f"loading {commands.title(flags)} …", file=notes, flush=True)
            from nanochat import runtime

            rt = stack.enter_context(runtime.start(flags.device_type, seed=flags.seed))
            serving = load(flags, rt, notes)
        print(f"{serving}; seed {rt.seed}", file=notes, flush=True)
        talk = Talk(serving.engine, serving.tokenizer, flags, rt.seed)
        if question is None:
            converse(talk, lambda name: load(replace(flags, source=name, model_tag=None, step=None), rt, notes))
        else:
            with keys_unseen():
                show_answer(talk, question, with_calls=False)


def load(flags: Flags, rt: "Runtime", notes: TextIO) -> "Serving":
    """Load the model that the flags name; what loading prints goes to `notes`. Raises UserError."""
    from nanochat.engine.serving import serve_model

    with contextlib.redirect_stdout(notes):
        serving = serve_model(flags.find(), rt.device, flags.dtype, 1)
        serving.check_chat()
    return serving


def _question(flags: Flags) -> str | None:
    """The question to answer, if the command line has one. Raises UserError for two of them."""
    if not flags.question:
        return flags.prompt
    question = " ".join(flags.question)
    if flags.prompt is not None:
        raise UserError(f"the question {question!r} and --prompt are two; pass only one")
    if len(flags.question) == 1 and question.endswith(CONFIG_FILES) and " " not in question:
        raise UserError(f"{question} would be a question to the model; pass a config file with --config {question}")
    return question


class Talk:
    """A conversation so far, and the Engine that continues it."""

    def __init__(self, engine: "Engine", tokenizer: "Tokenizer", flags: Flags, seed: int) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.flags = flags
        self.seed = seed
        self.messages: list[chat.Message] = []
        self.asked = 0  # questions so far, including cleared ones: each has its own random numbers
        self.clear()

    def clear(self) -> None:
        """Forget everything but the system message."""
        self.messages = [] if self.flags.system is None else [{"role": "system", "content": self.flags.system}]

    def request(self, text: str) -> "tuple[Request, int]":
        """The request for the answer to `text`, and how many of the oldest turns had to be dropped to make room.

        Room is kept for an answer of max_tokens, or of half the context if that is less. Raises ContextLengthError
        when `text` alone is too long; the conversation is then unchanged.
        """
        from nanochat import chat
        from nanochat.engine.request import Request
        from nanochat.engine.tools import calculator_tools

        messages: list[chat.Message] = [*self.messages, {"role": "user", "content": text}]
        room = chat.prompt_room(self.engine.max_len, self.flags.max_tokens)
        kept, prompt = chat.newest(messages, functools.partial(chat.prompt, self.tokenizer), room)
        request = Request(
            prompt, self.flags.max_tokens, self.flags.temperature, self.flags.top_k, seed=self.seed,
            sample=self.asked, stop_ids=chat.stop_ids(self.tokenizer), tools=calculator_tools(self.tokenizer),
        )  # fmt: skip
        self.engine.check(request)
        self.messages = list(kept)
        self.asked += 1
        return request, (len(messages) - len(kept)) // 2

    def answer(
        self,
        request: "Request",
        show: "Callable[[TextChunk], None]",
        stopped: Callable[[], bool] = lambda: False,
    ) -> "ReplyText":
        """Generate the reply, show each chunk as it comes and add the reply to the conversation.

        `stopped` is asked between tokens whether to end the answer here.
        """
        from nanochat.engine.request import Event
        from nanochat.engine.text import ReplyText, message_parts

        reply = ReplyText(self.tokenizer)
        with contextlib.closing(self.engine.stream([request])) as events:
            for _, event in events:
                for chunk in reply.add(event):
                    show(chunk)
                if stopped():
                    break
        for chunk in reply.add(Event(0, None, finish="cancelled")):  # what a stopped answer still held back
            show(chunk)
        self.messages.append({"role": "assistant", "content": message_parts(reply.chunks)})
        return reply


def show_answer(
    talk: Talk, question: str, with_calls: bool = True, stopped: Callable[[], bool] = lambda: False
) -> "ReplyText":
    """Ask, and show the answer as it comes: its text, and the tool calls dimmed and in brackets."""
    request, dropped = talk.request(question)
    if dropped and with_calls:
        print(f"[the context of {talk.engine.max_len} tokens is full; the oldest {dropped} turns are dropped; "
              "/clear starts over]")  # fmt: skip
    label = "model: " if with_calls else ""
    print(styled(label, BOLD) if label else "", end="", flush=True)
    shown = Wrapped(len(label))

    def show(chunk: "TextChunk") -> None:
        if chunk.kind == "text":
            shown.add(chunk.text)
        elif with_calls:
            shown.style(DIM)
            shown.add(f"[{'= ' * (chunk.kind == 'python_output')}{chunk.text}]")
            shown.style("0")

    reply = talk.answer(request, show, stopped)
    shown.end()
    print(flush=True)
    return reply


def converse(talk: Talk, load: "Callable[[str], Serving]") -> None:
    """Questions from stdin, answers to stdout, until quit, exit, Ctrl-C or the end of the input.

    load: opens the model that /model names.
    """
    print("Type your message; /help lists commands, /quit exits, Ctrl-C stops an answer.")
    for text in lines_typed("you: "):
        try:
            typed = commands.typed(text)
            with keys_unseen():
                question = commands.obey(talk, *typed, load) if typed else text
            if question is None or not question.strip():
                continue
            with interrupts() as stopped, keys_unseen():
                reply = show_answer(talk, question, stopped=stopped)
            if reply.finish == "length":
                print(f"[cut off after {reply.sampled} tokens]")
        except UserError as error:
            print(f"[{error}]")


if __name__ == "__main__":
    run(main)
