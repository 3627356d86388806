"""Talk to a trained model in the terminal."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from nanochat import chat, runtime
from nanochat.checkpoint.flags import ServingFlags
from nanochat.config import alias, parse
from nanochat.engine.engine import Engine
from nanochat.engine.request import Reply, Request
from nanochat.engine.serving import serve_model
from nanochat.engine.tools import calculator_tools
from nanochat.errors import UserError, run
from nanochat.terminal import interrupts, lines_typed, show, tolerate_odd_text
from nanochat.tokenizer import Tokenizer

DIM, PLAIN = "\033[2m", "\033[0m"


@dataclass
class Flags(ServingFlags):
    """Talk to a trained model. Type clear to start over, quit or exit to leave; Ctrl-C stops an answer."""

    prompt: Annotated[str | None, alias("-p")] = None
    """answer this and exit; nothing but the answer goes to stdout"""
    system: str | None = None
    """system message"""
    temperature: Annotated[float, alias("-t")] = 0.6
    """sampling temperature; 0 takes the most likely token"""
    top_k: Annotated[int, alias("-k")] = 50
    """sample from the k most likely tokens; 0: from all"""
    max_tokens: int = 256
    """longest answer"""
    seed: int | None = None
    """same seed and questions, same answers; default: a random one"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    if flags.max_tokens < 1:
        raise UserError(f"--max_tokens is {flags.max_tokens}; expected 1 or more")
    tolerate_odd_text()
    about = sys.stdout if flags.prompt is None else sys.stderr
    with runtime.start(flags.device_type, seed=flags.seed) as rt:
        with contextlib.redirect_stdout(about):
            serving = serve_model(flags.find(), rt.device, flags.dtype, 1)
            serving.check_chat()
        print(f"{serving}; seed {rt.seed}", file=about, flush=True)
        talk = Talk(serving.engine, serving.tokenizer, flags, rt.seed)
        if flags.prompt is None:
            converse(talk)
        else:
            answer_once(talk, flags.prompt)


class Talk:
    """A conversation: what was said, and the means to go on with it."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, flags: Flags, seed: int) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.flags = flags
        self.seed = seed
        self.tools = calculator_tools(tokenizer)
        self.stop_ids = chat.stop_ids(tokenizer)
        self.messages: list[chat.Message] = []
        self.asked = 0  # questions so far, also those that were cleared: each has its own random numbers
        self.clear()

    def clear(self) -> None:
        """Forget everything but the system message."""
        self.messages = [] if self.flags.system is None else [{"role": "system", "content": self.flags.system}]

    def request(self, text: str) -> tuple[Request, int]:
        """The request for the answer to `text`, and how many of the oldest turns had to be left out for it.

        Room is kept for an answer of max_tokens, or of half the context if that is less.
        Raises ContextLengthError when `text` alone is too long; then nothing has changed.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        context = self.engine.max_len
        dropped = 0
        while len(prompt := chat.prompt(self.tokenizer, messages)) > context - min(self.flags.max_tokens, context // 2):
            first = 1 if messages[0]["role"] == "system" else 0
            if first + 1 == len(messages):
                break
            del messages[first : first + 2]
            dropped += 1
        request = Request(
            prompt, self.flags.max_tokens, self.flags.temperature, self.flags.top_k, seed=self.seed,
            sample=self.asked, stop_ids=self.stop_ids, tools=self.tools,
        )  # fmt: skip
        self.engine.check(request)
        self.messages = messages
        self.asked += 1
        return request, dropped

    def answer(
        self,
        request: Request,
        show: Callable[[str], None],
        show_mark: Callable[[int], None] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Reply:
        """Generate the reply, show its text as it comes and add it to the conversation.

        show_mark is called with the ids around tool calls; without it the calls are not shown. `stopped` is asked
        between tokens whether to end the answer here.
        """
        decoder = chat.StreamDecoder(self.tokenizer, text_only=show_mark is None)
        reply = Reply()
        with contextlib.closing(self.engine.stream([request])) as events:
            for _, event in events:
                reply.add(event)
                if event.token is None:
                    continue
                if show_mark is not None and event.token >= self.tokenizer.first_special:
                    show(decoder.finish())
                    show_mark(event.token)
                else:
                    show(decoder.push(event.token))
                if stopped():
                    break
        show(decoder.finish())
        parts = chat.reply_parts(self.tokenizer, reply.tokens)
        self.messages.append({"role": "assistant", "content": parts})
        return reply


def answer_once(talk: Talk, question: str) -> None:
    request, _ = talk.request(question)
    talk.answer(request, show)
    print()


def converse(talk: Talk) -> None:
    """Questions from stdin, answers to stdout, until quit, exit, Ctrl-C or the end of the input."""
    print("Type your message; clear starts over, quit leaves, Ctrl-C stops an answer.")
    dim, plain = (DIM, PLAIN) if sys.stdout.isatty() else ("", "")
    ids = talk.tools.ids
    marks = {
        ids.python_start: dim + "[", ids.python_end: "]" + plain,
        ids.output_start: dim + "[= ", ids.output_end: "]" + plain,
    }  # fmt: skip

    def show_mark(id: int) -> None:
        print(marks.get(id, ""), end="", flush=True)

    for text in lines_typed("you: "):
        command = text.strip().lower()
        if command == "clear":
            talk.clear()
            print("The conversation starts over.")
        elif command:
            try:
                request, dropped = talk.request(text)
            except UserError as error:
                print(f"[{error}]")
                continue
            if dropped:
                print(f"[the context of {talk.engine.max_len} tokens is full, so the oldest {dropped} of the earlier "
                      "turns are forgotten; clear starts over]")  # fmt: skip
            print("model: ", end="", flush=True)
            with interrupts() as stopped:
                reply = talk.answer(request, show, show_mark, stopped)
            print(plain)
            if reply.finish == "length":
                print(f"[cut off after {reply.forced.count(False)} tokens]")


if __name__ == "__main__":
    run(main)
