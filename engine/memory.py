"""What an engine reserves when it is built: blocks, slots, the KV of the target and of every drafter."""

from collections.abc import Collection, Mapping

import torch

from core.errors import ConfigError
from drafters.base import Drafter
from engine.blocks import BlockPool
from engine.drafter_set import TARGET, DrafterSet, Room
from engine.graphed_drafts import DraftGraphs
from engine.kv_cache import KVGroup, kv_bytes
from engine.scheduler import Limits, Scheduler
from engine.shape import EngineShape
from engine.slots import SlotTable
from engine.stats import EngineStats
from models.target import Target

# What a step takes on a GPU besides: logits of a full batch, activations, captured graphs.
WORK_BYTES = 2 << 30


class EngineMemory:
    """The pool of blocks behind all KV, and everything that is indexed by block or slot."""

    def __init__(
        self,
        target: Target,
        drafters: Mapping[str, Drafter | None],
        shape: EngineShape,
        stats: EngineStats,
        untrusted: Collection[str] = (),
    ) -> None:
        size, longest = shape.block_size, target.shape.max_positions
        width = max(shape.most_drafts, *(drafter.spec.max_drafts for drafter in drafters.values() if drafter), 0)
        # A sequence's draft rows reach at most this many blocks past the one of its anchor.
        num_scratch = shape.max_num_seqs * -(-width // size)
        num_blocks = shape.kv_cache_tokens // size + 1 + num_scratch
        limits = Limits(
            max_num_seqs=shape.max_num_seqs,
            max_num_batched_tokens=shape.max_num_batched_tokens,
            max_model_len=min(shape.max_model_len or longest, longest),
            prefix_cache=shape.prefix_cache,
        )
        self.width, self.num_blocks = width, num_blocks
        self.pool = BlockPool(num_blocks, size, num_scratch)
        self.scheduler = Scheduler(limits, self.pool)
        max_blocks = self.pool.blocks_for(limits.max_model_len + width + 1)
        self.slots = SlotTable(shape.max_num_seqs, max_blocks, target.shape.vocab_size, target.device)
        kept = [drafter.spec.kv_layers for drafter in drafters.values() if drafter]
        first_bytes = sum(kv_bytes(layers, num_blocks, size, target.dtype) for layers in kept)
        own_bytes = kv_bytes(target.shape.kv_layers, num_blocks, size, target.dtype)
        check_fits(own_bytes + first_bytes + shape.spare_kv_bytes, shape.kv_cache_tokens, target.device)
        self.kv = KVGroup(target.shape.kv_layers, num_blocks, size, target.dtype, target.device)
        room = Room(num_blocks, width, first_bytes + shape.spare_kv_bytes)
        graphs = DraftGraphs(shape.graph_sizes, self.slots.block_tables)
        self.speculators = DrafterSet(drafters, target, self.pool, room, stats, untrusted, graphs)

    @property
    def kv_bytes(self) -> dict[str, int]:
        """Memory that KV reserves, by drafter and, first, for the target; drafters without KV have 0."""
        return {TARGET: self.kv.num_bytes} | self.speculators.kv_bytes


def check_fits(num_bytes: int, num_tokens: int, device: torch.device) -> None:
    """Raise ConfigError, saying how many tokens do fit, if a GPU has too little memory left for the KV of num_tokens.

    Called when everything else is loaded: what is free then is what there is.
    """
    if device.type != "cuda":
        return
    free = torch.cuda.mem_get_info(device)[0] - WORK_BYTES
    if num_bytes > free:
        raise ConfigError(
            f"{num_bytes >> 20} MiB of KV for engine.kv_cache_tokens {num_tokens} do not fit beside the models on "
            f"{device}, which has {max(0, free) >> 20} MiB to spare; {max(0, num_tokens * free // num_bytes)} would fit"
        )
