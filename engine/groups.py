"""Who is planned by whom: the drafters and policies an engine was built with, and the group each request joins."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from core.config import nearest
from core.errors import RequestError
from core.types import Policy, Request
from engine.drafter_set import DrafterSet
from engine.group import PolicyGroup
from engine.sequence import GroupKey, Sequence
from engine.speculator import NO_DRAFTER
from engine.stats import EngineStats
from policies.fixed import Off

MakePolicy = Callable[[], Policy]

# Where requests wait that want no drafts at all: nothing of speculation is paid for them.
PLAIN: GroupKey = (NO_DRAFTER, Off.name)


class Groups:
    """One group per pair of drafter and policy that anybody has asked for; the first of each are the defaults."""

    def __init__(
        self,
        speculators: DrafterSet,
        policies: Mapping[str, MakePolicy],
        stats: EngineStats,
        num_slots: int,
    ) -> None:
        self.by_key: dict[GroupKey, PolicyGroup] = {}
        self._speculators, self._policies = speculators, policies
        self._stats, self._num_slots = stats, num_slots
        self._script: tuple[str, Policy] | None = None

    @property
    def default(self) -> GroupKey:
        """The drafter and the policy of a request that names neither."""
        return self._speculators.default, next(iter(self._policies))

    def join(self, request: Request) -> Sequence:
        """Return a request's sequence, in the group that will plan it; raises RequestError for an unknown name."""
        key = self._key(request)
        group = self.by_key.get(key) or self._open(key)
        width, cap = group.speculator.spec.max_drafts, request.speculation.max_drafts
        return Sequence(request, key, width if cap is None else min(width, cap), width)

    def leave(self, drafter: str, sequences: Iterable[Sequence]) -> None:
        """Let sequences of a drafter that is gone decode plainly from here on, and forget its groups."""
        self.by_key = {key: group for key, group in self.by_key.items() if key[0] != drafter}
        for sequence in sequences:
            if sequence.group[0] == drafter:
                sequence.group, sequence.max_drafts, sequence.scratch_rows, sequence.extended = PLAIN, 0, 0, -1
                if sequence.slot >= 0:
                    (self.by_key.get(PLAIN) or self._open(PLAIN)).open(sequence.slot)

    def of(self, sequence: Sequence) -> PolicyGroup:
        """Return the group of a sequence."""
        return self.by_key[sequence.group]

    def calibrations(self) -> list[dict[str, Any]]:
        """Return how the calibration of every group that drafts fares, as plain values."""
        return [
            {"drafter": drafter, "policy": policy} | msgspec.to_builtins(group.calibration.state)
            for (drafter, policy), group in self.by_key.items()
            if group.speculator.drafter is not None
        ]

    @contextmanager
    def scripted(self, policy: Policy, drafter: str | None) -> Iterator[None]:
        """Put every request that joins inside under `policy`, whatever it asks for."""
        self._script = (self.default[0] if drafter is None else drafter), policy
        key = self._script[0], policy.name
        usual = self.by_key.pop(key, None)
        try:
            yield
        finally:
            self._script = None
            self.by_key.pop(key, None)
            if usual:
                self.by_key[key] = usual

    def _key(self, request: Request) -> GroupKey:
        asked = request.speculation
        if self._script:
            return self._script[0], self._script[1].name
        drafter, policy = asked.drafter or self.default[0], asked.policy or self.default[1]
        if drafter in self._speculators.retired:
            # It was there when the request was let in; what it would have drafted changes no answer.
            drafter = NO_DRAFTER
        for kind, name, known in (("drafter", drafter, self._speculators), ("policy", policy, self._policies)):
            if name not in known:
                hint = nearest(name, list(known))
                raise RequestError(f"unknown {kind} {name!r}; {hint}", param="speculation")
        return PLAIN if asked.max_drafts == 0 or drafter == NO_DRAFTER else (drafter, policy)

    def _open(self, key: GroupKey) -> PolicyGroup:
        drafter, _ = key
        group = PolicyGroup(key, self._speculators[drafter], self._make(key), self._stats, self._num_slots)
        # Groups are planned in config order, whoever came first.
        known = {**self.by_key, key: group}
        drafters, policies = list(self._speculators), [*self._policies, *(k[1] for k in known)]
        order = sorted(known, key=lambda k: (drafters.index(k[0]), policies.index(k[1])))
        self.by_key = {each: known[each] for each in order}
        return group

    def _make(self, key: GroupKey) -> Policy:
        if self._script:
            return self._script[1]
        return Off() if key == PLAIN else self._policies[key[1]]()
