"""What an EAGLE-3 drafter has beyond its layer, in the canonical dialect: the chain and its norms. No torch."""

from core.errors import CheckpointError
from models.formats.keys import Config, flag, whole_number

# EAGLE-3 trains seven steps of the chain (traineagle3/cnets.py, `length`; DeepSpec's ttt_length).
NUM_DRAFTS = 7
NORMS = ("norm_before_residual", "norm_before_fc", "fc_norm")


def translate_chain(
    config: Config, backbone: Config, *, num_drafts: object = None, feeds_normed: bool = False
) -> Config:
    """Return num_drafts, qk_norm and the norm options; raises CheckpointError for what the chain cannot have."""
    if backbone["num_hidden_layers"] != 1:
        raise CheckpointError(
            f"config.json: num_hidden_layers is {backbone['num_hidden_layers']}; EAGLE-3 drafters of one layer are "
            "supported"
        )
    if (config.get("layer_types") or ["full_attention"]) != ["full_attention"]:
        raise CheckpointError(f"config.json: layer_types is {config['layer_types']!r}; full_attention is supported")
    made: Config = {name: flag(config, name, default=False) for name in NORMS}
    if made["norm_before_fc"] and made["fc_norm"]:
        raise CheckpointError("config.json: norm_before_fc and fc_norm are both true; a drafter has one of them")
    drafts = NUM_DRAFTS if num_drafts is None else whole_number(num_drafts, "the number of drafts")
    if drafts < 1:
        raise CheckpointError(f"config.json: the number of drafts must be at least 1, got {drafts}")
    made["qk_norm"] = flag(config, "qk_norm", default=backbone["model_type"] != "llama")
    return {**made, "num_drafts": drafts, "feeds_normed": feeds_normed}
