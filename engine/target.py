"""The target's forward over a ragged batch: verify rows and prefill chunks alike, with feature taps for drafters."""

from torch import Tensor

from core.tensors import PagedKV, VerifyRows
from models.paged import PagedAttention
from models.target import Target


class TargetForward:
    """Runs one target over its paged cache."""

    def __init__(self, network: Target) -> None:
        self.network = network
        self._attention = PagedAttention(network.shape.layers, network.numerics)

    def __call__(self, rows: VerifyRows, kv: PagedKV, feature_layers: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """Run N ragged rows through the target, storing keys and values of those that `rows.stores` names.

        Returns the final hidden states [N, H] and the features [N, F] of `feature_layers`, None if there are none.
        """
        attend = self._attention.over(kv, rows.cu_rows, rows.positions, stores=rows.stores)
        return self.network(rows.tokens, rows.positions, attend, feature_layers)
