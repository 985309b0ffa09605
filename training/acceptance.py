"""Expected accepted length on the target's own texts, without decoding.

For text x drawn from the target p, E_x[prod_{j<=k} min(1, q_j(x_j) / p_j(x_j))] is the probability that rejection
sampling accepts the first k drafts of q; the sum over k plus one (the bonus token) is tau at temperature 1.
"""

import torch
from torch import Tensor

from models.draft_fit import DraftNetwork
from models.target import Target
from training.blocks import sample_anchors
from training.features import target_states
from training.objective import Draw, Objective
from training.packing import Rows


@torch.no_grad()
def expected_survival(
    drafter: DraftNetwork, target: Target, objective: Objective, rows: Rows, num_anchors: int, seed: int = 0
) -> Tensor:
    """Return f32 [K], the probability that the first k drafts are accepted, k = 1..K.

    rows must hold text sampled from the target at temperature 1, weights 1 on its tokens only. A draft past the end
    of a text counts as rejected, as in service.
    """
    anchors, kept = sample_anchors(rows.weights, num_anchors, torch.Generator().manual_seed(seed))
    with torch.autocast(rows.tokens.device.type, torch.bfloat16):
        states = target_states(target, rows, drafter.config.target_layer_ids)
        ratios = objective.ratios(drafter, target, Draw(rows, states, anchors, kept))
    return ratios.cumprod(-1).mean(0)
