"""One model replica: the step. Synchronous, one thread, knows nothing of HTTP, Redis or text files.

schedule, plan, draft, admit, verify, accept, commit, emit: `Engine.step` reads as that list.
"""

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from core.errors import RequestError
from core.planning import Policy
from core.tensors import Draft, Favour
from core.types import Backlog, Emission, Request, Sampling
from drafters.base import Drafter
from engine.accept import Round, accept
from engine.ask import make_ask
from engine.bounded_rows import BoundedRows, make_bounded_rows, most_admitted
from engine.commit import final_rows, hand_over
from engine.completion import Completion
from engine.cost_refine import CostTables
from engine.device import upload
from engine.device_round import Proposal, judge, read, with_logprobs
from engine.drafts import merge, no_draft, select
from engine.draws_ahead import DrawsAhead
from engine.emit import emissions
from engine.explain import RecentSteps
from engine.grammar_pool import GrammarPool
from engine.grammars import Grammars
from engine.graphed_forward import Forward, GraphedForward, graphed
from engine.groups import Groups, MakePolicy
from engine.host_rows import host_rows
from engine.learning import Lesson, count, teach
from engine.memory import EngineMemory
from engine.noise import Draws, RoundNoise, draw_noise
from engine.outcome import StepFacts, num_judged, step_facts
from engine.plan import Load, StepPlan, live_survival, plan_step
from engine.replica import Leader, LedForward
from engine.request_check import check_tokens
from engine.rows import StepRows, append_catch_up, make_rows
from engine.scheduler import Batch, check_size
from engine.sequence import Sequence
from engine.shape import EngineShape
from engine.stats import EngineStats
from engine.target import TargetForward
from engine.target_draws import TargetDraws
from kernels.admit import admit
from models.answer_text import AnswerText
from models.grammar import GrammarCompiler
from models.target import Target
from models.tokenizer import Tokenizer


