"""What a worker adds up over one unit: the engine's counts from its beginning to its end, and its answers by arm."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from client.wire import Final
from core.experiments.spec import Experiment
from core.experiments.unit_sums import UnitSums, count_latency
from core.types import FinishReason
from service.storage.claims import Claim
from service.telemetry.phases import Stopwatch

# Of the engine's snapshot, by the names that they have here.
COUNTS = {
    "steps": "steps",
    "tokens": "emitted",
    "rounds": "rounds",
    "drafted": "drafted",
    "verified": "verified",
    "accepted": "accepted",
    "preemptions": "preemptions",
}
FAILED = (FinishReason.ERROR, FinishReason.DEADLINE)

ArmOf = Callable[[Claim], str]


class UnitCounter:
    """Counts for one unit, from its construction on; arm_of tells whose an answer is.

    Every answer that ends in the unit counts, whenever it began. Of those that had to begin in it as well, long ones
    would be left out more often than short ones: a slow arm would lose more tokens, and its worst latencies. What an
    earlier arm left behind, burn-in is for.
    """

    def __init__(self, experiment: Experiment, arm_of: ArmOf, snapshot: Mapping[str, Any]) -> None:
        self._levels, self._arm_of, self._before = experiment.levels, arm_of, snapshot
        self._started_s = time.perf_counter()
        self._sums: dict[str, UnitSums] = {}

    def begun(self, claim: Claim) -> None:
        """Count a job that is taken in."""
        sums = self._of(claim)
        sums.begun += 1
        sums.prompt_tokens += len(claim.job.prompt_ids)
        sums.asked_tokens += claim.job.sampling.max_tokens

    def ended(self, claim: Claim, watch: Stopwatch, final: Final) -> None:
        """Count a job that has ended; one that was given up by its client says nothing of an arm."""
        if final.reason is FinishReason.CANCELLED:
            return
        sums = self._of(claim)
        sums.answers += 1
        if final.reason in FAILED:
            sums.errors += 1
            return
        num_tokens = final.usage.completion_tokens
        sums.answer_tokens += num_tokens
        sums.stops += final.reason is FinishReason.STOP
        if watch.first_s is None or watch.last_s is None or claim.epoch > 1:
            # Who takes an answer over does not know when its first token came.
            return
        arrived_s = time.perf_counter() - max(0.0, time.time() - claim.job.created_ms / 1000)
        first_s = max(watch.first_s - arrived_s, watch.first_s - watch.claimed_s)
        token_s = (watch.last_s - watch.first_s) / (num_tokens - 1) if num_tokens > 1 else 0.0
        count_latency(sums.first, first_s)
        if num_tokens > 1:
            count_latency(sums.token, token_s)
        if first_s <= self._levels.first_s and token_s <= self._levels.token_s:
            sums.on_time_tokens += num_tokens

    def sums(self, snapshot: Mapping[str, Any], arms: list[str]) -> dict[str, UnitSums]:
        """Return what each arm's answers came to; what only the engine knows is of all of them together."""
        whole = UnitSums(seconds=time.perf_counter() - self._started_s)
        for name, counted in COUNTS.items():
            setattr(whole, name, int(snapshot.get(counted, 0)) - int(self._before.get(counted, 0)))
        # The parts of a step overlap nothing else; together they are the step.
        whole.busy_s = sum(snapshot.get("seconds", {}).values()) - sum(self._before.get("seconds", {}).values())
        return {arm: whole.plus(self._sums.get(arm, UnitSums())) for arm in arms}

    def _of(self, claim: Claim) -> UnitSums:
        return self._sums.setdefault(self._arm_of(claim), UnitSums())
