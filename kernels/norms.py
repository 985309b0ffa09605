"""x / sqrt(mean(x^2) + eps) * weight in the fewest passes torch has for it; for inference only.

F.rms_norm is a chain of eight operations on the CPU, which for the few rows of a decode step cost more than the
numbers. Here sqrt(D) is put into the weight: x / hypot(|x|, sqrt(D eps)) * (weight sqrt(D)). The fewest rows get a
single fused operation: the mean of (x, -x) is 0 and its variance mean(x^2), so half of its layer norm is the RMS norm.
Contract: F.rms_norm in float32, rounded once to the dtype of x.
"""

import torch
from torch import Tensor, nn

# Numbers up to which doubling the row costs less than a chain of operations: 16 rows of 256.
FEW = 4096


class LeanRMSNorm(nn.Module):
    """RMSNorm over the last axis; the weight [..., D] broadcasts against x and must not change."""

    floor: Tensor
    scaled: Tensor
    doubled: Tensor

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = weight, eps
        size = weight.shape[-1]
        self.register_buffer("floor", torch.tensor((size * eps) ** 0.5), persistent=False)
        self.register_buffer("doubled", torch.cat((weight, weight), -1).detach(), persistent=False)
        self.register_buffer("scaled", weight.detach().float() * size**0.5, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., D]."""
        if self.weight.ndim == 1 and x.numel() <= FEW:
            both, size = torch.cat((x, -x), -1), x.shape[-1]
            return torch.layer_norm(both, (2 * size,), self.doubled, None, self.eps)[..., :size]
        wide = x.float()
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        return wide.div(torch.hypot(norm, self.floor)).mul_(self.scaled).to(x.dtype)

    # Norms are the most frequent modules of a step, and a module's hooks, which nobody hangs on these, cost more than
    # a small operation.
    __call__ = forward
