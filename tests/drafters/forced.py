"""A drafter whose agreement with the target is decided beforehand; all else that it does is the real one's."""

import torch
from msgspec.structs import replace

from core.tensors import Draft

FULLY, PARTLY, NEVER = "fully", "partly", "never"
AGREEMENTS = (FULLY, PARTLY, NEVER)


class Forced:
    """Proposes what `texts`, prompts and the answers known to follow, say: next tokens, anything else, or a mixture.

    The real drafter drafts too, so its KV, features and scratch rows are those of drafts that were not taken; how many
    it drafts is kept. What it says at each place of a text, tokens and evidence, is kept in `said` by the text's index
    and the anchor's position. A sequence that is none of the texts is an error.
    """

    def __init__(self, real, texts, agreement, vocab_size, seed=0):
        self.real, self.texts, self.agreement, self.vocab_size = real, texts, agreement, vocab_size
        # What is proposed in a drafter's place is no draw from its law.
        self.spec = replace(real.spec, point_mass=True)
        self.said = {}
        self._generator = torch.Generator().manual_seed(seed)
        self._text_of = {}

    def open(self, slot, tokens, num_cached):
        (self._text_of[slot],) = (i for i, text in enumerate(self.texts) if text[: len(tokens)] == list(tokens))
        self.real.open(slot, tokens, num_cached)

    def release(self, slot):
        self.real.release(slot)

    def extend(self, commit):
        self.real.extend(commit)

    def propose(self, ask):
        draft = self.real.propose(ask)
        index = [self._text_of[slot] for slot in ask.slots.tolist()]
        right = torch.zeros_like(draft.tokens)
        for b, (text, position) in enumerate(zip(index, ask.positions.tolist(), strict=True)):
            self._remember(text, position, draft, b)
            after = self.texts[text][position + 1 :][: right.shape[1]]
            right[b, : len(after)] = torch.tensor(after)
        everything = torch.ones(len(index), dtype=torch.bool)
        return Draft(self._choose(right, draft.tokens), draft.lengths, everything, None, draft.evidence)

    def _remember(self, text, position, draft, b):
        stop = int(draft.lengths[b])
        self.said[text, position] = draft.tokens[b, :stop].tolist(), draft.evidence[b, :stop].tolist()

    def _choose(self, right, drafted):
        if self.agreement == FULLY:
            return right
        others = torch.randint(1, self.vocab_size, right.shape, generator=self._generator)
        wrong = (right + others) % self.vocab_size
        if self.agreement == NEVER:
            return wrong
        chance = torch.rand(right.shape, generator=self._generator)
        return torch.where(chance < 0.5, right, torch.where(chance < 0.75, drafted, wrong))
