"""One answer as its gateway sees it come: what metrics count of it, and what is told at its end."""

import asyncio
import time
from collections.abc import Callable, Sequence

from msgspec import Struct

from client.wire import Chunk, Final, Job, Speculated, Usage
from core.errors import RequestError
from core.types import FinishReason
from service.telemetry.answer_counters import AnswerCounters, Labels
from service.telemetry.answer_log import AnswerRecord

REASONS = {FinishReason.CANCELLED: "abort"}
ABANDONED = "abort"
# Nginx's status for a client that went away before its answer: none of HTTP's own says so.
CLIENT_GONE, TIMED_OUT, FAILED, LATE, OK = 499, 504, 500, 504, 200


class _Choice(Struct):
    """What came of one choice so far; times are the performance counter's."""

    first_s: float | None = None
    last_s: float = 0.0
    num_tokens: int = 0
    speculated: Speculated = Speculated()
    final: Final | None = None


class Watch:
    """One answer: it begins when its jobs are `queued`, `saw` is told of every event of each of them, `failed` of what
    broke it off, `close` ends it.
    """

    def __init__(
        self,
        counters: AnswerCounters,
        labels: Labels,
        jobs: Sequence[Job],
        started_s: float,
        answered: Callable[[AnswerRecord], None],
    ) -> None:
        self._counters, self._labels, self._jobs, self._answered = counters, labels, jobs, answered
        self._prompt_len = len(jobs[0].prompt_ids)
        self._started_s = started_s
        self._choices = [_Choice() for _ in jobs]
        self._status, self._is_queued = OK, False

    def queued(self) -> None:
        """Say that the jobs are queued: without that there is no answer to count."""
        self._is_queued = True

    def saw(self, index: int, message: Chunk | Final) -> None:
        """Count an event of the answer's job `index`."""
        if isinstance(message, Chunk):
            self._chunk(index, message)
        elif self._choices[index].final is None:
            self._final(self._choices[index], message, is_first=index == 0)

    def failed(self, error: BaseException) -> None:
        """Say what kept the answer from its end."""
        match error:
            case RequestError(status=status):
                self._status = status
            case TimeoutError():
                self._status = TIMED_OUT
            case asyncio.CancelledError() | ConnectionError():
                self._status = CLIENT_GONE
            case _:
                self._status = FAILED

    def close(self) -> None:
        """Count what never ended, the client left or the gateway gave up, and tell of the whole answer."""
        if not self._is_queued:
            return
        counters, labels = self._counters, self._labels
        for choice in self._choices:
            if choice.final is None:
                counters.count_end(labels, ABANDONED)
        counters.of(counters.choices, labels).observe(len(self._jobs))
        counters.of(counters.max_tokens, labels).observe(self._jobs[0].sampling.max_tokens)
        counters.of(counters.most_generated, labels).observe(max(one.num_tokens for one in self._choices))
        self._answered(self._record())

    def _chunk(self, index: int, chunk: Chunk) -> None:
        now_s, counters, labels, choice = time.perf_counter(), self._counters, self._labels, self._choices[index]
        if choice.first_s is None:
            choice.first_s = now_s
            counters.of(counters.first_token_s, labels).observe(now_s - self._started_s)
            if index == 0:
                counters.count_prompt(labels, self._prompt_len, chunk.num_cached_tokens)
        else:
            for histogram in (counters.inter_token_s, counters.output_token_s):
                counters.of(histogram, labels).observe(now_s - choice.last_s)
        choice.last_s = now_s
        choice.num_tokens += len(chunk.token_ids)
        choice.speculated = choice.speculated.plus(chunk)
        counters.count_round(labels, chunk)

    def _final(self, choice: _Choice, final: Final, *, is_first: bool) -> None:
        counters, labels, num_tokens = self._counters, self._labels, final.usage.completion_tokens
        choice.final = final
        counters.count_end(labels, REASONS.get(final.reason, str(final.reason)))
        counters.of(counters.request_s, labels).observe(time.perf_counter() - self._started_s)
        counters.of(counters.request_generated, labels).observe(num_tokens)
        if is_first:
            counters.of(counters.request_prompt, labels).observe(self._prompt_len)
        if num_tokens > 1 and choice.first_s is not None:
            mean_s = (choice.last_s - choice.first_s) / (num_tokens - 1)
            counters.of(counters.per_token_s, labels).observe(mean_s)

    def _record(self) -> AnswerRecord:
        """Return what is known of the answer now."""
        ended = [choice.final for choice in self._choices if choice.final is not None]
        speculated = Speculated()
        for choice in self._choices:
            speculated = speculated.merged(choice.speculated)
        first_s = min((choice.first_s for choice in self._choices if choice.first_s is not None), default=None)
        num_gaps = sum(max(0, choice.num_tokens - 1) for choice in self._choices)
        spans_s = sum(choice.last_s - choice.first_s for choice in self._choices if choice.first_s is not None)
        return AnswerRecord(
            job=self._jobs[0],
            drafter=self._labels.drafter,
            policy=self._labels.policy,
            num_choices=len(self._jobs),
            status=self._status if self._status != OK else _status(ended, len(self._jobs)),
            finish=",".join(_reason(choice.final) for choice in self._choices),
            first_s=None if first_s is None else first_s - self._started_s,
            token_s=spans_s / num_gaps if num_gaps else None,
            whole_s=time.perf_counter() - self._started_s,
            usage=Usage(self._prompt_len, sum(choice.num_tokens for choice in self._choices)),
            speculated=speculated,
            epoch_changes=sum(final.epoch_changes for final in ended),
        )


def _reason(final: Final | None) -> str:
    return ABANDONED if final is None else REASONS.get(final.reason, str(final.reason))


def _status(ended: Sequence[Final], num_choices: int) -> int:
    """Return the status that the answer's ends stand for, also where a stream had begun with another."""
    for final in ended:
        if final.reason is FinishReason.ERROR:
            return FAILED if final.error is None else final.error.status
        if final.reason is FinishReason.DEADLINE:
            return LATE
    # A stream tells of its own end: whoever gave it up without an error waited in vain.
    return OK if len(ended) == num_choices else TIMED_OUT
