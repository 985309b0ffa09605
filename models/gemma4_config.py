"""What a config.json says of Gemma 4's text decoder (transformers `Gemma4TextConfig`), with the same defaults."""

from typing import Any, Literal, NamedTuple, Self

import msgspec
import torch
from torch import Tensor

from core.errors import CheckpointError
from models.shape import AttentionShape, TargetShape

LayerType = Literal["sliding_attention", "full_attention"]
SLIDING_PATTERN = 6
DEFAULT_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "proportional", "rope_theta": 1_000_000.0, "partial_rotary_factor": 0.25},
}


class Gemma4Rope(msgspec.Struct, frozen=True, kw_only=True):
    """The rotation of one type of layer; `proportional` turns only the first part of the pairs of channels."""

    rope_type: Literal["default", "proportional"] = "default"
    rope_theta: float
    partial_rotary_factor: float = 1.0
    factor: float = 1.0

    def periods(self, head_dim: int) -> Tensor:
        """Return the period of each pair of channels [D / 2]; infinite for those that do not turn."""
        periods = self.rope_theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        if self.rope_type == "proportional":
            periods[int(self.partial_rotary_factor * head_dim // 2) :] = torch.inf
            periods *= self.factor
        return periods


class Heads(NamedTuple):
    """What layers differ in: heads of keys and values, and the size of all heads."""

    num_kv: int
    size: int


class Gemma4Config(msgspec.Struct, frozen=True, kw_only=True):
    """The keys that decide the arithmetic; heads [L] are those of each layer, worked out from several keys."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    heads: tuple[Heads, ...]
    layer_types: tuple[LayerType, ...]
    rope_parameters: dict[LayerType, Gemma4Rope]
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 131_072
    sliding_window: int = 512
    tie_word_embeddings: bool = True
    final_logit_softcapping: float | None = None
    attention_k_eq_v: bool = False
    num_kv_shared_layers: int = 0
    use_double_wide_mlp: bool = False
    hidden_size_per_layer_input: int = 256
    vocab_size_per_layer_input: int = 262_144
    enable_moe_block: bool = False
    num_experts: int = 0
    top_k_experts: int = 0
    moe_intermediate_size: int = 0

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> Self:
        """Read a config.json, or its text_config; raises CheckpointError for what the network does not compute."""
        told = {"tie_word_embeddings": config.get("tie_word_embeddings"), **config.get("text_config", config)}
        for key, computed in (
            ("hidden_activation", ("gelu_pytorch_tanh", None)),
            ("attention_bias", (False, None)),
            # "vision" concerns images alone.
            ("use_bidirectional_attention", ("vision", None)),
        ):
            if told.get(key) not in computed:
                raise CheckpointError(f"{key} {told[key]!r} is not supported for gemma4; {computed[0]!r} is")
        fields = {name: told[name] for name in cls.__struct_fields__ if told.get(name) is not None}
        # Zero turns a default of 256 off, where null does too.
        if told.get("hidden_size_per_layer_input", 256) is None:
            fields["hidden_size_per_layer_input"] = 0
        try:
            fields["layer_types"] = _layer_types(told)
            fields["heads"] = _heads(told, fields["layer_types"])
            fields["rope_parameters"] = _rope(told.get("rope_parameters") or DEFAULT_ROPE)
            return msgspec.convert(fields, cls)
        except (msgspec.ValidationError, KeyError, TypeError) as error:
            raise CheckpointError(f"config.json does not describe a gemma4 text model: {error!r}") from error

    def __post_init__(self) -> None:
        if len(self.layer_types) != self.num_hidden_layers:
            raise ValueError(f"layer_types must name {self.num_hidden_layers} layers, got {len(self.layer_types)}")
        if missing := set(self.layer_types) - set(self.rope_parameters):
            raise ValueError(f"rope_parameters must say how {sorted(missing)} layers rotate")
        if self.hidden_size_per_layer_input and self.vocab_size_per_layer_input < self.vocab_size:
            raise ValueError(
                f"vocab_size_per_layer_input must be vocab_size {self.vocab_size} at least, "
                f"got {self.vocab_size_per_layer_input}"
            )
        if self.final_logit_softcapping is not None and self.final_logit_softcapping <= 0:
            raise ValueError(f"final_logit_softcapping must be above 0, got {self.final_logit_softcapping}")
        if self.enable_moe_block and not 1 <= self.top_k_experts <= self.num_experts:
            raise ValueError(f"top_k_experts must be in 1..{self.num_experts}, got {self.top_k_experts}")
        for index in range(self.num_hidden_layers):
            source = self.kv_layer(index)
            if source is not None and self.heads[source] != self.heads[index]:
                raise ValueError(f"layer {index} shares keys with layer {source} but has other heads")

    def is_sliding(self, index: int) -> bool:
        """Tell whether layer `index` sees a window only."""
        return self.layer_types[index] == "sliding_attention"

    def kv_layer(self, index: int) -> int | None:
        """Return the layer whose keys and values layer `index` attends to, None if it makes its own.

        The last num_kv_shared_layers share those of the last layer of their type before them.
        """
        first_shared = self.num_hidden_layers - self.num_kv_shared_layers
        if index < first_shared:
            return None
        own = [i for i in range(first_shared) if self.layer_types[i] == self.layer_types[index]]
        if not own:
            raise ValueError(f"no {self.layer_types[index]} layer is left for layer {index} to share keys with")
        return own[-1]

    def mlp_size(self, index: int) -> int:
        """Return the width of layer `index`'s MLP."""
        return self.intermediate_size * (2 if self.use_double_wide_mlp and self.kv_layer(index) is not None else 1)

    @property
    def shape(self) -> TargetShape:
        """What the engine and drafters know of it."""
        layers = tuple(
            AttentionShape(
                num_heads=self.num_attention_heads,
                num_kv_heads=heads.num_kv,
                head_dim=heads.size,
                window=self.sliding_window if self.is_sliding(index) else None,
                scale=1.0,
                kv_layer=self.kv_layer(index),
            )
            for index, heads in enumerate(self.heads)
        )
        return TargetShape(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            max_positions=self.max_position_embeddings,
            layers=layers,
        )

    @property
    def facts(self) -> list[tuple[str, str]]:
        """Return (what, value) for people to read, beyond the shape."""
        rows = [("mlp", str(self.intermediate_size))]
        if self.enable_moe_block:
            experts = f"{self.top_k_experts} of {self.num_experts}, mlp {self.moe_intermediate_size}"
            rows.append(("experts", f"{experts}, beside the dense mlp"))
        if self.num_kv_shared_layers:
            rows.append(("shared keys and values", f"in the last {self.num_kv_shared_layers} layers"))
        if self.hidden_size_per_layer_input:
            rows.append(("per-layer embeddings", str(self.hidden_size_per_layer_input)))
        return rows


def _rope(told: dict[str, Any]) -> dict[str, Any]:
    """Return how each kind of layer rotates; what exporters write beside says nothing of any."""
    return {kind: value for kind, value in told.items() if kind not in ("rope_theta", "rope_type")}


def _layer_types(told: dict[str, Any]) -> list[str]:
    if told.get("layer_types") is not None:
        types = list(told["layer_types"])
    else:
        types = ["sliding_attention"] * told["num_hidden_layers"]
        types[SLIDING_PATTERN - 1 :: SLIDING_PATTERN] = ["full_attention"] * (len(types) // SLIDING_PATTERN)
    return [*types[:-1], "full_attention"]


def _heads(told: dict[str, Any], layer_types: list[str]) -> list[Heads]:
    """Work out each layer's heads: older files name those of full layers by keys, transformers 5 names exceptions."""
    usual = {"num_key_value_heads": told.get("num_key_value_heads", 4), "head_dim": told.get("head_dim", 256)}
    exceptions = told.get("per_layer_config")
    if exceptions is None:
        of_full = {"head_dim": told.get("global_head_dim", 512)}
        if told.get("attention_k_eq_v") and told.get("num_global_key_value_heads") is not None:
            of_full["num_key_value_heads"] = told["num_global_key_value_heads"]
        exceptions = {str(i): of_full for i, kind in enumerate(layer_types) if kind == "full_attention"}
    known = {str(index) for index in range(len(layer_types))}
    if unknown := {str(index) for index in exceptions} - known:
        raise CheckpointError(f"per_layer_config names {sorted(unknown)}, which are no layers of 0..{len(known) - 1}")
    if unread := {key for layer in exceptions.values() for key in layer} - usual.keys():
        raise CheckpointError(f"per_layer_config sets {sorted(unread)}; only {sorted(usual)} can differ by layer")
    layers = [usual | exceptions.get(str(index), {}) for index in range(len(layer_types))]
    return [Heads(layer["num_key_value_heads"], layer["head_dim"]) for layer in layers]
