"""Talk to a trained model in the terminal."""

import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from nanochat.checkpoint.flags import ServingFlags
from nanochat.config import alias, parse
from nanochat.errors import UserError, run
from nanochat.terminal import interrupts, lines_typed, show, tolerate_odd_text

if TYPE_CHECKING:  # main imports these after parsing, so that --help is quick
    from nanochat import chat
    from nanochat.engine.engine import Engine
    from nanochat.engine.request import Request
    from nanochat.engine.text import ReplyText, TextChunk
    from nanochat.tokenizer import Tokenizer

DIM, PLAIN = "\033[2m", "\033[0m"


@dataclass
class Flags(ServingFlags):
    """Talk to a trained model. Type clear to start over, quit or exit to leave; Ctrl-C stops an answer."""

    prompt: Annotated[str | None, alias("-p")] = None
    """answer this question and exit; stdout gets the answer only"""
    system: str | None = None
    """system message to begin the conversation with"""
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
    if flags.max_tokens < 1:
        raise UserError(f"--max_tokens is {flags.max_tokens}; expected 1 or more")
    from nanochat import runtime
    from nanochat.engine.serving import serve_model

    tolerate_odd_text()
    notes = sys.stdout if flags.prompt is None else sys.stderr
    with runtime.start(flags.device_type, seed=flags.seed) as rt:
        with contextlib.redirect_stdout(notes):
            serving = serve_model(flags.find(), rt.device, flags.dtype, 1)
            serving.check_chat()
        print(f"{serving}; seed {rt.seed}", file=notes, flush=True)
        talk = Talk(serving.engine, serving.tokenizer, flags, rt.seed)
        if flags.prompt is None:
            converse(talk)
        else:
            talk.answer(talk.request(flags.prompt)[0], show_text)
            print()


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


def show_text(chunk: "TextChunk") -> None:
    if chunk.kind == "text":
        show(chunk.text)


def show_all(chunk: "TextChunk") -> None:
    """Show tool calls too: dimmed and in brackets."""
    if chunk.kind == "text":
        show(chunk.text)
        return
    dim, plain = (DIM, PLAIN) if sys.stdout.isatty() else ("", "")
    print(f"{dim}[{'= ' if chunk.kind == 'python_output' else ''}", end="")
    show(chunk.text)
    print(f"]{plain}", end="", flush=True)


def converse(talk: Talk) -> None:
    """Questions from stdin, answers to stdout, until quit, exit, Ctrl-C or the end of the input."""
    print("Type your message; clear starts over, quit exits, Ctrl-C stops an answer.")
    for text in lines_typed("you: "):
        command = text.strip().lower()
        if command == "clear":
            talk.clear()
            print("Started a new conversation.")
        elif command:
            try:
                request, dropped = talk.request(text)
            except UserError as error:
                print(f"[{error}]")
                continue
            if dropped:
                print(f"[the context of {talk.engine.max_len} tokens is full; the oldest {dropped} turns are dropped; "
                      "clear starts over]")  # fmt: skip
            print("model: ", end="", flush=True)
            with interrupts() as stopped:
                reply = talk.answer(request, show_all, stopped)
            print()
            if reply.finish == "length":
                print(f"[cut off after {reply.sampled} tokens]")


if __name__ == "__main__":
    run(main)
