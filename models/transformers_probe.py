"""Finds out, by running it on a few tokens, whether a transformers model can leave its attention to specd.

What is learnt: the heads, window and scale of each layer, which rows it sees, and where its layers are. What is
checked: that each layer's attention is asked for once, with plain keys and values and nothing that the pages cannot
express; that no row reads another but through attention; that positions are taken as given; and, at the end, that the
target computes what transformers itself does.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from core.errors import CheckpointError
from models.layers import Attend
from models.shape import AttentionShape, TargetShape
from models.target import Target

# Names in transformers' registries: of attention that specd computes, and of the same where masks are looked at too.
INTERFACE, PROBING = "specd", "specd_probe"
NUM_TOKENS = 12
# Of the largest number compared: orders of sums differ, nothing else does.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
# What attention is told that changes nothing here.
HARMLESS = {"position_ids", "cache_position", "use_cache", "position_embeddings", "output_attentions", "layer_idx"}

# Attention as transformers asks for it: module, q, k, v [B, heads, S, D], mask, and what else it says.
Asked = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor | None, dict[str, Any]], Tensor]


def register() -> None:
    """Make specd's attention known to transformers; again changes nothing."""
    AttentionInterface.register(INTERFACE, _attention)
    AttentionInterface.register(PROBING, _attention)
    AttentionMaskInterface.register(PROBING, _sample_mask)


def hand_over(attend: Attend, is_flat: bool) -> Asked:
    """Return `attend` as transformers asks for it; is_flat: rows are [N], which transformers sees as [1, N]."""

    def asked(
        module: nn.Module, q: Tensor, k: Tensor, v: Tensor, _mask: Tensor | None, _told: dict[str, Any]
    ) -> Tensor:
        rows = [x.transpose(1, 2) for x in (q, k, v)]
        layer: Any = module.layer_idx
        if not is_flat:
            return attend(layer, *rows)
        return attend(layer, *(x.squeeze(0) for x in rows)).unsqueeze(0)

    return asked


