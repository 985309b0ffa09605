"""A gateway's own metrics: what clients saw, counted from the events of their answers.

What engines computed is told by telemetry/worker_metrics.py, what HTTP saw by telemetry/http_metrics.py.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, generate_latest

from client.wire import Job
from core.config import Settings, kind_of, model_name, policy_drafters
from service.answers.watch import Watch
from service.telemetry.answer_counters import AnswerCounters, Labels
from service.telemetry.answer_log import AnswerRecord, log_answer

# What the engine calls the drafter and the policy of plain decoding.
NO_DRAFTER, NO_POLICY = "none", "off"


class Metrics:
    """The gateway's own metrics. To be used from one thread. answered is told of each answer's end."""

    def __init__(self, settings: Settings, answered: Callable[[AnswerRecord], None] = log_answer) -> None:
        self._default_drafter, self._default_policy = kind_of(settings.drafter), kind_of(settings.policy)
        self._policy_drafters = policy_drafters(settings)
        self.registry = CollectorRegistry()
        self._counters, self._answered = AnswerCounters(self.registry), answered
        self._model_name = model_name(settings)
        self.shed = Counter(
            "specd_shed", "Requests refused for want of room.", ("model_name", "reason"), registry=self.registry
        )

    @contextmanager
    def watch(self, jobs: Sequence[Job], started_s: float) -> Iterator[Watch]:
        """Count the answer to a request, whose choices `jobs` are, for as long as the context lasts.

        The request came at started_s of the performance counter.
        """
        watch = Watch(self._counters, self.labels(jobs[0]), jobs, started_s, self._answered)
        try:
            yield watch
        except BaseException as error:
            watch.failed(error)
            raise
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

    def count_shed(self, reason: str) -> None:
        """Count a request that was refused for want of room; reason is one of admission's."""
        self.shed.labels(self._model_name, reason).inc()

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self.registry)
