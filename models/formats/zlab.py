"""z-lab's DFlash checkpoints (z-lab/dflash): layers like Qwen3's, embedding and head borrowed from the target.

Slots are filled in: slot j predicts the token at its own position, slot 0 is not used, and a block of 16 drafts 15.
Layer ids are ours (the model reads hidden_states[id + 1]).
"""

from models.formats.backbone import BACKBONE_KEYS, translate_backbone, translate_windows
from models.formats.block import BLOCK_KEYS, translate_block
from models.formats.keys import Config, architectures, check_keys, check_neutral, one_of, section
from models.formats.layer_ids import read_layer_ids, spread_over_target
from models.formats.vocabulary import VOCABULARY_KEYS, translate_vocabulary

NAME = "z-lab DFlash"
ARCHITECTURE = "DFlashDraftModel"
BLOCK_SIZE = 16
WINDOW_KEYS = ("is_causal", "causal", "use_swa", "swa_window_size")
# What changes the arithmetic at one of two places, and the values that change none.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "add_swa_attention_sink_bias": (False,),
    "attention_sink_bias": (False,),
    "final_logit_softcapping": (0, 0.0),
    "input_embedding_scale": (1, 1.0),
    "is_neox_style": (True,),
    "output_multiplier": (1, 1.0),
    "use_aux_hidden_state": (True,),
}
KNOWN = BACKBONE_KEYS | {"dflash_config", *BLOCK_KEYS, *VOCABULARY_KEYS, *WINDOW_KEYS, *NEUTRAL}
INSIDE = frozenset((*BLOCK_KEYS, *WINDOW_KEYS, *NEUTRAL))


def recognise(config: Config) -> bool:
    """Tell whether config.json names z-lab's architecture (SpecForge, which shares it, is asked first)."""
    return ARCHITECTURE in architectures(config)


def translate(config: Config, num_target_layers: int | None) -> Config:
    """Return the canonical config (`Dialect.translate`)."""
    check_keys(config, KNOWN)
    check_keys(section(config, "dflash_config"), INSIDE, "config.json: dflash_config")
    return {
        **translate_dflash(config, num_target_layers, default_size=BLOCK_SIZE),
        "sample_from_anchor": False,
        "markov_rank": 0,
        "enable_confidence_head": False,
    }


def translate_dflash(config: Config, num_target_layers: int | None, default_size: int | None) -> Config:
    """Return what every DFlash of z-lab's making and its descendants have: layers, ids, block, windows."""
    extra = section(config, "dflash_config")
    for where, table in (("config.json", config), ("config.json: dflash_config", extra)):
        check_neutral(table, NEUTRAL, where)
    # Whatever the family of the target: the layers are Qwen3's.
    backbone = translate_backbone(config, "qwen3")
    made = backbone | translate_vocabulary(config, backbone)
    places = (("dflash_config", extra), ("config.json", config))
    ids, depth = one_of(places, "target_layer_ids"), made.get("num_target_layers") or num_target_layers
    if ids is not None:
        made["target_layer_ids"] = read_layer_ids(ids, "target_layer_ids", first=-1)
    elif depth is not None:
        default = spread_over_target(backbone["num_hidden_layers"], depth)
        made["target_layer_ids"] = read_layer_ids(default, "the default of target_layer_ids", first=-1)
    return {
        **made,
        **translate_windows(config, extra, backbone["num_hidden_layers"]),
        **translate_block(places, backbone["vocab_size"], default_size),
    }


def rename(name: str) -> str | None:
    """Return the name without `model.`; the rotation's tables are not used."""
    return None if name.endswith("rotary_emb.inv_freq") else name.removeprefix("model.")
