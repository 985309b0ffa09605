"""What one unit of an experiment came to: sums and counts of fixed size, which tell nothing of any prompt or answer."""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta, Struct, field

from core.errors import QueueError

# Seconds, each bound 15 % above the one before: from a millisecond to a quarter of an hour.
LATENCY_BOUNDS = tuple(1e-3 * 1.15**power for power in range(100))

Counts = Annotated[dict[int, int], Meta(max_length=len(LATENCY_BOUNDS) + 1)]


class UnitSums(Struct):
    """Sums over one unit; mutated by whoever measures it, until it is written.

    seconds        measured, burn-in excluded; busy_s of them the engine was in a step
    tokens, rounds, drafted, verified, accepted, steps, preemptions   the engine's, of all its sequences
    begun          requests taken in; prompt_tokens and asked_tokens are theirs, the latter at most
    answers        requests that ended here, whenever they began; `errors` of them failed or missed their deadline,
                   `stops` ended by themselves; answer_tokens are those of answers that did not fail
    on_time_tokens of them, tokens of answers that kept the experiment's service levels
    first, token   the answers that did not fail, by seconds to the first token from their arrival and per token after
                   it: index into LATENCY_BOUNDS -> count
    """

    seconds: float = 0.0
    busy_s: float = 0.0
    steps: int = 0
    tokens: int = 0
    rounds: int = 0
    drafted: int = 0
    verified: int = 0
    accepted: int = 0
    preemptions: int = 0
    begun: int = 0
    prompt_tokens: int = 0
    asked_tokens: int = 0
    answers: int = 0
    answer_tokens: int = 0
    errors: int = 0
    stops: int = 0
    on_time_tokens: int = 0
    first: Counts = field(default_factory=dict)
    token: Counts = field(default_factory=dict)

    @property
    def whole_answers(self) -> int:
        """Requests that ended with a whole answer in time for their deadline."""
        return max(0, self.answers - self.errors)

    def plus(self, other: "UnitSums") -> "UnitSums":
        """Return both together."""
        return self._combined(other, 1)

    def minus(self, part: "UnitSums") -> "UnitSums":
        """Return what is left without a part of it."""
        return self._combined(part, -1)

    def _combined(self, other: "UnitSums", sign: int) -> "UnitSums":
        found = UnitSums()
        for name in self.__struct_fields__:
            mine, others = getattr(self, name), getattr(other, name)
            if isinstance(mine, dict):
                counts = {key: mine.get(key, 0) + sign * others.get(key, 0) for key in sorted({*mine, *others})}
                setattr(found, name, {key: count for key, count in counts.items() if count})
            else:
                setattr(found, name, mine + sign * others)
        return found


class UnitRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """One unit, or one worker's part of it, as it is kept.

    digest  of the experiment's settings, which a unit must have in common with others to be compared
    is_pre  it belongs to the time before: whatever its arm, it was served as the control
    late    the part of the sums that is of its later half; None where that was not measured
    """

    experiment: str
    digest: str
    worker: str
    slot: int
    arm: str
    sums: UnitSums
    is_pre: bool = False
    late: UnitSums | None = None


def count_latency(counts: Counts, seconds: float) -> None:
    """Count one latency."""
    index = bisect_left(LATENCY_BOUNDS, seconds)
    counts[index] = counts.get(index, 0) + 1


def latency_quantile(counts: Counts, share: float) -> float | None:
    """Return the latency that `share` of those counted do not exceed, linear between bounds; None if none was."""
    total = sum(counts.values())
    if not total:
        return None
    wanted, seen = share * total, 0
    for index in sorted(counts):
        if seen + counts[index] >= wanted:
            low = LATENCY_BOUNDS[index - 1] if index else 0.0
            high = LATENCY_BOUNDS[min(index, len(LATENCY_BOUNDS) - 1)]
            return low + (high - low) * (wanted - seen) / counts[index]
        seen += counts[index]
    return LATENCY_BOUNDS[-1]


def total(sums: Iterable[UnitSums]) -> UnitSums:
    """Return all of them together."""
    whole = UnitSums()
    for one in sums:
        whole = whole.plus(one)
    return whole


def encode_record(record: UnitRecord) -> bytes:
    """Return a record as it goes to Redis."""
    return msgspec.json.encode(record)


def decode_record(data: bytes) -> UnitRecord:
    """Read a record; raises QueueError if it is none."""
    try:
        return msgspec.json.decode(data, type=UnitRecord)
    except msgspec.DecodeError as error:
        raise QueueError(f"a unit of an experiment cannot be read: {error}") from error
