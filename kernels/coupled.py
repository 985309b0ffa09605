"""The coupled verifier: the target draws with the drafter's own noise, and a draft is kept while the two agree.

What a request says is then a function of its target, its parameters and its key (docs/exactness.md, section 5). No
Triton kernel serves this yet: on CUDA the torch twins run too, and `couple` reads the lengths back to the host.
"""

from torch import Tensor

from core.tensors import Draft, Verdict
from kernels import reference


def couple(target_logits: Tensor, draft: Draft, lengths: Tensor, gumbel: Tensor) -> Verdict:
    """Judge drafts by target rows f32 [N, V] and noise f32 [B, G + 1, V] (`reference.couple`)."""
    return reference.couple(target_logits, draft, lengths, gumbel)


def draw_coupled(logits: Tensor, gumbel: Tensor) -> Tensor:
    """Draw a token from each of logits f32 [..., V] with noise f32 [..., V]; i64 [...] (`reference.draw_coupled`)."""
    return reference.draw_coupled(logits, gumbel)


def keep_drawn(drawn: Tensor, draft: Draft, lengths: Tensor) -> Verdict:
    """Judge drafts by the tokens i64 [N] that the target drew in their rows (`reference.keep_drawn`)."""
    return reference.keep_drawn(drawn, draft, lengths)
