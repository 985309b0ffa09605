"""What clients saw, counted in the gateway from the events of their answers, under vLLM's names where they exist.

Tokens past a stop are not in these events, so the sums equal the clients' usage; what engines computed is told by
service/worker_metrics.py. Labels have few values by construction: configured names only, never a user's or a job's.
Names and buckets: vllm/v1/metrics/loggers.py and vllm/v1/spec_decode/metrics.py (vLLM 0.33).
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from client.wire import Chunk, Final, Job
from core.config import Settings, kind_of, model_name, policy_drafters
from core.types import FinishReason

LABELS = ("model_name", "arm", "drafter", "policy")
REASONS = {FinishReason.CANCELLED: "abort"}
ABANDONED = "abort"
# What the engine calls the drafter and the policy of plain decoding.
NO_DRAFTER, NO_POLICY = "none", "off"

FIRST_TOKEN_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0),
)
REQUEST_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
LENGTH_BUCKETS = tuple(float(digit * 10**power) for power in range(6) for digit in (1, 2, 5))

Kind = TypeVar("Kind", Counter, Histogram)


class Labels(Struct, frozen=True):
    """What an answer's numbers are told apart by; arm is "" outside every experiment."""

    model_name: str
    arm: str
    drafter: str
    policy: str


class Watch:
    """One answer as it comes: `saw` is told of every event of each of its jobs, `close` ends it."""

    def __init__(self, metrics: "Metrics", jobs: Sequence[Job], started_s: float) -> None:
        self._metrics, self._labels = metrics, metrics.labels(jobs[0])
        self._prompt_len = len(jobs[0].prompt_ids)
        self._started_s = started_s
        # Per choice: when its first and its latest tokens came.
        self._first_s: dict[int, float] = {}
        self._last_s: dict[int, float] = {}
        self._open = set(range(len(jobs)))

    def saw(self, index: int, message: Chunk | Final) -> None:
        """Count an event of the answer's job `index`."""
        if isinstance(message, Chunk):
            self._chunk(index, message)
        elif index in self._open:
            self._final(index, message)

    def close(self) -> None:
        """Count what never ended: the client left, or the gateway gave up."""
        for _ in self._open:
            self._metrics.count_end(self._labels, ABANDONED)
        self._open.clear()

    def _chunk(self, index: int, chunk: Chunk) -> None:
        now_s, metrics, labels = time.perf_counter(), self._metrics, self._labels
        if index not in self._first_s:
            self._first_s[index] = now_s
            metrics.of(metrics.first_token_s, labels).observe(now_s - self._started_s)
            if index == 0:
                metrics.of(metrics.prompt_tokens, labels).inc(self._prompt_len)
        else:
            metrics.of(metrics.inter_token_s, labels).observe(now_s - self._last_s[index])
        self._last_s[index] = now_s
        metrics.count_round(labels, chunk)

    def _final(self, index: int, final: Final) -> None:
        metrics, labels, num_tokens = self._metrics, self._labels, final.usage.completion_tokens
        self._open.discard(index)
        metrics.count_end(labels, REASONS.get(final.reason, str(final.reason)))
        metrics.of(metrics.request_s, labels).observe(time.perf_counter() - self._started_s)
        metrics.of(metrics.request_generated, labels).observe(num_tokens)
        if index == 0:
            metrics.of(metrics.request_prompt, labels).observe(self._prompt_len)
        if num_tokens > 1 and index in self._first_s:
            mean_s = (self._last_s[index] - self._first_s[index]) / (num_tokens - 1)
            metrics.of(metrics.per_token_s, labels).observe(mean_s)


