"""Exact output laws under the coupled verifier: every outcome of the noise enumerated with Fractions.

With two tokens the Gumbel race has one number per position: token 0 wins the race of a law exactly where a uniform u
is below its probability, for whatever law is drawn there. So u matters only up to the probabilities it can be compared
with, which are rational, and the pieces between them can be enumerated. All rounds of an answer, and drafter and target
alike, read the same u of a position.
"""

from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise, product
from math import prod
from typing import Any

from bench.prove.enumeration import ONE, Choose, Law, Model, OutputLaw, Round, Shape, Word, Words, survivals

# The middle of a piece of [0, 1), and its length.
Piece = tuple[Fraction, Fraction]


def coupled_output_law(model: Model, shape: Shape, choose: Choose) -> OutputLaw:
    """Return {outputs of all sequences: probability} of a model with two tokens."""
    positions = [list(pieces(model, position)) for position in range(shape.num_tokens)]
    law: dict[Words, Fraction] = defaultdict(Fraction)
    for joint in product(*positions * shape.num_sequences):
        noise = [
            [middle for middle, _ in joint[b * shape.num_tokens : (b + 1) * shape.num_tokens]]
            for b in range(shape.num_sequences)
        ]
        law[_answers(model, shape, choose, noise)] += prod((size for _, size in joint), start=ONE)
    return dict(law)


def pieces(model: Model, position: int) -> Iterator[Piece]:
    """Yield the pieces of [0, 1) inside which no law at `position` can tell one noise from another."""
    prefixes = list(product(range(2), repeat=position))
    cuts = {Fraction(0), ONE} | {law(prefix)[0] for prefix in prefixes for law in (model.p, model.q)}
    ordered = sorted(cuts)
    for low, high in pairwise(ordered):
        yield (low + high) / 2, high - low


def drawn(law: Law, noise: Fraction) -> int:
    """Return the token that a law gets from the noise of its position."""
    return 0 if noise < law[0] else 1


def _answers(model: Model, shape: Shape, choose: Choose, noise: list[list[Fraction]]) -> Words:
    """Play the rounds of one outcome of all noise, noise[b][position]."""
    prefixes: Words = ((),) * shape.num_sequences
    memory: Any = None
    while any(len(prefix) < shape.num_tokens for prefix in prefixes):
        drafts = tuple(_draft(model, shape, *pair) for pair in zip(prefixes, noise, strict=True))
        pairs = zip(prefixes, drafts, strict=True)
        seen = tuple(survivals(model, *pair, shape.num_drafts) for pair in pairs)
        lengths, memory = choose(Round(model, prefixes, drafts, seen, memory))
        prefixes = tuple(
            _verified(model, prefix, draft[:length], u) if len(prefix) < shape.num_tokens else prefix
            for prefix, draft, length, u in zip(prefixes, drafts, lengths, noise, strict=True)
        )
    return prefixes


def _draft(model: Model, shape: Shape, prefix: Word, noise: list[Fraction]) -> Word:
    draft: Word = ()
    while len(draft) < min(shape.num_drafts, shape.num_tokens - len(prefix) - 1):
        draft += (drawn(model.q(prefix + draft), noise[len(prefix) + len(draft)]),)
    return draft


def _verified(model: Model, prefix: Word, draft: Word, noise: list[Fraction]) -> Word:
    """Return the prefix with the target's own tokens, as far as drafts agree with them and one more."""
    for guess in (*draft, None):
        token = drawn(model.p(prefix), noise[len(prefix)])
        prefix += (token,)
        if token != guess:
            break
    return prefix
