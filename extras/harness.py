"""EleutherAI's lm-evaluation-harness on the Engine: its tasks, prompts and metrics, our model.

The harness asks a model three kinds of questions, in text: how likely are these continuations, how likely are these
whole texts, and what do you reply up to a stop string. It is optional (`lm_eval`) and slow to import, so it is imported
inside functions.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from nanochat import chat
from nanochat.engine.engine import Engine
from nanochat.engine.request import Request
from nanochat.engine.text import ReplyText
from nanochat.errors import UserError
from nanochat.eval.core import Prompt, are_greedy, fitting
from nanochat.log import Progress
from nanochat.tokenizer import Tokenizer

INSTALL = "install it with `uv sync --extra harness` in a clone, or else `pip install 'nanochat[harness]'`"
AT_ONCE = 64  # requests per call of the Engine
REPLY_TOKENS = 256  # default, as in the harness's own models
BOOTSTRAPS = 1000  # for the standard errors of perplexities; the harness's 100,000 take minutes
# The settings of a reply that a task may ask for; fields of a Request have the same names.
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


class Measured(NamedTuple):
    """A metric of a task over n questions, with its standard error where the harness knows one."""

    task: str
    metric: str
    value: float
    error: float | None
    n: int


class Answers:
    """The methods of `lm_eval.api.model.LM`, on an Engine. Requests are the harness's Instances; their `args` are read.

    Every text is prefixed with the document-start token if the model was trained with one. A text that exceeds
    the context loses its beginning, but not that token. The harness divides the requests among the ranks.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, seed: int = 0) -> None:
        super().__init__()  # LM's, see `language_model`
        self.engine = engine
        self.tokenizer = tokenizer
        self.seed = seed
        self.opening = chat.opening(tokenizer)
        self._rendered: dict[str, list[int]] = {}  # the ids of conversations, by their text

    def apply_chat_template(self, chat_history: Sequence[chat.Message], add_generation_prompt: bool = True) -> str:
        """A conversation for the assistant to answer, or to continue its last message, as text.

        The harness passes the text back later. The ids are kept here, because special tokens cannot be encoded from
        text. Raises UserError for messages that are not a conversation.
        """
        prefill = "" if add_generation_prompt else chat_history[-1]["content"]
        try:
            ids = chat.prompt(self.tokenizer, chat_history if add_generation_prompt else chat_history[:-1])
        except ValueError as error:
            raise UserError(f"a question of this task is not a conversation: {error}") from None
        ids += self.tokenizer.encode(prefill)
        text = self.tokenizer.decode(ids)
        self._rendered[text] = ids
        return text

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.hash

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each (context, continuation) the continuation's log probability, and whether it is the most likely one.

        Raises UserError for a continuation that is longer than the model's context.
        """
        return self._judged([self._prompt(*request.args) for request in requests], "loglikelihood", disable_tqdm)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log probability of each whole text, in windows that each predict what the ones before did not."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window  # pyright: ignore[reportMissingImports]

        windows: list[Prompt] = []
        counts = []
        begin = chat.text_prompt(self.tokenizer, "")[0]
        for request in requests:
            ids = self.tokenizer.encode(request.args[0])
            pairs = [make_disjoint_window(pair)
                     for pair in get_rolling_token_windows(ids, begin, self.engine.max_len - 1, 1)]  # fmt: skip
            windows += [Prompt(before + ids, len(before)) for before, ids in pairs]
            counts.append(len(pairs))
        found = iter(self._judged(windows, "loglikelihood_rolling", disable_tqdm, greedy=False))
        return [math.fsum(next(found)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """For each (context, settings) the reply up to the first of its stop strings, without it.

        Raises UserError for settings that the Engine does not have.
        """
        from lm_eval.models.utils import normalize_gen_kwargs  # pyright: ignore[reportMissingImports]

        settings: list[dict[str, Any]] = [dict(normalize_gen_kwargs(each.args[1], REPLY_TOKENS)) for each in requests]
        asked = [self._request(request.args[0], i, each)
                 for i, (request, each) in enumerate(zip(requests, settings, strict=True))]  # fmt: skip
        texts = [ReplyText(self.tokenizer, list(filter(None, each["until"])), parts=False) for each in settings]
        done = 0
        # Prompts of equal length are read in one forward pass, so they should be neighbours in the queue.
        order = sorted(range(len(asked)), key=lambda i: len(asked[i].prompt))
        with Progress(len(asked), "generate_until", "replies", self._is_shown(disable_tqdm)) as progress:
            for k, event in self.engine.stream([asked[i] for i in order]):
                text = texts[order[k]]
                text.add(event)
                if event.finish:
                    done += 1
                    progress.update(done)
                elif text.finish:
                    self.engine.cancel(event.request_id)
        # Transformers shows a character that was cut off as U+FFFD, and metrics compare letter by letter.
        return [text.text + "\ufffd" * text.cut_character for text in texts]

    def _prompt(self, context: str, continuation: str) -> Prompt:
        """Context and continuation, divided as the harness's models do: white space between belongs to the latter."""
        if context in self._rendered:
            before = self._rendered[context]
            return Prompt(before + self.tokenizer.encode(continuation), len(before))
        bare = context.rstrip()
        before = self.opening if bare else chat.text_prompt(self.tokenizer, "")
        ids = before + self.tokenizer.encode(context + continuation)
        start = len(before) + len(self.tokenizer.encode(bare))
        # A continuation that merges into one token with the end of its context is judged by that token.
        return Prompt(ids, max(1, min(start, len(ids) - 1)))

    def _judged(
        self, prompts: Sequence[Prompt], title: str, quiet: bool, greedy: bool = True
    ) -> list[tuple[float, bool]]:
        """For each prompt the log probability of its continuation, and whether it is the most likely one (`greedy`)."""
        found: list[tuple[float, bool]] = []
        with Progress(len(prompts), title, "requests", self._is_shown(quiet)) as progress:
            for first in range(0, len(prompts), AT_ONCE):
                chosen = fitting(prompts[first : first + AT_ONCE], self.engine.max_len, len(self.opening))
                if chosen is None:
                    raise UserError(
                        f"a continuation of this task does not fit into the context of {self.engine.max_len} tokens; "
                        "leave the task out of --harness"
                    )
                scores = self.engine.score([prompt.ids for prompt in chosen])
                likely = are_greedy(self.engine, chosen) if greedy else [False] * len(chosen)
                sums = [-nll[start - 1 :].double().sum().item() for nll, (_, start) in zip(scores, chosen, strict=True)]
                found += zip(sums, likely, strict=True)
                progress.update(first + len(chosen))
        return found

    def _request(self, context: str, number: int, settings: dict[str, Any]) -> Request:
        most = settings["max_gen_toks"]
        chosen = {name: value for name, value in settings.items() if name not in ("max_gen_toks", "do_sample", "until")}
        chosen.setdefault("temperature", 1.0 if settings["do_sample"] else 0.0)
        if unknown := sorted(chosen.keys() - {*SAMPLING}):
            raise UserError(f"a task asks for replies with {', '.join(unknown)}, which the Engine does not have")
        room = self.engine.max_len - most
        ids = self._rendered.get(context) or chat.text_prompt(self.tokenizer, context)
        kept = len(self.opening)
        if room <= kept:
            raise UserError(
                f"a task asks for replies of {most} tokens, the context holds {self.engine.max_len}; leave it out"
            )
        if len(ids) > room:
            ids = ids[:kept] + ids[len(ids) - room + kept :]
        stop_ids = chat.stop_ids(self.tokenizer)
        return Request(ids, most, seed=self.seed, sample=number, stop_ids=stop_ids, **chosen)

    def _is_shown(self, quiet: bool) -> bool:
        return not quiet and self.rank == 0

    @property
    def rank(self) -> int:
        return dist.get_rank() if dist.is_initialized() else 0

    @property
    def world_size(self) -> int:
        return dist.get_world_size() if dist.is_initialized() else 1

    @property
    def device(self) -> torch.device:
        return self.engine.model.device

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """A number from every rank, (world,)."""
        gathered = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(gathered, tensor)
        return torch.stack(gathered)

    def gather_object(self, obj: object, dst: int = 0) -> list | None:
        gathered: list | None = [None] * self.world_size if self.rank == dst else None
        dist.gather_object(obj, gathered, dst)
        return gathered

    def barrier(self) -> None:
        dist.barrier()