class Metrics:
    """The gateway's own metrics. To be used from one thread."""

    def __init__(self, settings: Settings) -> None:
        self._default_drafter, self._default_policy = kind_of(settings.drafter), kind_of(settings.policy)
        self._policy_drafters = policy_drafters(settings)
        self.registry = CollectorRegistry()
        self.prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens processed.")
        self.generation_tokens = self._counter("vllm:generation_tokens", "Tokens that clients were sent.")
        self.requests = self._counter("vllm:request_success", "Answers that ended, by reason.", "finished_reason")
        self.drafts = self._counter("vllm:spec_decode_num_drafts", "Rounds in which drafts were verified.")
        self.draft_tokens = self._counter("vllm:spec_decode_num_draft_tokens", "Drafts verified.")
        self.accepted = self._counter("vllm:spec_decode_num_accepted_tokens", "Drafts accepted.")
        self.accepted_at = self._counter(
            "vllm:spec_decode_num_accepted_tokens_per_pos", "Drafts accepted, by position in the draft.", "position"
        )
        self.first_token_s = self._histogram(
            "vllm:time_to_first_token_seconds", "From the request to its first tokens.", FIRST_TOKEN_BUCKETS
        )
        self.inter_token_s = self._histogram(
            "vllm:inter_token_latency_seconds", "Between one round's tokens and the next.", TOKEN_BUCKETS
        )
        self.per_token_s = self._histogram(
            "vllm:request_time_per_output_token_seconds", "Mean time per token after the first.", TOKEN_BUCKETS
        )
        self.request_s = self._histogram(
            "vllm:e2e_request_latency_seconds", "From the request to its answer's end.", REQUEST_BUCKETS
        )
        self._model_name = model_name(settings)
        self.shed = Counter(
            "specd_shed", "Requests refused for want of room.", ("model_name", "reason"), registry=self.registry
        )
        self.request_prompt = self._histogram("vllm:request_prompt_tokens", "Prompt tokens.", LENGTH_BUCKETS)
        self.request_generated = self._histogram("vllm:request_generation_tokens", "Answer tokens.", LENGTH_BUCKETS)

    @contextmanager
    def watch(self, jobs: Sequence[Job], started_s: float) -> Iterator[Watch]:
        """Count the answer to a request, whose choices `jobs` are, for as long as the context lasts.

        The request came at started_s of the performance counter.
        """
        watch = Watch(self, jobs, started_s)
        try:
            yield watch
        finally:
            watch.close()

    def labels(self, job: Job) -> Labels:
        """Return what a job's numbers go by: the names that the engine takes for it."""
        asked = job.speculation
        policy = asked.policy or self._default_policy
        drafter = asked.drafter or self._policy_drafters.get(policy, self._default_drafter)
        if asked.max_drafts == 0 or drafter == NO_DRAFTER:
            drafter, policy = NO_DRAFTER, NO_POLICY
        return Labels(job.model, job.arm, drafter, policy)

    def count_round(self, labels: Labels, chunk: Chunk) -> None:
        """Count one round's tokens and drafts."""
        self.of(self.generation_tokens, labels).inc(len(chunk.token_ids))
        if not chunk.verified:
            return
        self.of(self.drafts, labels).inc()
        self.of(self.draft_tokens, labels).inc(chunk.verified)
        self.of(self.accepted, labels).inc(chunk.num_drafts)
        for position in range(chunk.num_drafts):
            self.of(self.accepted_at, labels, str(position)).inc()

    def count_end(self, labels: Labels, reason: str) -> None:
        """Count one ended choice."""
        self.of(self.requests, labels, reason).inc()

    def count_shed(self, reason: str) -> None:
        """Count a request that was refused for want of room; reason is one of admission's."""
        self.shed.labels(self._model_name, reason).inc()

    def of(self, metric: Kind, labels: Labels, *more: str) -> Kind:
        """Return a metric's series for these labels."""
        return metric.labels(labels.model_name, labels.arm, labels.drafter, labels.policy, *more)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, meaning: str, *more: str) -> Counter:
        return Counter(name, meaning, (*LABELS, *more), registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, meaning, LABELS, buckets=buckets, registry=self.registry)
