"""What a network looks like from outside: sizes, and per layer the attention that caches and kernels must serve."""

from msgspec import Struct


class AttentionShape(Struct, frozen=True, kw_only=True):
    """The attention of one layer.

    window     positions that a row sees at most, its own included and the latest; None sees all before it
    scale      of the scores; None is 1 / sqrt(head_dim)
    is_causal  a row sees no row behind it; if not, the rows of a drafter's block see each other
    skips      positions at the start of a sequence that no row sees and nobody writes
    kv_layer   the earlier layer whose keys and values it attends to; None has its own
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int | None = None
    scale: float | None = None
    is_causal: bool = True
    skips: int = 0
    kv_layer: int | None = None

    @property
    def kv_shape(self) -> tuple[int, int]:
        """Heads and head_dim of a cached row."""
        return self.num_kv_heads, self.head_dim


class TargetShape(Struct, frozen=True, kw_only=True):
    """A target as the engine and drafters size themselves by it; layers are the decoder's, in order."""

    vocab_size: int
    hidden_size: int
    max_positions: int
    layers: tuple[AttentionShape, ...]

    @property
    def kv_layers(self) -> tuple[tuple[int, int], ...]:
        """Heads and head_dim of each cache: one per layer that has keys and values of its own, in order."""
        return tuple(layer.kv_shape for layer in self.layers if layer.kv_layer is None)
