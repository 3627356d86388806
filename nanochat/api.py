"""nanochat from Python: models from any source, in a few lines.

    import nanochat

    model = nanochat.open("gpt2")
    print(model.generate("Once upon a time", max_tokens=30, seed=1))
    for text in model.stream("Once upon a time", max_tokens=30):
        print(text, end="", flush=True)
    print()
    print("perplexity", model.perplexity("The cat sat on the mat."))

    print(nanochat.open("sft").chat("What is 6 * 7?"))  # a model that was trained to chat

    made = nanochat.prepare_data("story.txt", "data/story", tokenizer="char")
    print(made.train_tokens, "tokens to train on")

    nanochat.serve(model, port=8000)  # until Ctrl-C

`open` takes the names that the scripts take as --source: "gpt2" and its larger sizes, a repository of the Hugging Face
hub, a folder or ckpt.pt, "resume", or a checkpoint of a stage such as "sft:d3". User errors raise nanochat.UserError.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar, overload

import torch
from torch import Tensor

from nanochat import chat, inspection, runtime
from nanochat.checkpoint import door
from nanochat.engine import serving
from nanochat.engine.engine import Engine
from nanochat.engine.request import Finish, Request
from nanochat.engine.serving import Serving
from nanochat.engine.text import ReplyText
from nanochat.engine.tools import calculator_tools
from nanochat.errors import UserError
from nanochat.eval.bpb import document_loss
from nanochat.gpt import GPT, GPTConfig
from nanochat.inspection import Inspection, What
from nanochat.tokenizer import Tokenizer

if TYPE_CHECKING:
    from nanochat.data.prepare import Prepared
    from nanochat.web.server import Server

Texts = TypeVar("Texts", str, list[str])  # one text gives one, a list gives a list


class Part(NamedTuple):
    """Some more text of one of several continuations."""

    index: int
    """which of the prompts it continues"""
    text: str
    finish: Finish | None
    """set on the last part: "stop" where the text ended by itself or at a stop string, "length" after max_tokens"""


class Model:
    """A model that continues texts and, if it was trained to, chats.

    Made by `nanochat.open`. A model may be used by one thread at a time.

    Attributes:
        name: The name it was opened by.
        serving: The loaded checkpoint and its Engine.
    """

    def __init__(self, name: str, serving: Serving) -> None:
        self.name = name
        self.serving = serving
        self._patches: list[inspection.Patch] = []

    def __repr__(self) -> str:
        return f"<nanochat.Model {self.name}: {self.serving}>"

    @property
    def engine(self) -> Engine:
        """The Engine, which generates for many requests at once."""
        return self.serving.engine

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.serving.tokenizer

    @property
    def config(self) -> GPTConfig:
        """The model's architecture."""
        return self.module.config

    @property
    def module(self) -> GPT:
        """The torch module, whose weights can be read and changed, and whose parts can be hooked."""
        return self.engine.model

    @overload
    def generate(
        self, prompt: Texts, max_tokens: int = ..., temperature: float = ..., top_k: int | None = ...,
        top_p: float = ..., seed: int | None = ..., stop: str | Sequence[str] = ..., *, num_samples: None = ...,
        max_new_tokens: int | None = ...,
    ) -> Texts: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: str | list[str], max_tokens: int = ..., temperature: float = ..., top_k: int | None = ...,
        top_p: float = ..., seed: int | None = ..., stop: str | Sequence[str] = ..., *, num_samples: int,
        max_new_tokens: int | None = ...,
    ) -> list[str]: ...  # fmt: skip

    def generate(
        self, prompt: str | list[str], max_tokens: int = 256, temperature: float = 0.8, top_k: int | None = 200,
        top_p: float = 1.0, seed: int | None = None, stop: str | Sequence[str] = (), *, num_samples: int | None = None,
        max_new_tokens: int | None = None,
    ) -> str | list[str]:  # fmt: skip
        """Continue a text, or several texts at once.

        Beyond its context length the model sees the last tokens that fit, also of a long prompt.

        Args:
            prompt: A text, or a list of texts. The same text again in a list gives another sample.
            max_tokens: Maximum number of tokens of a continuation.
            temperature: Sampling temperature; 0 takes the most likely token every time.
            top_k: Sample from the k most likely tokens; None or 0: from all.
            top_p: Sample from the fewest tokens whose probabilities sum to p.
            seed: The same seed gives the same result, whatever else is in the list. None: a random seed.
            stop: One or more strings that end a continuation; they are not part of it.
            num_samples: Number of continuations of each prompt; the result is a list.
            max_new_tokens: Another name for max_tokens, which transformers and nanoGPT use.

        Returns:
            The continuation without the prompt; a list of them for a list of prompts. It ends where the model ends
            the document, before a stop string, or after max_tokens.

        Raises:
            UserError: A setting is out of range, or a character-level tokenizer lacks a character.
        """
        if num_samples is not None and num_samples < 1:
            raise UserError(f"num_samples is {num_samples}; expected 1 or more")
        given = [prompt] if isinstance(prompt, str) else prompt
        prompts = [each for each in given for _ in range(num_samples or 1)]
        texts = [""] * len(prompts)
        most = max_tokens if max_new_tokens is None else max_new_tokens
        for part in self.parts(prompts, most, temperature, top_k, top_p, seed, stop):
            texts[part.index] += part.text
        return texts[0] if isinstance(prompt, str) and num_samples is None else texts

    def stream(
        self, prompt: str, max_tokens: int = 256, temperature: float = 0.8, top_k: int | None = 200,
        top_p: float = 1.0, seed: int | None = None, stop: str | Sequence[str] = (), *,
        max_new_tokens: int | None = None,
    ) -> Generator[str, None, None]:  # fmt: skip
        """Continue one text, piece by piece; see `generate` for the arguments.

        Yields:
            Text of whole characters. The pieces, joined, are what `generate` returns. Closing the iterator ends the
            generation.
        """
        most = max_tokens if max_new_tokens is None else max_new_tokens
        for part in self.parts([prompt], most, temperature, top_k, top_p, seed, stop):
            if part.text:
                yield part.text

    def parts(
        self, prompts: Sequence[str], max_tokens: int = 256, temperature: float = 0.8, top_k: int | None = 200,
        top_p: float = 1.0, seed: int | None = None, stop: str | Sequence[str] = (),
    ) -> Generator[Part, None, None]:  # fmt: skip
        """Continue several texts at once, piece by piece; see `generate` for the arguments.

        Yields:
            The parts of all continuations in the order in which they are generated.
        """
        stops = _stops(stop)
        stop_ids = chat.stop_ids(self.tokenizer)
        requests = []
        seen: Counter[str] = Counter()
        for prompt in prompts:
            ids = chat.text_prompt(self.tokenizer, prompt)
            requests.append(Request(
                ids, max_tokens, temperature, top_k, top_p, seed=seed, sample=seen[prompt], stop_ids=stop_ids,
                rolls=True,
            ))  # fmt: skip
            seen[prompt] += 1
        yield from self._run(requests, [ReplyText(self.tokenizer, stops, parts=False) for _ in requests])

    def chat(
        self, messages: str | Sequence[chat.Message], max_tokens: int = 256, temperature: float = 0.6,
        top_k: int | None = 50, top_p: float = 1.0, seed: int | None = None, stop: str | Sequence[str] = (),
    ) -> str:  # fmt: skip
        """Answer a question or the last message of a conversation. The model may use the calculator.

        Args:
            messages: A question, or a conversation: [{"role": "user", "content": "Hello!"}, ...].
            max_tokens: Maximum number of tokens of the answer; the end of the context ends it too.
            temperature: This, top_k, top_p, seed and stop are those of `generate`.

        Returns:
            The text of the answer, without tool calls.

        Raises:
            UserError: The model was not trained to chat, or the messages are not a conversation that ends with the
                user's message.
            ContextLengthError: The conversation does not fit in the context (a UserError).
        """
        self.serving.check_chat()
        stops = _stops(stop)
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        try:
            prompt = chat.prompt(self.tokenizer, turns)
        except ValueError as error:
            raise UserError(f"these messages are not a conversation: {error}") from None
        request = Request(
            prompt, max_tokens, temperature, top_k, top_p, seed=seed, stop_ids=chat.stop_ids(self.tokenizer),
            tools=calculator_tools(self.tokenizer),
        )  # fmt: skip
        return "".join(part.text for part in self._run([request], [ReplyText(self.tokenizer, stops)]))

    def logits(self, text: str | Sequence[int]) -> Tensor:
        """The model's logits for a text.

        Args:
            text: A text, or token ids. A text is preceded by the token that begins a document, if the model has one.

        Returns:
            float32 (T, V) on the CPU: row t holds the logits after the first t + 1 of the T token ids.

        Raises:
            ContextLengthError: The text does not fit in the context (a UserError).
            UserError: An id is outside the vocabulary.
        """
        ids = self._ids(text)
        with torch.no_grad(), inspection.watched(self.module, self._patches):
            return self.module(torch.tensor([ids], device=self.module.device))[0].float().cpu()

    def inspect(self, text: str | Sequence[int], what: What | Sequence[What] = inspection.EVERYTHING) -> Inspection:
        """What the model computes for a text: attention, residual stream, neurons, and predictions of each layer.

        Args:
            text: A text, or token ids, as for `logits`.
            what: One or more of attention, residual, heads, attention_out, mlp, mlp_out and logit_lens. All of it for
                100 tokens of GPT-2 takes 280 MB, most of that the logit lens.

        Raises:
            ContextLengthError: The text does not fit in the context (a UserError).
            UserError: An id is outside the vocabulary, there is no such what, or all of it exceeds the memory.
        """
        ids = self._ids(text)
        wanted = [what] if isinstance(what, str) else what
        seen = inspection.inspect(self.module, ids, wanted, self._patches)
        return Inspection(ids, [self.tokenizer.decode([id]) for id in ids], **seen)

    @contextlib.contextmanager
    def patch(
        self, changes: Mapping[str, Inspection | Tensor | float], positions: Sequence[int] | int | None = None
    ) -> Generator[None, None, None]:
        """Within `with model.patch({...}):`, `logits` and `inspect` compute with other values in the named places.

            rome = model.inspect("Ada lives in Rome")
            with model.patch({"residual.2": rome}, positions=[-1]):
                changed = model.logits("Ada lives in Oslo")

        Args:
            changes: What to put where. A place is one of residual, attention, heads, attention_out, mlp and mlp_out,
                with the number of a layer: "residual.0" is before the first layer, "residual.L" after the last of L.
                heads and attention may name a head: "heads.1.3". A value is another text's inspection, of which that
                very place is taken; or a tensor, of the shape that `inspect` shows there, at these positions; or a
                number, such as 0.
            positions: The tokens to change, one or several, from 0 or, from the end, -1; all by default. Other texts'
                values are taken from the same positions.

        Raises:
            UserError: There is no such place, or a value has another shape.
        """
        before = self._patches
        self._patches = [*before, *inspection.patches(self.config, changes, positions)]
        try:
            yield
        finally:
            self._patches = before

    def _ids(self, text: str | Sequence[int]) -> list[int]:
        ids = chat.text_prompt(self.tokenizer, text) if isinstance(text, str) else list(text)
        self.engine.check(Request(ids))
        return ids

    def _check_unpatched(self) -> None:
        if self._patches:
            raise UserError("a patch changes what logits and inspect compute, and nothing else; leave its with block "
                            "first, or hook model.module")  # fmt: skip

    def perplexity(self, text: str) -> float:
        """The perplexity of a text: e to the mean negative log-likelihood per token.

        A text longer than the context is scored in overlapping windows, so that each token sees at least half a
        context. The first token counts only where the model has a token that begins a document.

        Raises:
            UserError: The text has no token to score.
        """
        self._check_unpatched()
        loss = document_loss(self.engine, self.tokenizer, text)
        if not loss.tokens:
            raise UserError(f"the text {text!r} is too short for a perplexity; it needs at least two tokens")
        return loss.perplexity

    def _run(self, requests: Sequence[Request], replies: Sequence[ReplyText]) -> Generator[Part, None, None]:
        self._check_unpatched()
        with contextlib.closing(self.engine.stream(requests)) as events:
            for index, event in events:
                reply = replies[index]
                if reply.finish is not None:  # at a stop string; what follows is the Engine's "cancelled"
                    continue
                text = "".join(chunk.text for chunk in reply.add(event) if chunk.kind == "text")
                if reply.finish is not None and event.finish is None:
                    self.engine.cancel(event.request_id)
                if text or reply.finish is not None:
                    yield Part(index, text, reply.finish)


