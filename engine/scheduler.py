"""Who takes part in the next step, and with how many rows. Knows no tensors and no torch.

There is no prefill phase and no decode phase: a sequence has tokens that are not computed yet, and each step computes
some of them. Blocks are taken as rows need them. When they run out, the youngest sequence gives its own back and
starts again later from what the prefix cache kept (preemption by recompute); draft rows never cause that.
"""

from collections import deque

from msgspec import Struct

from core.errors import RequestError
from core.types import Request
from engine.blocks import BlockPool
from engine.prefix import extend_chain
from engine.sequence import Sequence


class Limits(Struct, frozen=True, kw_only=True):
    """What bounds a batch: slots, prefill rows per step, tokens per sequence; and whether prefixes are cached."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    prefix_cache: bool = True


class Batch(Struct, frozen=True):
    """The scheduler's decision; the first three have one entry per sequence, in batch order.

    num_rows     uncomputed tokens that this step computes
    gamma_max    most drafts the sequence may have; 0 while it still has more than its anchor to compute, and while its
                 drafter is stale
    admitted     sequences that got a slot just now
    preempted    sequences that lost their slot just now, with the slot
    grown        sequences whose blocks changed
    spare_rows   prefill rows that the step could still take
    num_prefill_rows  rows that only catch up with tokens already known
    """

    sequences: tuple[Sequence, ...]
    num_rows: tuple[int, ...]
    gamma_max: tuple[int, ...]
    admitted: tuple[Sequence, ...] = ()
    preempted: tuple[tuple[int, Sequence], ...] = ()
    grown: tuple[Sequence, ...] = ()
    spare_rows: int = 0
    num_prefill_rows: int = 0

    def samples(self, index: int) -> bool:
        """Tell whether the sequence reaches the end of its tokens in this step and so gets a next token.

        To be asked before the step is committed.
        """
        return self.num_rows[index] == self.sequences[index].num_uncomputed


class Scheduler:
    """Admits sequences first come, first served, and divides each step's rows and blocks.

    num_preemptions, prefix_queries and prefix_hits count since the start; the last two in tokens of new requests.
    """

    def __init__(self, limits: Limits, pool: BlockPool) -> None:
        self.limits, self.pool = limits, pool
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = self.prefix_queries = self.prefix_hits = 0
        self._free_slots = list(range(limits.max_num_seqs - 1, -1, -1))

    @property
    def num_free_slots(self) -> int:
        """Requests that could still be admitted beside those running and waiting."""
        return max(0, len(self._free_slots) - len(self.waiting))

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; raises RequestError if it could never run."""
        check_size(sequence.request, self.limits, self.pool)
        self.waiting.append(sequence)

    def schedule(self) -> Batch:
        """Return the next step's batch; decoding sequences first, then prefill in order of admission."""
        lost: list[tuple[int, Sequence]] = []
        grown: list[Sequence] = []
        rows: dict[int, int] = {}
        budget = self.limits.max_num_batched_tokens
        # Oldest first: whoever must give way for it has not been given rows yet.
        for sequence in list(self.running):
            budget -= self._give_rows(sequence, budget, rows, grown, lost)
        # Who has just been preempted is next in line, so nobody is admitted in its place.
        admitted = [] if lost else self._admit()
        for sequence in admitted:
            budget -= self._give_rows(sequence, budget, rows, grown, lost)
        return self._batch(rows, (*admitted,), (*lost,), grown, budget)

    def commit(self, sequence: Sequence) -> None:
        """Give back the blocks of draft rows that were not kept, and let the prefix cache know of full blocks."""
        unused = sequence.blocks[self.pool.blocks_for(sequence.num_computed) :]
        if unused:
            del sequence.blocks[-len(unused) :]
            self.pool.release(unused)
        num_full = sequence.num_computed // self.pool.block_size
        if not self.limits.prefix_cache or num_full == sequence.num_published:
            return
        self._extend_chain(sequence, num_full)
        for index in range(sequence.num_published, num_full):
            self.pool.publish(sequence.blocks[index], sequence.chain[index])
        sequence.num_published = num_full

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and free its slot and blocks."""
        if sequence.slot < 0:
            self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        self._release(sequence)

    def find(self, request_id: str) -> Sequence | None:
        """Return the sequence of a request, running or waiting."""
        for sequence in (*self.running, *self.waiting):
            if sequence.request.id == request_id:
                return sequence
        return None

    def _give_rows(
        self,
        sequence: Sequence,
        budget: int,
        rows: dict[int, int],
        grown: list[Sequence],
        lost: list[tuple[int, Sequence]],
    ) -> int:
        """Find blocks for a sequence's next rows, and say how many prefill rows that took."""
        if sequence.slot < 0:
            return 0
        wanted = 1 if sequence.num_uncomputed == 1 else min(sequence.num_uncomputed, budget)
        missing = self.pool.blocks_for(sequence.num_computed + wanted) - len(sequence.blocks)
        while missing > self.pool.num_free:
            victim = self.running[-1]
            lost.append((victim.slot, victim))
            self._preempt(victim)
            if victim is sequence:
                return 0
        if missing > 0:
            sequence.blocks += self.pool.allocate(missing)
            grown.append(sequence)
        if wanted:
            rows[sequence.slot] = wanted
        return wanted if sequence.num_uncomputed > 1 else 0

    def _batch(
        self,
        rows: dict[int, int],
        admitted: tuple[Sequence, ...],
        lost: tuple[tuple[int, Sequence], ...],
        grown: list[Sequence],
        budget: int,
    ) -> Batch:
        chosen = [sequence for sequence in self.running if sequence.slot in rows]
        chosen.sort(key=lambda sequence: sequence.num_uncomputed > 1)
        gamma_max = tuple(self._give_drafts(sequence, grown) for sequence in chosen)
        num_rows = tuple(rows[sequence.slot] for sequence in chosen)
        prefill = sum(own - (own == one.num_uncomputed) for one, own in zip(chosen, num_rows, strict=True))
        return Batch(tuple(chosen), num_rows, gamma_max, admitted, lost, tuple(grown), budget, prefill)

    def _give_drafts(self, sequence: Sequence, grown: list[Sequence]) -> int:
        """Return how many drafts a sequence may have, with blocks for all rows that its drafter may write."""
        if sequence.num_uncomputed > 1 or sequence.num_stale:
            return 0
        # One token of every round is the bonus or correction, so drafts stop one short of the limit.
        drafts = min(sequence.max_drafts, sequence.num_remaining - 1)
        if drafts <= 0:
            return 0
        rows = sequence.num_computed + 1 + sequence.scratch_rows
        missing = self.pool.blocks_for(rows) - len(sequence.blocks)
        if missing > 0:
            blocks = self.pool.allocate_scratch(missing)
            if blocks is None:
                return 0
            sequence.blocks += blocks
            grown.append(sequence)
        return drafts

    def _admit(self) -> list[Sequence]:
        """Give waiting sequences slots while blocks for all their tokens are free."""
        admitted = []
        promised = self._num_promised()
        while self.waiting and self._free_slots:
            sequence = self.waiting[0]
            found = self._find_prefix(sequence)
            needed = self.pool.blocks_for(len(sequence.tokens)) - len(found) + self.pool.num_taken_by(found)
            if needed + promised > self.pool.num_free:
                break
            self.waiting.popleft()
            self.pool.share(found)
            sequence.slot, sequence.blocks = self._free_slots.pop(), found
            sequence.num_published = len(found)
            sequence.num_computed = len(found) * self.pool.block_size
            if sequence.num_cached is None:
                sequence.num_cached = sequence.num_computed
                self.prefix_queries += len(sequence.tokens)
                self.prefix_hits += sequence.num_computed
            self.running.append(sequence)
            admitted.append(sequence)
            promised += self._promised_to(sequence)
        return admitted

    def _num_promised(self) -> int:
        """Return the blocks that those running will want soon: whoever took their last ones were preempted at once."""
        return sum(map(self._promised_to, self.running))

    def _promised_to(self, sequence: Sequence) -> int:
        return self.pool.blocks_for(len(sequence.tokens)) + 1 - len(sequence.blocks)

    def _find_prefix(self, sequence: Sequence) -> list[int]:
        if not self.limits.prefix_cache:
            return []
        # The last token is always computed: its logits are what the sequence waits for.
        self._extend_chain(sequence, (len(sequence.tokens) - 1) // self.pool.block_size)
        return self.pool.match(sequence.chain)

    def _extend_chain(self, sequence: Sequence, num_blocks: int) -> None:
        salt = sequence.request.cache_salt
        extend_chain(sequence.chain, sequence.tokens, self.pool.block_size, salt, num_blocks)

    def _preempt(self, sequence: Sequence) -> None:
        """Send the youngest running sequence back to the head of the queue; its tokens and attempt stay."""
        self.running.remove(sequence)
        self._release(sequence)
        self.waiting.appendleft(sequence)
        self.num_preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self._free_slots.append(sequence.slot)
        self.pool.release(sequence.blocks)
        sequence.slot, sequence.blocks = -1, []
        sequence.num_computed = sequence.extended = sequence.num_published = 0


def check_size(request: Request, limits: Limits, pool: BlockPool) -> None:
    """Raise RequestError if a request is empty, or longer than the model or the cache can hold."""
    length = len(request.prompt_ids) + request.sampling.max_tokens
    if not request.prompt_ids:
        raise RequestError("the prompt is empty; at least one token is needed", param="prompt")
    if length > limits.max_model_len:
        raise RequestError(
            f"{len(request.prompt_ids)} prompt tokens and max_tokens {request.sampling.max_tokens} make "
            f"{length}; this model takes {limits.max_model_len} in all",
            param="max_tokens",
            code="context_length_exceeded",
        )
    needed = pool.blocks_for(length)
    if needed > pool.num_usable:
        raise RequestError(
            f"the request needs {needed} KV blocks, the server has {pool.num_usable}; "
            "lower max_tokens or raise engine.kv_cache_tokens",
            param="max_tokens",
            code="context_length_exceeded",
        )
