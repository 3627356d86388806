"""Watch training, train and look at models in the browser; nothing is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from extras.dashboard.flags import DashboardFlags
from nanochat.config import parse
from nanochat.errors import run
from nanochat.web.http.flags import NetworkFlags


@dataclass
class Flags(NetworkFlags, DashboardFlags):
    """Show runs and models in the browser, and with --allow_training start and stop training. Jobs outlive it."""

    EXAMPLE: ClassVar = "--allow_training"


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    flags.check_network()
    flags.check_dashboard(flags, flags.host)
    from nanochat.web import shell
    from nanochat.web.server import listen, log_to_stderr, serve
    from nanochat.web.service import Service, Settings
    from scripts._dashboard import dashboard_part

    log_to_stderr()
    service = Service(Settings(**flags.network_settings(flags.host)))
    with listen(flags.host, flags.port) as bound:
        serve(shell.build(service, [dashboard_part(flags)]), service, bound, flags.host)


if __name__ == "__main__":
    run(main)