class Engine:
    """Runs requests through a target with the help of drafters; `step` advances all of them by one round.

    drafters and policies are by the names that requests may ask for; the first of each is the default. A drafter of
    None is plain decoding, which is always there under the name "none". A policy is
    made anew for every drafter it is used with, because it learns. costs, by drafter, is what policies know of the
    machine (engine/profile.py, engine/cost_refine.py), and backlog, set by whoever feeds the engine, what waits before
    it. clock tells the seconds that steps take. untrusted names the drafters whose law nobody has proved: their drafts
    count as point masses. policy_drafters are the drafters that policies bring, by the policy's name. leader tells the
    other processes of a target that is divided among several.
    """

    def __init__(
        self,
        target: Target,
        drafters: Mapping[str, Drafter | None],
        policies: Mapping[str, MakePolicy],
        shape: EngineShape,
        eos_ids: tuple[int, ...],
        tokenizer: Tokenizer | None = None,
        clock: Callable[[], float] = time.perf_counter,
        untrusted: Collection[str] = (),
        policy_drafters: Mapping[str, str] | None = None,
        leader: Leader | None = None,
    ) -> None:
        self.target, self.eos_ids, self.tokenizer, self.stats = target, eos_ids, tokenizer, EngineStats()
        self.clock, self.backlog, self.recent = clock, Backlog(), RecentSteps()
        self.costs = CostTables()
        self._leader, self._device = leader, target.device
        memory = EngineMemory(target, drafters, shape, self.stats, untrusted)
        self._forward: Forward = LedForward(target, leader) if leader else TargetForward(target)
        self.graphed: GraphedForward | None = None
        if leader:
            leader.open(memory.num_blocks, shape.block_size)
        elif shape.graph_sizes and target.is_capturable:
            self._forward = self.graphed = graphed(self._forward, memory, shape.graph_sizes)
        self.memory, self.scheduler, self.slots = memory, memory.scheduler, memory.slots
        vocab_size = target.shape.vocab_size
        compiler = GrammarCompiler(tokenizer, eos_ids, vocab_size) if tokenizer and eos_ids else None
        self.grammar_pool, self._grammars = GrammarPool(compiler), Grammars(self.stats)
        self._draws = Draws(TargetDraws(shape.max_num_seqs), DrawsAhead(shape.max_num_seqs, memory.width))
        self._uncounted: list[Lesson] = []
        self._last_plan: StepPlan | None = None
        self.groups = Groups(memory.speculators, policies, self.stats, shape.max_num_seqs, policy_drafters or {})

    # --- Requests ----------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Tell whether a step would do anything."""
        return bool(self.scheduler.running or self.scheduler.waiting or self.grammar_pool.waiting)

    @property
    def runs_apart(self) -> bool:
        """Tell whether a device computes while the host goes on."""
        return self._device.type != "cpu"

    @property
    def num_free_slots(self) -> int:
        """Requests that could be admitted beside those here."""
        return self.scheduler.num_free_slots

    @property
    def max_model_len(self) -> int:
        """Most tokens of one request, prompt and answer together."""
        return self.scheduler.limits.max_model_len

    def add(self, request: Request) -> None:
        """Take a request in; raises RequestError if it can never run here."""
        check_tokens(request, self.target.shape.vocab_size)
        sequence = self.groups.join(request)
        if request.sampling.grammar is None:
            self.scheduler.add(sequence)
        else:
            check_size(request, self.scheduler.limits, self.scheduler.pool)
            self.grammar_pool.begin(sequence)

    def abort(self, request_id: str) -> None:
        """Drop a request at once; an unknown or finished id is nothing to do."""
        self.grammar_pool.drop(request_id)
        if sequence := self.scheduler.find(request_id):
            self._finish(sequence)

    def load_drafter(self, name: str, drafter: Drafter, *, trusts_law: bool = True, replaces: bool = False) -> None:
        """Take in a drafter that requests may name from now on, with `replaces` in place of a namesake.

        Raises ConfigError, changing nothing, if no room was kept for it.
        """
        self.memory.speculators.check(name, drafter, replaces=replaces)
        if name in self.memory.speculators:
            self.unload_drafter(name)
        self.memory.speculators.load(name, drafter, trusts_law=trusts_law)

    def unload_drafter(self, name: str) -> None:
        """Let a drafter and its KV go; its requests decode plainly from here on. ConfigError for an unknown name."""
        self._count()
        speculator = self.memory.speculators.unload(name)
        for sequence in self.scheduler.running:
            if sequence.group[0] == name:
                speculator.release(sequence.slot)
        self.groups.leave(name, (*self.scheduler.running, *self.scheduler.waiting, *self.grammar_pool.waiting))
        self.costs.pop(name, None)

    def generate(self, prompts: Iterable[str | tuple[int, ...]], sampling: Sampling) -> list[Completion]:
        """Run prompts, texts or token ids, to their ends and return their completions in order.

        Draws fresh nonces, so two calls give two samples, unless the sampling has a seed. The engine must be idle: it
        is stepped until it is again. Raises RequestError for a prompt that can never run here, and for a text if the
        engine has no tokenizer.
        """
        if sampling.stop and self.tokenizer is None:
            raise RequestError("this engine has no tokenizer; it cannot look for stop texts", param="stop")
        key = None if sampling.seed is None else sampling.seed % (1 << 64)
        requests = [
            Request(str(index), self._encode(prompt), sampling, secrets.randbits(64), coupled_key=key)
            for index, prompt in enumerate(prompts)
        ]
        done = {
            request.id: Completion(AnswerText(self.tokenizer, sampling) if self.tokenizer else None)
            for request in requests
        }
        for request in requests:
            self.add(request)
        while self.has_work:
            for emission in self.step():
                if done[emission.request_id].add(emission):
                    self.abort(emission.request_id)
        return list(done.values())

    @contextmanager
    def scripted(self, policy: Policy, drafter: str | None = None) -> Iterator[None]:
        """Let `policy` plan every request that is added inside, with the named drafter (None: the default).

        How a profile makes the engine take the steps it wants to time; all requests must end inside.
        """
        self._count()
        recent, self.recent = self.recent, RecentSteps()
        try:
            with self.groups.scripted(policy, drafter):
                yield
        finally:
            self._count()
            self.recent = recent

    def snapshot(self) -> dict[str, Any]:
        """Return what the engine counts and holds, as plain values."""
        self._count()
        pool, scheduler = self.memory.pool, self.scheduler
        return self.stats.snapshot() | {
            "running": len(scheduler.running),
            "slots": scheduler.limits.max_num_seqs,
            "waiting": len(scheduler.waiting),
            "kv_usage": 1 - pool.num_free / pool.num_usable,
            "kv_bytes": self.memory.kv_bytes,
            "kv_blocks": {"count": pool.num_usable, "size": pool.block_size},
            "preemptions": scheduler.num_preemptions,
            "prefix_queries": scheduler.prefix_queries,
            "prefix_hits": scheduler.prefix_hits,
            "calibrations": self.groups.calibrations(),
            "recent_steps": self.recent.records(),
        }

    def close(self) -> None:
        """Let the other processes of the replica end, if there are any; the engine is not used any more."""
        if self._leader:
            self._leader.close()

    def _encode(self, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
        if not isinstance(prompt, str):
            return tuple(prompt)
        if self.tokenizer is None:
            raise RequestError("this engine has no tokenizer; give prompts as token ids", param="prompt")
        return tuple(self.tokenizer.encode(prompt))

    # --- The step ----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self, meanwhile: Callable[[], None] | None = None) -> list[Emission]:
        """Advance every scheduled sequence by one round and return what leaves the engine.

        `meanwhile` is called once while a device runs the round, if this is one; on a CPU it is not.
        """
        ended = self._take_compiled()
        started = self.clock()
        batch = self._schedule()
        if not batch.sequences:
            return ended
        plan = self._plan(batch)
        draft, noise = self._draft(batch, plan)
        proposal, rows = self._admit(batch, plan, draft)
        logits, features = self._verify(plan, rows)
        self._overlap(plan, meanwhile)
        verdict, proposal = self._accept(batch, rows, proposal, logits, noise)
        rows = host_rows(batch, plan, rows, proposal)
        self._commit(batch, plan, rows, verdict, features)
        facts = step_facts(self.stats.steps + 1, self.clock() - started, batch, plan, rows)
        self._observe(plan, proposal, verdict, facts)
        return ended + self._emit(batch, proposal.draft, verdict)

    def _take_compiled(self) -> list[Emission]:
        """Queue the sequences whose grammars are ready; returns the ends of those whose grammars failed."""
        ready, ended = self.grammar_pool.collect(is_idle=not (self.scheduler.running or self.scheduler.waiting))
        for sequence in ready:
            self.scheduler.add(sequence)
        return ended

    def _schedule(self) -> Batch:
        with self.stats.timed("schedule"):
            batch = self.scheduler.schedule()
            for slot, sequence in batch.preempted:
                self.groups.of(sequence).speculator.release(slot)
            for sequence in batch.admitted:
                group = self.groups.of(sequence)
                self.slots.open(sequence, self.eos_ids)
                group.open(sequence.slot)
                group.speculator.open(sequence)
            self.slots.write_blocks(batch.grown)
            return batch

    def _plan(self, batch: Batch) -> StepPlan:
        with self.stats.timed("plan"):
            load = Load(self.memory.pool, self.scheduler.waiting, self.backlog, self.costs)
            self._last_plan = plan_step(batch, self.groups.by_key, load, self._last_plan)
            return self._last_plan

    def _draft(self, batch: Batch, plan: StepPlan) -> tuple[Draft, RoundNoise]:
        """Return what drafters propose where the plan asks for drafts, nothing elsewhere; and the round's noise."""
        # Without drafts nothing is as wide as drafts are.
        size, width = len(batch.sequences), self.memory.width if plan.draft_len.any() else 0
        with self.stats.timed("noise"):
            vocab_size = self.target.shape.vocab_size
            device = self._device
            noise = draw_noise(batch.sequences, plan.draft_len, width, vocab_size, self._draws, device)
        if not width:
            return no_draft(size, width, device), noise
        with self.stats.timed("draft"):
            proposals = []
            for speculator, index in plan.drafting:
                draft = speculator.propose(make_ask(plan, speculator, index, noise, self.slots))
                if draft is not None:
                    proposals.append((upload(index, device), draft))
                    continue
                for b in index.tolist():
                    batch.sequences[b].attempt += 1
            draft = merge(proposals, size, width) if proposals else no_draft(size, width, device)
        with self.stats.timed("grammar"):
            return self._grammars.guide(batch.sequences, plan.draft_len, draft), noise

    def _admit(self, batch: Batch, plan: StepPlan, draft: Draft) -> tuple[Proposal, StepRows | BoundedRows]:
        """Return what of the drafts is verified, and the rows of the target's forward."""
        with self.stats.timed("admit"):
            survival, lengths, device = torch.zeros_like(draft.evidence), draft.lengths, self._device
            if draft.tokens.shape[1]:
                survival, favour = live_survival(plan, draft), plan.favour
                if favour is not None:
                    favour = Favour(upload(favour.floor, device), upload(favour.weight, device))
                lengths = admit(survival, lengths, upload(plan.group, device), plan.rules, favour)
            proposal = Proposal(draft, survival, lengths)
            slots, tables = self.slots.terms(batch.sequences).slots, self.slots.block_tables
            if not self.runs_apart:
                rows = make_rows(batch, draft, lengths, tables[slots])
                return proposal, append_catch_up(rows, plan.catch_up, tables)
            bound = most_admitted(plan) if draft.tokens.shape[1] else 0
            return proposal, make_bounded_rows(batch, draft, lengths, (tables, slots), plan.catch_up, bound)

    def _verify(self, plan: StepPlan, rows: StepRows | BoundedRows) -> tuple[Tensor, Tensor | None]:
        """Run the target once over all rows; logits of the judged rows, features of all if a drafter follows."""
        with self.stats.timed("verify"):
            kv = self.memory.kv.view(rows.verify.block_tables)
            hidden, features = self._forward(rows.verify, kv, plan.feature_layers)
            return self.target.logits(hidden[rows.judged]), features

    def _overlap(self, plan: StepPlan, meanwhile: Callable[[], None] | None) -> None:
        """Do what needs no verdict of this round while a device runs it; on a CPU nothing could run meanwhile."""
        if not self.runs_apart:
            return
        with self.stats.timed("overlap"):
            if meanwhile:
                meanwhile()
            self._count()
            if plan.draft_len.any():
                self._draws.ahead.prepare(plan.sequences)

    def _accept(
        self, batch: Batch, rows: StepRows | BoundedRows, proposal: Proposal, logits: Tensor, noise: RoundNoise
    ) -> tuple[Round, Proposal]:
        """Judge the admitted drafts of every sequence that gets a next token; returns all of it on the host."""
        judged, index = tuple(batch.sequences[b] for b in rows.index.tolist()), upload(rows.index, self._device)
        draft, lengths = select(proposal.draft, index), proposal.lengths[index]
        with self.stats.timed("grammar"):
            allowed = self._grammars.allowed(judged, draft, lengths)
        with self.stats.timed("accept"):
            terms, noise = self.slots.terms(judged), noise.of(rows.index)
            if isinstance(rows, StepRows):
                verdict = accept(rows.index, logits, (draft, lengths), noise, terms, allowed)
            else:
                found = judge(rows, logits, draft, lengths, noise, terms, allowed)
                verdict, proposal = read(rows.index, found, proposal)
                verdict, draft = with_logprobs(verdict, logits, terms), select(proposal.draft, rows.index)
        with self.stats.timed("grammar"):
            return self._grammars.advance(judged, verdict, draft), proposal

    def _commit(self, batch: Batch, plan: StepPlan, rows: StepRows, verdict: Round, features: Tensor | None) -> None:
        """Append tokens, advance lengths (a rollback is only a length), hand final rows to the drafters."""
        with self.stats.timed("commit"):
            final = [
                (speculator, final_rows(batch, rows, verdict, own, speculator.name)) for speculator, own in plan.told
            ]
            for sequence, num_rows in zip(batch.sequences, batch.num_rows, strict=True):
                sequence.num_computed += num_rows
            for b, accepted, emitted in zip(verdict.index.tolist(), verdict.accepted, verdict.emitted, strict=True):
                sequence = batch.sequences[b]
                sequence.num_computed += accepted
                sequence.tokens.extend(emitted)
            for speculator, told in final:
                hand_over(plan, speculator, told, features, self.slots)
            for sequence in batch.sequences:
                self.scheduler.commit(sequence)

    def _observe(self, plan: StepPlan, proposal: Proposal, verdict: Round, facts: StepFacts) -> None:
        """Count the round and teach each policy its part of it; the rest of what it shows can wait for the next."""
        self.stats.count_step(facts.step_s, facts.catch_up_rows, plan.predicted_step_s)
        self.stats.count_tokens(facts.prefill_rows, sum(map(len, verdict.emitted)))
        if proposal.draft.tokens.shape[1]:
            self.stats.soft_accepts += float(verdict.verdict.soft_labels.sum())
        for part in plan.parts:
            if not plan.teaches(part, facts.step):
                part.group.count_plain(num_judged(plan, part, verdict))
        self._uncounted += teach(plan, proposal, verdict, facts)
        if not self.runs_apart:
            self._count()

    def _count(self) -> None:
        lessons, self._uncounted = self._uncounted, []
        count(lessons, self.recent, self.costs)

    def _emit(self, batch: Batch, draft: Draft, verdict: Round) -> list[Emission]:
        """Say what each sequence gained, and let go of those that are done."""
        emitted = emissions(batch, draft, verdict)
        for b, emission in zip(verdict.index.tolist(), emitted, strict=True):
            if emission.finish_reason is not None:
                self._finish(batch.sequences[b])
        return emitted

    def _finish(self, sequence: Sequence) -> None:
        # There may be no next round, and its slot will be another's.
        self._count()
        if sequence.slot >= 0:
            self.groups.of(sequence).speculator.release(sequence.slot)
        self.scheduler.finish(sequence)
