"""Mixtures of experts: each row is mapped by the few experts that a router chose for it.

Rows are gathered by expert, one product per expert that somebody chose, and added up in the experts' order. So a row's
sum depends on the row alone; in batch-invariant numerics, where the experts' products are tiled, so does every bit.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from models.layers import MLP


def mix_experts(x: Tensor, chosen: Tensor, weights: Tensor, experts: Iterable[nn.Module]) -> Tensor:
    """Return sum_k weights[n, k] * experts[chosen[n, k]](x[n]), [N, H].

    x        [N, H]
    chosen   i64 [N, K]; no expert twice in a row
    weights  [N, K]; rows are weighted in its dtype if that is the wider
    """
    order = chosen.flatten().argsort(stable=True)
    experts = list(experts)
    counts = torch.bincount(chosen.flatten(), minlength=len(experts)).tolist()
    rows, shares = order // chosen.shape[1], weights.flatten()[order, None]
    out, start = torch.zeros_like(x), 0
    for expert, count in zip(experts, counts, strict=True):
        if count:
            own = slice(start, start + count)
            out.index_add_(0, rows[own], (expert(x[rows[own]]) * shares[own]).to(x.dtype))
            start += count
    return out


class SparseMLP(nn.Module):
    """Experts in the place of an MLP: the router's softmax says which `num_chosen` and with what weight.

    is_normed: the weights of the chosen are scaled to sum to one.
    """

    looks_at_values = True

    def __init__(
        self, hidden_size: int, expert_size: int, num_experts: int, num_chosen: int, *, is_normed: bool
    ) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden_size, num_experts, bias=False)
        self.experts = nn.ModuleList(MLP(hidden_size, expert_size) for _ in range(num_experts))
        self.num_chosen, self.is_normed = num_chosen, is_normed

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., H] to [..., H]."""
        rows = x.reshape(-1, x.shape[-1])
        weights, chosen = self.gate(rows).softmax(-1, dtype=torch.float32).topk(self.num_chosen, -1)
        if self.is_normed:
            weights = weights / weights.sum(-1, keepdim=True)
        return mix_experts(rows, chosen, weights.to(x.dtype), self.experts).view_as(x)
