"""The dashboard with all that it needs of scripts: the flags of the stages, and what they will take."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extras.dashboard.flags import DashboardFlags
from extras.dashboard.forms import Command, Stage
from scripts import add_data, base_train, chat_dpo, chat_rl, chat_sft, mid_train, tok_train, train

if TYPE_CHECKING:  # a web framework is not needed for --help
    from nanochat.web.shell import Part


def _of_stage(flags: Any) -> None:
    flags.check()


def _of_rl(flags: chat_rl.Flags) -> None:
    flags.check()
    chat_rl.check(flags)


def _of_dpo(flags: chat_dpo.Flags) -> None:
    flags.check()
    chat_dpo.check(flags)


STAGES = (
    Stage("add_data", "Add text", add_data.Flags),
    Stage("tok_train", "Tokenizer", tok_train.Flags),
    Stage("base_train", "Base model", base_train.Flags, _of_stage),
    Stage("mid_train", "Mid-training", mid_train.Flags, _of_stage),
    Stage("chat_sft", "Fine-tuning on conversations", chat_sft.Flags, _of_stage),
    Stage("chat_dpo", "Preferences", chat_dpo.Flags, _of_dpo),
    Stage("chat_rl", "Reinforcement learning", chat_rl.Flags, _of_rl),
    Stage("train", "nanoGPT's way", train.Flags, train.check),
)


def dashboard_part(flags: DashboardFlags, served: Callable[[], Sequence[str]] | None = None) -> "Part":
    """The part of a server that its flags describe. served: ids of the models of a server that chats."""
    from extras.dashboard.app import dashboard
    from extras.dashboard.training import Outlook

    outlook = Outlook(_plan, _run, _conversations, _documents)
    return dashboard(flags.places(served or tuple), STAGES, outlook, flags.max_upload << 20, chat=served is not None)


def _plan(command: Command) -> dict[str, Any] | None:
    from scripts import _outlook  # torch takes seconds

    return _outlook.plan(command)


def _run(command: Command) -> str | None:
    from scripts import _outlook

    return _outlook.run(command)


def _conversations(path: Path) -> int:
    from nanochat.errors import UserError
    from tasks.customjson import CustomJSON
    from tasks.pairs import PairsJSON

    try:
        return len(CustomJSON(path))
    except UserError as error:
        try:
            return len(PairsJSON(path))
        except UserError:
            raise error from None  # most files hold conversations


def _documents(path: Path) -> int:
    from nanochat.data.documents import documents

    return sum(1 for _ in documents([path], "text", []))
