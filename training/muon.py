"""Muon (Jordan et al. 2024) with matrices of one shape orthogonalised together; AdamW beside it.

The same update as torch.optim.Muon with its default coefficients and the "original" step scale; batched products
are what makes it cheap next to a small model's forward pass. Which parameter goes where is decided here too.
"""

from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.processes import split_like, whole

COEFFICIENTS = (3.4445, -4.775, 2.0315)
NUM_ITERATIONS = 5
EPS = 1e-7


def split_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return (matrices for Muon, everything else): embeddings, heads over the vocabulary and vectors are AdamW's."""
    embeddings = {
        parameter
        for name, parameter in network.named_parameters()
        if any(part in name for part in ("embed", "lm_head", "markov", "confidence"))
    }
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.ndim == 2 and parameter not in embeddings]
    chosen = set(matrices)
    return matrices, [parameter for parameter in trained if parameter not in chosen]


def orthogonalise(matrices: Tensor) -> Tensor:
    """Push the singular values of each matrix [N, rows, columns] towards 1 by Newton-Schulz iteration, in bf16."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    is_tall = x.shape[-2] > x.shape[-1]
    if is_tall:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=EPS)
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, with decoupled weight decay."""

    def __init__(
        self, params: list[nn.Parameter], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, _closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                momenta = [whole(self._momentum(one, group["momentum"])) for one in parameters]
                update = orthogonalise(torch.stack(momenta))
                step_len = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, direction in zip(parameters, update, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(split_like(direction.to(parameter.dtype), parameter), alpha=-step_len)

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        gradient = parameter.grad
        assert gradient is not None
        buffer.lerp_(gradient, 1 - momentum)
        return gradient.lerp(buffer, momentum)
