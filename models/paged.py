"""The attention that serving injects into networks: over a paged cache, laid out once per forward and kind of layer."""

from collections.abc import Sequence

from torch import Tensor

from core.tensors import PagedKV
from core.types import Numerics
from kernels.attention import attend_rows, paged_attention, plan_attention
from kernels.attention_layout import AttentionLayout
from kernels.rope_store import Projected, rope_store_triton
from kernels.split_attention import plan_split_attention
from models.layers import Attend
from models.shape import AttentionShape


class PagedAttention:
    """Makes the `Attend` of each forward of one network. Layers that see the same rows share a layout."""

    def __init__(self, layers: Sequence[AttentionShape], numerics: Numerics) -> None:
        self._numerics = numerics
        self.scales = [layer.scale for layer in layers]
        kinds = [
            (layer.num_heads // layer.num_kv_heads, layer.window, layer.is_causal, layer.skips) for layer in layers
        ]
        self._kinds = list(dict.fromkeys(kinds))
        self._kind_of = [self._kinds.index(kind) for kind in kinds]
        # A layer that attends to another's keys and values is handed them again: writing them twice changes nothing.
        owners = [index for index, layer in enumerate(layers) if layer.kv_layer is None]
        sources = [index if layer.kv_layer is None else layer.kv_layer for index, layer in enumerate(layers)]
        self.cache_of = [owners.index(source) for source in sources]

    def over(
        self,
        kv: PagedKV,
        cu_rows: Tensor,
        positions: Tensor,
        visible: Tensor | None = None,
        stores: Tensor | None = None,
        most_rows: int | None = None,
    ) -> Attend:
        """Return the attention of N ragged rows over the cache.

        cu_rows    i64 [B + 1]
        positions  i64 [N]; where each row's key and value are stored
        visible    i64 [N]; how many cache rows each row sees in layers that are not causal; None where all are
        stores     bool [N]; whether a row's key and value are written; None: all are
        most_rows  the most rows that any sequence has, where the caller knows
        """
        plan = plan_attention if self._numerics is Numerics.FAST else plan_split_attention
        layouts: list[AttentionLayout] = []
        for group, window, is_causal, skips in self._kinds:
            seen = positions + 1 if is_causal or visible is None else visible
            layout = plan(kv, cu_rows, positions, seen, group, window, skips, most_rows)
            layouts.append(layout if stores is None else layout.storing(stores))
        return PagedAttend(self, kv, [layouts[kind] for kind in self._kind_of])


class PagedAttend:
    """The attention of one forward (`Attend`, `StoringAttend`)."""

    def __init__(self, attention: PagedAttention, kv: PagedKV, layouts: Sequence[AttentionLayout]) -> None:
        self._cache_of, self._scales = attention.cache_of, attention.scales
        self._kv, self._layouts = kv, layouts

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k and v, then attend with q (`Attend`)."""
        cache, kv = self._cache_of[layer], self._kv
        return paged_attention(q, k, v, kv.keys[cache], kv.values[cache], self._layouts[layer], self._scales[layer])

    def attend_projected(self, layer: int, projected: Projected) -> Tensor:
        """Norm, turn and store projected heads, then attend (`StoringAttend`)."""
        cache, layout = self._cache_of[layer], self._layouts[layer]
        keys, values = (each[cache].flatten(0, 1) for each in (self._kv.keys, self._kv.values))
        q = rope_store_triton(projected, keys, values, layout.write)
        return attend_rows(q, keys, values, layout, self._scales[layer])
