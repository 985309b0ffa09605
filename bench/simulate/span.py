"""How long a case is played: as long as was asked for, a trace to its last request, all else a minute."""

from msgspec import Struct

from bench.simulate.settings import Simulation
from core.errors import ConfigError

USUAL_S, USUAL_WARM_UP_S = 60.0, 10.0
# Of a trace, which may be short, no more than this is left uncounted unless it was asked for.
MOST_WARM_UP = 0.1


class Span(Struct, frozen=True):
    """Virtual seconds: what happens between warm_up_s and ends_s counts.

    trace_s  when the last request of a trace comes; None for traffic that never ends
    """

    warm_up_s: float
    ends_s: float
    trace_s: float | None = None

    @property
    def notice(self) -> str | None:
        """What is left out of a trace, in words; None if nothing is."""
        if self.trace_s is None or self.trace_s <= self.ends_s:
            return None
        return f"the trace is {self.trace_s:g} s long, of which only the first {self.ends_s:g} s are played"


def span_of(wanted: Simulation, trace_s: float | None) -> Span:
    """Return the span of a case with a trace so long, None for other traffic; raises ConfigError if nothing is left."""
    usual_s = USUAL_WARM_UP_S if trace_s is None else min(USUAL_WARM_UP_S, MOST_WARM_UP * trace_s)
    warm_up_s = usual_s if wanted.warm_up_s is None else wanted.warm_up_s
    if wanted.seconds is not None:
        return Span(warm_up_s, warm_up_s + wanted.seconds, trace_s)
    if trace_s is None:
        return Span(warm_up_s, warm_up_s + USUAL_S)
    if trace_s <= warm_up_s:
        raise ConfigError(
            f"the trace's last request comes after {trace_s:g} s, and nothing counts before {warm_up_s:g} s: "
            "give it --seconds, or a shorter --warm-up"
        )
    return Span(warm_up_s, trace_s, trace_s)
