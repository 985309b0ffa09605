"""A round judged on a GPU: everything stays there until one copy brings it all to the host.

The verbs are those of engine/accept.py. What a grammar or a request for log-probabilities needs of the host beyond that
copy is paid by the rounds that have one.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.tensors import Allowed, Draft, LawRows, Verdict
from engine.accept import Round, best, cut, logprobs_of
from engine.bounded_rows import BoundedRows
from engine.device import download
from engine.noise import RoundNoise
from engine.slots import Terms
from kernels.coupled import couple, keep_drawn
from kernels.process import process
from kernels.reject import draw_next, reject


@dataclass(frozen=True, slots=True)
class Proposal:
    """What was drafted for a whole batch, its live survivals f32 [B, G], and how much was verified, i32 [B]."""

    draft: Draft
    survival: Tensor
    lengths: Tensor


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict on S sequences and what it comes to (`engine.accept.cut`), on the device."""

    verdict: Verdict
    tokens: Tensor
    counts: Tensor
    stopped: Tensor


def judge(
    rows: BoundedRows,
    logits: Tensor,
    draft: Draft,
    lengths: Tensor,
    noise: RoundNoise,
    terms: Terms,
    allowed: Allowed | None,
) -> Judged:
    """Judge the drafts of S sequences by target logits f32 [M, V], of which the last may be nobody's.

    All but rows and logits are of the judged sequences; the verifiers read the lengths and so no row that is nobody's.
    """
    law = LawRows(*rows.law, draft.tokens, allowed)
    processing = terms.processing
    if processing.is_greedy and processing.edits is None:
        verdict = keep_drawn(best(logits, law), draft, lengths)
    elif not draft.tokens.shape[1] and noise.gumbel is None:
        drawn = draw_next(process(logits, processing, law), noise.verdict[:, 0])
        verdict = Verdict(draft.lengths, drawn, draft.lengths, draft.evidence)
    else:
        verdict = _verify(process(logits, processing, law), draft, lengths, noise)
    return Judged(verdict, *cut(draft.tokens, verdict, terms.stop_ids))


def read(index: Tensor, judged: Judged, proposal: Proposal) -> tuple[Round, Proposal]:
    """Bring a judged round and what was proposed to the host; log-probabilities are yet to come."""
    verdict, draft = judged.verdict, proposal.draft
    forced = () if draft.forced is None else (draft.forced,)
    tokens, counts, stopped, accepted, next_token, verified, labels, *proposed = download(
        (
            *(judged.tokens, judged.counts, judged.stopped),
            *(verdict.accepted, verdict.next_token, verdict.verified, verdict.soft_labels),
            *(draft.tokens, draft.lengths, draft.point_mass, draft.evidence, proposal.survival, proposal.lengths),
            *forced,
        )
    )
    drafted, lengths, point_mass, evidence, survival, verified_all, *forced_all = proposed
    emitted = [row[:count] for row, count in zip(tokens.tolist(), counts.tolist(), strict=True)]
    ended = Round(
        index,
        Verdict(accepted, next_token, verified, labels),
        emitted,
        stopped.tolist(),
        [None] * len(emitted),
        accepted.tolist(),
        verified.tolist(),
    )
    told = Draft(drafted, lengths, point_mass, None, evidence, forced_all[0] if forced_all else None)
    return ended, Proposal(told, survival, verified_all)


def with_logprobs(ended: Round, logits: Tensor, terms: Terms) -> Round:
    """Add the log-probabilities that some sequences asked for, by one copy more; none did: nothing is done."""
    return replace(ended, logprobs=logprobs_of(logits, ended.verified, ended.emitted, terms.logprobs))


def _verify(logits: Tensor, draft: Draft, lengths: Tensor, noise: RoundNoise) -> Verdict:
    """Let each sequence's own verifier decide; where both share a batch, both judge all of it."""
    if noise.gumbel is None:
        return reject(logits, draft, lengths, noise.verdict)
    coupled = couple(logits, draft, lengths, noise.gumbel)
    if noise.is_coupled.all():
        return coupled
    sampled = reject(logits, draft, lengths, noise.verdict)
    is_coupled = noise.coupled
    return Verdict(
        torch.where(is_coupled, coupled.accepted, sampled.accepted),
        torch.where(is_coupled, coupled.next_token, sampled.next_token),
        lengths,
        torch.where(is_coupled[:, None], coupled.soft_labels, sampled.soft_labels),
    )
