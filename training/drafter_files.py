"""A drafter from a recipe and its target's config.json, and back to files: DeepSpec's layout, no copy of the target's.

config.json is a copy of the target's with the drafter's keys beside, as DeepSpec writes it. The same JSON describes the
network that is trained, so what is written loads again.
"""

from pathlib import Path
from typing import Any

import torch

from core.config import CheckpointKind
from core.errors import CheckpointError
from models import checkpoint
from models.config_json import read_config
from models.draft_fit import DraftNetwork, fitted, take_vocabulary
from models.formats.checkpoint import read_checkpoint
from models.formats.translate import translate
from models.load_drafter import KINDS
from models.target import Target
from training.export import replaced
from training.recipe import DrafterShape, Sizes

# What is the target's own affair: how its weights are stored, whose files these are, what it does with text.
DROPPED = (
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "quantization_config",
    "text_config",
    "torch_dtype",
    "transformers_version",
    "vision_config",
    "audio_config",
)
# Targets' model types, and the layer family of their drafters; what is not named gets Qwen3's layers.
FAMILIES = {"llama": "llama", "gemma4": "gemma4_text", "gemma4_text": "gemma4_text"}
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "max_position_embeddings",
    "rope_theta",
    "rope_parameters",
    "rope_scaling",
    "eos_token_id",
)


def drafter_json(target: dict[str, Any], shape: DrafterShape, num_anchors: int) -> dict[str, Any]:
    """Return the config.json of a drafter for the target whose config.json this is."""
    sizes = shape.sizes()
    text = {**target, **(target.get("text_config") or {})}
    family = FAMILIES.get(str(text.get("model_type")), "qwen3")
    if shape.kind == "eagle3" and family == "gemma4_text":
        # Eagle3's layer is no Gemma layer: nothing that is fed back may be scaled anew.
        text, family = _full_attention(text), "qwen3"
    base = {key: value for key, value in text.items() if key not in DROPPED}
    if family == "qwen3" and text.get("model_type") != "qwen3":
        base = {key: text[key] for key in SIZES if key in text}
    flavour = "Gemma4" if family == "gemma4_text" else "Qwen3"
    kind = "Eagle3" if shape.kind == "eagle3" else "DSpark"
    return {
        **base,
        "architectures": [f"{flavour}{kind}Model"],
        "model_type": family,
        "num_hidden_layers": sizes.num_layers,
        "layer_types": ["full_attention"] * sizes.num_layers,
        "use_sliding_window": False,
        "num_target_layers": text["num_hidden_layers"],
        "target_layer_ids": list(shape.target_layer_ids),
        **({"ttt_length": sizes.block_size} if shape.kind == "eagle3" else _block_keys(shape.kind, sizes, num_anchors)),
        "tie_word_embeddings": False,
        "shares_target_embeddings": True,
        "dtype": "bfloat16",
    }


def _full_attention(text: dict[str, Any]) -> dict[str, Any]:
    """Return Gemma's sizes as those of a plain layer: the heads of its full-attention layers."""
    rope = (text.get("rope_parameters") or {}).get("full_attention") or {}
    return {
        **text,
        "head_dim": text.get("global_head_dim") or text["head_dim"],
        "num_key_value_heads": text.get("num_global_key_value_heads") or text["num_key_value_heads"],
        "rope_parameters": {"rope_type": "default", "rope_theta": rope.get("rope_theta", 1_000_000.0)},
    }


def _block_keys(kind: CheckpointKind, sizes: Sizes, num_anchors: int) -> dict[str, Any]:
    is_dspark = kind == "dspark"
    keys: dict[str, Any] = {
        "block_size": sizes.block_size,
        "mask_token_id": sizes.mask_token_id,
        "num_anchors": num_anchors,
        "markov_rank": sizes.markov_rank if is_dspark else 0,
        "enable_confidence_head": is_dspark and sizes.confidence_head,
    }
    if not sizes.sample_from_anchor:
        keys["sample_from_anchor"] = False
    if is_dspark:
        keys["markov_head_type"] = sizes.markov_head
        if sizes.confidence_head:
            keys["confidence_head_with_markov"] = True
    return keys


def make_drafter(config: dict[str, Any], kind: CheckpointKind, target: Target) -> DraftNetwork:
    """Build the network that a drafter's config.json describes, for training; raises CheckpointError naming the key."""
    read, build = KINDS[kind]
    made = read(translate(config, "drafter", len(target.shape.layers)).config)
    return build(fitted(made, target), target.numerics)


def load_trainable(folder: Path, kind: CheckpointKind, target: Target) -> tuple[DraftNetwork, dict[str, Any]]:
    """Load a drafter to go on training it beside `target`; returns it with its config.json.

    Raises CheckpointError where it is of another kind, does not fit the target, or brings a vocabulary of its own.
    """
    found = read_checkpoint(folder, len(target.shape.layers))
    if found.kind != kind:
        raise CheckpointError(f'{folder} holds a drafter of kind {found.kind}; write drafter.kind = "{found.kind}"')
    read, build = KINDS[kind]
    try:
        network = build(fitted(read(found.config), target), target.numerics)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    tensors = dict(found.tensors)
    vocabulary = take_vocabulary(tensors, network.config, target, str(folder))
    for name, own in (("embed_tokens.weight", vocabulary.embed_tokens), ("lm_head.weight", vocabulary.lm_head)):
        if own is not None:
            raise CheckpointError(
                f"{folder}: {name} differs from the target's; only drafters that share it are trained"
            )
    checkpoint.load_into(network, tensors, source=str(folder))
    return network, read_config(folder)


def write_drafter(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    """Write config.json and the weights in bfloat16; files appear whole. Raises OSError."""
    with replaced(folder) as partial:
        checkpoint.save(partial, config, tensors, torch.bfloat16)
