"""The draft layers in the canonical dialect: sizes, rotation, family, windows. For all dialects; no torch."""

from collections.abc import Mapping

from core.errors import CheckpointError
from models.formats.keys import Config, check_neutral, flag, one_of, required, section, size

FULL, SLIDING = "full_attention", "sliding_attention"
# Layer families: what a layer has between its input and its output.
FAMILIES = ("qwen3", "llama", "gemma4_text")
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
ROPE = ("rope_parameters", "rope_scaling", "rope_theta", "rope_type")
# Gemma's own keys, which the network judges.
GEMMA = (
    "attention_k_eq_v",
    "enable_moe_block",
    "final_logit_softcapping",
    "global_head_dim",
    "hidden_activation",
    "hidden_size_per_layer_input",
    "moe_intermediate_size",
    "num_experts",
    "num_global_key_value_heads",
    "num_kv_shared_layers",
    "per_layer_config",
    "top_k_experts",
    "use_bidirectional_attention",
    "use_double_wide_mlp",
    "vocab_size_per_layer_input",
)
WINDOWS = ("layer_types", "sliding_window", "use_sliding_window", "max_window_layers")
# Keys of a backbone, for `check_keys`.
BACKBONE_KEYS = frozenset(
    (
        *SIZES,
        *ROPE,
        *WINDOWS,
        "attention_bias",
        "bias",
        "head_dim",
        "hidden_act",
        "is_neox_style",
        "max_position_embeddings",
        "mlp_bias",
        "rms_norm_eps",
    )
)
NEUTRAL: dict[str, tuple[object, ...]] = {
    "bias": (False,),
    "hidden_act": ("silu",),
    # Interleaved rotation: nothing but acceptance would tell.
    "is_neox_style": (True,),
    "mlp_bias": (False,),
}
# Where LlamaConfig leaves it out; transformers writes it for qwen3.
LLAMA_THETA = 10_000.0


def translate_backbone(config: Config, family: str) -> Config:
    """Return the canonical keys of the draft layers; raises CheckpointError naming the key that cannot be served."""
    if family not in FAMILIES:
        raise CheckpointError(f"config.json: model_type {family!r} is no layer family of ours; {_list(FAMILIES)} are")
    is_gemma = family == "gemma4_text"
    check_neutral(config, {key: values for key, values in NEUTRAL.items() if not (is_gemma and key == "hidden_act")})
    made: Config = {key: size(required(config, key), key) for key in SIZES if key != "num_key_value_heads"}
    heads = made["num_attention_heads"]
    made["num_key_value_heads"] = size(config.get("num_key_value_heads") or heads, "num_key_value_heads")
    made["model_type"] = family
    made["head_dim"] = size(config.get("head_dim") or made["hidden_size"] // heads, "head_dim")
    made["rms_norm_eps"] = required(config, "rms_norm_eps")
    made["attention_bias"] = flag(config, "attention_bias", default=False)
    made["rope_parameters"] = translate_rope(config, family)
    if config.get("max_position_embeddings") is not None:
        made["max_position_embeddings"] = size(config["max_position_embeddings"], "max_position_embeddings")
    if is_gemma:
        made |= {key: config[key] for key in GEMMA if config.get(key) is not None}
    return made


def translate_rope(config: Config, family: str) -> Config:
    """Return the rotation as transformers 5 writes it, {rope_type, rope_theta, ...}, whichever way the file says it."""
    rope = section(config, "rope_parameters") or section(config, "rope_scaling")
    if any(isinstance(value, Mapping) for value in rope.values()):
        # Gemma: one per kind of layer.
        return dict(rope)
    theta = one_of((("rope_parameters", rope), ("config.json", config)), "rope_theta")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "mrope":
        # Of targets that see pictures: each axis has its own position, and in text all axes have the same.
        kind = "default"
    if theta is None and family == "llama":
        theta = LLAMA_THETA
    if theta is None:
        raise CheckpointError("config.json: rope_theta is missing, at the top or in rope_parameters")
    rest = {key: value for key, value in rope.items() if key not in ("rope_theta", "rope_type", "type")}
    return {"rope_type": kind, "rope_theta": theta, **rest}


def translate_windows(config: Config, extra: Config, num_layers: int) -> Config:
    """Return layer_types, sliding_window, is_causal and sliding_is_causal of DFlash-like layers.

    extra is the file's `dflash_config`. A sliding layer's block is causal unless the file says otherwise, a full
    layer's is not; use_swa makes all layers of a file without sliding ones slide, and these are not causal. Sources:
    DFlashAttention of z-lab/dflash, _resolve_layer_attention of vLLM.
    """
    types = _layer_types(config, num_layers)
    window = config.get("sliding_window")
    sliding_is_causal = True
    if flag(extra, "use_swa", default=False):
        told, window = window, extra.get("swa_window_size") or window
        if told is not None and told != window:
            raise CheckpointError(f"config.json: sliding_window is {told} and dflash_config.swa_window_size {window}")
        if SLIDING not in types:
            types, sliding_is_causal = [SLIDING] * num_layers, False
    if SLIDING in types:
        window = size(required({"sliding_window": window}, "sliding_window"), "sliding_window")
    # Both keys have been written, at either place; each overrides every layer.
    places = (("config.json", config), ("dflash_config", extra))
    told = [value for key in ("is_causal", "causal") if (value := one_of(places, key)) is not None]
    if len(set(told)) > 1:
        raise CheckpointError("config.json: is_causal and causal disagree; one of them is wrong")
    is_causal = flag({"is_causal": told[0]}, "is_causal", default=False) if told else False
    return {
        "layer_types": types,
        "sliding_window": window if SLIDING in types else None,
        "is_causal": is_causal,
        "sliding_is_causal": is_causal if told else sliding_is_causal,
    }


def _layer_types(config: Config, num_layers: int) -> list[str]:
    slides = config.get("use_sliding_window")
    types = config.get("layer_types")
    if types is None:
        # transformers' Qwen3Config: with a window, the layers from max_window_layers on slide.
        first = config.get("max_window_layers", 28) if slides and config.get("sliding_window") else num_layers
        return [FULL if index < first else SLIDING for index in range(num_layers)]
    if not isinstance(types, list) or len(types) != num_layers:
        raise CheckpointError(f"config.json: layer_types must name {num_layers} layers, got {types!r}")
    if unknown := [kind for kind in types if kind not in (FULL, SLIDING)]:
        raise CheckpointError(f"config.json: layer_types holds {unknown[0]!r}; {FULL} and {SLIDING} are supported")
    if SLIDING in types and slides is False:
        raise CheckpointError("config.json: layer_types has sliding layers, but use_sliding_window is false")
    return list(types)


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names)
