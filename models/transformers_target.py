"""Decoder-only models that specd has no forward of its own for, computed by transformers (optional: specd[hf]).

transformers keeps the layers; attention leaves it through its attention interface, so that keys and values lie in
specd's pages. No cache of its own is used, and no code of a checkpoint is run. Whether a model lends itself to that
is tried when it is loaded (models/transformers_probe.py).
"""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from core.errors import CheckpointError, ConfigError
from core.types import Numerics
from models.layers import Attend
from models.network import for_inference
from models.shape import TargetShape
from models.target import Target
from models.transformers_probe import INTERFACE, Body, hand_over, probe, register

LAYER_TYPES = ("full_attention", "sliding_attention")
# Rotations whose angles depend on how long the text is: rows that are cached would have to turn again.
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


class GivenStates(nn.Module):
    """Stands where a causal model has its body: the states come from outside, what the model does after it is kept."""

    def forward(self, inputs_embeds: Tensor, **_: Any) -> BaseModelOutputWithPast:
        """Return the states [1, N, H] it was given."""
        return BaseModelOutputWithPast(last_hidden_state=inputs_embeds)


class TransformersTarget(Target):
    """A causal model of transformers; its logits are all that its own class makes of the final states."""

    # Nobody knows what code that is not ours looks at.
    looks_at_values = True

    def __init__(self, model: Any, body: Body, shape: TargetShape, embedding_scale: float) -> None:
        super().__init__(shape, Numerics.FAST)
        self.body, self.top = body, model
        # By name: the module itself is another once weights are packed, and without its body the model finds none.
        head = model.get_output_embeddings()
        self._head_name = next(name for name, module in model.named_modules() if module is head)
        setattr(model, model.base_model_prefix, GivenStates())
        self._embedding_scale = embedding_scale

    def forward(
        self, tokens: Tensor, positions: Tensor, attend: Attend, capture: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """Run the network (`Target.forward`)."""
        hidden, taps = self.body.run(tokens, positions, hand_over(attend, tokens.dim() == 1), capture)
        return hidden, torch.cat(taps, -1) if taps else None

    def embed(self, tokens: Tensor) -> Tensor:
        """Look the tokens up, and scale them as the model does."""
        embedded = self.body.embedding(tokens)
        return embedded if self._embedding_scale == 1 else embedded * self._embedding_scale

    def logits(self, hidden: Tensor) -> Tensor:
        """Map final hidden states [..., H] to logits [..., V] in float32."""
        logits = self.top(inputs_embeds=hidden.reshape(1, -1, hidden.shape[-1]), use_cache=False).logits
        return logits.float().view(*hidden.shape[:-1], logits.shape[-1])

    @property
    def embedding(self) -> Tensor:
        """The embedding's weight."""
        return self.body.embedding.weight

    @property
    def head(self) -> Tensor:
        """The head's weight."""
        return self.top.get_submodule(self._head_name).weight


def load_with_transformers(
    folder: Path, config: dict[str, Any], dtype: torch.dtype, numerics: Numerics
) -> TransformersTarget:
    """Load a checkpoint whose config.json is `config`, weights cast to `dtype`.

    Raises CheckpointError saying why transformers, or its attention interface, does not serve it; ConfigError where
    `numerics` cannot be had.
    """
    family = _family(folder, config)
    if numerics is not Numerics.FAST:
        raise ConfigError(
            f"engine.numerics {numerics.value!r} is not possible for {family.__name__}, whose products are computed by "
            "transformers; use 'fast'"
        )
    register()
    try:
        model, info = family.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder}: transformers cannot load it: {error}") from error
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[what]:
            raise CheckpointError(f"{folder}: {what.replace('_', ' ')} of the checkpoint: {min(map(str, info[what]))}")
    found = probe(model.eval())
    target = TransformersTarget(model, found.body, found.shape, found.embedding_scale)
    model.set_attn_implementation(INTERFACE)
    for_inference(target, dtype)
    found.check(target)
    return target


def _family(folder: Path, config: dict[str, Any]) -> Any:
    """Return the model class, after what a config can tell; raises CheckpointError."""
    name, told = config["architectures"][0], f"transformers {transformers.__version__}"
    if config.get("is_encoder_decoder"):
        raise CheckpointError("it is an encoder-decoder model; only decoder-only ones are served")
    try:
        read = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        if "auto_map" in config:
            raise CheckpointError("it needs code that lies in the checkpoint (auto_map), which is never run") from error
        raise CheckpointError(f"{told} does not know it: {str(error).splitlines()[0]}") from error
    families: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(read), ())
    families = families if isinstance(families, tuple) else (families,)
    family = next((each for each in families if each.__name__ == name), None)
    if family is None:
        if "auto_map" in config:
            raise CheckpointError("it needs code that lies in the checkpoint (auto_map), which is never run")
        raise CheckpointError(f"{told} has no decoder-only language model of that name")
    _check_config(family, read)
    return family


def _check_config(family: Any, config: Any) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise CheckpointError("it is an encoder-decoder model; only decoder-only ones are served")
    if family._is_stateful:  # noqa: SLF001 - the library's own name for what keeps a recurrent state
        raise CheckpointError("it keeps a recurrent state (an SSM, linear attention, or a hybrid with one)")
    if getattr(config, "kv_lora_rank", None):
        raise CheckpointError("it has multi-head latent attention (kv_lora_rank), not plain keys and values")
    if others := set(getattr(config, "layer_types", None) or ()) - set(LAYER_TYPES):
        raise CheckpointError(f"it has {', '.join(sorted(others))} layers; only {' and '.join(LAYER_TYPES)} are served")
    if not family._supports_attention_backend:  # noqa: SLF001 - as above, for what the interface reaches
        raise CheckpointError("its attention does not go through transformers' attention interface")
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {str(part.get("rope_type")) for part in (rope, *rope.values()) if isinstance(part, dict)}
    if moving := kinds & set(LENGTH_DEPENDENT_ROPE):
        raise CheckpointError(f"its rope type {min(moving)!r} turns all keys anew as the text grows")
