"""What Prometheus reads from /metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Figures:
    """Prometheus figures of one server; a registry of its own, so that two servers in one process do not clash."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "reward_requests_total", "Requests by path and status", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "reward_request_seconds", "Time from request to answer", ["path"], registry=self.registry
        )
        self.solutions = Counter("reward_solutions_total", "Solutions scored", registry=self.registry)
        self.tokens = Counter("reward_tokens_total", "Tokens read", registry=self.registry)
        self.unsplit = Counter(
            "reward_unsplit_total", "Texts of several lines scored as one step", registry=self.registry
        )
        self.batches = Histogram(
            "reward_batch_solutions",
            "Solutions scored together",
            buckets=[1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
            registry=self.registry,
        )
        self.waiting = Gauge("reward_queue_solutions", "Solutions waiting", registry=self.registry)

    def observe(self, solutions: int, tokens: int) -> None:
        self.solutions.inc(solutions)
        self.tokens.inc(tokens)
        self.batches.observe(solutions)
