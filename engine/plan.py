"""The plans of all groups of a step, made one after the other and put together for the batch.

Where nobody drafts and nobody is followed there is nothing to decide from step to step. Such a plan may stand for
several, in which no policy is asked, so that a drafter that does not pay costs next to nothing.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from msgspec import structs
from numpy.typing import NDArray
from torch import Tensor

from core.cost import CostTable
from core.planning import I32, BoolArray, Plan, Rule, StepView
from core.tensors import Draft, Favour
from core.types import Backlog
from engine.blocks import BlockPool
from engine.catch_up import CatchUp, CatchUpBudget
from engine.device import upload
from engine.group import Others, Places, PolicyGroup
from engine.looks import is_looked_at
from engine.scheduler import Batch
from engine.sequence import GroupKey, Sequence
from engine.speculator import Speculator
from kernels.survival import survival as survival_of
from policies.base import FOR_GOOD, decode_plainly


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """What one group's policy said of what it saw.

    members i64 [b] are its sequences' places in the batch, slots i32 [b]. view is None where no drafter is loaded and
    nobody was asked.
    """

    group: PolicyGroup
    members: Places
    slots: I32
    plan: Plan
    view: StepView | None = None


@dataclass(frozen=True)
class StepPlan:
    """What the step will do, decided before any of its drafts exists.

    sequences   those of the batch; keys  their groups'
    draft_len   i32 [B]; drafts to ask for
    follow      bool [B]; whose own final rows go to their drafter
    group       i64 [B]; index into parts
    catch_up    computed rows that drafters have missed and now get, in batch order
    stands      steps that it may serve for, this one included; is_repeated  it served for the step before
    """

    sequences: tuple[Sequence, ...]
    keys: list[GroupKey]
    parts: tuple[GroupPlan, ...]
    draft_len: I32
    follow: BoolArray
    group: NDArray[np.int64]
    catch_up: tuple[CatchUp, ...]
    stands: int = 1
    is_repeated: bool = False

    def serves(self, sequences: tuple[Sequence, ...], keys: list[GroupKey]) -> bool:
        """Tell whether it can serve for the next step, of these sequences in the groups of these keys."""
        # Sequences may have come to be planned by others since.
        return self.stands > 1 and sequences == self.sequences and keys == self.keys

    def teaches(self, part: GroupPlan, step: int) -> bool:
        """Tell whether a group's part of this step, the engine's `step`-th, is shown to policy and cost table."""
        is_one_of_many = self.is_repeated or self.stands > 1
        return part.view is not None and (not is_one_of_many or is_looked_at(step))

    @property
    def predicted_step_s(self) -> float | None:
        """What the step will take, if one policy plans it all and says so."""
        predicted = self.parts[0].plan.predicted_step_s
        return None if len(self.parts) > 1 or predicted is None else float(predicted)

    @property
    def favour(self) -> Favour | None:
        """Floors and weights of the whole batch; None if no policy has any."""
        if all(part.plan.floor is None and part.plan.weight is None for part in self.parts):
            return None
        floor, weight = np.zeros_like(self.draft_len), np.ones(len(self.draft_len), dtype=np.float32)
        for part in self.parts:
            if part.plan.floor is not None:
                floor[part.members] = part.plan.floor
            if part.plan.weight is not None:
                weight[part.members] = part.plan.weight
        return Favour(torch.from_numpy(floor), torch.from_numpy(weight))

    @property
    def rules(self) -> tuple[Rule, ...]:
        """One admission rule per part."""
        return tuple(part.plan.rule for part in self.parts)

    @property
    def feature_layers(self) -> tuple[int, ...]:
        """The target layers that any of the drafters told of this step reads, ascending."""
        layers: set[int] = set()
        return tuple(sorted(layers.union(*(speculator.spec.feature_layers for speculator, _ in self.told))))

    @property
    def drafting(self) -> list[tuple[Speculator, Tensor]]:
        """The drafters that are asked for drafts, with the places i64 [b] of the sequences they draft for."""
        return self._by_drafter(self.draft_len > 0)

    @cached_property
    def told(self) -> list[tuple[Speculator, Tensor]]:
        """The drafters that hear of final rows, with the places i64 [b] whose own rows they get, possibly none."""
        caught_up = np.zeros_like(self.follow)
        caught_up[[each.place for each in self.catch_up]] = True
        own = torch.from_numpy(self.follow)
        return [(each, index[own[index]]) for each, index in self._by_drafter(self.follow | caught_up)]

    def _by_drafter(self, chosen: BoolArray) -> list[tuple[Speculator, Tensor]]:
        if not chosen.any():
            return []
        places: dict[str, list[Places]] = {}
        speculators = {part.group.speculator.name: part.group.speculator for part in self.parts}
        for part in self.parts:
            mine = part.members[chosen[part.members]]
            if len(mine):
                places.setdefault(part.group.speculator.name, []).append(mine)
        return [(speculators[name], torch.from_numpy(np.sort(np.concatenate(p)))) for name, p in places.items()]


@dataclass(frozen=True, slots=True)
class Load:
    """What bears on a step besides its batch: free blocks, who waits for a slot, what steps cost, by drafter.

    clock  tells the seconds that `Sequence.queued_s` counts in
    """

    pool: BlockPool
    waiting: Collection[Sequence]
    backlog: Backlog
    costs: Mapping[str, CostTable]
    clock: Callable[[], float] = time.monotonic

    @property
    def queue_depth(self) -> int:
        """Requests without a slot, in the engine and before it."""
        return len(self.waiting) + self.backlog.num_waiting

    @property
    def oldest_wait_s(self) -> float:
        """How long the oldest of them has waited."""
        before_s = self.backlog.oldest_wait_s if self.backlog.num_waiting else 0.0
        return max(before_s, *(self.clock() - each.queued_s for each in self.waiting), 0.0)


def plan_step(
    batch: Batch, groups: Mapping[GroupKey, PolicyGroup], load: Load, before: StepPlan | None = None
) -> StepPlan:
    """Ask each group's policy in the groups' order; a later group sees what earlier ones planned.

    before  the last step's plan; while nobody has to be asked it goes on
    """
    keys = [sequence.group for sequence in batch.sequences]
    if before is not None and before.serves(batch.sequences, keys):
        return replace(before, stands=before.stands - 1, is_repeated=True)
    present = set(keys)
    size = len(batch.sequences)
    parts: list[GroupPlan] = []
    draft_len = np.zeros(size, dtype=np.int32)
    follow = np.zeros(size, dtype=np.bool_)
    group_of = np.zeros(size, dtype=np.int64)
    budget = CatchUpBudget(batch.spare_rows, load.pool.block_size)
    around = Others(
        num_sequences=size,
        kv_free=load.pool.num_free / load.pool.num_usable,
        queue_depth=load.queue_depth,
        oldest_wait_s=load.oldest_wait_s,
    )
    planned_rows = 0
    for key in groups if len(present) > 1 else present:
        if key not in present:
            continue
        group = groups[key]
        members = np.arange(size) if len(present) == 1 else np.flatnonzero([name == key for name in keys])
        group_of[members] = len(parts)
        if group.speculator.drafter is None:
            parts.append(GroupPlan(group, members, group.slots(batch, members), decode_plainly(len(members), FOR_GOOD)))
            continue
        view = group.view(batch, members, structs.replace(around, planned_rows=planned_rows), load.costs.get(key[0]))
        plan = group.plan(view)
        draft_len[members] = plan.draft_len
        follow[members] = plan.follow & ((view.stale_rows == 0) | budget.catch_up(batch, members, plan.follow, group))
        parts.append(GroupPlan(group, members, view.slots, plan, view))
        planned_rows = int(draft_len.sum()) + budget.num_rows
    catch_up = tuple(sorted(budget.chosen, key=lambda c: c.place))
    is_plain = not (draft_len.any() or any(part.plan.follow.any() for part in parts))
    stands = min(part.plan.stands for part in parts) if is_plain else 1
    return StepPlan(batch.sequences, keys, tuple(parts), draft_len, follow, group_of, catch_up, stands)


def live_survival(plan: StepPlan, draft: Draft) -> Tensor:
    """Return the live survivals f32 [B, G] of a proposal, each group's by its own calibration."""
    survival = torch.zeros_like(draft.evidence)
    for part in plan.parts:
        index, width = upload(part.members, survival.device), part.group.speculator.spec.max_drafts
        evidence, lengths = draft.evidence[index, :width], draft.lengths[index]
        survival[index, :width] = survival_of(evidence, lengths, part.plan.calibration)
    return survival


def remember_survival(plan: StepPlan, survival: Tensor) -> None:
    """Let each group keep what its sequences have shown, f32 [B, G] on the host, for the views of later steps."""
    for part in plan.parts:
        width = part.group.speculator.spec.max_drafts
        part.group.remember(part.slots, part.plan.draft_len, survival[torch.from_numpy(part.members), :width])