def check() -> None:
    """Raise UserError if the harness is not installed."""
    try:
        import lm_eval.api.model  # noqa: F401 # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"--harness needs lm-evaluation-harness ({error}); {INSTALL}") from None


def language_model(engine: Engine, tokenizer: Tokenizer, seed: int = 0) -> Any:
    """The Engine as a model of the harness, an instance of its LM. Raises what `check` raises."""
    check()
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]

    class EngineLM(Answers, LM):
        pass

    return EngineLM(engine, tokenizer, seed)


def evaluate(
    engine: Engine, tokenizer: Tokenizer, tasks: Sequence[str], limit: int | None = None,
    include_path: Path | None = None, as_chat: bool = False, seed: int = 0,
) -> list[Measured]:  # fmt: skip
    """Run tasks or groups of the harness, or of a folder with such YAML files, on `limit` questions each.

    With as_chat each question, and each example before it, is a user's turn; otherwise all is one text to continue.
    Under torch.distributed every rank must call this; the first gets the results, the others an empty list.
    Raises UserError if the harness is missing, a task is unknown or unsuitable, or its data is unavailable.
    """
    model = language_model(engine, tokenizer, seed)
    if as_chat and not chat.can_chat(tokenizer):
        raise UserError("--harness_chat needs a model with chat tokens, which this one's tokenizer lacks; leave it out")
    from lm_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    class Tasks(TaskManager):
        def load(self, task_list):
            try:
                loaded = super().load(task_list)
            except (OSError, ValueError, KeyError, ImportError) as error:
                message = " ".join(str(error).split())[:300]
                raise UserError(f"lm-evaluation-harness cannot load {', '.join(tasks)}: {message}") from error
            for name, task in loaded["tasks"].items():
                if getattr(task, "UNSAFE_CODE", False):
                    raise UserError(f"the harness's task {name} runs model-written code, not isolated; leave it out")
                if getattr(task, "MULTIMODAL", False):
                    raise UserError(f"the harness's task {name} is not text only; leave it out")
            return loaded

    if include_path is not None and not include_path.is_dir():
        raise UserError(f"--harness_include_path {include_path} is not a folder; expected one with tasks in YAML files")
    known = Tasks(include_path=include_path, include_defaults=False)
    if not all(known.match_tasks([name]) for name in tasks):
        known = Tasks(include_path=include_path)  # listing its own 14,000 takes seconds
    for name in tasks:
        if not known.match_tasks([name]):
            raise UserError(f"lm-evaluation-harness has no task {name!r}; lm_eval ls tasks lists those it has")
    chosen: list[Any] = known.match_tasks(list(tasks))
    results: Any = simple_evaluate(
        model, tasks=chosen, task_manager=known, limit=limit, log_samples=False, bootstrap_iters=BOOTSTRAPS,
        apply_chat_template=as_chat, fewshot_as_multiturn=as_chat,
    )  # fmt: skip
    return _measured(results) if results else []


def _measured(results: dict[str, Any]) -> list[Measured]:
    """The harness's results, whose values have keys of the form "metric,filter"."""
    found = []
    for task, entry in {**results["results"], **results.get("groups", {})}.items():
        for key, value in entry.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = entry.get(f"{metric}_stderr,{filtered}")
            name = metric if filtered == "none" else f"{metric} ({filtered})"
            n = entry.get("sample_len", 0)
            found.append(Measured(task, name, float(value), error if isinstance(error, float) else None, n))
    return found
