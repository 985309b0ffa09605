"""What float64 says of draws that float32 kernels made: a token counts as right if a law nearby would have drawn it.

A verdict is a chain of comparisons, and one that falls within rounding of its boundary may go either way. So a kernel's
own decisions are taken as they are, and each is measured: by how much would its boundary have had to move?
"""

import torch
from torch import Tensor

from bench.gpu.contract import Gap
from core.tensors import Draft, Verdict

# float32 laws lie this close to float64 ones (the contract of kernels/reject.py).
LAW_TOLERANCE = 2e-5
SCORE_TOLERANCE = 1e-4


def verdict_gaps(verdict: Verdict, logits: Tensor, draft: Draft, lengths: Tensor, uniforms: Tensor) -> dict[str, Gap]:
    """Return how far a verdict of rejection sampling is from the law in float64; arguments as for `reject`."""
    width = draft.tokens.shape[1]
    if outside := num_outside(verdict.accepted, verdict.next_token, lengths, logits.shape[1]):
        return {"accepted": Gap(float(outside), 0.0, "accepted drafts or tokens that there are not")}
    p = logits.double().softmax(-1)
    first = (lengths.long() + 1).cumsum(0) - lengths.long() - 1
    accepted, next_token = verdict.accepted.long(), verdict.next_token
    wrong_way, labels = p.new_zeros(()), p.new_zeros(len(lengths), width)
    mass = p[first + accepted]
    for j in range(width):
        judged = (lengths > j).nonzero().squeeze(1)
        if not len(judged):
            break
        rows, token = p[first[judged] + j], draft.tokens[judged, j, None]
        q = _draft_law(draft, judged, j, rows)
        ratio = uniforms[judged, j].double() * q.gather(1, token).squeeze(1) - rows.gather(1, token).squeeze(1)
        # Below 0 the draft is kept. Places after the first rejection decide nothing.
        kept, decides = j < accepted[judged], j <= accepted[judged]
        wrong_way = torch.maximum(wrong_way, (torch.where(kept, ratio, -ratio) * decides).amax())
        labels[judged, j] = torch.minimum(rows, q).sum(-1)
        lost = accepted[judged] == j
        residual = (rows - q).clamp_(min=0)
        has_mass = residual.sum(-1, keepdim=True) > LAW_TOLERANCE
        mass[judged[lost]] = torch.where(has_mass, residual, rows)[lost]
    return {
        "accepted": Gap(wrong_way.clamp_(min=0).item(), LAW_TOLERANCE, "u q(x) - p(x) on the wrong side"),
        "next_token": draw_gap(next_token, mass, uniforms[:, width]),
        "soft_labels": Gap((verdict.soft_labels.double() - labels).abs().max().item(), LAW_TOLERANCE, "absolute error"),
    }


def num_outside(accepted: Tensor, next_token: Tensor, lengths: Tensor, vocab: int) -> int:
    """Return how many sequences accepted more drafts than they had, or none that can be, or drew no token there is."""
    is_outside = (accepted < 0) | (accepted > lengths) | (next_token < 0) | (next_token >= vocab)
    return int(is_outside.sum())


def draw_gap(token: Tensor, mass: Tensor, uniforms: Tensor) -> Gap:
    """Return how far tokens i64 [B] are from where the cumulative mass f64 [B, V] inverts; inf for one without mass."""
    total = mass.sum(-1)
    upto = mass.cumsum(-1).gather(1, token[:, None]).squeeze(1)
    own = mass.gather(1, token[:, None]).squeeze(1)
    at = uniforms.double() * total
    gap = torch.maximum(upto - own - at, at - upto).clamp_(min=0) / total
    return Gap(gap.masked_fill(own <= 0, torch.inf).max().item(), LAW_TOLERANCE, "share of the law's mass")


def score_gap(tokens: Tensor, scores: Tensor) -> float:
    """Return by how much the tokens' scores [N, V] fall short of the largest of their rows, at most."""
    best = scores.double()
    return float((best.amax(-1) - best.gather(-1, tokens[:, None]).squeeze(-1)).max().item())


def _draft_law(draft: Draft, judged: Tensor, place: int, like: Tensor) -> Tensor:
    """Return q f64 [b, V] of one place: of the logits, or one at the token where the draft was certain."""
    certain = torch.zeros_like(like).scatter_(1, draft.tokens[judged, place, None], 1.0)
    if draft.q_logits is None:
        return certain
    sampled = draft.q_logits[judged, place].double().softmax(-1)
    return torch.where(draft.is_certain[judged, place, None], certain, sampled)
