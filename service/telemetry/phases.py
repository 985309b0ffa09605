"""How long a worker's share of a request takes: to its first tokens, from there to its last, and both."""

import time

from msgspec import Struct, field

from core.histogram import REQUEST_SECONDS, Histogram


class Stopwatch(Struct):
    """When one claim of a job began, and its first and latest tokens came; seconds of the performance counter."""

    claimed_s: float = field(default_factory=time.perf_counter)
    first_s: float | None = None
    last_s: float | None = None

    def tokens(self, now_s: float) -> None:
        """Say that tokens came."""
        self.first_s = now_s if self.first_s is None else self.first_s
        self.last_s = now_s

    @property
    def prefill_s(self) -> float | None:
        """From the claim to the first tokens; None without any."""
        return None if self.first_s is None else self.first_s - self.claimed_s

    @property
    def decode_s(self) -> float | None:
        """From the first tokens to the last."""
        return None if self.first_s is None or self.last_s is None else self.last_s - self.first_s


def _seconds() -> Histogram:
    return Histogram.of(REQUEST_SECONDS)


class Phases(Struct):
    """The same of all jobs that this worker has ended; mutated by the writer only."""

    prefill: Histogram = field(default_factory=_seconds)
    decode: Histogram = field(default_factory=_seconds)
    inference: Histogram = field(default_factory=_seconds)

    def observe(self, watch: Stopwatch) -> None:
        """Count an ended job; one without tokens was never worked on."""
        prefill_s, decode_s = watch.prefill_s, watch.decode_s
        if prefill_s is None or decode_s is None:
            return
        self.prefill.observe(prefill_s)
        self.decode.observe(decode_s)
        self.inference.observe(prefill_s + decode_s)
