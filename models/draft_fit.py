"""What a drafter's checkpoint and its target have to do with each other: sizes, layers read, vocabularies shared."""

from typing import TypeVar

import torch
from torch import Tensor

from core.errors import CheckpointError
from core.types import Numerics
from models.checkpoint import load_into
from models.draft_config import DraftConfig
from models.draft_vocabulary import DraftVocabulary
from models.network import Network, for_inference
from models.target import Target

EMBEDDING, HEAD, DIFFERENCES = "embed_tokens.weight", "lm_head.weight", "d2t"
Config = TypeVar("Config", bound=DraftConfig)


class DraftNetwork(Network):
    """A drafter that reads its target's features; numerics are the target's.

    vocabulary  its embedding and output head, where they are not the target's own tensors; set by whoever loads it
    """

    config: DraftConfig

    def __init__(self, numerics: Numerics) -> None:
        super().__init__(numerics)
        self.vocabulary = DraftVocabulary()


Draft = TypeVar("Draft", bound=DraftNetwork)


def fitted(config: Config, target: Target) -> Config:
    """Return the config with positions as far as the target's, where its drafter may be asked for any.

    Raises CheckpointError unless the drafter was made for a target of this shape.
    """
    beside, vocab_size, num_layers = target.shape, config.backbone.vocab_size, len(target.shape.layers)
    if config.feature_size != beside.hidden_size or vocab_size != beside.vocab_size:
        raise CheckpointError(
            f"the drafter was made for a target of hidden_size {config.feature_size} and vocab_size {vocab_size}; "
            f"this target has {beside.hidden_size} and {beside.vocab_size}"
        )
    if config.num_target_layers not in (None, num_layers):
        raise CheckpointError(
            f"the drafter was made for a target of {config.num_target_layers} layers (num_target_layers); this one has "
            f"{num_layers}"
        )
    config.check_layer_ids(num_layers)
    return config.reaching(beside.max_positions)


def load_beside(network: Draft, tensors: dict[str, Tensor], target: Target, source: str) -> Draft:
    """Load canonical tensors into a drafter and lay it out for inference in the target's dtype; returns it.

    An embedding or a head that is missing, or equal to the target's, is the target's own and no copy is kept. Raises
    CheckpointError, naming `source`, for a tensor that is missing, left over or of another shape.
    """
    left = dict(tensors)
    vocabulary = take_vocabulary(left, network.config, target, source)
    load_into(network, left, source=source)
    network.vocabulary = vocabulary
    return for_inference(network, target.dtype, target.device)


def take_vocabulary(left: dict[str, Tensor], config: DraftConfig, target: Target, source: str) -> DraftVocabulary:
    """Take what a drafter has of its own out of the tensors `left`; for the rest the target's serve."""
    vocab_size, hidden_size = config.backbone.vocab_size, config.backbone.hidden_size
    target_ids = None
    if config.num_draftable < vocab_size or DIFFERENCES in left:
        target_ids = read_target_ids(left.pop(DIFFERENCES, None), config.num_draftable, vocab_size, source)
        if torch.equal(target_ids, torch.arange(vocab_size)):
            target_ids = None
    embedding = _own(left, EMBEDDING, target.embedding, (vocab_size, hidden_size), source)
    head = _own(left, HEAD, target.head, (config.num_draftable, hidden_size), source)
    if target_ids is not None and head is None:
        raise CheckpointError(f"{source}: d2t renames the tokens of the target's own head, which is not supported")
    shape = config.backbone
    return DraftVocabulary(embedding, head, target_ids, scale=shape.embedding_scale, cap=shape.logit_cap)


def _own(left: dict[str, Tensor], name: str, theirs: Tensor, shape: tuple[int, int], source: str) -> Tensor | None:
    """Take a weight out of `left`; None if it is missing there or equal to the target's, which then serves."""
    weight = left.pop(name, None)
    if weight is None:
        if theirs.shape[1] != shape[1]:
            raise CheckpointError(
                f"{source}: tensor {name!r} is missing; at hidden size {shape[1]} the target's, of {theirs.shape[1]}, "
                "cannot take its place"
            )
        if theirs.shape != shape:
            raise CheckpointError(f"{source}: tensor {name!r} is missing; a reduced vocabulary needs its own head")
        return None
    if weight.shape != shape:
        raise CheckpointError(f"{source}: {name} is {list(weight.shape)}, config.json asks for {list(shape)}")
    is_theirs = theirs.shape == shape and torch.equal(weight.to(theirs), theirs)
    return None if is_theirs else weight


def read_target_ids(differences: Tensor | None, num_draftable: int, vocab_size: int, source: str) -> Tensor:
    """Return the target's id i + d2t[i] of every draft token i, i64 [Vd]."""
    if differences is None:
        raise CheckpointError(f"{source}: tensor 'd2t' is missing; draft_vocab_size is below vocab_size")
    if differences.shape != (num_draftable,) or differences.dtype not in (torch.int32, torch.int64):
        raise CheckpointError(
            f"{source}: d2t must hold {num_draftable} integers, got {differences.dtype} {list(differences.shape)}"
        )
    ids = torch.arange(num_draftable) + differences
    low, high = ids.aminmax()
    if int(low) < 0 or int(high) >= vocab_size or len(ids.unique()) < num_draftable:
        raise CheckpointError(
            f"{source}: i + d2t[i] must be different tokens within 0..{vocab_size - 1}, got {int(low)}..{int(high)}"
        )
    return ids
