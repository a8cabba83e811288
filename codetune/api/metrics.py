"""The metrics page: what this process has counted, in Prometheus' text format.

Every label has few values, whatever clients send: routes are templates, engines are those of the
options, models are told apart by kind alone. Names of users and of models are no labels.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from codetune import __version__
from codetune.api.watch import RequestRecord
from codetune.serving.engine import Engine
from codetune.serving.fates import Fates
from codetune.serving.stats import SECONDS, EngineStats, Histogram


class Traffic:
    """HTTP requests by route; what happens in the event loop, read by the metrics page."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._counts: Counter[tuple[str, str, int, str]] = Counter()
        self._times: dict[tuple[str, ...], Histogram] = {}

    def begun(self) -> None:
        with self._lock:
            self._running += 1

    def ended(self, record: RequestRecord) -> None:
        with self._lock:
            self._running -= 1
            self._counts[(record.method, record.route, record.status, record.outcome)] += 1
            route = (record.method, record.route)
            self._times.setdefault(route, Histogram(SECONDS)).add(record.seconds)

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            running, counts = self._running, dict(self._counts)
            times = {route: _copy(histogram) for route, histogram in self._times.items()}
        yield GaugeMetricFamily(
            "codetune_http_requests_running", "Requests that are being answered.", running
        )
        requests = CounterMetricFamily(
            "codetune_http_requests",
            "Requests by route and status; outcome: ok, refused, failed, or cancelled by the "
            "client.",
            labels=("method", "route", "status", "outcome"),
        )
        for (method, route, status, outcome), count in sorted(counts.items()):
            requests.add_metric((method, route, str(status), outcome), count)
        yield requests
        yield _histograms(
            "codetune_http_request_seconds",
            "Time from a request's arrival to the last byte of its answer.",
            ("method", "route"),
            times,
        )


@dataclass(frozen=True)
class Work:
    """What the database says of jobs; None where it does not answer."""

    jobs: Mapping[str, int] = field(default_factory=dict)  # by state
    workers: int = 0


