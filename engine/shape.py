"""How large an engine is. Decided once, at build."""

from msgspec import Struct


class EngineShape(Struct, frozen=True, kw_only=True):
    """Slots, prefill rows per step, tokens per sequence (None: the model's own limit), rows of KV cache, in blocks of
    block_size; with prefix_cache, blocks of finished requests are found again by what they hold.

    spare_kv_bytes and most_drafts are room for drafters that come later: for their KV, beside what drafters that go
    give back, and for drafts per step, if the first drafters make fewer. graph_sizes are the numbers of sequences for
    which the target's forward and drafters' blocks are captured (engine/graphs.py); other batches, and all where there
    are none, run as they are.
    """

    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    max_model_len: int | None = None
    kv_cache_tokens: int = 65536
    block_size: int = 16
    prefix_cache: bool = True
    spare_kv_bytes: int = 0
    most_drafts: int = 0
    graph_sizes: tuple[int, ...] = ()
