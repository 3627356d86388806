"""Texts that a model writes, for people to look at: samples, and answers to the same questions while it trains."""

import time
from collections.abc import Callable, Sequence

from nanochat import chat
from nanochat.checkpoint import manager
from nanochat.engine.engine import Engine
from nanochat.engine.request import Request
from nanochat.engine.tools import calculator_tools
from nanochat.gpt import GPT
from nanochat.terminal import printable
from nanochat.tokenizer import Tokenizer
from nanochat.train.start import Run
from scripts._typed import typed

ANSWER_TOKENS = 32  # of an answer while the model trains
MOST_OF_THE_TIME = 0.02  # that these answers may take
WIDEST = 100  # characters of an answer


def write_samples(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int = 96,
    temperature: float = 0.7,
    top_k: int = 50,
    seed: int = 42,
) -> list[dict[str, str]]:
    """Print and return [{"prompt", "text"}]: the continuation of each prompt, up to the end of the document.

    An empty prompt gives a document from its beginning. Each sample has its own random numbers, drawn from `seed`.
    """
    requests = [
        Request(
            chat.text_prompt(tokenizer, prompt),
            max_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            seed=seed,
            sample=i,
            stop_ids=chat.stop_ids(tokenizer),
        )
        for i, prompt in enumerate(prompts)
    ]
    replies = Engine(model, slots=max(1, len(requests))).generate(requests)
    samples = []
    for prompt, reply in zip(prompts, replies, strict=True):
        text = tokenizer.decode(reply.tokens, cut_off=True)
        print(f"\n--- {prompt or '(no prompt)'}\n{prompt}{printable(text)}", flush=True)
        samples.append({"prompt": prompt, "text": text})
    return samples


class Watched:
    """Asks a model in training the same questions, and prints each answer above the one before it.

    An evaluation of the training loop, without scores. It takes the most likely tokens, so that two answers differ by
    the model alone, and no random numbers, so that the run is to the bit what it is unwatched. Where answering is slow
    beside training it is done less often than asked for, so that it takes 2 % of the time at most.
    """

    def __init__(self, name: str, run: Run, prompts: Sequence[str], is_chat: bool) -> None:
        """prompts: questions if is_chat, else the beginnings of texts."""
        self.name, self.run, self.is_chat = name, run, is_chat
        asked = {prompt: self._asked(prompt) for prompt in prompts}
        self.asked = {prompt: ids for prompt, ids in asked.items() if len(ids) < run.model.config.sequence_len}
        self.before: tuple[int, list[str]] | None = None  # the step of the last answers, and these
        self.ended, self.seconds = time.perf_counter(), 0.0  # when they were there, and how long they took
        self.is_announced = False

    def __call__(self, stopping: Callable[[], bool]) -> dict[str, float]:
        began = time.perf_counter()
        if self.asked and self.run.rt.is_main and MOST_OF_THE_TIME * (began - self.ended) >= self.seconds:
            now = self.run.state.step, self.answers()
            print(shown(self.name, [*self.asked], now, self.before), flush=True)
            self.before, self.ended = now, time.perf_counter()
            self.seconds = self.ended - began
        if self.asked and not self.is_announced:
            self._announce()
        return {}

    def answers(self) -> list[str]:
        """What the model says to each prompt now, in one line."""
        model, tokenizer = self.run.model, self.run.tokenizer
        tools, stop = calculator_tools(tokenizer) if self.is_chat else None, chat.stop_ids(tokenizer)
        longest = max(map(len, self.asked.values())) + 2 * ANSWER_TOKENS  # what a tool returns is not counted
        length = min(longest, model.config.sequence_len)
        requests = [Request(ids, ANSWER_TOKENS, temperature=0.0, seed=0, stop_ids=stop, tools=tools)
                    for ids in self.asked.values()]  # fmt: skip
        # In the plain way, which records no passes on a GPU: that would take longer than these few tokens.
        replies = Engine(model, len(requests), length, paged=False).generate(requests)
        if self.is_chat:
            return [_one_line(chat.reply_text(tokenizer, reply.tokens)) for reply in replies]
        return [_one_line(tokenizer.decode(reply.tokens, cut_off=True)) for reply in replies]

    def _asked(self, prompt: str) -> list[int]:
        if self.is_chat:
            return chat.prompt(self.run.tokenizer, [{"role": "user", "content": prompt}])
        return chat.text_prompt(self.run.tokenizer, prompt)

    def _announce(self) -> None:
        """Print, once, how to use the model while it trains, as soon as there is a checkpoint of this run."""
        start = self.run.start
        if start.flags.dry_run or not self.run.rt.is_main or not {*manager.recorded(start.folder)} - {*start.stale}:
            return
        self.is_announced = True
        model = [f"--source={start.stage}", f"--model_tag={start.tag}"]
        if self.run.rt.device.type == "cuda":
            model.append("--device_type=cpu")  # the GPU's memory is the training's
        if self.is_chat:
            print(f"You can talk to it already: {typed('scripts.chat_cli', *model)}", flush=True)
        else:
            command = typed("scripts.sample", *model, "--num_samples=1", f"--start={next(iter(self.asked))}")
            print(f"It can write for you already: {command}", flush=True)


def shown(
    name: str, prompts: Sequence[str], now: tuple[int, Sequence[str]], before: tuple[int, Sequence[str]] | None
) -> str:
    """Answers, each under its prompt and above the answer of `before`; both are a step and the answers."""
    lines = [f"{name}: what it says at step {now[0]}" + (f", and said at step {before[0]}" if before else "")]
    for n, (prompt, answer) in enumerate(zip(prompts, now[1], strict=True)):
        lines += [f"  {_one_line(prompt)}", f"      {'now     ' if before else ''}{answer}"]
        if before:
            lines.append(f"      before  {'the same' if before[1][n] == answer else before[1][n]}")
    return "\n".join(lines)


def _one_line(text: str) -> str:
    text = printable(" ".join(text.split()))
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"
