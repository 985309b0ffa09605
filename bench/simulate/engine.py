"""An engine without networks: the production scheduler, blocks, plans, policies and admission, around given drafts.

`engine.engine.Engine.step` is the original. What its forward, its verifier and its drafter would say is looked up: how
many of an anchor's drafts the target would accept, and the drafter's evidence for them. So only counts leave it. It
has no prefix cache, for there are no tokens to find there.
"""

from dataclasses import dataclass

import numpy as np
import torch
from msgspec import Struct

from bench.simulate.drafts import Texts
from bench.simulate.job import TOKEN, Job
from bench.simulate.machine import Machine, StepWork
from bench.simulate.settings import Shape
from bench.simulate.virtual_time import VirtualTime
from core.planning import I32, Policy
from core.tensors import Commit, Draft, DraftAsk, Verdict
from core.types import Backlog
from drafters.base import DrafterSpec
from engine.accept import Round
from engine.blocks import BlockPool
from engine.group import PolicyGroup
from engine.outcome import StepFacts, outcomes
from engine.plan import Load, StepPlan, plan_step
from engine.scheduler import Batch, Limits, Scheduler
from engine.sequence import Sequence
from engine.speculator import Place, Speculator
from engine.stats import EngineStats
from kernels.admit import admit
from kernels.survival import survival as survival_of

DRAFTER, POLICY = "simulated", "simulated"
LONGEST = 1 << 24


@dataclass(frozen=True, slots=True)
class Answered:
    """What one step brought one job: so many tokens, and whether they were its last."""

    job: Job
    num_tokens: int
    is_last: bool


class StepDone(Struct, frozen=True):
    """A step, its seconds, what it brought and what it was asked for."""

    seconds: float
    answered: list[Answered]
    work: StepWork


class ScriptedDrafter:
    """Has a drafter's place in the engine; what it would propose is looked up elsewhere, so it is never asked."""

    def __init__(self, texts: Texts) -> None:
        # Reading features is what makes catching up cost target rows, as it does for DFlash, DSpark and EAGLE-3.
        self.spec = DrafterSpec(
            name=DRAFTER, max_drafts=texts.width, feature_layers=(0,), calibration=texts.calibration
        )

    def open(self, slot: int, tokens: object, num_cached: int) -> None:
        """Take a sequence in: nothing to keep."""

    def extend(self, commit: Commit) -> None:
        """Take rows in: nothing to keep."""

    def propose(self, ask: DraftAsk) -> Draft:
        """Refuse: a simulation makes no tokens."""
        raise NotImplementedError("a simulated drafter has no tokens to propose")

    def release(self, slot: int) -> None:
        """Forget a sequence: nothing was kept."""


