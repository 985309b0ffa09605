"""What the operations of a round demand of the shapes they are given, shared by twins and kernels."""

from torch import Tensor

from core.errors import ShapeError
from core.tensors import Draft


def check_admit(survival: Tensor, drafted: Tensor, group: Tensor) -> None:
    """Raise ShapeError unless survival is [B, G] and drafted and group are [B]."""
    if survival.ndim != 2 or not survival.shape[:1] == drafted.shape == group.shape:
        raise ShapeError(
            "admit takes survival [B, G], drafted [B], group [B], "
            f"got {list(survival.shape)}, {list(drafted.shape)}, {list(group.shape)}"
        )


def check_reject(target_logits: Tensor, draft: Draft, lengths: Tensor, uniforms: Tensor) -> None:
    """Raise ShapeError unless the arguments of `reject` fit each other; reads no values."""
    batch, width = draft.tokens.shape
    q_shape = (batch, width, target_logits.shape[-1])
    if draft.q_logits is not None and draft.q_logits.shape != q_shape:
        raise ShapeError(f"q_logits must be {list(q_shape)}, got {list(draft.q_logits.shape)}")
    for name, tensor, shape in (
        ("lengths", lengths, (batch,)),
        ("point_mass", draft.point_mass, (batch,)),
        ("uniforms", uniforms, (batch, width + 1)),
    ):
        if tensor.shape != shape:
            raise ShapeError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")


def check_lengths(lengths: Tensor, width: int, num_rows: int) -> int:
    """Return sum(lengths); ShapeError unless lengths lie in 0..width and name exactly num_rows verification rows."""
    host = lengths.tolist()
    if host and not 0 <= min(host) <= max(host) <= width:
        raise ShapeError(f"lengths must lie in 0..{width}, got {min(host)}..{max(host)}")
    if sum(host) + len(host) != num_rows:
        raise ShapeError(f"target_logits must have sum(lengths + 1) = {sum(host) + len(host)} rows, got {num_rows}")
    return sum(host)