class Metrics:
    """All that is on the page. `work` asks the database, and returns None if it is silent."""

    def __init__(
        self,
        engine: Engine,
        traffic: Traffic,
        fates: Callable[[], Mapping[str, Fates]],
        work: Callable[[], Work | None] | None = None,
    ) -> None:
        self._engine, self._traffic, self._fates, self._work = engine, traffic, fates, work
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._registry.register(self)

    def page(self, accept: str) -> tuple[bytes, str]:
        """The page and its media type, as the Accept header likes it best; blocks."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type

    def collect(self) -> Iterator[Metric]:
        """One family after the other, for the registry."""
        info = GaugeMetricFamily("codetune_info", "The version that runs.", labels=("version",))
        info.add_metric((__version__,), 1)
        yield info
        yield from self._traffic.collect()
        stats = {name: engine.stats() for name, engine in self._engine.engines().items()}
        yield from _engines(stats)
        yield from _qualities(self._fates())
        if self._work is not None:
            yield from _database(self._work())

    def describe(self) -> Iterator[Metric]:
        """Nothing is asked when this is registered."""
        yield from ()


# Counters: the field of EngineStats, the metric, what it is.
_COUNTERS = (
    ("submitted", "answers_submitted", "Answers that were asked for."),
    ("prompt_tokens", "prompt_tokens", "Tokens of prompts that were read."),
    ("reused_tokens", "prompt_tokens_reused", "Of them, those that were not computed again."),
    ("answer_tokens", "generated_tokens", "Tokens that were generated."),
    ("embedded", "embedded_texts", "Texts whose vectors were made."),
    ("embedded_tokens", "embedded_tokens", "Tokens of those texts."),
    ("steps", "steps", "Steps of the embedded engine; each gives a batch its next tokens."),
    ("prefix_hits", "prefix_cache_hits", "Prompts whose beginning had been read before."),
    ("adapter_loads", "adapter_loads", "Adapters that were read from disk."),
    ("adapter_evictions", "adapter_evictions", "Adapters that left memory."),
)
_OUTCOMES = ("finished", "cancelled", "late", "failed", "refused")
_GAUGES = (
    ("running", "answers_running", "Answers that are being written."),
    ("waiting", "answers_waiting", "Answers in the queue."),
    ("models", "models_loaded", "Bases and models tuned in full that are in memory."),
    ("adapters", "adapters_loaded", "Adapters that are in memory."),
    ("weights_bytes", "weights_bytes", "Memory of bases and models tuned in full."),
    ("adapters_bytes", "adapters_bytes", "Memory of adapters."),
    ("cache_bytes", "kv_cache_bytes", "Memory of keys and values of answers being written."),
    ("prefix_bytes", "prefix_cache_bytes", "Memory of keys and values kept for later prompts."),
)
_HISTOGRAMS = (
    ("first_token", "first_token_seconds", "Time from the submission to the first token."),
    ("answer_time", "answer_seconds", "Time from the submission to the end of an answer."),
    ("queue_wait", "queue_wait_seconds", "Time from the submission to a place in the batch."),
    ("batch", "batch_rows", "Rows of a step's batch."),
)


def _engines(stats: Mapping[str, EngineStats]) -> Iterator[Metric]:
    outcomes = CounterMetricFamily(
        "codetune_answers",
        "Answers by how they ended; late: past the deadline; refused: the queue was full.",
        labels=("engine", "outcome"),
    )
    for engine, one in stats.items():
        for outcome in _OUTCOMES:
            outcomes.add_metric((engine, outcome), getattr(one, outcome))
    yield outcomes
    for name, metric, text in _COUNTERS:
        counter = CounterMetricFamily(f"codetune_{metric}", text, labels=("engine",))
        for engine, one in stats.items():
            counter.add_metric((engine,), getattr(one, name))
        yield counter
    misses = CounterMetricFamily(
        "codetune_prefix_cache_misses",
        "Prompts of which nothing had been read before.",
        labels=("engine",),
    )
    for engine, one in stats.items():
        misses.add_metric((engine,), max(0, one.queue_wait.count - one.prefix_hits))
    yield misses
    for name, metric, text in _GAUGES:
        gauge = GaugeMetricFamily(f"codetune_{metric}", text, labels=("engine",))
        for engine, one in stats.items():
            gauge.add_metric((engine,), getattr(one, name))
        yield gauge
    for name, metric, text in _HISTOGRAMS:
        values: dict[tuple[str, ...], Histogram] = {
            (engine,): getattr(one, name) for engine, one in stats.items()
        }
        yield _histograms(f"codetune_{metric}", text, ("engine",), values)


def _qualities(fates: Mapping[str, Fates]) -> Iterator[Metric]:
    kinds = CounterMetricFamily(
        "codetune_completion_events",
        "Completions that an editor showed (view), and that were accepted (select) or dismissed, "
        "each once, by the kind of model.",
        labels=("kind", "event"),
    )
    for kind, one in sorted(fates.items()):
        for event, count in sorted(one.events.items()):
            kinds.add_metric((kind, event), count)
    yield kinds
    yield _histograms(
        "codetune_completion_edit_ratio",
        "Share of an accepted completion that its reader had changed when it was looked at again.",
        ("kind",),
        {(kind,): one.edits for kind, one in sorted(fates.items())},
    )


def _database(work: Work | None) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "codetune_database_up", "1 if the database answered just now.", float(work is not None)
    )
    if work is None:
        return
    jobs = GaugeMetricFamily("codetune_jobs", "Jobs in the database.", labels=("state",))
    for state, count in work.jobs.items():
        jobs.add_metric((state,), count)
    yield jobs
    yield GaugeMetricFamily(
        "codetune_job_workers", "Workers that were heard of within a minute.", work.workers
    )


def _histograms(
    name: str,
    text: str,
    labels: Iterable[str],
    values: Mapping[tuple[str, ...], Histogram],
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=tuple(labels))
    for key, histogram in values.items():
        family.add_metric(key, *_buckets(histogram))
    return family


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Counts up to and including each bound, as the format wants them, and the sum."""
    counts = list(histogram.counts)  # the engine goes on counting
    bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
    totals, sofar = [], 0
    for bound, count in zip(bounds, counts, strict=True):
        sofar += count
        totals.append((bound, float(sofar)))
    return totals, histogram.total


def _copy(histogram: Histogram) -> Histogram:
    return Histogram(histogram.bounds, list(histogram.counts), histogram.total)