class SimulatedEngine:
    """One engine under one policy; policy None is plain decoding without any drafter.

    step is Engine.step in counts. jobs are those here, running or waiting, by their request's id.
    """

    def __init__(self, shape: Shape, policy: Policy, texts: Texts | None, machine: Machine, time: VirtualTime) -> None:
        self.stats, self.backlog, self._texts, self._machine, self._time = (
            EngineStats(),
            Backlog(),
            texts,
            machine,
            time,
        )
        width = texts.width if texts else 0
        num_scratch = shape.max_num_seqs * -(-width // shape.block_size)
        num_blocks = shape.kv_cache_tokens // shape.block_size + 1 + num_scratch
        self.pool = BlockPool(num_blocks, shape.block_size, num_scratch)
        limits = Limits(
            max_num_seqs=shape.max_num_seqs,
            max_num_batched_tokens=shape.max_num_batched_tokens,
            max_model_len=LONGEST,
            prefix_cache=False,
        )
        self.scheduler = Scheduler(limits, self.pool)
        drafter = ScriptedDrafter(texts) if texts else None
        self._speculator = Speculator(Place(DRAFTER, 0), drafter, None, self.pool, self.stats, 1)
        key = (DRAFTER, POLICY)
        self.group = PolicyGroup(key, self._speculator, policy, self.stats, shape.max_num_seqs, time)
        self._groups, self._costs = {key: self.group}, {DRAFTER: machine.table}
        self._last_plan: StepPlan | None = None
        self.jobs: dict[str, Job] = {}

    @property
    def has_work(self) -> bool:
        """Tell whether a step would do anything."""
        return bool(self.jobs)

    @property
    def num_free_slots(self) -> int:
        """Jobs that could be admitted beside those here."""
        return self.scheduler.num_free_slots

    def add(self, job: Job) -> None:
        """Take a job in; raises RequestError if it can never run here."""
        request, width = job.request(), self._speculator.spec.max_drafts
        sequence = Sequence(request, self.group.key, width, width, queued_s=job.arrived_s)
        self.scheduler.add(sequence)
        self.jobs[request.id] = job

    def step(self) -> StepDone:
        """Advance every scheduled job by one round. Tokens count as the client's when the fleet says so, later."""
        batch = self._schedule()
        plan = self._plan(batch)
        drafted, accepted, draft = self._draft(batch, plan)
        survival, verified = self._admit(plan, draft)
        work = self._work(batch, plan, drafted, verified)
        seconds = self._machine.step_s(work)
        judged = [b for b in range(len(batch.sequences)) if batch.samples(b)]
        kept = np.minimum(accepted, verified)
        answered = self._commit(batch, plan, judged, kept)
        self._observe(plan, (draft, survival), self._round(judged, kept, verified), seconds, work)
        return StepDone(seconds, answered, work)

    def _schedule(self) -> Batch:
        batch = self.scheduler.schedule()
        for slot, _ in batch.preempted:
            self._speculator.release(slot)
        for sequence in batch.admitted:
            self.group.open(sequence.slot)
            self._speculator.open(sequence)
        return batch

    def _plan(self, batch: Batch) -> StepPlan:
        load = Load(self.pool, self.scheduler.waiting, self.backlog, self._costs, self._time)
        self._last_plan = plan_step(batch, self._groups, load, self._last_plan)
        return self._last_plan

    def _draft(self, batch: Batch, plan: StepPlan) -> tuple[I32, I32, Draft]:
        """Return the lengths i32 [B] of drafts, how many of a whole block would be accepted, and the drafts."""
        size = len(batch.sequences)
        lengths, accepted = plan.draft_len.astype(np.int32), np.zeros(size, dtype=np.int32)
        width = self._speculator.spec.max_drafts if lengths.any() else 0
        evidence = np.zeros((size, width), dtype=np.float32)
        if width:
            assert self._texts is not None
            drafting = np.flatnonzero(lengths)
            asked = [batch.sequences[b] for b in drafting.tolist()]
            texts = [self.jobs[sequence.request.id].text for sequence in asked]
            places = [sequence.num_output for sequence in asked]
            accepted[drafting], evidence[drafting] = self._texts.look_up(texts, places)
        tokens = torch.zeros((size, width), dtype=torch.int64)
        of_point = torch.ones(size, dtype=torch.bool)
        return lengths, accepted, Draft(tokens, torch.from_numpy(lengths), of_point, None, torch.from_numpy(evidence))

    def _admit(self, plan: StepPlan, draft: Draft) -> tuple[torch.Tensor, I32]:
        """Return live survivals f32 [B, G] and the verify lengths i32 [B], by the engine's own admission."""
        if not draft.evidence.shape[1]:
            return draft.evidence, draft.lengths.numpy()
        (part,) = plan.parts
        survival = survival_of(draft.evidence, draft.lengths, part.plan.calibration)
        self.group.remember(part.slots, part.plan.draft_len, survival)
        lengths = admit(survival, draft.lengths, torch.from_numpy(plan.group), plan.rules, plan.favour)
        return survival, lengths.numpy()

    def _work(self, batch: Batch, plan: StepPlan, drafted: I32, verified: I32) -> StepWork:
        samples = np.array([batch.samples(b) for b in range(len(batch.sequences))])
        return StepWork(
            num_sequences=len(batch.sequences),
            num_sampling=int(samples.sum()),
            num_followed=int((plan.follow & samples).sum()),
            num_drafting=int(np.count_nonzero(drafted)),
            num_verified=int(verified.sum()),
            prefill_rows=batch.num_prefill_rows,
            catch_up_rows=sum(each.num_rows for each in plan.catch_up if each.in_forward),
            context=sum(one.num_computed for one in batch.sequences) / len(batch.sequences),
        )

    def _commit(self, batch: Batch, plan: StepPlan, judged: list[int], kept: I32) -> list[Answered]:
        """Advance the sequences, and with those that are followed their drafter's watermark; ends leave at once."""
        for sequence, num_rows in zip(batch.sequences, batch.num_rows, strict=True):
            sequence.num_computed += num_rows
        answered = []
        for b in judged:
            sequence, job = batch.sequences[b], self.jobs[batch.sequences[b].request.id]
            left = job.output_len - sequence.num_output
            num_tokens = min(int(kept[b]) + 1, left)
            sequence.num_computed += num_tokens - 1
            sequence.tokens.extend([TOKEN] * num_tokens)
            answered.append(Answered(job, num_tokens, num_tokens == left))
        for each in plan.catch_up:
            each.sequence.extended = each.stop
        for b in np.flatnonzero(plan.follow).tolist():
            batch.sequences[b].extended = batch.sequences[b].num_computed
        for sequence in batch.sequences:
            self.scheduler.commit(sequence)
        for one, b in zip(answered, judged, strict=True):
            if one.is_last:
                self._finish(batch.sequences[b])
        return answered

    def _finish(self, sequence: Sequence) -> None:
        self._speculator.release(sequence.slot)
        self.scheduler.finish(sequence)
        del self.jobs[sequence.request.id]

    def _round(self, judged: list[int], kept: I32, verified: I32) -> Round:
        """Return the verdict as the engine tells it; labels are hard, as those of the `coupled` verifier are."""
        index = torch.tensor(judged, dtype=torch.int64)
        accepted, checked = kept[judged], verified[judged]
        width = self._speculator.spec.max_drafts
        labels = torch.from_numpy((np.arange(width) < accepted[:, None]).astype(np.float32))
        verdict = Verdict(torch.from_numpy(accepted), torch.zeros_like(index), torch.from_numpy(checked), labels)
        emitted = [[TOKEN] * (number + 1) for number in accepted.tolist()]
        nothing = [False] * len(judged), [None] * len(judged)
        return Round(index, verdict, emitted, nothing[0], list(nothing[1]), accepted.tolist(), checked.tolist())

    def _observe(
        self, plan: StepPlan, proposal: tuple[Draft, torch.Tensor], verdict: Round, seconds: float, work: StepWork
    ) -> None:
        """Count the round and teach the policy, as Engine.step does."""
        rows = work.num_sampling + work.num_verified + work.prefill_rows + work.catch_up_rows
        facts = StepFacts(self.stats.steps + 1, seconds, rows, work.prefill_rows, work.catch_up_rows)
        self.stats.count_step(seconds, work.catch_up_rows, plan.predicted_step_s)
        self.stats.count_tokens(work.prefill_rows, sum(map(len, verdict.emitted)))
        if not plan.teaches(plan.parts[0], facts.step):
            self.group.count_plain(len(verdict.emitted))
        for part, outcome in outcomes(plan, *proposal, verdict, facts):
            self.group.observe(part.plan, outcome, outcome, part.view)
