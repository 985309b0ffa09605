"""x W^T on the CPU with the weight laid out once for the vector units, instead of at every call.

oneDNN multiplies fastest with weights in a blocked layout, and its kernels serve every processor alike; torch's
`F.linear` takes another library for float32 and makes the layout anew at each bfloat16 call, which for the few rows of
a decode step costs more than the product. Contract: the same as F.linear without bias, float32 accumulation, rounded
once to the dtype.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PackedLinear(nn.Module):
    """A bias-free bfloat16 map [..., K] -> [..., N] over a weight in oneDNN's own layout; for inference only."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self._packed = pack(weight)

    @property
    def weight(self) -> Tensor:
        """The weight [N, K] in plain layout; a copy is made at every call."""
        return self._packed.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T."""
        return product(x, self._packed)

    # A module's hooks, which nobody hangs on these, cost as much as a small product.
    __call__ = forward


class TwoLayoutLinear(nn.Module):
    """A bias-free float32 map [..., K] -> [..., N] that keeps its weight plain and packed; the weight must not change.

    The packed product takes less than half the time of F.linear on some processors; gradients and autocast, which it
    does not know, take the plain weight. The price is memory for two copies.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight
        self._packed = pack(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T."""
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            return F.linear(x, self.weight)
        return product(x, self._packed)


def pack(weight: Tensor) -> Tensor:
    """Return a copy of a weight [N, K] in oneDNN's layout; only `product` can read it."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach())  # noqa: SLF001 - torch's own entry


def product(x: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T [..., N], plus a bias [N], from x [..., K] and a packed weight."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")  # noqa: SLF001


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether this machine multiplies packed weights of `dtype`: bfloat16 only with units for it."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
    )


def pack_linears(network: nn.Module) -> None:
    """Replace every bias-free nn.Linear inside `network`, in place, where the machine can pack its dtype."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if not isinstance(child, nn.Linear) or "bias" in dict(child.named_parameters()):
                continue
            if can_pack(child.weight.device, child.weight.dtype):
                is_float = child.weight.dtype == torch.float32
                setattr(module, name, (TwoLayoutLinear if is_float else PackedLinear)(child.weight))
