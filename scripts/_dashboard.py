"""The dashboard with all that it needs of scripts: the stages' flags, and what they will take."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from extras.dashboard.flags import DashboardFlags

if TYPE_CHECKING:
    from nanochat.web.shell import Part


def dashboard_part(flags: DashboardFlags, served: Callable[[], Sequence[str]] | None = None) -> "Part":
    """The part of a server that its flags describe. served: ids of the models of a server that chats."""
    from extras.dashboard.app import dashboard

    return dashboard(flags.places(served or tuple), chat=served is not None)
