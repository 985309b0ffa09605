"""The attention that serving injects into networks: over a paged cache, laid out once per forward and kind of layer."""

from collections.abc import Sequence

from torch import Tensor

from core.tensors import PagedKV
from core.types import Numerics
from kernels.attention import paged_attention, plan_attention
from kernels.attention_layout import AttentionLayout
from kernels.split_attention import plan_split_attention
from models.layers import Attend
from models.shape import AttentionShape


class PagedAttention:
    """Makes the `Attend` of each forward of one network. Layers that see the same rows share a layout."""

    def __init__(self, layers: Sequence[AttentionShape], numerics: Numerics) -> None:
        self._numerics = numerics
        self._scales = [layer.scale for layer in layers]
        kinds = [
            (layer.num_heads // layer.num_kv_heads, layer.window, layer.is_causal, layer.skips) for layer in layers
        ]
        self._kinds = list(dict.fromkeys(kinds))
        self._kind_of = [self._kinds.index(kind) for kind in kinds]
        # A layer that attends to another's keys and values is handed them again: writing them twice changes nothing.
        owners = [index for index, layer in enumerate(layers) if layer.kv_layer is None]
        sources = [index if layer.kv_layer is None else layer.kv_layer for index, layer in enumerate(layers)]
        self._cache_of = [owners.index(source) for source in sources]

    def over(
        self,
        kv: PagedKV,
        cu_rows: Tensor,
        positions: Tensor,
        visible: Tensor | None = None,
        stores: Tensor | None = None,
    ) -> Attend:
        """Return the attention of N ragged rows over the cache.

        cu_rows    i64 [B + 1]
        positions  i64 [N]; where each row's key and value are stored
        visible    i64 [N]; how many cache rows each row sees in layers that are not causal; None where all are
        stores     bool [N]; whether a row's key and value are written; None: all are
        """
        plan = plan_attention if self._numerics is Numerics.FAST else plan_split_attention
        layouts: list[AttentionLayout] = []
        for group, window, is_causal, skips in self._kinds:
            if is_causal or visible is None:
                layout = plan(kv, cu_rows, positions, positions + 1, group, window, skips)
            else:
                layout = plan(kv, cu_rows, positions, visible, group, window, skips)
            layouts.append(layout if stores is None else layout.storing(stores))
        by_layer = [layouts[kind] for kind in self._kind_of]
        scales, cache_of = self._scales, self._cache_of

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache = cache_of[layer]
            return paged_attention(q, k, v, kv.keys[cache], kv.values[cache], by_layer[layer], scales[layer])

        return attend
