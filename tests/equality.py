"""Compare texts that should be equal, allowing for ties that float arithmetic may break either way."""

import torch
from torch.nn import functional as F

# Two logits nearer than this may change places when a batch's shape changes the order of a sum.
NEAR_TIE = 1e-4


def dense_causal(layer, q, k, v):
    heads_first = [x.transpose(-3, -2) for x in (q, k, v)]
    return F.scaled_dot_product_attention(*heads_first, is_causal=True, enable_gqa=True).transpose(-3, -2)


@torch.inference_mode()
def divergence_margin(target, prompt, ours, theirs):
    """Return how near the target's two best logits are where two greedy texts part; None if they never do."""
    if ours == theirs:
        return None
    place = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    ids = torch.tensor([*prompt, *ours[:place]])
    hidden, _ = target(ids, torch.arange(len(ids)), dense_causal)
    best = target.logits(hidden[-1]).topk(2).values
    return float(best[0] - best[1])


def assert_same_texts(target, prompts, got, plain):
    """Texts by name, the index of their prompt; a divergence must sit at a near tie. Returns the margins."""
    margins = {}
    for name, tokens in got.items():
        margin = divergence_margin(target, prompts[int(name)], tokens, plain[name])
        if margin is not None:
            margins[name] = margin
            assert margin < NEAR_TIE, f"prompt {name} diverges at a margin of {margin}"
    return margins
