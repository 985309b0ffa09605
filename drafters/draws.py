"""How drafts are drawn, slot by slot: from the very logits that are reported as the draft law."""

import torch
from torch import Tensor

from core.tensors import CoupledKeys, DraftAsk, LawRows
from kernels.coupled import draw_coupled
from kernels.dispatch import takes_triton
from kernels.process import process
from kernels.reject import draw_next


class SlotDraws:
    """The draws of one ask. What its sequences have in common is read once, so that no slot does work for nobody."""

    def __init__(self, ask: DraftAsk) -> None:
        processing = ask.processing
        # On a GPU a look at them would wait for the device: there it is drawn both ways, for each to have its own.
        may_look = ask.slots.device.type == "cpu" and not takes_triton(processing.temperature)
        self._ask = ask
        self._sequence = torch.arange(len(ask.slots), device=ask.slots.device)
        # The largest logit is the greedy token before temperature as after it, unless the request edits logits.
        is_greedy = processing.is_greedy or (may_look and not bool(processing.temperature.any()))
        self._takes_best = processing.edits is None and is_greedy
        self._has_coupled = ask.coupled is not None and (not may_look or bool(ask.coupled.any()))
        self._has_uncoupled = ask.coupled is None or not may_look or not bool(ask.coupled.all())

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
        drawn = draw_next(law, ask.noise[:, slot]) if self._has_uncoupled else None
        if not self._has_coupled:
            assert drawn is not None
            return drawn
        assert ask.gumbel is not None
        assert ask.coupled is not None
        gumbel = ask.gumbel.at(slot) if isinstance(ask.gumbel, CoupledKeys) else ask.gumbel[:, slot]
        best = draw_coupled(law, gumbel)
        return best if drawn is None else torch.where(ask.coupled, best, drawn)
