"""The counters of what clients saw, under vLLM's names where they exist: answers/watch.py counts, an answer at a time.

Tokens past a stop are not in these events, so the sums equal the clients' usage; what engines computed is told by
worker_metrics.py. Labels have few values by construction: configured names only, never a user's or a job's.
Names and buckets: vllm/v1/metrics/loggers.py and vllm/v1/spec_decode/metrics.py (vLLM 0.33).
"""

from collections.abc import Sequence
from typing import TypeVar

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Histogram

from client.wire import Chunk
from core.histogram import REQUEST_SECONDS

LABELS = ("model_name", "engine", "arm", "drafter", "policy")
# vLLM numbers the engines behind one address. Here that is a queue, and whatever workers read it are one engine.
ENGINE = "0"

FIRST_TOKEN_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0),
)
CHOICES_BUCKETS = (1.0, 2.0, 5.0, 10.0, 20.0)
LENGTH_BUCKETS = tuple(float(digit * 10**power) for power in range(6) for digit in (1, 2, 5))

Kind = TypeVar("Kind", Counter, Histogram)


class Labels(Struct, frozen=True):
    """What an answer's numbers are told apart by; arm is "" outside every experiment."""

    model_name: str
    arm: str
    drafter: str
    policy: str


class AnswerCounters:
    """One gateway's series, in a registry. To be used from one thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self.prompt_tokens = self._counter("vllm:prompt_tokens", "Prompt tokens processed.")
        self.generation_tokens = self._counter("vllm:generation_tokens", "Tokens that clients were sent.")
        self.prompt_sources = self._counter(
            "vllm:prompt_tokens_by_source", "Prompt tokens by where their KV came from.", "source"
        )
        self.prompt_cached = self._counter("vllm:prompt_tokens_cached", "Prompt tokens found in the prefix cache.")
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
        self.output_token_s = self._histogram(
            "vllm:time_per_output_token_seconds", "The same under the name that it had before.", TOKEN_BUCKETS
        )
        self.per_token_s = self._histogram(
            "vllm:request_time_per_output_token_seconds", "Mean time per token after the first.", TOKEN_BUCKETS
        )
        self.request_s = self._histogram(
            "vllm:e2e_request_latency_seconds", "From the request to its answer's end.", REQUEST_SECONDS
        )
        self.request_prompt = self._histogram("vllm:request_prompt_tokens", "Prompt tokens.", LENGTH_BUCKETS)
        self.choices = self._histogram("vllm:request_params_n", "Choices asked for.", CHOICES_BUCKETS)
        self.max_tokens = self._histogram(
            "vllm:request_params_max_tokens", "Answer tokens asked for at most.", LENGTH_BUCKETS
        )
        self.most_generated = self._histogram(
            "vllm:request_max_num_generation_tokens", "Tokens of a request's longest choice.", LENGTH_BUCKETS
        )
        self.request_generated = self._histogram("vllm:request_generation_tokens", "Answer tokens.", LENGTH_BUCKETS)

    def count_prompt(self, labels: Labels, prompt_len: int, num_cached: int) -> None:
        """Count the prompt of a request whose first tokens came; num_cached of it were in the prefix cache."""
        self.of(self.prompt_tokens, labels).inc(prompt_len)
        self.of(self.prompt_cached, labels).inc(num_cached)
        for source, count in (
            ("local_compute", prompt_len - num_cached),
            ("local_cache_hit", num_cached),
            ("external_kv_transfer", 0),
        ):
            self.of(self.prompt_sources, labels, source).inc(count)

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

    def of(self, metric: Kind, labels: Labels, *more: str) -> Kind:
        """Return a metric's series for these labels."""
        return metric.labels(labels.model_name, ENGINE, labels.arm, labels.drafter, labels.policy, *more)

    def _counter(self, name: str, meaning: str, *more: str) -> Counter:
        return Counter(name, meaning, (*LABELS, *more), registry=self._registry)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, meaning, LABELS, buckets=buckets, registry=self._registry)
