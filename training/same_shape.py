"""Whether a recipe that goes on from a drafter describes that drafter: what it says otherwise would come to nothing."""

from core.config import CheckpointKind
from core.errors import ConfigError
from models.dflash_config import DFlashConfig
from models.draft_fit import DraftNetwork
from models.eagle3_config import Eagle3Config
from training.recipe import DrafterShape


def check_shape(shape: DrafterShape, network: DraftNetwork) -> None:
    """Raise ConfigError naming the first key that a recipe says otherwise than the drafter it goes on from has it.

    Keys that mean nothing to its kind are let be, as they are of a new drafter.
    """
    for key, has in shape_of(shape.kind, network).items():
        said = getattr(shape, key)
        if said is not None and said != has:
            told = f'"{has}"' if isinstance(has, str) else str(list(has) if isinstance(has, tuple) else has).lower()
            raise ConfigError(
                f"drafter.{key} is {said!r} in the recipe, and the drafter to go on from, {shape.start}, has {has!r}: "
                f"a drafter keeps its shape; write drafter.{key} = {told}"
                + ("" if key == "target_layer_ids" else ", or leave it out")
            )


def shape_of(kind: CheckpointKind, network: DraftNetwork) -> dict[str, object]:
    """Return what a recipe may say of a network, by the recipe's keys."""
    config = network.config
    told: dict[str, object] = {
        "target_layer_ids": config.target_layer_ids,
        "num_layers": config.backbone.num_hidden_layers,
    }
    if isinstance(config, Eagle3Config):
        return told | {"block_size": config.num_drafts}
    assert isinstance(config, DFlashConfig)
    told |= {
        "block_size": config.block_size,
        "mask_token_id": config.mask_token_id,
        "sample_from_anchor": config.sample_from_anchor,
    }
    if kind == "dspark":
        told |= {"markov_rank": config.markov_rank, "confidence_head": config.enable_confidence_head}
    if config.markov_rank:
        told["markov_head"] = config.markov_head_type
    return told
