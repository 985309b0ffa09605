"""What DFlash and DSpark drafters have beyond their layers, in canonical words: the block and its heads. No torch."""

from collections.abc import Iterable

from core.errors import CheckpointError
from models.formats.keys import Config, flag, one_of, whole_number

MARKOV_HEADS = ("vanilla", "gated", "rnn")
BLOCK_KEYS = ("block_size", "mask_token_id", "target_layer_ids")
HEAD_KEYS = ("markov_rank", "markov_head_type", "enable_confidence_head", "confidence_head_with_markov")


def translate_block(places: tuple[tuple[str, Config], ...], vocab_size: int, default_size: int | None = None) -> Config:
    """Return block_size and mask_token_id; raises CheckpointError if one is missing or impossible."""
    made: Config = {}
    for key, default in (("block_size", default_size), ("mask_token_id", None)):
        value = one_of(places, key)
        if value is None and default is None:
            raise CheckpointError(f"config.json: {key} is missing")
        made[key] = whole_number(default if value is None else value, key)
    if made["block_size"] < 2:
        raise CheckpointError(f"config.json: block_size must be at least 2, got {made['block_size']}")
    if not 0 <= made["mask_token_id"] < vocab_size:
        raise CheckpointError(f"config.json: mask_token_id must be in 0..{vocab_size - 1}, got {made['mask_token_id']}")
    return made


def translate_heads(
    places: Iterable[tuple[str, Config]], *, rank: int | None, has_confidence: bool | None, with_markov: bool
) -> Config:
    """Return the keys of the sequential and the confidence head, as far as they mean something.

    rank, has_confidence and with_markov are the format's defaults; None demands the key.
    """
    places = tuple(places)
    rank = whole_number(_told(places, "markov_rank", rank), "markov_rank")
    made: Config = {"markov_rank": rank}
    if rank < 0:
        raise CheckpointError(f"config.json: markov_rank must be at least 0, got {rank}")
    if rank:
        kind = _told(places, "markov_head_type", "vanilla")
        if kind not in MARKOV_HEADS:
            raise CheckpointError(
                f"config.json: markov_head_type must be one of {', '.join(MARKOV_HEADS)}, got {kind!r}"
            )
        made["markov_head_type"] = kind
    made["enable_confidence_head"] = _flag(places, "enable_confidence_head", has_confidence)
    if made["enable_confidence_head"]:
        made["confidence_head_with_markov"] = _flag(places, "confidence_head_with_markov", with_markov)
        if made["confidence_head_with_markov"] and not rank:
            raise CheckpointError("config.json: confidence_head_with_markov is true, but markov_rank is 0")
    return made


def is_dspark(translated: Config) -> bool:
    """Tell DSpark from DFlash: it has a sequential head, or a confidence head."""
    return bool(translated["markov_rank"] or translated["enable_confidence_head"])


def _told(places: tuple[tuple[str, Config], ...], key: str, default: object) -> object:
    value = one_of(places, key)
    if value is None and default is None:
        raise CheckpointError(f"config.json: {key} is missing")
    return default if value is None else value


def _flag(places: tuple[tuple[str, Config], ...], key: str, default: bool | None) -> bool:
    return flag({key: _told(places, key, default)}, key, default=False)
