"""One target divided among processes: each has some heads and columns of every layer, and all add up what they get.

Keys and values are divided with their heads, so that every process keeps a part of the cache. A process reads its part
of the files and no more, builds the network that these sizes describe, and sums at two places of each layer: after
attention and after the MLP. That is what ColwiseParallel and RowwiseParallel of torch.distributed.tensor.parallel do,
without DTensor: q, k and v, and gate and up, are one matrix each here, whose even pieces are no whole heads; products
are packed for the CPU (kernels/linear.py), which a DTensor cannot hold; and its dispatch costs a pair of products 145
microseconds on the host (measured, torch 2.13), ten milliseconds a step in 36 layers.
"""

from typing import TypeVar

import torch
import torch.distributed as dist
from msgspec import Struct
from msgspec.structs import replace
from torch import Tensor, nn

from core.errors import ConfigError
from models.decoder import Decoder, DecoderConfig
from models.layers import DecoderLayer

# Rows of these are divided; columns of those, whose products are parts of sums.
BY_ROWS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
BY_COLUMNS = ("o_proj", "down_proj")

Config = TypeVar("Config", bound=DecoderConfig)


class Share(Struct, frozen=True):
    """Which of num_ranks equal parts of a network a process has."""

    rank: int
    num_ranks: int

    def bounds(self, size: int) -> slice:
        """Return the part of a range of `size`, which num_ranks divides."""
        part = size // self.num_ranks
        return slice(self.rank * part, (self.rank + 1) * part)


def share_of(config: Config, share: Share) -> Config:
    """Return the config of one share of a network; raises ConfigError, naming what would do, if it has none."""
    sizes = {name: size for name in DIVIDED if isinstance(size := getattr(config, name, None), int)}
    if any(size % share.num_ranks for size in sizes.values()):
        possible = [n for n in range(1, config.num_key_value_heads + 1) if not any(s % n for s in sizes.values())]
        told = ", ".join(f"{size} {DIVIDED[name]}" for name, size in sizes.items())
        raise ConfigError(
            f"engine.tensor_parallel {share.num_ranks} does not divide this target ({told}); "
            f"{', '.join(map(str, possible))} would"
        )
    return replace(config, **{name: size // share.num_ranks for name, size in sizes.items()})


# What of a config is divided, and how messages call it.
DIVIDED = {
    "num_key_value_heads": "KV heads",
    "num_attention_heads": "query heads",
    "intermediate_size": "MLP columns",
    "moe_intermediate_size": "columns of experts",
}


def own_part(name: str, shape: tuple[int, ...], share: Share) -> tuple[slice, ...]:
    """Return which part of a file's tensor of that name and shape a process has: one slice per axis."""
    parts, whole = name.split("."), tuple(slice(0, size) for size in shape)
    module = parts[-2] if len(parts) > 1 else ""
    if module in BY_ROWS:
        return (share.bounds(shape[0]), *whole[1:])
    if module in BY_COLUMNS and len(shape) > 1:
        return (whole[0], share.bounds(shape[1]))
    return whole


class Summed(nn.Module):
    """A map of one share, whose results [..., H] are added up over all processes; all of them must call it."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of what every process makes of x [..., K]."""
        partial = self.part(x)
        dist.all_reduce(partial)
        return partial


def sum_shares(network: Decoder, share: Share) -> None:
    """Let every layer of a loaded share add up its results over all processes, in place."""
    for layer in network.layers:
        assert isinstance(layer, DecoderLayer)
        if share.rank:
            # A bias is added once.
            _drop_biases(layer)
        layer.self_attn.o_proj = Summed(layer.self_attn.o_proj)  # type: ignore[assignment]
        layer.mlp = Summed(layer.mlp)


@torch.no_grad()
def _drop_biases(layer: DecoderLayer) -> None:
    for name, parameter in layer.named_parameters():
        *_, module, kind = name.split(".")
        if kind == "bias" and module in BY_COLUMNS:
            parameter.zero_()
