"""x W^T in bfloat16 on the CPU with the weight laid out once for the matrix units, instead of at every call.

oneDNN multiplies fastest with weights in a blocked layout; torch's `F.linear` makes that layout anew each time, which
for the few rows of a decode step costs more than the product. Contract: the same as F.linear without bias, float32
accumulation, result rounded once to bfloat16.
"""

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """A bias-free linear map [..., K] -> [..., N] over a weight in oneDNN's own layout; for inference only."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach())  # noqa: SLF001 - torch's own entry

    @property
    def weight(self) -> Tensor:
        """The weight [N, K] in plain layout; a copy is made at every call."""
        return self._packed.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T."""
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")  # noqa: SLF001


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether this machine multiplies packed weights of `dtype`: bfloat16 on a CPU with units for it."""
    return (
        device.type == "cpu"
        and dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
    )


def pack_linears(network: nn.Module) -> None:
    """Replace every bias-free bfloat16 nn.Linear inside `network`, in place, where the machine can pack it."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if not isinstance(child, nn.Linear) or "bias" in dict(child.named_parameters()):
                continue
            if can_pack(child.weight.device, child.weight.dtype):
                setattr(module, name, PackedLinear(child.weight))
