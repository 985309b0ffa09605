"""Per-slot facts that every step needs as tensors: block tables, sampling parameters, stop ids.

Written once when a sequence takes its slot, indexed by slot afterwards, so that a step builds no table from Python
objects.
"""

import torch
from torch import Tensor

from core.tensors import Processing
from engine.sequence import Sequence

# Pads rows of stop ids; no token has this id.
NO_TOKEN = -1
MAX_STOP_IDS = 72


class SlotTable:
    """Tensors with one row per slot; rows of free slots hold whatever the last sequence left there."""

    def __init__(self, num_slots: int, max_blocks: int) -> None:
        self.block_tables = torch.zeros(num_slots, max_blocks, dtype=torch.int64)
        self.temperature = torch.ones(num_slots)
        self.top_k = torch.zeros(num_slots, dtype=torch.int64)
        self.top_p = torch.ones(num_slots)
        self.min_p = torch.zeros(num_slots)
        self.stop_ids = torch.full((num_slots, MAX_STOP_IDS), NO_TOKEN, dtype=torch.int64)

    def open(self, sequence: Sequence, eos_ids: tuple[int, ...]) -> None:
        """Fill the slot's rows for a new sequence."""
        slot, sampling = sequence.slot, sequence.request.sampling
        self.block_tables[slot].zero_()
        self.block_tables[slot, : len(sequence.blocks)] = torch.tensor(sequence.blocks)
        self.temperature[slot] = sampling.temperature
        self.top_k[slot] = sampling.top_k
        self.top_p[slot] = sampling.top_p
        self.min_p[slot] = sampling.min_p
        stops = (*sampling.stop_token_ids, *(() if sampling.ignore_eos else eos_ids))
        self.stop_ids[slot].fill_(NO_TOKEN)
        self.stop_ids[slot, : len(stops)] = torch.tensor(stops, dtype=torch.int64)

    def processing(self, sequences: tuple[Sequence, ...], slots: Tensor) -> Processing:
        """Return the logit processing of `sequences`, whose slots are `slots` i64 [B]."""
        samplings = [sequence.request.sampling for sequence in sequences]
        truncates = any(s.top_k > 0 or s.top_p < 1.0 for s in samplings)
        is_plain = not truncates and all(s.temperature == 1.0 for s in samplings)
        return Processing(
            self.temperature[slots], self.top_k[slots], self.top_p[slots], self.min_p[slots], is_plain, truncates
        )
