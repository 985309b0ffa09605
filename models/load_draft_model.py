"""From a small model's checkpoint to a draft model that speaks the target's vocabulary, or a refusal that says why."""

from pathlib import Path

from core.errors import CheckpointError
from models.load_target import load_target
from models.target import Target
from models.tokenizer import Tokenizer


def load_draft_model(folder: Path, target: Target, tokenizer: Tokenizer | None = None) -> Target:
    """Load the model in `folder` to draft for `target`, in its dtype and numerics; tokenizer is the target's.

    Every id that both tokenizers define must be the same token; a folder without tokenizer.json is taken at its size.
    Embeddings are often padded to round sizes, each model's to its own, so vocabularies may differ in size: fewer ids
    are drafted from, and more are cut off if the model's own tokenizer says that they stand for nothing. Raises
    CheckpointError.
    """
    network = load_target(folder, target.dtype, target.numerics, device=target.device)
    own, beside = network.shape.vocab_size, target.shape.vocab_size
    has_tokenizer = (folder / "tokenizer.json").is_file()
    spelt = Tokenizer(folder).spellings() if has_tokenizer else {}
    if own > beside and (not has_tokenizer or max(spelt, default=0) >= beside):
        last = f"its tokenizer goes up to id {max(spelt)}" if spelt else "no tokenizer of its own says they are unused"
        raise CheckpointError(
            f"{folder}: a draft model of vocabulary {own} cannot draft for a target of {beside}: {last}; "
            "take a smaller model of the target's family"
        )
    if tokenizer is not None:
        _check_same_tokens(folder, spelt, tokenizer.spellings())
    return network


def _check_same_tokens(folder: Path, own: dict[int, str], targets: dict[int, str]) -> None:
    differing = [token_id for token_id, token in own.items() if targets.get(token_id, token) != token]
    if differing:
        first = min(differing)
        raise CheckpointError(
            f"{folder}: the draft model's tokenizer ({len(own)} tokens) is not the target's ({len(targets)} tokens): "
            f"{len(differing)} ids differ, the first is {first}: {own[first]!r} here, {targets[first]!r} there; "
            "take a smaller model of the target's family"
        )
