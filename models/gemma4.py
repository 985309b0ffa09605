"""The Gemma 4 text decoder (transformers `Gemma4ForCausalLM`, or the text part of `Gemma4ForConditionalGeneration`).

Sliding and full layers alternate, with heads, windows and rotations of their own; the last layers may attend to the
keys and values of earlier ones; each layer may get an embedding of the token of its own.
"""

from typing import Any, Self

import torch
from torch import Tensor, nn

from core.types import Numerics
from models.gemma4_config import Gemma4Config
from models.gemma4_layers import ComputedRotation, Gemma4Layer, KeysValues
from models.layers import Attend, RMSNorm, scaled, soft_capped
from models.target import Target

# Parts of multimodal checkpoints that read images and sound.
OTHER_SENSES = ("model.vision_tower.", "model.audio_tower.", "model.embed_vision.", "model.embed_audio.")
# What files may hold for layers that share keys and values, and nobody reads.
UNREAD = ("k_proj", "v_proj", "k_norm", "v_norm")


class Gemma4(Target):
    """The Gemma 4 text decoder."""

    config_type = Gemma4Config

    def __init__(self, config: Gemma4Config, numerics: Numerics = Numerics.FAST) -> None:
        super().__init__(config.shape, numerics)
        self.config = config
        size, width = config.hidden_size, config.hidden_size_per_layer_input
        self.embed_tokens = nn.Embedding(config.vocab_size, size)
        self.layers = nn.ModuleList(Gemma4Layer(config, index) for index in range(config.num_hidden_layers))
        self.norm = RMSNorm(size, config.rms_norm_eps)
        self.lm_head = nn.Linear(size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        if width:
            columns = config.num_hidden_layers * width
            self.embed_tokens_per_layer = nn.Embedding(config.vocab_size_per_layer_input, columns)
            self.per_layer_model_projection = nn.Linear(size, columns, bias=False)
            self.per_layer_projection_norm = RMSNorm(width, config.rms_norm_eps)
        head_dims = {kind: heads.size for kind, heads in zip(config.layer_types, config.heads, strict=True)}
        self.rotations = nn.ModuleDict(
            {kind: ComputedRotation(config.rope_parameters[kind].periods(dim)) for kind, dim in head_dims.items()}
        )
        self._sources = {layer.kv_layer for layer in self.shape.layers}

    @classmethod
    def from_json(cls, config: dict[str, Any], numerics: Numerics) -> Self:
        """Build the network that a config.json describes, weights not loaded; raises CheckpointError."""
        return cls(Gemma4Config.from_json(config), numerics)

    def own_tensors(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Name a file's text tensors as the parameters here, one per expert (`Target.own_tensors`)."""
        unread = tuple(
            f"layers.{index}.self_attn.{name}."
            for index, layer in enumerate(self.shape.layers)
            if layer.kv_layer is not None
            for name in UNREAD
        )
        own: dict[str, Tensor] = {}
        for file_name, tensor in tensors.items():
            name = file_name.removeprefix("model.").removeprefix("language_model.")
            if file_name.startswith(OTHER_SENSES) or name.startswith(unread):
                continue
            if ".experts." in name:
                own |= _one_by_one(name, tensor)
            elif name != "lm_head.weight" or not self.config.tie_word_embeddings:
                own[name] = tensor
        return own

    def forward(
        self, tokens: Tensor, positions: Tensor, attend: Attend, capture: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """Run the network (`Target.forward`)."""
        x = self.embed(tokens)
        rotations = {kind: rotation.at(positions, x.dtype) for kind, rotation in self.rotations.items()}  # type: ignore[operator]
        per_layer = self._per_layer_inputs(tokens, x)
        kept: dict[int | None, KeysValues] = {}
        taps = [x] if -1 in capture else []
        for index, layer in enumerate(self.layers):
            rotation, shared = rotations[self.config.layer_types[index]], kept.get(self.shape.layers[index].kv_layer)
            x, kv = layer(index, x, rotation, attend, shared, None if per_layer is None else per_layer[index])
            if index in self._sources:
                kept[index] = kv
            if index in capture:
                taps.append(x)
        return self.norm(x), torch.cat(taps, -1) if taps else None

    def embed(self, tokens: Tensor) -> Tensor:
        """Look the tokens up; embeddings enter the network sqrt(H) times as long."""
        return scaled(self.embed_tokens(tokens), self.config.hidden_size**0.5)

    def logits(self, hidden: Tensor) -> Tensor:
        """Map final hidden states [..., H] to logits [..., V] in float32, bent to stay within the soft cap."""
        return soft_capped(self.lm_head(hidden).float(), self.config.final_logit_softcapping)

    @property
    def embedding(self) -> Tensor:
        """The embedding's weight, without the scale."""
        return self.embed_tokens.weight

    @property
    def head(self) -> Tensor:
        """The head's weight."""
        return self.lm_head.weight

    def _per_layer_inputs(self, tokens: Tensor, x: Tensor) -> tuple[Tensor, ...] | None:
        """Return what each layer is told of the tokens, [..., P] each: an embedding and a map of x; None if nothing."""
        width = self.config.hidden_size_per_layer_input
        if not width:
            return None
        shape = (self.config.num_hidden_layers, width)
        told = scaled(self.embed_tokens_per_layer(tokens), width**0.5).unflatten(-1, shape)
        mapped = (self.per_layer_model_projection(x) * x.shape[-1] ** -0.5).unflatten(-1, shape)
        return ((self.per_layer_projection_norm(mapped) + told) * 2**-0.5).unbind(-2)


def _one_by_one(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """Take experts apart that a file stacks: gate_up_proj [E, 2 I, H] and down_proj [E, H, I]."""
    layer, _, matrix = name.partition(".experts.")
    parts = {"gate_proj": 0, "up_proj": 1} if matrix == "gate_up_proj" else {matrix: 0}
    return {
        f"{layer}.experts.{expert}.{part}.weight": weight.chunk(len(parts))[place]
        for expert, weight in enumerate(tensor)
        for part, place in parts.items()
    }
