"""speculators' checkpoints (vllm-project/speculators): the layers under `transformer_layer_config`, the rest beside.

Layer ids are indices into transformers' hidden_states, one above ours; the verifier's norm and head that the file may
hold are training's. `norm_output` says that the chain feeds the post-norm state back; SpecForge means something else.
"""

from core.errors import CheckpointError
from models.formats.backbone import BACKBONE_KEYS, WINDOWS, translate_backbone, translate_windows
from models.formats.block import HEAD_KEYS, translate_block, translate_heads
from models.formats.chain import NORMS, translate_chain
from models.formats.keys import Config, check_keys, check_neutral, flag, one_of, required, section, whole_number
from models.formats.layer_ids import low_middle_high, read_layer_ids
from models.formats.vocabulary import translate_vocabulary

NAME = "speculators"
KINDS = ("dflash", "dspark", "eagle3")
COMMON = {
    "draft_vocab_size",
    "speculators_config",
    "speculators_model_type",
    "speculators_version",
    "target_hidden_size",
    "transformer_layer_config",
}
# Of DFlash's Domino head, and without meaning where projector_type is 'dflash'; all always written.
DOMINO = {"auf", "emb_dim", "gru_hidden_dim", "lambda_base_decay_ratio", "lambda_base_start", "pure_draft_prefix_len"}
BLOCK = COMMON | {
    "aux_hidden_state_layer_ids",
    "block_size",
    "mask_token_id",
    "projector_type",
    "sample_from_anchor",
    "shift_label",
    "sliding_window_non_causal",
    "use_aux_hidden_state",
    *DOMINO,
    *HEAD_KEYS,
    # Beside the layers' table in some files.
    *WINDOWS,
}
CHAIN = COMMON | {"eagle_aux_hidden_state_layer_ids", "norm_output", "use_aux_hidden_state", *NORMS}
LAYERS = "transformer_layer_config"


def recognise(config: Config) -> bool:
    """Tell whether config.json says what kind of speculator it is."""
    return config.get("speculators_model_type") in KINDS


def translate(config: Config, num_target_layers: int | None) -> Config:
    """Return the canonical config (`Dialect.translate`)."""
    kind = config["speculators_model_type"]
    layer = section({LAYERS: required(config, LAYERS)}, LAYERS)
    family = layer.get("model_type", "llama" if kind == "eagle3" else "qwen3")
    if kind != "eagle3" and family == "llama":
        # The target's, perhaps; the layers are Qwen3's (Qwen3DFlashDecoderLayer).
        family = "qwen3"
    if family == "gemma4_text":
        raise CheckpointError(f"config.json: model_type {family!r} in {LAYERS} is supported in DeepSpec's format alone")
    check_keys(config, CHAIN if kind == "eagle3" else BLOCK)
    check_keys(layer, BACKBONE_KEYS, f"config.json: {LAYERS}")
    check_neutral(config, {"use_aux_hidden_state": (True,)})
    backbone = translate_backbone(layer, family)
    made = backbone | translate_vocabulary(config, backbone)
    key = "eagle_aux_hidden_state_layer_ids" if kind == "eagle3" else "aux_hidden_state_layer_ids"
    if config.get(key) is not None:
        made["target_layer_ids"] = read_layer_ids(config[key], key, first=0)
    elif num_target_layers is not None:
        made["target_layer_ids"] = read_layer_ids(low_middle_high(num_target_layers), f"the default of {key}", first=-1)
    if kind == "eagle3":
        drafts = _speculative_tokens(config)
        # The layer's own keys stand in its table, the norm options beside it.
        options = {**layer, **{name: config.get(name) for name in NORMS}}
        normed = flag(config, "norm_output", default=False)
        return made | translate_chain(options, backbone, num_drafts=drafts, feeds_normed=normed)
    return made | _translate_block(config, layer, backbone, is_dspark=kind == "dspark")


def _translate_block(config: Config, layer: Config, backbone: Config, *, is_dspark: bool) -> Config:
    check_neutral(config, {"projector_type": ("dflash",), "shift_label": (False,)})
    places = (("config.json", config),)
    block = translate_block(places, backbone["vocab_size"])
    told = {key: one_of(((LAYERS, layer), ("config.json", config)), key) for key in WINDOWS}
    windows = translate_windows({**layer, **told}, {}, backbone["num_hidden_layers"])
    windows["sliding_is_causal"] = not flag(config, "sliding_window_non_causal", default=False)
    heads = (
        translate_heads(places, rank=0, has_confidence=False, with_markov=False)
        if is_dspark
        else {"markov_rank": 0, "enable_confidence_head": False}
    )
    from_anchor = _samples_from_anchor(config, block["block_size"], is_dspark=is_dspark)
    return {**windows, **block, **heads, "sample_from_anchor": from_anchor}


def _samples_from_anchor(config: Config, block_size: int, *, is_dspark: bool) -> bool:
    """Tell whether slot j predicts the token after its position, or the one at it.

    Every version that knows the flag writes it. A DSpark file without it is older and was trained to fill slots in,
    which its number of speculative tokens, one less than the block's, confirms; without that, it is refused, since the
    wrong reading is silent. A DFlash without it fills in.
    """
    if config.get("sample_from_anchor") is not None:
        return flag(config, "sample_from_anchor", default=False)
    if not is_dspark:
        return False
    tokens = _speculative_tokens(config)
    if tokens not in (block_size - 1, block_size):
        raise CheckpointError(
            "config.json: sample_from_anchor is missing, and speculative_tokens does not tell it. Checkpoints from "
            "before the flag fill slots in: write false for those, true if slot j predicts the token after its own"
        )
    return tokens == block_size


def _speculative_tokens(config: Config) -> int | None:
    """Return how many tokens the default proposal method drafts, None if the file does not say."""
    inside = section(config, "speculators_config")
    methods = inside.get("proposal_methods") or []
    if not isinstance(methods, list) or not all(isinstance(method, dict) for method in methods):
        raise CheckpointError(
            f"config.json: speculators_config.proposal_methods must be a list of tables, got {methods!r}"
        )
    default = inside.get("default_proposal_method")
    chosen = [method for method in methods if method.get("proposal_type") == default] or methods
    tokens = chosen[0].get("speculative_tokens") if chosen else None
    return None if tokens is None else whole_number(tokens, "speculative_tokens")


def rename(name: str) -> str | None:
    """Return the name as it is; the verifier's norm and head, t2d and the rotation's tables are training's."""
    if name == "t2d" or name.startswith("verifier_") or name.endswith("rotary_emb.inv_freq"):
        return None
    return name