def open(
    name: str, device: str = "", dtype: str = "auto", slots: int = 0, tag: str | None = None, step: int | None = None,
    out_dir: str = "out",
) -> Model:  # fmt: skip
    """Load a model, ready to generate.

    Args:
        name: gpt2, gpt2-medium, gpt2-large, gpt2-xl or user/repository (downloaded once); a folder or a ckpt.pt;
            "resume" for out_dir/ckpt.pt; or a checkpoint of a stage: sft, sft:d3, sft:d3:700.
        device: cuda, cuda:1, mps or cpu; "" takes the best available.
        dtype: auto, float32, bfloat16, float16 or int8 (int8 weights, on a CPU).
        slots: How many texts run at once; 0: as many as fit.
        tag: The model tag of a stage's checkpoint, such as d3.
        step: The step of the checkpoint; the last by default.
        out_dir: Where "resume" looks.

    Raises:
        UserError: There is no such model or device.
    """
    chosen = runtime.pick_device(device)
    serving.dtype_for(dtype, chosen)  # a mistake is reported before anything is downloaded
    return Model(name, serving.serve_model(door.find(name, tag, step, out_dir), chosen, dtype, slots))


def prepare_data(
    source: str | Path, out_dir: str | Path | None = None, val_fraction: float | None = None,
    tokenizer: str | None = None, column: str = "text", overwrite: bool = False,
) -> "Prepared":  # fmt: skip
    """Make token files to train on: train.bin and val.bin, as `python -m scripts.prepare` does.

    Args:
        source: shakespeare_char, shakespeare or openwebtext; a text, JSONL or parquet file, a folder of them, or the
            URL of one.
        out_dir: The folder to write; by default data/<name> if the working directory has a folder data, else
            <base>/tokens/<name>.
        val_fraction: The fraction held out for validation; 0.1 by default (openwebtext: 0.0005).
        tokenizer: gpt2 (the default), char, base or a folder.
        column: The column, or JSON field, that holds the text.
        overwrite: Replace token files that were made from something else.

    Returns:
        Where the files are and how many tokens they hold.

    Raises:
        UserError: The source cannot be read, or holds too little text.
    """
    from nanochat.data.prepare import prepare

    folder = None if out_dir is None else Path(out_dir)
    return prepare(str(source), folder, val_fraction, tokenizer, column, overwrite=overwrite)


