"""EAGLE-3 checkpoints as their authors write them (SafeAILab/EAGLE): one Llama layer called `midlayer`, a reduced head.

The file does not name the layers it reads: always the states that enter layers 2, L/2 and L-3 of the target. It calls
itself LlamaForCausalLM, so what tells it from a target is draft_vocab_size.
"""

from core.errors import CheckpointError
from models.formats.backbone import BACKBONE_KEYS, translate_backbone
from models.formats.chain import translate_chain
from models.formats.keys import Config, architectures, check_keys, check_neutral
from models.formats.layer_ids import low_middle_high, read_layer_ids
from models.formats.vocabulary import VOCABULARY_KEYS, translate_vocabulary

NAME = "EAGLE"
ARCHITECTURE = "LlamaForCausalLM"
KNOWN = BACKBONE_KEYS | set(VOCABULARY_KEYS)


def recognise(config: Config) -> bool:
    """Tell whether config.json is an EAGLE-3 drafter's."""
    return ARCHITECTURE in architectures(config) and "draft_vocab_size" in config


def translate(config: Config, num_target_layers: int | None) -> Config:
    """Return the canonical config (`Dialect.translate`)."""
    if config.get("eagle_aux_hidden_state_layer_ids") is not None:
        raise CheckpointError(
            "config.json: eagle_aux_hidden_state_layer_ids has no meaning in EAGLE's own format, and others count it "
            "from different layers; write target_layer_ids with architecture Qwen3Eagle3Model, or SpecForge's format"
        )
    check_keys(config, KNOWN)
    check_neutral(config, {"model_type": ("llama",)})
    backbone = translate_backbone(config, "llama")
    made = backbone | translate_vocabulary(config, backbone)
    depth = made.get("num_target_layers") or num_target_layers
    if depth is not None:
        made["target_layer_ids"] = read_layer_ids(low_middle_high(depth), "the default layers", first=-1)
    return made | translate_chain(config, backbone)


def rename(name: str) -> str | None:
    """Return the canonical name: `midlayer.` is layer 0; t2d is training's."""
    if name == "t2d" or name.endswith("rotary_emb.inv_freq"):
        return None
    name = name.removeprefix("model.")
    return f"layers.0.{name.removeprefix('midlayer.')}" if name.startswith("midlayer.") else name
