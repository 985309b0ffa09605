"""Who is planned by whom: the drafters and policies an engine was built with, and the group each request joins."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from msgspec import Struct

from core.config import nearest
from core.errors import RequestError
from core.planning import Policy
from core.types import Request, Speculation
from engine.drafter_set import DrafterSet
from engine.group import PolicyGroup
from engine.sequence import GroupKey, Sequence
from engine.speculator import NO_DRAFTER
from engine.stats import EngineStats
from policies.fixed import Off

MakePolicy = Callable[[], Policy]


class Arm(Struct, frozen=True):
    """What an experiment has in place of the defaults: a policy of its own, under a name that nobody else has.

    drafter None is the default one; max_drafts caps drafts per step, 0 is none at all, None leaves it open.
    """

    name: str
    make: MakePolicy
    drafter: str | None = None
    max_drafts: int | None = None


# Returns the arm that a request is served by, None for the defaults.
Choose = Callable[[Request], Arm | None]

# Where requests wait that want no drafts at all: nothing of speculation is paid for them.
PLAIN: GroupKey = (NO_DRAFTER, Off.name)


class Groups:
    """One group per pair of drafter and policy that anybody has asked for; the first of each are the defaults.

    policy_drafters  by policy, the drafter of whoever asks for the policy and names no drafter; else it is the default
    """

    def __init__(
        self,
        speculators: DrafterSet,
        policies: Mapping[str, MakePolicy],
        stats: EngineStats,
        num_slots: int,
        policy_drafters: Mapping[str, str],
    ) -> None:
        self.by_key: dict[GroupKey, PolicyGroup] = {}
        self._speculators, self._policies = speculators, policies
        self._stats, self._num_slots, self._policy_drafters = stats, num_slots, policy_drafters
        self._script: tuple[str, Policy] | None = None
        self._choose: Choose | None = None

    @property
    def default(self) -> GroupKey:
        """The drafter and the policy of a request that names neither."""
        policy = next(iter(self._policies))
        return self._drafter_of(policy), policy

    def join(self, request: Request) -> Sequence:
        """Return a request's sequence, in the group that will plan it; raises RequestError for an unknown name."""
        sequence = Sequence(request)
        self._place(sequence)
        return sequence

    def choose(self, choose: Choose | None, sequences: Iterable[Sequence]) -> None:
        """Let arms be chosen like this from here on, for `sequences` too, which are those that are here.

        Whatever they have drafted and verified stays: only their next steps are planned by others. What an
        arm's policy has learnt is kept for its next turn, until `forget`.
        """
        self._choose = choose
        for sequence in sequences:
            before, was = sequence.group, self.of(sequence).speculator
            limits = sequence.max_drafts, sequence.scratch_rows
            self._place(sequence)
            if sequence.group == before:
                # A drafter that has failed this sequence is not asked again.
                sequence.max_drafts, sequence.scratch_rows = limits
            elif sequence.slot >= 0:
                group = self.of(sequence)
                group.open(sequence.slot)
                if group.speculator is not was:
                    was.release(sequence.slot)
                    group.speculator.open(sequence)

    def forget(self, names: Iterable[str]) -> None:
        """Drop the groups and policies of arms; to be called when no sequence is served by them."""
        gone = set(names)
        self.by_key = {key: group for key, group in self.by_key.items() if key[1] not in gone}
        self._policies = {name: make for name, make in self._policies.items() if name not in gone}

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
        self._script = (next(iter(self._speculators)) if drafter is None else drafter), policy
        key = self._script[0], policy.name
        usual = self.by_key.pop(key, None)
        try:
            yield
        finally:
            self._script = None
            self.by_key.pop(key, None)
            if usual:
                self.by_key[key] = usual

    def _place(self, sequence: Sequence) -> None:
        """Put a sequence into the group that is to plan it."""
        request = sequence.request
        arm = self._choose(request) if self._choose and not self._script else None
        if arm is not None and arm.name not in self._policies:
            self._policies = {**self._policies, arm.name: arm.make}
        key = self._key(request, arm)
        group = self.by_key.get(key) or self._open(key)
        width = group.speculator.spec.max_drafts
        caps = (request.speculation.max_drafts, arm.max_drafts if arm else None)
        most = min((cap for cap in caps if cap is not None), default=width)
        sequence.group, sequence.max_drafts, sequence.scratch_rows = key, min(width, most), width

    def _key(self, request: Request, arm: Arm | None = None) -> GroupKey:
        asked = request.speculation
        if arm is not None:
            asked = Speculation(arm.max_drafts, arm.drafter, arm.name)
        if self._script:
            return self._script[0], self._script[1].name
        policy = asked.policy or self.default[1]
        drafter = asked.drafter or self._drafter_of(policy)
        if drafter in self._speculators.absent:
            # Whoever let the request in knew of it; what it would have drafted changes no answer.
            drafter = NO_DRAFTER
        for kind, name, known in (("drafter", drafter, self._speculators), ("policy", policy, self._policies)):
            if name not in known:
                hint = nearest(name, list(known))
                raise RequestError(f"unknown {kind} {name!r}; {hint}", param="speculation")
        return PLAIN if asked.max_drafts == 0 or drafter == NO_DRAFTER else (drafter, policy)

    def _drafter_of(self, policy: str) -> str:
        return self._policy_drafters.get(policy) or self._speculators.default

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
