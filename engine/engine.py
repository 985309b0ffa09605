"""One model replica: the step. Synchronous, one thread, knows nothing of HTTP, Redis or text files.

schedule, plan, draft, admit, verify, accept, commit, emit: `Engine.step` reads as that list.
"""

import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.cost import CostTable
from core.errors import RequestError
from core.random import round_uniforms
from core.tensors import Draft, DraftAsk
from core.types import F32, Emission, FinishReason, Plan, Policy, Request, Sampling, StepOutcome
from drafters.base import Drafter
from engine.accept import Round, Terms, accept
from engine.blocks import BlockPool
from engine.completion import Completion
from engine.kv_cache import KVGroup
from engine.rows import StepRows, make_commit, make_final, make_rows
from engine.scheduler import Batch, Limits, Scheduler
from engine.sequence import Sequence
from engine.shape import EngineShape
from engine.slots import SlotTable
from engine.speculator import Sizes, Speculator, no_draft, select, spread
from engine.stats import EngineStats
from engine.target import forward_target
from kernels.admit import admit
from kernels.survival import survival as survival_of
from models.qwen3 import Qwen3
from models.tokenizer import Tokenizer

I64 = NDArray[np.int64]
NonceArray = NDArray[np.uint64]


class Engine:
    """Runs requests through a target with the help of a drafter; `step` advances all of them by one round."""

    def __init__(
        self,
        target: Qwen3,
        drafter: Drafter | None,
        policy: Policy,
        shape: EngineShape,
        eos_ids: tuple[int, ...],
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.target, self.eos_ids, self.tokenizer, self.stats = target, eos_ids, tokenizer, EngineStats()
        config, dtype = target.config, target.norm.weight.dtype
        self.dtype = dtype
        self.costs: dict[str, CostTable] = {}
        num_drafts = drafter.spec.max_drafts if drafter else 0
        longest = config.max_position_embeddings
        self.max_model_len = min(shape.max_model_len or longest, longest)
        limits = Limits(
            max_num_seqs=shape.max_num_seqs,
            max_num_batched_tokens=shape.max_num_batched_tokens,
            max_model_len=self.max_model_len,
            max_drafts=num_drafts,
        )
        num_blocks = shape.kv_cache_tokens // shape.block_size + 1
        pool = BlockPool(num_blocks, shape.block_size)
        self.scheduler = Scheduler(limits, pool)
        self.slots = SlotTable(shape.max_num_seqs, pool.blocks_for(self.max_model_len + num_drafts + 1))
        self.kv = KVGroup(
            config.num_hidden_layers,
            num_blocks,
            shape.block_size,
            config.num_key_value_heads,
            config.head_dim,
            dtype,
        )
        draft_kv = None
        if drafter and drafter.spec.kv_layers:
            layers, heads, head_dim = drafter.spec.kv_layers
            draft_kv = KVGroup(layers, num_blocks, shape.block_size, heads, head_dim, dtype)
        self.speculator = Speculator(
            drafter, policy, draft_kv, Sizes(shape.max_num_seqs, config.vocab_size), self.stats
        )

    # --- Requests ----------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Tell whether a step would do anything."""
        return bool(self.scheduler.running or self.scheduler.waiting)

    @property
    def num_free_slots(self) -> int:
        """Requests that could be admitted beside those here."""
        return self.scheduler.num_free_slots

    def add(self, request: Request) -> None:
        """Take a request in; raises RequestError if it can never run here."""
        check_tokens(request, self.target.config.vocab_size)
        self.scheduler.add(request)

    def abort(self, request_id: str) -> None:
        """Drop a request at once; an unknown or finished id is nothing to do."""
        if self.scheduler.cancel_waiting(request_id):
            return
        for sequence in self.scheduler.running:
            if sequence.request.id == request_id:
                self._finish(sequence)
                return

    def generate(self, prompts: Iterable[str | tuple[int, ...]], sampling: Sampling) -> list[Completion]:
        """Run prompts, texts or token ids, to their ends and return their completions in order.

        Draws fresh nonces, so two calls give two samples. The engine must be idle: it is stepped until it is again.
        Raises RequestError for a prompt that can never run here, and for a text if the engine has no tokenizer.
        """
        requests = [
            Request(str(index), self._encode(prompt), sampling, secrets.randbits(64))
            for index, prompt in enumerate(prompts)
        ]
        done = {request.id: Completion() for request in requests}
        for request in requests:
            self.add(request)
        while self.has_work:
            for emission in self.step():
                done[emission.request_id].add(emission)
        for completion in done.values():
            completion.text = self.tokenizer.decode(completion.token_ids) if self.tokenizer else ""
        return list(done.values())

    def _encode(self, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
        if not isinstance(prompt, str):
            return tuple(prompt)
        if self.tokenizer is None:
            raise RequestError("this engine has no tokenizer; give prompts as token ids", param="prompt")
        return tuple(self.tokenizer.encode(prompt))

    @contextmanager
    def scripted(self, policy: Policy) -> Iterator[None]:
        """Let `policy` plan every step inside: how a profile makes the engine take the steps it wants to time."""
        usual, self.speculator.policy = self.speculator.policy, policy
        try:
            yield
        finally:
            self.speculator.policy = usual

    # --- The step ----------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def step(self) -> list[Emission]:
        """Advance every scheduled sequence by one round and return what leaves the engine."""
        started = time.perf_counter()
        batch = self._schedule()
        if not batch.sequences:
            return []
        plan = self._plan(batch)
        noise, uniforms = round_uniforms(*round_keys(batch.sequences), self.speculator.spec.max_drafts)
        draft = self._draft(batch, plan, noise)
        lengths, rows = self._admit(batch, plan, draft)
        logits, features = self._verify(plan, rows)
        verdict = self._accept(batch, rows, (draft, lengths), logits, uniforms)
        self._commit(batch, plan, rows, verdict, features)
        self._observe(batch, draft, verdict, time.perf_counter() - started, len(rows.offset))
        return self._emit(batch, verdict)

    def _schedule(self) -> Batch:
        with self.stats.timed("schedule"):
            admitted = self.scheduler.admit()
            for sequence in admitted:
                self.slots.open(sequence, self.eos_ids)
                self.speculator.open(sequence)
            return self.scheduler.schedule()

    def _plan(self, batch: Batch) -> Plan:
        with self.stats.timed("plan"):
            pool = self.scheduler.pool
            view = self.speculator.view(
                batch,
                self.stats.steps,
                pool.num_free / pool.num_usable,
                len(self.scheduler.waiting),
                self.costs.get(self.speculator.spec.name),
            )
            return self.speculator.plan(view)

    def _draft(self, batch: Batch, plan: Plan, noise: F32) -> Draft:
        """Return what the drafter proposes where the plan asks for drafts, nothing elsewhere."""
        size, width = len(batch.sequences), self.speculator.spec.max_drafts
        index = torch.from_numpy(np.flatnonzero(plan.draft_len))
        if not len(index):
            return no_draft(size, width)
        with self.stats.timed("draft"):
            asked = tuple(batch.sequences[b] for b in index.tolist())
            slots = batch_slots(asked)
            kv = self.speculator.kv
            ask = DraftAsk(
                slots,
                torch.tensor([sequence.tokens[-1] for sequence in asked]),
                torch.tensor([len(sequence.tokens) - 1 for sequence in asked]),
                torch.from_numpy(plan.draft_len)[index],
                self.slots.processing(asked, slots),
                torch.from_numpy(noise)[index],
                kv.view(self.slots.block_tables[slots]) if kv else None,
            )
            draft = self.speculator.propose(ask)
            if draft is None:
                for sequence in asked:
                    sequence.attempt += 1
                return no_draft(size, width)
            return spread(draft, index, size)

    def _admit(self, batch: Batch, plan: Plan, draft: Draft) -> tuple[Tensor, StepRows]:
        """Return the verify lengths i32 [B] and the rows of the target's forward."""
        with self.stats.timed("admit"):
            survival = survival_of(draft.evidence, draft.lengths, plan.calibration)
            self.speculator.remember(batch, survival)
            group = torch.zeros(len(batch.sequences), dtype=torch.int64)
            lengths = admit(survival, draft.lengths, group, (plan.rule,))
            tables = self.slots.block_tables[batch_slots(batch.sequences)]
            return lengths, make_rows(batch, draft, lengths, tables)

    def _verify(self, plan: Plan, rows: StepRows) -> tuple[Tensor, Tensor | None]:
        """Run the target once over all rows; logits of the judged rows, features of all if a drafter follows."""
        with self.stats.timed("verify"):
            taps = self.speculator.spec.feature_layers if plan.follow.any() else ()
            kv = self.kv.view(rows.verify.block_tables)
            hidden, features = forward_target(self.target, rows.verify, kv, taps)
            return self.target.logits(hidden[rows.judged]), features

    def _accept(
        self, batch: Batch, rows: StepRows, proposal: tuple[Draft, Tensor], logits: Tensor, uniforms: F32
    ) -> Round:
        """Judge the admitted drafts of every sequence that gets a next token."""
        with self.stats.timed("accept"):
            index = rows.samples.nonzero().squeeze(1)
            judged = tuple(batch.sequences[b] for b in index.tolist())
            slots = batch_slots(judged)
            terms = Terms(self.slots.processing(judged, slots), self.slots.stop_ids[slots])
            draft, lengths = proposal
            draws = torch.from_numpy(uniforms)[index]
            return accept(index, logits, select(draft, index), lengths[index], draws, terms)

    def _commit(self, batch: Batch, plan: Plan, rows: StepRows, verdict: Round, features: Tensor | None) -> None:
        """Append tokens, advance lengths (a rollback is only a length), hand final rows to the drafter."""
        with self.stats.timed("commit"):
            final = make_final(batch, rows, verdict, torch.from_numpy(plan.follow.copy()))
            for sequence, num_rows in zip(batch.sequences, batch.num_rows, strict=True):
                sequence.num_computed += num_rows
            for b, accepted, emitted in zip(verdict.index.tolist(), verdict.accepted, verdict.emitted, strict=True):
                sequence = batch.sequences[b]
                sequence.num_computed += accepted
                sequence.tokens.extend(emitted)
            if len(final.index):
                followed = tuple(batch.sequences[b] for b in final.index.tolist())
                slots, kv = batch_slots(followed), self.speculator.kv
                view = kv.view(self.slots.block_tables[slots]) if kv else None
                self.speculator.extend(make_commit(rows, final, features, slots, view), followed)

    def _observe(self, batch: Batch, draft: Draft, verdict: Round, step_s: float, rows: int) -> None:
        self.stats.steps += 1
        self.stats.soft_accepts += float(verdict.verdict.soft_labels.sum())
        drafted = draft.lengths[verdict.index].tolist()
        for counts in zip(verdict.verified, verdict.accepted, drafted, map(len, verdict.emitted), strict=True):
            self.stats.count_round(*counts)
        self.speculator.observe(
            StepOutcome(
                step=self.stats.steps,
                slots=np.array([batch.sequences[b].slot for b in verdict.index.tolist()], dtype=np.int32),
                drafted=np.array(drafted, dtype=np.int32),
                verified=np.array(verdict.verified, dtype=np.int32),
                accepted=np.array(verdict.accepted, dtype=np.int32),
                step_s=step_s,
                rows=rows,
                prefill_rows=batch.num_prefill_rows,
                catch_up_rows=0,
            )
        )

    def _emit(self, batch: Batch, verdict: Round) -> list[Emission]:
        """Say what each sequence gained, and let go of those that are done."""
        emissions = []
        for i, b in enumerate(verdict.index.tolist()):
            sequence, tokens, accepted = batch.sequences[b], verdict.emitted[i], verdict.accepted[i]
            reason = FinishReason.LENGTH if sequence.num_remaining <= 0 else None
            if verdict.stopped[i]:
                reason = FinishReason.STOP
            num_drafts = min(accepted, len(tokens))
            name, verified = sequence.request.id, verdict.verified[i]
            emissions.append(Emission(name, tuple(tokens), verified, accepted, num_drafts, reason))
            if reason is not None:
                self._finish(sequence)
        return emissions

    def _finish(self, sequence: Sequence) -> None:
        self.speculator.release(sequence)
        self.scheduler.finish(sequence)


def batch_slots(sequences: tuple[Sequence, ...]) -> Tensor:
    """Return the slots of `sequences`, i64 [B]."""
    return torch.tensor([sequence.slot for sequence in sequences], dtype=torch.int64)


def round_keys(sequences: tuple[Sequence, ...]) -> tuple[NonceArray, I64, I64]:
    """Return what keys a round's draws: nonces, anchor positions and attempts [B] (docs/exactness.md)."""
    return (
        np.array([sequence.request.nonce for sequence in sequences], dtype=np.uint64),
        np.array([len(sequence.tokens) - 1 for sequence in sequences], dtype=np.int64),
        np.array([sequence.attempt for sequence in sequences], dtype=np.int64),
    )


def check_tokens(request: Request, vocab_size: int) -> None:
    """Raise RequestError if a token id of the request is not in the vocabulary."""
    ids = (*request.prompt_ids, *request.output_ids)
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise RequestError(
            f"token ids must lie in 0..{vocab_size - 1}, got {min(ids) if min(ids) < 0 else max(ids)}",
            param="prompt",
        )
