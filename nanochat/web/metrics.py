"""Metrics for Prometheus, in a registry of the app's own."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:  # both import torch
    from nanochat.web.generation import Generation
    from nanochat.web.worker import Pool

SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300)


class Metrics:
    """Counters of requests and replies. What an Engine counts itself is read at every scrape."""

    def __init__(self, pools: Mapping[str, "Pool"]) -> None:
        self.registry = registry = CollectorRegistry()
        registry.register(EngineFigures(pools))
        self._requests = Counter(
            "nanochat_http_requests", "HTTP requests by route and status", ["route", "status"], registry=registry
        )
        self._replies = Counter("nanochat_replies", "Choices by finish reason", ["model", "reason"], registry=registry)
        self._first_token = Histogram(
            "nanochat_first_token_seconds", "Time to the first token", ["model"], buckets=SECONDS, registry=registry
        )
        self._seconds = Histogram(
            "nanochat_reply_seconds", "Time to the whole reply", ["model"], buckets=SECONDS, registry=registry
        )

    def request(self, route: str, status: int) -> None:
        self._requests.labels(route, str(status)).inc()

    def ended(self, model: str, generation: "Generation") -> None:
        for choice in generation.choices:
            self._replies.labels(model, choice.finish or "error").inc()
        self._seconds.labels(model).observe(generation.seconds)
        if generation.first_token is not None:
            self._first_token.labels(model).observe(generation.first_token)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class EngineFigures(Collector):
    """The current load, and what the Engines count themselves."""

    def __init__(self, pools: Mapping[str, "Pool"]) -> None:
        self._pools = pools

    def collect(self) -> Iterator[Metric]:
        steps = CounterMetricFamily("nanochat_engine_steps", "Steps of the engines", labels=["model"])
        tokens = CounterMetricFamily("nanochat_tokens", "Tokens by kind", labels=["model", "kind"])
        gauges = {
            name: GaugeMetricFamily(f"nanochat_{metric}", description, labels=["model"])
            for name, metric, description in (
                ("slots", "slots", "Requests that can run at once"),
                ("busy_slots", "busy_slots", "Running requests"),
                ("waiting", "waiting_requests", "Requests without a slot"),
            )
        }
        for model, pool in self._pools.items():
            for name, value in pool.figures.items():
                if name in gauges:
                    gauges[name].add_metric([model], value)
                elif name == "steps":
                    steps.add_metric([model], value)
                else:
                    tokens.add_metric([model, name.removesuffix("_tokens")], value)
        yield from (*gauges.values(), steps, tokens)
