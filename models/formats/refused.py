"""Drafters that exist in the wild and that specd does not run, each refused by its name. No torch."""

from core.errors import CheckpointError
from models.formats.keys import Config, architectures

ARCHITECTURES = {
    "DFlash2DraftModel": "DFlash 2 (convolutions and a candidate selector)",
    "DominoDraftModel": "Domino (DFlash with a GRU head)",
    "DeepseekV4ForCausalLM": "DeepSeek V4 with its drafter inside (mtp.*)",
    "DeepseekV4MTPModel": "a DeepSeek V4 MTP drafter",
    "MedusaModel": "Medusa (heads for a tree of drafts)",
    "MLPSpeculatorPreTrainedModel": "an MLP speculator",
    "PEagleLlamaForCausalLM": "P-EAGLE (parallel drafting)",
    "PEagleQwen3ForCausalLM": "P-EAGLE (parallel drafting)",
    "PeagleLlamaForCausalLM": "P-EAGLE (parallel drafting)",
    "PeagleQwen3ForCausalLM": "P-EAGLE (parallel drafting)",
}
SPECULATORS = {
    "dflash2": ARCHITECTURES["DFlash2DraftModel"],
    "dflare": "DFlare",
    "eagle": "EAGLE-1 or EAGLE-2",
    "hydra": "Hydra (heads for a tree of drafts)",
    "independent": "an independent draft model",
    "medusa": ARCHITECTURES["MedusaModel"],
    "mlp": ARCHITECTURES["MLPSpeculatorPreTrainedModel"],
    "mtp": "an MTP drafter",
    "peagle": ARCHITECTURES["PEagleLlamaForCausalLM"],
}
# Any value but null and false under one of these keys makes a drafter one that is not run.
KEYS = {
    "dspark_block_size": "DeepSeek V4 with its drafter inside (mtp.*)",
    "dspark_target_layer_ids": "DeepSeek V4 with its drafter inside (mtp.*)",
    "eagle_choices": "tree drafting",
    "parallel_drafting": "parallel drafting",
    "pard_token": "parallel drafting (PARD)",
    "ptd_token_id": "parallel drafting",
    "speculative_token_tree": "tree drafting",
    "tree_choices": "tree drafting",
}


def refused_family(config: Config) -> str | None:
    """Return what kind of drafter, of those not run, config.json describes, and the key that says so; None if none."""
    for name in architectures(config):
        if name in ARCHITECTURES:
            return f"architecture {name!r}: {ARCHITECTURES[name]}"
        if "DFlash" in name and (name.startswith("Laguna") or config.get("model_type") == "laguna"):
            return f"architecture {name!r}: Laguna's DFlash (fused projections, gates, a norm per captured layer)"
    if (kind := config.get("speculators_model_type")) in SPECULATORS:
        return f"speculators_model_type {kind!r}: {SPECULATORS[kind]}"
    inside = config.get("dflash_config")
    for where, table in (("", config), ("dflash_config.", inside if isinstance(inside, dict) else {})):
        if table.get("projector_type") == "domino":
            return f"{where}projector_type 'domino': {ARCHITECTURES['DominoDraftModel']}"
        for key, words in KEYS.items():
            if table.get(key) not in (None, False):
                return f"{where}{key}: {words}"
    return None


def refuse(config: Config, source: str) -> None:
    """Raise CheckpointError if config.json describes a drafter that is not run."""
    if words := refused_family(config):
        raise CheckpointError(f"{source}: {words} is not supported")
