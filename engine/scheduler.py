"""Who takes part in the next step, and with how many rows. Knows no tensors and no torch.

There is no prefill phase and no decode phase: a sequence has tokens that are not computed yet, and each step computes
some of them. A sequence is admitted when blocks for its whole life are free, so that nothing admitted can run dry.
"""

from collections import deque

from msgspec import Struct

from core.errors import RequestError
from core.types import Request
from engine.blocks import BlockPool
from engine.sequence import Sequence


class Limits(Struct, frozen=True, kw_only=True):
    """What bounds a batch: slots, prefill rows per step, tokens per sequence, drafts per sequence and step."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    max_drafts: int


class Batch(Struct, frozen=True):
    """The scheduler's decision; one entry per sequence, in batch order.

    num_rows   uncomputed tokens that this step computes
    gamma_max  most drafts the sequence may have; 0 while it still has more than its anchor to compute
    """

    sequences: tuple[Sequence, ...]
    num_rows: tuple[int, ...]
    gamma_max: tuple[int, ...]

    @property
    def num_prefill_rows(self) -> int:
        """Rows that only catch up with tokens already known."""
        return sum(rows - self.samples(b) for b, rows in enumerate(self.num_rows))

    def samples(self, index: int) -> bool:
        """Tell whether the sequence reaches the end of its tokens in this step and so gets a next token."""
        return self.num_rows[index] == self.sequences[index].num_uncomputed


class Scheduler:
    """Admits requests first come, first served, and divides each step's rows."""

    def __init__(self, limits: Limits, pool: BlockPool) -> None:
        self.limits, self.pool = limits, pool
        self.waiting: deque[Request] = deque()
        self.running: list[Sequence] = []
        self._free_slots = list(range(limits.max_num_seqs - 1, -1, -1))

    @property
    def num_free_slots(self) -> int:
        """Requests that could still be admitted beside those running and waiting."""
        return max(0, len(self._free_slots) - len(self.waiting))

    def add(self, request: Request) -> None:
        """Queue a request; raises RequestError if it could never run."""
        length = len(request.prompt_ids) + request.sampling.max_tokens
        if not request.prompt_ids:
            raise RequestError("the prompt is empty; at least one token is needed", param="prompt")
        if length > self.limits.max_model_len:
            raise RequestError(
                f"{len(request.prompt_ids)} prompt tokens and max_tokens {request.sampling.max_tokens} make "
                f"{length}; this model takes {self.limits.max_model_len} in all",
                param="max_tokens",
                code="context_length_exceeded",
            )
        needed = self._blocks_needed(request)
        if needed > self.pool.num_usable:
            raise RequestError(
                f"the request needs {needed} KV blocks, the server has {self.pool.num_usable}; "
                "lower max_tokens or raise engine.kv_cache_tokens",
                param="max_tokens",
                code="context_length_exceeded",
            )
        self.waiting.append(request)

    def admit(self) -> list[Sequence]:
        """Give waiting requests slots and blocks while both last; returns the new sequences."""
        admitted = []
        while self.waiting and self._free_slots:
            needed = self._blocks_needed(self.waiting[0])
            if needed > self.pool.num_free:
                break
            request = self.waiting.popleft()
            admitted.append(Sequence(request, self._free_slots.pop(), self.pool.allocate(needed)))
        self.running.extend(admitted)
        return admitted

    def schedule(self) -> Batch:
        """Return the next step's batch; decoding sequences first, then prefill in order of admission."""
        decoding = [sequence for sequence in self.running if sequence.num_uncomputed == 1]
        chosen = [(sequence, 1) for sequence in decoding]
        budget = self.limits.max_num_batched_tokens
        for sequence in self.running:
            rows = min(sequence.num_uncomputed, budget)
            if sequence.num_uncomputed > 1 and rows:
                chosen.append((sequence, rows))
                budget -= rows
        return Batch(
            tuple(sequence for sequence, _ in chosen),
            tuple(rows for _, rows in chosen),
            tuple(self._gamma_max(sequence) for sequence, _ in chosen),
        )

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out and free its slot and blocks."""
        self.running.remove(sequence)
        self._free_slots.append(sequence.slot)
        self.pool.free(sequence.blocks)

    def cancel_waiting(self, request_id: str) -> bool:
        """Drop a request that was not admitted yet; tells whether it was found."""
        for request in self.waiting:
            if request.id == request_id:
                self.waiting.remove(request)
                return True
        return False

    def _blocks_needed(self, request: Request) -> int:
        # A draft block is scratch past the last token: max_drafts rows and the anchor.
        rows = len(request.prompt_ids) + request.sampling.max_tokens + self.limits.max_drafts + 1
        return self.pool.blocks_for(rows)

    def _gamma_max(self, sequence: Sequence) -> int:
        if sequence.num_uncomputed > 1:
            return 0
        cap = sequence.request.speculation.max_drafts
        # One token of every round is the bonus or correction, so drafts stop one short of the limit.
        room = sequence.num_remaining - 1
        return min(self.limits.max_drafts, room, room if cap is None else cap)
