"""Expected accepted length on the target's own texts, without decoding.

For text x drawn from the target p, E_x[prod_{j<=k} min(1, q_j(x_j) / p_j(x_j))] is the probability that rejection
sampling accepts the first k drafts of q; the sum over k plus one (the bonus token) is tau at temperature 1.
"""

import torch
from torch import Tensor

from models.dflash_net import DFlashNet
from models.qwen3 import Qwen3
from training.blocks import make_blocks, run_blocks, sample_anchors
from training.drafter import target_states
from training.dspark_loss import draft_logits, target_logits
from training.packing import Rows


@torch.no_grad()
def expected_survival(drafter: DFlashNet, target: Qwen3, rows: Rows, num_anchors: int, seed: int = 0) -> Tensor:
    """Return f32 [G], the probability that the first k drafts are accepted, k = 1..G.

    rows must hold text sampled from the target at temperature 1, weights 1 on its tokens only. A draft past the end
    of a text counts as rejected, as in service.
    """
    anchors, kept = sample_anchors(rows.weights, num_anchors, torch.Generator().manual_seed(seed))
    with torch.autocast("cpu", torch.bfloat16):
        last_hidden, features = target_states(target, rows, drafter.config.target_layer_ids)
        blocks = make_blocks(rows.tokens, rows.documents, rows.weights, anchors, kept, drafter.config.block_size)
        hidden = run_blocks(drafter, target.embed_tokens.weight, features, rows.tokens, rows.documents, blocks)
        q = draft_logits(drafter, target.lm_head.weight, hidden, blocks.previous).log_softmax(-1)
        p = target_logits(target.lm_head.weight, last_hidden, blocks).log_softmax(-1)
    labels = blocks.labels[..., None]
    ratio = (q.gather(-1, labels) - p.gather(-1, labels)).squeeze(-1).exp().clamp(max=1.0)
    survival = (ratio * blocks.mask).cumprod(-1)[blocks.kept]
    return survival.mean(0)
