"""Proposals of parts of a batch: empty ones, some sequences of one, one spread over a whole batch."""

import torch
from torch import Tensor

from core.tensors import Draft


def no_draft(batch_size: int, width: int, device: torch.device | None = None) -> Draft:
    """Return a proposal of nothing for `batch_size` sequences."""
    return Draft(
        torch.zeros(batch_size, width, dtype=torch.int64, device=device),
        torch.zeros(batch_size, dtype=torch.int32, device=device),
        torch.ones(batch_size, dtype=torch.bool, device=device),
        None,
        torch.zeros(batch_size, width, device=device),
    )


def select(draft: Draft, index: Tensor) -> Draft:
    """Return the proposal of some sequences of a batch, index i64 [b]."""
    if len(index) == len(draft.lengths):
        return draft
    q_logits = None if draft.q_logits is None else draft.q_logits[index]
    forced = None if draft.forced is None else draft.forced[index]
    return Draft(
        draft.tokens[index], draft.lengths[index], draft.point_mass[index], q_logits, draft.evidence[index], forced
    )


def merge(proposals: list[tuple[Tensor, Draft]], batch_size: int, width: int) -> Draft:
    """Place proposals for disjoint sequences, given as (index i64 [b], draft), into one batch; others have none.

    width  G of the whole batch; a narrower proposal is padded.
    """
    if len(proposals) == 1 and len(proposals[0][0]) == batch_size and proposals[0][1].tokens.shape[1] == width:
        return proposals[0][1]
    whole = no_draft(batch_size, width, proposals[0][1].tokens.device)
    sampled = next((draft.q_logits for _, draft in proposals if draft.q_logits is not None), None)
    q_logits = None if sampled is None else sampled.new_zeros(batch_size, width, sampled.shape[-1])
    for index, draft in proposals:
        own = draft.tokens.shape[1]
        whole.tokens[index, :own] = draft.tokens
        whole.lengths[index] = draft.lengths
        whole.point_mass[index] = draft.point_mass
        whole.evidence[index, :own] = draft.evidence
        if q_logits is not None and draft.q_logits is not None:
            q_logits[index, :own] = draft.q_logits
    return Draft(whole.tokens, whole.lengths, whole.point_mass, q_logits, whole.evidence)
