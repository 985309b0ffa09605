"""Every drafter that specd ships, small: a new kind adds one line, and the conformance suite tries it."""

from bench.prove.tiny import tiny_dspark, tiny_eagle3, tiny_target
from drafters.draft_model import DraftModel
from drafters.ngram import NGram
from drafters.suffix import Suffix

VOCAB_SIZE = 8


def similar(target):
    """A model that knows the target's successors, and differs in what bends them."""
    return tiny_target(VOCAB_SIZE, scale=0.8, numerics=target.numerics)


MAKERS = {
    "dspark": tiny_dspark,
    "eagle3": tiny_eagle3,
    # One token is outside of its vocabulary.
    "eagle3_reduced": lambda target: tiny_eagle3(target, num_never=1),
    "ngram": lambda _: NGram(max_drafts=5),
    "suffix": lambda _: Suffix(max_drafts=6),
    "suffix_shared": lambda _: Suffix(max_drafts=6, recent_answers=4),
    "draft_model": lambda target: DraftModel("draft_model", similar(target), target.shape.vocab_size),
}
