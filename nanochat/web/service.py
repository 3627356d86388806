"""What every server has: the operator's settings, counts of its requests, and whether it is shutting down."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanochat.web.metrics import Metrics

if TYPE_CHECKING:  # importing a worker imports torch, which a server without models does not need
    from nanochat.web.worker import Pool


@dataclass(frozen=True)
class Settings:
    """What the operator decided."""

    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 1.0
    max_tokens: int = 512
    generate_top_k: int = 200
    """top_k and max_tokens of /generate, whose clients expect other defaults"""
    generate_max_tokens: int = 256
    api_key: str | None = None
    cors_origins: tuple[str, ...] = ()
    max_queue: int = 256
    """requests that may wait for a slot, per model"""
    max_body: int = 4 << 20
    """bytes"""
    log_prompts: bool = False
    system: str = ""
    """the system message of conversations that have none"""
    hosts: frozenset[str] | None = None
    """names that a request's Host header may have besides IP addresses; None: any"""
    root_path: str = ""
    """path at which a reverse proxy shows the server"""
    keep_alive: int = 120
    """seconds that an idle connection is kept; more than the 90 of Go's clients, and the 60 of nginx"""


class Service:
    """A running server; this one has no models."""

    def __init__(self, settings: Settings, pools: "dict[str, Pool] | None" = None) -> None:
        """pools: the Engines of each model."""
        self.settings = settings
        self.metrics = Metrics(pools or {})
        self.draining = False

    @property
    def idle(self) -> bool:
        """Whether no reply is under way."""
        return True

    def health(self) -> dict:
        return {"status": "draining" if self.draining else "ok", "ready": not self.draining}

    def announcement(self) -> list[str]:
        """Lines to print at the start: what is served."""
        return []

    def at(self, address: str) -> str:
        """What is at an address, in words."""
        return "the page"

    @property
    def example_model(self) -> str:
        """The model that examples in the documentation name; empty without a model."""
        return ""

    def abort(self, reason: str) -> None:
        """End all replies under way."""
