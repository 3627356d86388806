"""What mid-training and fine-tuning learn from: chosen by what the model descends from, opened and counted."""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import asdict

from nanochat import hub
from nanochat.data.shards import Split
from nanochat.data.streams import ConversationSource, MixedSource, Source
from nanochat.errors import UserError
from nanochat.tokenizer import Tokenizer
from nanochat.train.flags import ConversationFlags
from nanochat.train.hyperparameters import Hyperparameters
from nanochat.train.start import Start
from tasks import catalog
from tasks.customjson import CustomJSON
from tasks.identity import identity_path
from tasks.mixture import Mixture
from tasks.survey import LOST, survey

QUESTIONS = {  # that a model is watched by while it trains
    "littleworld": ("Where does Mira live?", "What is 12 + 30?", "Who are you?"),
    "real": ("Why is the sky blue?", "What is 12 + 30?", "Who are you?"),
}
LONGEST_QUESTION = 200  # characters of such a question, of the user's own
FEW_STEPS, MORE_STEPS, FEW_ROWS = 20, 40, 8  # fewer steps change a model little; what to try then
REAL = {"mid": "SmolTalk, MMLU, GSM8K and spelling", "sft": "ARC, GSM8K, SmolTalk and spelling"}


def choose(flags: ConversationFlags, start: Start) -> str:
    """The recipe that --conversations names, else the one that suits the model; prints which and why.

    The text and conversations of the little world suit what was trained on them, the real recipe everything else.
    """
    if flags.conversations is not None:
        return flags.conversations
    recipe = catalog.recipe_of(start.meta)
    name = "the little world" if recipe == "littleworld" else f"the real recipe ({REAL.get(start.stage, '')})"
    descent = "descends" if recipe == "littleworld" else "does not descend"
    others = "real or none" if recipe == "littleworld" else "littleworld or none"
    start.rt.print(
        f"conversations: {name}, because the model {descent} from the little world; pass --conversations {others} to "
        "change that"
    )
    if recipe == "real" and not identity_path().exists():
        start.rt.print("no conversations about the model itself; python -m scripts.make_identity writes some")
    return recipe


def conversations(
    flags: ConversationFlags, recipe: str, split: Split, stage: catalog.Stage, tokenizer: Tokenizer,
    hparams: Hyperparameters, start: Start,
) -> ConversationSource:  # fmt: skip
    """The conversations of one split as a source; only the assistant's turns have weight in fine-tuning.

    Raises UserError, naming the alternatives, where the real recipe's data cannot be fetched.
    """
    with other_ways():
        mixture = catalog.training_conversations(recipe, flags.data_path, split, stage, flags.val_data_path)
    if mixture.note:
        start.rt.print(mixture.note)
    return ConversationSource(mixture, tokenizer, hparams.max_seq_len + 1, masked=stage == "sft", order=stage)


def questions(recipe: str, source: Source) -> list[str]:
    """Three questions to watch a model by: the recipe's, or without one the first of the user's own in `source`."""
    if recipe in QUESTIONS:
        return [*QUESTIONS[recipe]]
    if isinstance(source, MixedSource):  # text comes first
        source = source.parts[-1][0]
    own = source.conversations if isinstance(source, ConversationSource) else []
    found: dict[str, None] = {}  # a set in order
    for conversation in itertools.islice(own, 100):
        asked = (message["content"] for message in conversation["messages"] if message["role"] == "user")
        if 0 < len(first := next(asked, "")) <= LONGEST_QUESTION:
            found[first] = None
    return [*found][:3]


@contextlib.contextmanager
def other_ways() -> Iterator[None]:
    """Add the alternatives to the error if the real recipe's data cannot be fetched."""
    try:
        yield
    except hub.Unreachable as error:
        raise UserError(
            f"the real recipe's data cannot be fetched: {error}; set HF_ENDPOINT to a hub that can be reached, train "
            "on your own conversations (--conversations none --data_path FILE), or on those of the little world "
            "(--conversations littleworld)"
        ) from None


def count_own(
    flags: ConversationFlags, recipe: str, tokenizer: Tokenizer, hparams: Hyperparameters, start: Start,
    passes: float = 1.0, is_mixed: bool = False,
) -> dict:  # fmt: skip
    """Print the number of the user's own conversations, how many do not fit, and the number of epochs.

    `passes` is how often the run reads them where no number of steps says otherwise; is_mixed: with text. Returns the
    same for the meta file and the report, or {}.
    """
    if not flags.data_path:
        return {}
    context = start.loaded.model.config.sequence_len if start.loaded else hparams.max_seq_len
    files = Mixture([CustomJSON(path) for path in flags.data_path])
    found = survey(files, tokenizer, hparams.max_seq_len, context)
    tokens = found.tokens * found.conversations / found.looked_at
    often = f"; about {passes:.3g} passes over them"
    if flags.num_iterations > 0:
        passes = flags.num_iterations * hparams.total_batch_size / max(1, tokens)
        # Beside text or other conversations, which take their share of the steps, it is fewer.
        often = f"; {'at most' if is_mixed or recipe != 'none' else 'about'} {passes:.3g} passes over them"
    start.rt.print(f"your own data: {found}{often}")
    if recipe == "none" and not is_mixed:
        _warn_of_few_steps(flags, tokens, passes, hparams, start)
    if found.is_lossy:
        start.rt.print(f"warning: more than {LOST:.0%} of your conversations are too long; {found.remedy(context)}")
    return {"own_conversations": {**asdict(found), "passes": passes}}


def _warn_of_few_steps(
    flags: ConversationFlags, tokens: float, passes: float, hparams: Hyperparameters, start: Start
) -> None:
    """Print a warning where the user's own conversations fill so few steps that hardly anything is learned."""
    steps = max(1, round(tokens * passes / hparams.total_batch_size))
    if flags.num_iterations > 0 or flags.minutes > 0 or steps >= FEW_STEPS:
        return
    rows = hparams.total_batch_size // hparams.max_seq_len
    fewer = rows > FEW_ROWS and hasattr(flags, "target_examples_per_step") and flags.total_batch_size is None
    again = MORE_STEPS * (FEW_ROWS if fewer else rows) * hparams.max_seq_len / max(1, tokens)
    start.rt.print(
        f"warning: that is {steps} step{'s' * (steps > 1)} of {rows} rows, in which a model learns little; "
        f"--num_iterations {MORE_STEPS}{f' --target_examples_per_step {FEW_ROWS}' * fewer} would read them about "
        f"{again:.2g} times"
    )
