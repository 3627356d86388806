"""Figures for Prometheus, in a registry of the app's own."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nanochat.web.generation import Generation
from nanochat.web.worker import Pool

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)


class Metrics:
    """Counters of requests and replies. What an Engine counts itself is read when somebody asks."""

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineFigures(pools))
        self._requests = Counter(
            "nanochat_http_requests", "HTTP requests by route and status", ["route", "status"], registry=self.registry
        )
        self._replies = Counter(
            "nanochat_replies", "Choices that ended, by finish reason", ["model", "reason"], registry=self.registry
        )
        self._first_token = Histogram(
            "nanochat_first_token_seconds", "Time until the first token", ["model"], buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "nanochat_reply_seconds", "Time until a reply was whole", ["model"], buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip

    def request(self, route: str, status: int) -> None:
        self._requests.labels(route, str(status)).inc()

    def ended(self, model: str, generation: Generation) -> None:
        for choice in generation.choices:
            self._replies.labels(model, choice.finish or "error").inc()
        self._seconds.labels(model).observe(generation.seconds)
        if generation.first_token is not None:
            self._first_token.labels(model).observe(generation.first_token)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)


class EngineFigures(Collector):
    """What is true now, and what the Engines count themselves."""

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        self._pools = pools

    def collect(self) -> Iterator[Metric]:
        slots = GaugeMetricFamily("nanochat_slots", "Requests that can run at once", labels=["model"])
        busy = GaugeMetricFamily("nanochat_busy_slots", "Requests that run", labels=["model"])
        waiting = GaugeMetricFamily("nanochat_waiting_requests", "Requests that have no slot yet", labels=["model"])
        steps = CounterMetricFamily("nanochat_engine_steps", "Steps of the engines", labels=["model"])
        tokens = CounterMetricFamily("nanochat_tokens", "Tokens by kind", labels=["model", "kind"])
        for model, pool in self._pools.items():
            totals = pool.totals
            slots.add_metric([model], pool.slots)
            busy.add_metric([model], pool.busy_slots)
            waiting.add_metric([model], pool.waiting)
            steps.add_metric([model], totals.pop("steps"))
            for name, value in totals.items():
                tokens.add_metric([model, name.removesuffix("_tokens")], value)
        yield from (slots, busy, waiting, steps, tokens)
