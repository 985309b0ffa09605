"""What a kind of drafter is trained to do, and how well it does it: DSpark and DFlash in blocks, Eagle3 in steps."""

from typing import Protocol

import msgspec
import torch
from torch import Tensor

from models.dflash_net import DFlashNet
from models.draft_fit import DraftNetwork
from models.eagle3_net import Eagle3Net
from models.target import Target
from training.blocks import make_blocks, run_blocks
from training.dspark_loss import TERMS, LossWeights, draft_logits, dspark_loss
from training.dspark_loss import target_states as states_at_blocks
from training.eagle3_loss import eagle3_loss, run_steps, step_names
from training.features import States
from training.losses import Losses, Normaliser, own_weight
from training.packing import Rows


class Draw(msgspec.Struct, frozen=True):
    """Rows with what the target makes of them, and where drafts start: anchors i64 and kept bool [B, N]."""

    rows: Rows
    states: States
    anchors: Tensor
    kept: Tensor


class Objective(Protocol):
    """A kind of drafter as the trainer sees it."""

    def terms(self, network: DraftNetwork) -> tuple[str, ...]:
        """Name the terms of its losses."""
        ...

    def losses(self, network: DraftNetwork, target: Target, draw: Draw, normaliser: Normaliser = own_weight) -> Losses:
        """Return the losses of one draw, with gradients."""
        ...

    def ratios(self, network: DraftNetwork, target: Target, draw: Draw) -> Tensor:
        """Return f32 [M, K], min(1, q(x) / p(x)) of the text's own tokens x drafted at kept anchors; 0 past its end."""
        ...


class BlockObjective(msgspec.Struct, frozen=True):
    """DSpark's three terms, or DFlash's one."""

    weights: LossWeights

    def terms(self, network: DraftNetwork) -> tuple[str, ...]:  # noqa: ARG002, the same of all
        """Return the names (`Objective.terms`)."""
        return TERMS

    def losses(self, network: DraftNetwork, target: Target, draw: Draw, normaliser: Normaliser = own_weight) -> Losses:
        """Run all blocks and compare (`Objective.losses`)."""
        assert isinstance(network, DFlashNet)
        rows = draw.rows
        blocks = make_blocks(
            rows.tokens, rows.documents, rows.weights, draw.anchors, draw.kept, network.config.num_drafts
        )
        hidden = run_blocks(network, target, draw.states.features, rows.tokens, rows.documents, blocks)
        return dspark_loss(network, target, hidden, draw.states.last_hidden, blocks, self.weights, normaliser)

    @torch.no_grad()
    def ratios(self, network: DraftNetwork, target: Target, draw: Draw) -> Tensor:
        """Run all blocks and look the text's tokens up (`Objective.ratios`)."""
        assert isinstance(network, DFlashNet)
        rows = draw.rows
        blocks = make_blocks(
            rows.tokens, rows.documents, rows.weights, draw.anchors, draw.kept, network.config.num_drafts
        )
        hidden = run_blocks(network, target, draw.states.features, rows.tokens, rows.documents, blocks)
        q = draft_logits(network, target, hidden, blocks.previous)
        p = target.logits(states_at_blocks(draw.states.last_hidden, blocks))
        return (_ratios(q, p, blocks.labels) * blocks.mask)[blocks.kept]


class ChainObjective(msgspec.Struct, frozen=True):
    """Eagle3's steps, each of which weighs `decay` times what the one before does."""

    decay: float = 0.8

    def terms(self, network: DraftNetwork) -> tuple[str, ...]:
        """Return the names (`Objective.terms`)."""
        assert isinstance(network, Eagle3Net)
        return step_names(network.config.num_drafts)

    def losses(
        self,
        network: DraftNetwork,
        target: Target,
        draw: Draw,
        normaliser: Normaliser = own_weight,  # noqa: ARG002, divides by rows
    ) -> Losses:
        """Run all steps from every row; anchors play no part (`Objective.losses`)."""
        assert isinstance(network, Eagle3Net)
        states = draw.states
        return eagle3_loss(network, target, states.features, states.last_hidden, draw.rows, self.decay)

    @torch.no_grad()
    def ratios(self, network: DraftNetwork, target: Target, draw: Draw) -> Tensor:
        """Run all steps and look the text's tokens up at anchors that have a row before them (`Objective.ratios`)."""
        assert isinstance(network, Eagle3Net)
        rows, num_drafts = draw.rows, network.config.num_drafts
        outputs = run_steps(network, target, draw.states.features, rows, num_drafts)
        blocks = make_blocks(
            rows.tokens, rows.documents, rows.weights, draw.anchors, draw.kept & (draw.anchors > 0), num_drafts
        )
        # Draft k leaves the text at the row before the anchor, whose pair the anchor's token completes.
        before = (blocks.anchors - 1).clamp(min=0)[..., None].expand(-1, -1, outputs[0].shape[-1])
        hidden = network.norm(torch.stack([output.gather(1, before) for output in outputs], 2))
        p = target.logits(states_at_blocks(draw.states.last_hidden, blocks))
        return (_ratios(target.logits(hidden), p, blocks.labels) * blocks.mask)[blocks.kept]


def _ratios(q_logits: Tensor, p_logits: Tensor, labels: Tensor) -> Tensor:
    labels = labels[..., None]
    q, p = (logits.log_softmax(-1).gather(-1, labels).squeeze(-1) for logits in (q_logits, p_logits))
    return (q - p).exp().clamp(max=1.0)
