"""The canonical tensor names of drafters, and what a file's own names become. No torch."""

import re
from collections.abc import Callable, Iterable

from core.errors import CheckpointError

LAYER = r"layers\.\d+\."
COMMON = (
    r"embed_tokens\.weight",
    r"lm_head\.weight",
    r"fc\.weight",
    r"norm\.weight",
    r"d2t",
    rf"{LAYER}(input|post_attention)_layernorm\.weight",
    rf"{LAYER}(pre|post)_feedforward_layernorm\.weight",
    rf"{LAYER}layer_scalar",
    rf"{LAYER}self_attn\.(q|k|v|o)_proj\.(weight|bias)",
    rf"{LAYER}self_attn\.(q|k)_norm\.weight",
    rf"{LAYER}mlp\.(gate|up|down)_proj\.weight",
)
BLOCK = (
    r"hidden_norm\.weight",
    r"markov_head\.markov_(w1|w2)\.weight",
    r"markov_head\.(gate|joint)_proj\.(weight|bias)",
    r"confidence_head\.proj\.(weight|bias)",
)
CHAIN = (r"layers\.0\.hidden_norm\.weight", r"input_norm\.weight", r"fc_norm\.\d+\.weight")
KNOWN = {
    "dspark": re.compile("|".join((*COMMON, *BLOCK))),
    "dflash": re.compile("|".join((*COMMON, *BLOCK))),
    "eagle3": re.compile("|".join((*COMMON, *CHAIN))),
}


def canonical_names(
    names: Iterable[str], rename: Callable[[str], str | None], kind: str, source: str
) -> dict[str, str]:
    """Return canonical name -> the file's name, without the tensors that the drafter does not use.

    Raises CheckpointError naming the file's tensor that no drafter of this kind has, or that comes twice.
    """
    found: dict[str, str] = {}
    for name in sorted(names):
        ours = rename(name)
        if ours is None:
            continue
        if not KNOWN[kind].fullmatch(ours):
            raise CheckpointError(f"{source}: tensor {name!r} is not understood; no {kind} drafter has it")
        if ours in found:
            raise CheckpointError(f"{source}: tensors {found[ours]!r} and {name!r} are one and the same ({ours})")
        found[ours] = name
    return found
