"""DeepSpec's checkpoints (deepseek-ai/DeepSpec), whose flat keys and tensor names are the canonical dialect.

The config is a copy of the target's, with the drafter's keys beside. Slots are shifted: slot j predicts the token after
its own position, in its DFlash (markov_rank 0) too. The keys that other formats need are read here as well, so that
what specd itself writes is this dialect.
"""

from models.formats.backbone import BACKBONE_KEYS, GEMMA, translate_backbone, translate_windows
from models.formats.block import BLOCK_KEYS, HEAD_KEYS, translate_block, translate_heads
from models.formats.chain import NORMS, translate_chain
from models.formats.keys import Config, architectures, check_keys, flag, required
from models.formats.layer_ids import read_layer_ids
from models.formats.vocabulary import VOCABULARY_KEYS, translate_vocabulary

NAME = "DeepSpec"
BLOCK_ARCHITECTURES = ("Qwen3DSparkModel", "Gemma4DSparkModel")
CHAIN_ARCHITECTURES = ("Qwen3Eagle3Model", "Gemma4Eagle3Model")
KNOWN = BACKBONE_KEYS | {*BLOCK_KEYS, *HEAD_KEYS, *VOCABULARY_KEYS, *NORMS}
BLOCK = KNOWN | {"sample_from_anchor", "is_causal", "sliding_is_causal"}
CHAIN = KNOWN | {"ttt_length", "num_drafts", "qk_norm", "feeds_normed"}


def recognise(config: Config) -> bool:
    """Tell whether config.json names one of DeepSpec's architectures."""
    return any(name in (*BLOCK_ARCHITECTURES, *CHAIN_ARCHITECTURES) for name in architectures(config))


def translate(config: Config, num_target_layers: int | None) -> Config:  # noqa: ARG001 - the file names its layers
    """Return the canonical config (`Dialect.translate`)."""
    is_chain = any(name in CHAIN_ARCHITECTURES for name in architectures(config))
    family = config.get("model_type", "qwen3")
    check_keys(config, (CHAIN if is_chain else BLOCK) | (set(GEMMA) if family == "gemma4_text" else set()))
    backbone = translate_backbone(config, family)
    made = backbone | translate_vocabulary(config, backbone)
    ids = required(config, "target_layer_ids")
    made["target_layer_ids"] = read_layer_ids(ids, "target_layer_ids", first=-1)
    if is_chain:
        drafts = config.get("num_drafts", config.get("ttt_length"))
        normed = flag(config, "feeds_normed", default=False)
        return made | translate_chain(config, backbone, num_drafts=drafts, feeds_normed=normed)
    places = (("config.json", config),)
    windows = translate_windows(config, {}, backbone["num_hidden_layers"])
    if config.get("sliding_is_causal") is not None:
        windows["sliding_is_causal"] = flag(config, "sliding_is_causal", default=True)
    return {
        **made,
        **windows,
        **translate_block(places, backbone["vocab_size"]),
        **translate_heads(places, rank=0, has_confidence=False, with_markov=True),
        "sample_from_anchor": flag(config, "sample_from_anchor", default=True),
    }


def rename(name: str) -> str | None:
    """Return the name as it is; the rotation's tables and training's mask are not used."""
    return None if name == "t2d" or name.endswith("rotary_emb.inv_freq") else name
