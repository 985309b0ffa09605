"""The vocabularies and widths that a drafter and its target share or not, in the canonical dialect. No torch."""

from core.errors import CheckpointError
from models.formats.keys import Config, whole_number

VOCABULARY_KEYS = ("draft_vocab_size", "num_target_layers", "target_hidden_size")


def translate_vocabulary(config: Config, backbone: Config) -> Config:
    """Return draft_vocab_size, target_hidden_size and, where the file says it, num_target_layers."""
    vocab_size = backbone["vocab_size"]
    made = {
        "draft_vocab_size": _number(config, "draft_vocab_size", vocab_size),
        "target_hidden_size": _number(config, "target_hidden_size", backbone["hidden_size"]),
    }
    if not 0 < made["draft_vocab_size"] <= vocab_size:
        raise CheckpointError(
            f"config.json: draft_vocab_size must be in 1..{vocab_size} (vocab_size), got {made['draft_vocab_size']}"
        )
    if config.get("num_target_layers") is not None:
        made["num_target_layers"] = whole_number(config["num_target_layers"], "num_target_layers")
    return made


def _number(config: Config, key: str, default: int) -> int:
    value = config.get(key)
    return default if value is None else whole_number(value, key)
