"""x W^T in tiles of a fixed number of rows, so that a row's result is the same bits whatever else is in the batch.

A matrix product picks its kernel, and with it the order of its sums, by the shape of the whole problem. Here that shape
never changes: rows are padded to whole tiles and each tile is one product. What is left is the place of a row inside
its tile, and that no row reads another: both are checked when the layer is made, on the machine that will run it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.errors import ConfigError
from kernels.linear import can_pack, pack, product

# Rows of one product. Eight would suit one sequence's verify rows; sixteen halve the calls of a full batch.
TILE_ROWS = 16


class TiledLinear(nn.Module):
    """A linear map [..., K] -> [..., N] of fixed row tiles; the weight must not change; for inference only.

    Raises ConfigError if this machine's product is not the same for every place in a tile.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self._packed = pack(weight) if can_pack(weight.device, weight.dtype) else None
        if not self._is_invariant():
            raise ConfigError(
                f"engine.numerics 'batch_invariant' is not possible here: products of {TILE_ROWS} x {weight.shape[1]} "
                f"by {weight.shape[0]} in {weight.dtype} differ by the place of a row; use 'fast'"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + bias."""
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        padded = F.pad(rows, (0, 0, 0, -len(rows) % TILE_ROWS))
        tiles = [self._tile(tile) for tile in padded.split(TILE_ROWS)]
        out = tiles[0] if len(tiles) == 1 else torch.cat(tiles)
        return out[: len(rows)].view(*x.shape[:-1], out.shape[-1])

    def _tile(self, tile: Tensor) -> Tensor:
        if self._packed is None:
            return F.linear(tile, self.weight, self.bias)
        return product(tile, self._packed, self.bias)

    @torch.no_grad()
    def _is_invariant(self) -> bool:
        """Tell whether one row among others gives the same bits at every place of a tile."""
        generator = torch.Generator().manual_seed(0)
        draws = torch.randn(TILE_ROWS, self.weight.shape[1], generator=generator).to(self.weight)
        seen = [self._tile(draws.roll(shift, 0))[shift] for shift in range(TILE_ROWS)]
        return all(torch.equal(each, seen[0]) for each in seen)


def tile_linears(network: nn.Module) -> None:
    """Replace every nn.Linear inside `network` by its tiled equal, in place."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, TiledLinear(child.weight, child.bias))
