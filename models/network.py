"""What all networks share: numerics, and how they are laid out for inference."""

from typing import TypeVar

import torch
from torch import nn

from core.types import Numerics
from kernels.linear import pack_linears
from kernels.tiled_linear import tile_linears
from models.layers import invariant_activations, lean_norms


class Network(nn.Module):
    """A target's or a drafter's weights and arithmetic. It holds no cache; attention is injected.

    numerics says how its forwards are to be summed: `for_inference` picks the products by it, callers the attention.
    """

    def __init__(self, numerics: Numerics) -> None:
        super().__init__()
        self.numerics = numerics

    def prepare(self) -> None:
        """Fuse and cast what inference wants otherwise than training and files have it; called once."""

    @property
    def is_capturable(self) -> bool:
        """Tell whether a forward on a GPU does the same for any rows of one shape, and so can be replayed.

        It does not where a module `looks_at_values` of its tensors, as one that gathers rows by expert does.
        """
        return not any(getattr(module, "looks_at_values", False) for module in self.modules())

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in, and what its keys and values are kept in."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where it computes, and where its keys and values are kept."""
        return next(self.parameters()).device


Kind = TypeVar("Kind", bound=Network)


def for_inference(network: Kind, dtype: torch.dtype, device: torch.device | None = None) -> Kind:
    """Cast a network to `dtype` and lay its weights out for inference in its numerics, in place; returns it.

    device is where it is to compute, None: where it is. Raises ConfigError where this machine cannot compute it
    batch-invariantly.
    """
    network = network.to(device=device, dtype=dtype).eval().requires_grad_(False)
    network.prepare()
    if network.numerics is Numerics.BATCH_INVARIANT:
        tile_linears(network)
        invariant_activations(network)
    else:
        pack_linears(network)
        lean_norms(network)
    return network
