"""How drafts are drawn, slot by slot: from the very logits that are reported as the draft law."""

import torch
from torch import Tensor

from core.tensors import DraftAsk, LawRows
from kernels.coupled import draw_coupled
from kernels.process import process
from kernels.reference import draw


class SlotDraws:
    """The draws of one ask. What its sequences have in common is read once, so that no slot does work for nobody."""

    def __init__(self, ask: DraftAsk) -> None:
        processing, is_host = ask.processing, ask.slots.device.type == "cpu"
        self._ask = ask
        self._sequence = torch.arange(len(ask.slots), device=ask.slots.device)
        # The largest logit is the greedy token before temperature as after it, unless the request edits logits.
        is_greedy = processing.is_greedy or (is_host and not bool(processing.temperature.any()))
        self._takes_best = processing.edits is None and is_greedy
        # On a GPU a look at them would wait for the device: there it is drawn both ways, for each to have its own.
        self._has_coupled = ask.coupled is not None and (not is_host or bool(ask.coupled.any()))
        self._has_uncoupled = ask.coupled is None or not is_host or not bool(ask.coupled.all())

    def draw(self, slot: int, logits: Tensor) -> Tensor:
        """Turn raw logits f32 [B, V] of a slot, in place, into those of the law, and return tokens drawn from it [B].

        A coupled token is argmax(logits + gumbel), others invert the cumulative law at the sequence's noise.
        """
        if self._takes_best:
            tokens = logits.argmax(-1)
            logits.fill_(-torch.inf).scatter_(1, tokens[:, None], 0.0)
            return tokens
        ask = self._ask
        law = process(logits, ask.processing, LawRows(self._sequence, torch.full_like(self._sequence, slot)))
        if law is not logits:
            logits.copy_(law)
        drawn = draw(law.softmax(-1), ask.noise[:, slot]) if self._has_uncoupled else None
        if not self._has_coupled:
            assert drawn is not None
            return drawn
        assert ask.gumbel is not None
        assert ask.coupled is not None
        best = draw_coupled(law, ask.gumbel[:, slot])
        return best if drawn is None else torch.where(ask.coupled, best, drawn)
