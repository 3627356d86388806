"""nanochat from Python: models of any source, in a few lines.

    import nanochat

    model = nanochat.open("gpt2")
    print(model.generate("Once upon a time", max_tokens=30, seed=1))
    for text in model.stream("Once upon a time", max_tokens=30):
        print(text, end="", flush=True)
    print()
    print("perplexity", model.perplexity("The cat sat on the mat."))

    print(nanochat.open("sft").chat("What is 6 * 7?"))  # a model that was taught to chat

    made = nanochat.prepare_data("story.txt", "data/story", tokenizer="char")
    print(made.train_tokens, "tokens to train on")

    nanochat.serve(model, port=8000)  # until Ctrl-C

`open` takes what the scripts take as --source: "gpt2" and its sizes, a repository of the Hugging Face hub, a folder
or ckpt.pt, "resume", or a checkpoint of ours such as "sft:d4". Mistakes raise nanochat.UserError.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from nanochat import chat, runtime
from nanochat.checkpoint import door
from nanochat.engine import serving
from nanochat.engine.engine import Engine
from nanochat.engine.request import Finish, Request
from nanochat.engine.serving import Serving
from nanochat.engine.text import ReplyText
from nanochat.engine.tools import calculator_tools
from nanochat.errors import UserError
from nanochat.gpt import GPTConfig
from nanochat.tokenizer import Tokenizer

if TYPE_CHECKING:
    from nanochat.data.prepare import Prepared
    from nanochat.web.server import Server

Texts = TypeVar("Texts", str, list[str])  # one text gives one, a list gives a list


class Part(NamedTuple):
    """Some more text of one of several continuations."""

    index: int
    text: str
    finish: Finish | None
    """with the last part: "stop" where the text ended by itself, "length" after max_tokens"""


class Model:
    """A model that continues texts and, if it was taught to, chats. For one thread at a time."""

    def __init__(self, name: str, serving: Serving) -> None:
        self.name = name
        self.serving = serving

    def __repr__(self) -> str:
        return f"<nanochat.Model {self.name}: {self.serving}>"

    @property
    def engine(self) -> Engine:
        return self.serving.engine

    @property
    def tokenizer(self) -> Tokenizer:
        return self.serving.tokenizer

    @property
    def config(self) -> GPTConfig:
        return self.engine.model.config

    def generate(
        self, prompt: Texts, max_tokens: int = 256, temperature: float = 0.8, top_k: int | None = 200,
        top_p: float = 1.0, seed: int | None = None, stop: str | Sequence[str] = (),
    ) -> Texts:  # fmt: skip
        """How the model continues a text, or each of several, which run together.

        The text ends with the document, before a stop string, or after max_tokens tokens. Beyond its context the model
        sees the last tokens that fit, of a long prompt too. temperature 0 takes the likeliest token each time. With a
        seed the result is the same every time, and for a list what it is for each text alone; the same text again is
        another sample. Raises UserError for settings out of range, or a character that the tokenizer does not know.
        """
        prompts = [prompt] if isinstance(prompt, str) else prompt
        texts = [""] * len(prompts)
        for part in self.parts(prompts, max_tokens, temperature, top_k, top_p, seed, stop):
            texts[part.index] += part.text
        return cast(Texts, texts[0] if isinstance(prompt, str) else texts)

    def stream(
        self, prompt: str, max_tokens: int = 256, temperature: float = 0.8, top_k: int | None = 200,
        top_p: float = 1.0, seed: int | None = None, stop: str | Sequence[str] = (),
    ) -> Generator[str, None, None]:  # fmt: skip
        """What `generate` returns, in pieces as they come, each of whole characters. Closing the iterator ends it."""
        for part in self.parts([prompt], max_tokens, temperature, top_k, top_p, seed, stop):
            if part.text:
                yield part.text

    def parts(
        self, prompts: Sequence[str], max_tokens: int = 256, temperature: float = 0.8, top_k: int | None = 200,
        top_p: float = 1.0, seed: int | None = None, stop: str | Sequence[str] = (),
    ) -> Generator[Part, None, None]:  # fmt: skip
        """What `generate` returns for several texts, in pieces as they come."""
        stops = _stops(stop)
        ends = chat.stop_ids(self.tokenizer)
        requests = []
        seen: Counter[str] = Counter()
        for prompt in prompts:
            ids = chat.text_prompt(self.tokenizer, prompt)
            number = seen[prompt]
            requests.append(
                Request(ids, max_tokens, temperature, top_k, top_p, seed=seed, sample=number, stop_ids=ends, rolls=True)
            )
            seen[prompt] += 1
        yield from self._run(requests, [ReplyText(self.tokenizer, stops, parts=False) for _ in requests])

    def chat(
        self, messages: str | Sequence[chat.Message], max_tokens: int = 256, temperature: float = 0.6,
        top_k: int | None = 50, top_p: float = 1.0, seed: int | None = None, stop: str | Sequence[str] = (),
    ) -> str:  # fmt: skip
        """The answer to a question, or to a conversation: [{"role": "user", "content": "Hello!"}, ...].

        The model may use the calculator; the answer is without its calls. Raises UserError for a model that does not
        chat and for messages that are no conversation, ContextLengthError (a UserError) for more than the context
        holds.
        """
        self.serving.check_chat()
        stops = _stops(stop)
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        try:
            prompt = chat.prompt(self.tokenizer, turns)
        except ValueError as error:
            raise UserError(f"these messages are no conversation: {error}") from None
        request = Request(
            prompt, max_tokens, temperature, top_k, top_p, seed=seed, stop_ids=chat.stop_ids(self.tokenizer),
            tools=calculator_tools(self.tokenizer),
        )  # fmt: skip
        return "".join(part.text for part in self._run([request], [ReplyText(self.tokenizer, stops)]))

    def logits(self, text: str | Sequence[int]) -> Tensor:
        """The model's logits (T, V), float32 on the CPU, after each of the T ids of a text, or of given ids.

        The ids of a text begin with what opens a document, where the model knows such a token. Raises
        ContextLengthError (a UserError) for more than the context holds, UserError for an id outside the vocabulary.
        """
        ids = chat.text_prompt(self.tokenizer, text) if isinstance(text, str) else list(text)
        self.engine.check(Request(ids))
        with torch.no_grad():
            return self.engine.model(torch.tensor([ids], device=self.engine.model.device))[0].float().cpu()

    def perplexity(self, text: str) -> float:
        """e to the mean of the negative log likelihoods of a text's tokens, each after those before it.

        Of a text longer than the context each token is seen after at least half a context. The first token counts
        only where the model knows a token that opens a document. Raises UserError where no token is left to count.
        """
        ids = [*chat.opening(self.tokenizer), *self.tokenizer.encode(text)]
        if len(ids) < 2:
            raise UserError(f"the text {text!r} is too short for a perplexity; give one of two tokens or more")
        context = self.engine.max_len
        stride = max(1, context // 2)
        starts = [0, *range(stride, len(ids) - context + stride, stride)]
        scores = self.engine.score([ids[start : start + context] for start in starts])
        # A piece after the first begins with what the one before it has scored.
        fresh = [scores[0], *(score[context - stride - 1 :] for score in scores[1:])]
        return math.exp(torch.cat(fresh).double().mean().item())

    def _run(self, requests: Sequence[Request], replies: Sequence[ReplyText]) -> Generator[Part, None, None]:
        with contextlib.closing(self.engine.stream(requests)) as events:
            for index, event in events:
                reply = replies[index]
                if reply.finish is not None:  # by a stop string; what follows is the Engine's "cancelled"
                    continue
                text = "".join(piece.text for piece in reply.add(event) if piece.kind == "text")
                if reply.finish is not None and event.finish is None:
                    self.engine.cancel(event.request_id)
                if text or reply.finish is not None:
                    yield Part(index, text, reply.finish)


def open(
    name: str, device: str = "", dtype: str = "auto", slots: int = 0, tag: str | None = None, step: int | None = None,
    out_dir: str = "out",
) -> Model:  # fmt: skip
    """Load a model of any source, ready to generate.

    name: gpt2, gpt2-medium, gpt2-large, gpt2-xl or user/repository (downloaded once), the path of a folder or a
    ckpt.pt, "resume" (out_dir's ckpt.pt), or a checkpoint of ours: sft, sft:d4, sft:d4:700 (or by tag and step).
    device "" takes the best there is; dtype is auto, float32, bfloat16, float16 or int8; slots: how many texts run at
    once, 0 for as many as fit. Raises UserError where there is no such model, or no such device.
    """
    chosen = runtime.pick_device(device)
    serving.dtype_for(dtype, chosen)  # a mistake is named before anything is downloaded
    return Model(name, serving.serve_model(door.find(name, tag, step, out_dir), chosen, dtype, slots))


def prepare_data(
    source: str | Path, out_dir: str | Path | None = None, val_fraction: float | None = None,
    tokenizer: str | None = None, column: str = "text", overwrite: bool = False,
) -> "Prepared":  # fmt: skip
    """Make token files to train on, train.bin and val.bin; see `nanochat.prepare.prepare`.

    source: shakespeare_char, shakespeare, openwebtext, or a text, JSONL or parquet file, a folder of them, or the URL
    of one. tokenizer: gpt2 (the default), char, base or a folder. Returns where they are and how many tokens they hold.
    """
    from nanochat.data.prepare import prepare

    folder = None if out_dir is None else Path(out_dir)
    return prepare(str(source), folder, val_fraction, tokenizer, column, overwrite=overwrite)


def serve(
    model: Model | str, host: str = "127.0.0.1", port: int = 8000, api_key: str | None = None,
    ready: "Callable[[Server], object] | None" = None,
) -> None:  # fmt: skip
    """Serve a model on a page, by the API that OpenAI's clients speak, and by /generate, until a signal.

    host: the default lets only this machine in. api_key: what clients must send; default: NANOCHAT_API_KEY or
    NANOGPT_API_KEY, else none is needed. port 0 is any free one. ready: called as soon as it answers, with a Server,
    whose `stop` ends it from another thread. Raises UserError where the address cannot be had.
    """
    from nanochat.web import operation
    from nanochat.web.server import listen
    from nanochat.web.service import Service, Settings
    from nanochat.web.service import model as served

    key = operation.api_key(api_key)
    with listen(host, port) as bound:
        loaded = open(model) if isinstance(model, str) else model
        settings = Settings(api_key=key, hosts=operation.known_hosts(host))
        operation.serve(Service([served(loaded.name, [loaded.serving])], settings), bound, host, ready=ready)


def _stops(stop: str | Sequence[str]) -> list[str]:
    stops = [stop] if isinstance(stop, str) else list(stop)
    if "" in stops:
        raise UserError("stop has an empty string in it, which would end every text at once; leave it out")
    return stops
