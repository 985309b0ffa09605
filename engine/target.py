"""The target's forward over a ragged batch: verify rows and prefill chunks alike, with feature taps for drafters."""

from torch import Tensor

from core.tensors import PagedKV, VerifyRows
from core.types import Numerics
from kernels.attention import paged_attention, plan_attention
from kernels.split_attention import plan_split_attention
from models.qwen3 import Qwen3


def forward_target(
    network: Qwen3, rows: VerifyRows, kv: PagedKV, feature_layers: tuple[int, ...]
) -> tuple[Tensor, Tensor | None]:
    """Run N ragged rows through the target, storing keys and values of those that `rows.stores` names.

    Returns the final hidden states [N, H] and the features [N, F] of `feature_layers`, None if there are none.
    """
    group = network.config.num_attention_heads // network.config.num_key_value_heads
    plan = plan_attention if network.numerics is Numerics.FAST else plan_split_attention
    layout = plan(kv, rows.cu_rows, rows.positions, rows.positions + 1, group)
    if rows.stores is not None:
        layout = layout.storing(rows.stores)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return paged_attention(q, k, v, kv.keys[layer], kv.values[layer], layout)

    return network(rows.tokens, rows.positions, attend, feature_layers)