def serve(
    model: Model | str, host: str = "127.0.0.1", port: int = 8000, api_key: str | None = None,
    ready: "Callable[[Server], object] | None" = None,
) -> None:  # fmt: skip
    """Serve a model: the chat page, the OpenAI API, and /generate. Returns after a signal.

    Args:
        model: A model, or a name for `open`.
        host: The address to listen on. The default admits this machine only; 0.0.0.0 admits all.
        port: The port to listen on; 0: any free one.
        api_key: What clients must send as a bearer token; by default the environment variable NANOCHAT_API_KEY or
            NANOGPT_API_KEY, else no key is required.
        ready: Called with the Server as soon as it accepts requests; its `stop` ends it from another thread.

    Raises:
        UserError: The address is wrong or taken.
    """
    from nanochat.web.app import build_app
    from nanochat.web.http.flags import allowed_hosts, find_api_key
    from nanochat.web.server import listen
    from nanochat.web.server import serve as run
    from nanochat.web.state import ServedModel, ServerState, Settings

    key = find_api_key(api_key)
    with listen(host, port) as bound:
        loaded = open(model) if isinstance(model, str) else model
        settings = Settings(api_key=key, hosts=allowed_hosts(host))
        name = door.short_name(loaded.name, loaded.serving.source, loaded.serving.tag)
        state = ServerState([ServedModel(name, [loaded.serving])], settings)
        run(build_app(state), state, bound, host, ready=ready)


def _stops(stop: str | Sequence[str]) -> list[str]:
    stops = [stop] if isinstance(stop, str) else list(stop)
    if "" in stops:
        raise UserError("stop has an empty string, which would end every text at once; leave it out")
    return stops
