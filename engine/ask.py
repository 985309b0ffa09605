"""What a drafter is asked for one step, from the batch, the plan and the round's noise."""

import torch
from torch import Tensor

from core.tensors import DraftAsk
from engine.device import upload, upload_all
from engine.noise import RoundNoise
from engine.plan import StepPlan
from engine.slots import SlotTable
from engine.speculator import Speculator


def make_ask(plan: StepPlan, speculator: Speculator, index: Tensor, noise: RoundNoise, slots: SlotTable) -> DraftAsk:
    """Ask one drafter for drafts of the sequences at `index` i64 [b], on the host; noise is of the whole batch."""
    asked = tuple(plan.sequences[b] for b in index.tolist())
    terms, width, noise = slots.terms(asked), speculator.spec.max_drafts, noise.of(index)
    anchors, positions = upload_all(
        (
            torch.tensor([sequence.tokens[-1] for sequence in asked]),
            torch.tensor([len(sequence.tokens) - 1 for sequence in asked]),
        ),
        terms.slots.device,
    )
    return DraftAsk(
        terms.slots,
        anchors,
        positions,
        upload(torch.from_numpy(plan.draft_len)[index], terms.slots.device),
        terms.processing,
        noise.draft[:, :width],
        speculator.view(slots.block_tables[terms.slots]),
        noise.gumbel[:, :width] if isinstance(noise.gumbel, torch.Tensor) else noise.gumbel,
        None if noise.gumbel is None else noise.coupled,
    )
