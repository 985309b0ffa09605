"""A drafter and what the engine keeps for it, without the engine: slots, blocks, features, the calls in their order."""

import torch

from core.tensors import Commit, DraftAsk, PagedKV, Processing

BLOCK_SIZE = 4
BLOCKS = 12


class Stage:
    """Tells one drafter of texts, by slot. Blocks begin poisoned: a row that is read before it was written shows."""

    def __init__(self, drafter, target, num_slots=3):
        self.drafter, self.vocab_size = drafter, target.shape.vocab_size
        self.texts, self.num_told = {}, {}
        shapes = [(num_slots * BLOCKS + 1, BLOCK_SIZE, *layer) for layer in drafter.spec.kv_layers]
        self._caches = [tuple(torch.full(shape, torch.nan) for shape in shapes) for _ in "kv"]
        order = torch.randperm(num_slots * BLOCKS, generator=torch.Generator().manual_seed(1))
        self._tables = order.view(num_slots, BLOCKS) + 1
        width = len(drafter.spec.feature_layers) * target.shape.hidden_size
        self._features = torch.randn(self.vocab_size, width, generator=torch.Generator().manual_seed(2))

    def kv(self, slots):
        return PagedKV(*self._caches, self._tables[slots], BLOCK_SIZE) if self._caches[0] else None

    def open(self, slot, tokens):
        """Begin a sequence with its prompt; nothing of it is computed."""
        self.texts[slot], self.num_told[slot] = list(tokens), 0
        self.drafter.open(slot, tokens, 0)

    def append(self, slot, tokens):
        self.texts[slot] += tokens

    def release(self, slot):
        self.drafter.release(slot)
        del self.texts[slot], self.num_told[slot]

    def tell(self, *slots, most=10**9):
        """Commit all rows but the anchor's of these slots, or the next `most` of each."""
        spans = {
            slot: (self.num_told[slot], min(len(self.texts[slot]) - 1, self.num_told[slot] + most)) for slot in slots
        }
        self.tell_rows(spans)
        self.num_told |= {slot: stop for slot, (_, stop) in spans.items()}

    def tell_rows(self, spans):
        """Commit rows start .. stop - 1 of each slot."""
        positions = torch.cat([torch.arange(*span) for span in spans.values()])
        tokens = torch.tensor([token for slot, span in spans.items() for token in self.texts[slot][slice(*span)]])
        after = [token for slot, (a, b) in spans.items() for token in self.texts[slot][a + 1 : b + 1]]
        counts = torch.tensor([stop - start for start, stop in spans.values()])
        slots = torch.tensor(list(spans))
        features = self._features[tokens] + positions[:, None].sin() if self.drafter.spec.feature_layers else None
        cu_rows = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        commit = Commit(slots, cu_rows, positions, tokens, torch.tensor(after), features, self.kv(slots))
        self.drafter.extend(commit)

    def propose(self, *slots, temperature=1.0, seed=0, lengths=None, noise=None, gumbel=None):
        size, width = len(slots), self.drafter.spec.max_drafts
        zeros, ones = torch.zeros(size, dtype=torch.int64), torch.ones(size)
        processing = Processing(
            torch.full((size,), temperature), zeros, ones, torch.zeros(size), temperature == 1.0, truncates=False
        )
        if noise is None:
            noise = torch.rand(size, width, generator=torch.Generator().manual_seed(seed))
        anchors = torch.tensor([self.texts[slot][-1] for slot in slots])
        positions = torch.tensor([len(self.texts[slot]) - 1 for slot in slots])
        lengths = torch.tensor(lengths or [width] * size, dtype=torch.int32)
        coupled = None if gumbel is None else torch.ones(size, dtype=torch.bool)
        index = torch.tensor(slots)
        kv = self.kv(index)
        return self.drafter.propose(
            DraftAsk(index, anchors, positions, lengths, processing, noise, kv, gumbel, coupled)
        )


def parts(draft, b=0):
    """What there is of sequence b's draft: tokens, evidence, law."""
    stop = int(draft.lengths[b])
    law = draft.q_logits[b, :stop] if draft.q_logits is not None else None
    return draft.tokens[b, :stop].tolist(), draft.evidence[b, :stop], law


def assert_same(found, expected, *, is_exact=False):
    """Compare parts of two drafts, up to the order of sums in another batch unless bit for bit."""
    tolerance = {"atol": 0.0, "rtol": 0.0} if is_exact else {"atol": 1e-4, "rtol": 1e-4}
    assert found[0] == expected[0]
    torch.testing.assert_close(found[1], expected[1], **tolerance)
    if expected[2] is not None:
        torch.testing.assert_close(found[2], expected[2], **tolerance)
