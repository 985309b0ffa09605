"""From a canonical Eagle3 checkpoint to a network that is ready to run beside its target."""

from typing import Any

import msgspec
import torch
from torch import Tensor

from core.errors import CheckpointError
from models.checkpoint import load_into
from models.eagle3_net import Eagle3Config, Eagle3Net
from models.network import for_inference
from models.target import Target


def make_eagle3(config: dict[str, Any], tensors: dict[str, Tensor], target: Target, source: str) -> Eagle3Net:
    """Build an Eagle3 network for inference beside `target`, in the target's dtype and numerics.

    config and tensors are canonical (DeepSpec's keys and names). An embedding or a head that equals the target's, or
    is missing, is the target's own. Raises CheckpointError, naming `source`, for a tensor that is missing, left over or
    of another shape, and for what does not fit the target.
    """
    try:
        made = Eagle3Config.from_json(config)
        check_fits(made, target)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    shape = made.backbone
    # The layer may be asked for any position that the target has.
    longest = max(shape.max_position_embeddings, target.shape.max_positions)
    made = msgspec.structs.replace(made, backbone=msgspec.structs.replace(shape, max_position_embeddings=longest))
    shared = {
        name
        for name, weight in (("embed_tokens.weight", target.embedding), ("lm_head.weight", target.head))
        if name not in tensors or equals(tensors[name], weight)
    }
    is_reduced = made.drafted_vocab_size < shape.vocab_size
    _check_shared(made, shared, target, source, is_reduced=is_reduced)
    network = Eagle3Net(
        made,
        target.numerics,
        has_embedding="embed_tokens.weight" not in shared,
        has_head="lm_head.weight" not in shared,
    )
    left = dict(tensors)
    if is_reduced or "d2t" in left:
        network.target_ids = read_target_ids(left.pop("d2t", None), made.drafted_vocab_size, shape.vocab_size, source)
    load_into(network, left, source=source, skip=shared)
    return for_inference(network, target.dtype)


def check_fits(config: Eagle3Config, target: Target) -> None:
    """Raise CheckpointError unless the drafter was made for a target of this shape."""
    beside, shape, num_layers = target.shape, config.backbone, len(target.shape.layers)
    if config.feature_size != beside.hidden_size or shape.vocab_size != beside.vocab_size:
        raise CheckpointError(
            f"the drafter was made for a target of hidden size {config.feature_size} and vocabulary "
            f"{shape.vocab_size}; this target has {beside.hidden_size} and {beside.vocab_size}"
        )
    if config.num_target_layers not in (None, num_layers):
        raise CheckpointError(
            f"the drafter was made for a target of {config.num_target_layers} layers; this one has {num_layers}"
        )
    if config.target_layer_ids[-1] >= num_layers - 1:
        raise CheckpointError(
            f"target_layer_ids must lie within -1..{num_layers - 2} (the last layer has no raw state), "
            f"got {list(config.target_layer_ids)}"
        )


def read_target_ids(differences: Tensor | None, draft_vocab_size: int, vocab_size: int, source: str) -> Tensor:
    """Return the target's token i + d2t[i] of every draft token i, i64 [draft_vocab_size]."""
    if differences is None:
        raise CheckpointError(f"{source}: tensor 'd2t' is missing; draft_vocab_size is below vocab_size")
    if differences.shape != (draft_vocab_size,) or differences.is_floating_point():
        raise CheckpointError(
            f"{source}: d2t must hold {draft_vocab_size} integers, got {differences.dtype} {list(differences.shape)}"
        )
    ids = torch.arange(draft_vocab_size) + differences.to(torch.int64)
    low, high = ids.aminmax()
    if int(low) < 0 or int(high) >= vocab_size or len(ids.unique()) < draft_vocab_size:
        raise CheckpointError(
            f"{source}: i + d2t[i] must be different tokens within 0..{vocab_size - 1}, got {int(low)}..{int(high)}"
        )
    return ids


def equals(ours: Tensor, theirs: Tensor) -> bool:
    """Tell whether a file's weight is, in the target's dtype, the target's."""
    return ours.shape == theirs.shape and torch.equal(ours.to(theirs.dtype), theirs)


def _check_shared(config: Eagle3Config, shared: set[str], target: Target, source: str, *, is_reduced: bool) -> None:
    """Raise CheckpointError where the target's embedding or head cannot serve the drafter."""
    if is_reduced and "lm_head.weight" in shared:
        raise CheckpointError(f"{source}: tensor 'lm_head.weight' is missing; a reduced vocabulary needs its own head")
    if shared and config.backbone.hidden_size != target.shape.hidden_size:
        raise CheckpointError(
            f"{source}: tensor {min(shared)!r} is missing; at hidden size {config.backbone.hidden_size} the target's, "
            f"of {target.shape.hidden_size}, cannot take its place"
        )