class Body(nn.Module):
    """A model without its head, run over rows with attention asked for by call, its layers' outputs on demand."""

    def __init__(self, model: Any, layers: nn.ModuleList) -> None:
        super().__init__()
        self.network = model.base_model
        self.embedding = model.get_input_embeddings()
        self.layers = layers

    def run(
        self, tokens: Tensor, positions: Tensor, asked: Asked, capture: tuple[int, ...] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Run tokens [...] of one or two axes; returns the final states [..., H] and the taps [..., H] each."""
        taps: dict[int, Tensor] = {}
        hooks = [self._tap(index, taps) for index in capture]
        shape = (1, -1) if tokens.dim() == 1 else tokens.shape
        try:
            # A mask of four axes is passed on as it is, and nobody reads it: making a real one costs time.
            states = self.network(
                input_ids=tokens.view(shape),
                position_ids=positions.view(shape),
                attention_mask=torch.zeros(1, 1, 1, 1, dtype=torch.bool),
                use_cache=False,
                specd_attention=asked,
            ).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        return states.view(*tokens.shape, -1), [taps[index].view(*tokens.shape, -1) for index in capture]

    def _tap(self, index: int, taps: dict[int, Tensor]) -> Any:
        def before(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            taps[index] = inputs[0] if inputs else named["hidden_states"]

        def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
            taps[index] = output[0] if isinstance(output, tuple) else output

        if index == -1:
            return self.layers[0].register_forward_pre_hook(before, with_kwargs=True)
        return self.layers[index].register_forward_hook(after)


class Probe(NamedTuple):
    """What is known of a model after it was tried."""

    body: Body
    shape: TargetShape
    embedding_scale: float
    expected: Tensor

    def check(self, target: Target) -> None:
        """Raise CheckpointError unless `target` makes of shuffled rows what transformers made of the text."""
        order = torch.randperm(NUM_TOKENS, generator=torch.Generator().manual_seed(0))
        tokens = _tokens(self.shape.vocab_size)[order]
        with torch.inference_mode():
            hidden, _ = target(tokens, order, _dense(order, self.shape))
            found = target.logits(hidden)
        _check_equal(found, self.expected[order], target.dtype, "the attention interface changes what it computes, or "
                     "a row reads others by other ways than attention")  # fmt: skip


@torch.inference_mode()
def probe(model: Any) -> Probe:
    """Try a model that was loaded with eager attention; raises CheckpointError saying what stands in the way."""
    head = model.get_output_embeddings()
    if head is None:
        raise CheckpointError("transformers does not say which module is its output head")
    vocab_size = head.weight.shape[0]
    tokens = _tokens(vocab_size)
    expected = model(input_ids=tokens[None], use_cache=False).logits[0].float()
    calls: list[tuple[nn.Module, AttentionShape]] = []

    def asked(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, told: dict[str, Any]) -> Tensor:
        shape = _read_call(q, k, v, told)
        _check_mask(mask, model.config, shape.window)
        calls.append((module, shape))
        seen = torch.arange(NUM_TOKENS)
        return _attend_densely(q, k, v, _visible(seen, shape), shape.scale)

    model.set_attn_implementation(PROBING)
    try:
        model.base_model(
            input_ids=tokens[None], position_ids=torch.arange(NUM_TOKENS)[None], use_cache=False, specd_attention=asked
        )
    except (TypeError, KeyError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"its attention cannot be computed outside of it: {error}") from error
    count = model.config.num_hidden_layers
    order = [getattr(module, "layer_idx", None) for module, _ in calls]
    if order != list(range(count)):
        raise CheckpointError(f"its {count} layers ask for attention in the order {order}, not once each")
    max_positions = getattr(model.config, "max_position_embeddings", None)
    if not max_positions:
        raise CheckpointError("its config does not say max_position_embeddings")
    body = Body(model, _layers(model, [module for module, _ in calls]))
    shape = TargetShape(
        vocab_size=vocab_size,
        hidden_size=model.config.hidden_size,
        max_positions=max_positions,
        layers=tuple(shape for _, shape in calls),
    )
    return Probe(body, shape, _embedding_scale(body, tokens, shape), expected)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    specd_attention: Asked | None = None,
    **told: Any,
) -> tuple[Tensor, None]:
    """Answer transformers: attention [B, S, heads, D] of heads [B, heads, S, D]."""
    if specd_attention is None:
        raise TypeError(f"{type(module).__name__} is not handed the keywords of the model's forward")
    return specd_attention(module, query, key, value, attention_mask, told), None


def _read_call(q: Tensor, k: Tensor, v: Tensor, told: dict[str, Any]) -> AttentionShape:
    if k.shape != v.shape or q.shape[2:] != k.shape[2:] or q.shape[1] % k.shape[1]:
        shapes = ", ".join(str(list(x.shape)) for x in (q, k, v))
        raise CheckpointError(f"its queries, keys and values are not plain heads of one size: {shapes}")
    plain = {"scaling", "sliding_window", "dropout", "is_causal", *HARMLESS}
    if extra := sorted(name for name, value in told.items() if name not in plain and value is not None):
        raise CheckpointError(f"its attention needs {', '.join(extra)}, which specd's does not compute")
    if told.get("is_causal") is False:
        raise CheckpointError("its attention is not causal")
    return AttentionShape(
        num_heads=q.shape[1],
        num_kv_heads=k.shape[1],
        head_dim=q.shape[3],
        window=told.get("sliding_window"),
        scale=told.get("scaling"),
    )


def _sample_places(config: Any) -> Tensor:
    """Return positions i64 [P] at which masks are compared: around powers of two and the edges of windows."""
    sizes = {getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")}
    edges = {2**i for i in range(15)} | {n * size for size in sizes if isinstance(size, int) for n in (1, 2)}
    return torch.tensor(sorted({0} | {edge + near for edge in edges for near in (-1, 0, 1)}))


def _sample_mask(*_: Any, mask_function: Callable[..., Tensor], config: Any, **__: Any) -> Tensor:
    """Answer transformers' wish for a mask with what row q sees of row k at sampled places, bool [1, 1, P, P]."""
    places, zero = _sample_places(config), torch.zeros(1, 1, 1, 1, dtype=torch.int64)
    seen = mask_function(zero, zero, places.view(1, 1, -1, 1), places.view(1, 1, 1, -1))
    return seen.expand(1, 1, len(places), len(places))


def _check_mask(mask: Tensor | None, config: Any, window: int | None) -> None:
    places = _sample_places(config)
    ahead = places[:, None] - places
    expected = (ahead >= 0) & (ahead < window) if window else ahead >= 0
    if mask is None or mask.dtype != torch.bool or mask.shape[2:] != expected.shape:
        raise CheckpointError("it does not say by a mask of transformers' making which rows see which")
    if not torch.equal(mask[0, 0], expected):
        raise CheckpointError("its rows do not see all or a window of the rows before them, but something else")


def _visible(positions: Tensor, shape: AttentionShape) -> Tensor:
    ahead = positions[:, None] - positions
    return (ahead >= 0) & (ahead < (shape.window or NUM_TOKENS))


def _attend_densely(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, visible, scale=scale, enable_gqa=True).transpose(1, 2)


def _dense(positions: Tensor, shape: TargetShape) -> Attend:
    """Return attention among rows [N] of one text, whatever their order."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        own = shape.layers[layer]
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return _attend_densely(q, k, v, _visible(positions, own), own.scale)[0]

    return attend


def _layers(model: Any, attentions: list[nn.Module]) -> nn.ModuleList:
    """Find the list whose i-th module contains the i-th attention."""
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == len(attentions):
            pairs = zip(module, attentions, strict=True)
            if all(any(part is attention for part in layer.modules()) for layer, attention in pairs):
                return module
    raise CheckpointError("its layers are not a list of modules with one attention each")


def _embedding_scale(body: Body, tokens: Tensor, shape: TargetShape) -> float:
    """Return how many times as long as in the table embeddings enter the first layer."""
    positions = torch.arange(NUM_TOKENS)
    _, (entering,) = body.run(tokens, positions, hand_over(_dense(positions, shape), True), (-1,))
    plain = body.embedding(tokens)
    scale = float((entering * plain).sum() / (plain * plain).sum())
    scale = 1.0 if abs(scale - 1) < TOLERANCE[torch.float32] else scale
    _check_equal(plain * scale, entering, entering.dtype, "something is added to its embeddings (learned positions?)")
    return scale


def _tokens(vocab_size: int) -> Tensor:
    return torch.randint(0, vocab_size, (NUM_TOKENS,), generator=torch.Generator().manual_seed(0))


def _check_equal(found: Tensor, expected: Tensor, dtype: torch.dtype, otherwise: str) -> None:
    """Raise CheckpointError, saying `otherwise`, where two results of arithmetic in `dtype` are too far apart."""
    worst = float((found.float() - expected.float()).abs().max())
    if not worst <= TOLERANCE.get(dtype, TOLERANCE[torch.bfloat16]) * float(expected.abs().max()):
        raise CheckpointError(f"{otherwise} (off by {worst:.2g})")
