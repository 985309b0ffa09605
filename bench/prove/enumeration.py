"""Exact output laws of speculative decoding on toy models: every draft and verdict enumerated with Fractions.

A round is played as the engine plays it: draft, look at survival, choose lengths, verify. Survivals are floats, since
they only steer; all probabilities are rational, so a law either equals the target's or it does not. Every part that a
mistake could sit in is an argument, with the honest one as its default: a planted bug takes the same path.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import product
from math import prod
from random import Random
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from core.planning import Rule
from core.tensors import Favour
from kernels.admit import admit

Law = tuple[Fraction, ...]
Word = tuple[int, ...]
Words = tuple[Word, ...]
Rows = tuple[tuple[float, ...], ...]
OutputLaw = Mapping[Words, Fraction]
ONE = Fraction(1)


class Model(Protocol):
    """Laws p of the target and q of the drafter after a prefix, and the drafter's conditional acceptance c."""

    vocab: int

    def p(self, prefix: Word) -> Law: ...  # noqa: D102
    def q(self, prefix: Word) -> Law: ...  # noqa: D102
    def c(self, prefix: Word) -> float: ...  # noqa: D102


class RandomModel:
    """Random rational laws p and q for every prefix, and a conditional acceptance c told by the prefix alone."""

    def __init__(self, vocab: int, seed: int) -> None:
        self.vocab, self.seed = vocab, seed

    def p(self, prefix: Word) -> Law:
        """Return the target's law."""
        return random_law(self.vocab, self.seed, "p", prefix)

    def q(self, prefix: Word) -> Law:
        """Return the draft law."""
        return random_law(self.vocab, self.seed, "q", prefix)

    def c(self, prefix: Word) -> float:
        """Return a confidence that is sometimes 1, so that survivals tie."""
        return random_confidence(self.seed, prefix)


@cache
def random_law(vocab: int, seed: int, name: str, prefix: Word) -> Law:
    """Return a random rational law of `vocab` tokens, none of them impossible."""
    rng = Random(f"{seed} {name} {prefix}")  # noqa: S311
    weights = [rng.randint(1, 9) for _ in range(vocab)]
    return tuple(Fraction(w, sum(weights)) for w in weights)


@cache
def random_confidence(seed: int, prefix: Word) -> float:
    """Return a random confidence after a prefix."""
    return Random(f"{seed} c {prefix}").choice([0.2, 0.5, 0.8, 0.95, 1.0])  # noqa: S311


class PaperModel:
    """The worked example of the DSpark paper, Appendix A: p = (.7, .3), q = (.5, .5) after any prefix."""

    vocab = 2

    def p(self, prefix: Word) -> Law:  # noqa: ARG002
        """Return the target's law."""
        return Fraction(7, 10), Fraction(3, 10)

    def q(self, prefix: Word) -> Law:  # noqa: ARG002
        """Return the draft law."""
        return Fraction(1, 2), Fraction(1, 2)

    def c(self, prefix: Word) -> float:
        """Token A makes the next draft look safe, token B doubtful."""
        return 0.8 if not prefix or prefix[-1] == 0 else 0.4


class Shape(NamedTuple):
    """How many sequences share the batch, most drafts of each per round, and tokens of each answer."""

    num_sequences: int
    num_drafts: int
    num_tokens: int


@dataclass(frozen=True)
class Round:
    """What a choice of lengths may look at: per sequence its prefix, drafts and survival; and what it remembered."""

    model: Model
    prefixes: Words
    drafts: Words
    survival: Rows
    memory: Any


Choose = Callable[[Round], tuple[Word, Any]]
Admit = Callable[[Tensor, Tensor, Tensor, tuple[Rule, ...], Favour | None], Tensor]
Survivals = Callable[[Model, Word, Word, int], tuple[float, ...]]
EmittedLaw = Callable[[Model, Word, Word, int], Mapping[Word, Fraction]]


def ask_admit(
    *rules: Rule, floors: Sequence[int] = (), weights: Sequence[float] = (), admission: Admit = admit
) -> Choose:
    """Return a chooser that is the engine's own: kernels.admit on this round's survival.

    rules   one for a group of all sequences, or one per sequence, each a group by itself
    floors, weights   one per sequence, or none
    """

    def choose(view: Round) -> tuple[Word, None]:
        size = len(view.drafts)
        survival = torch.tensor(view.survival, dtype=torch.float32)
        drafted = torch.tensor([len(d) for d in view.drafts], dtype=torch.int32)
        group = torch.arange(size) if len(rules) > 1 else torch.zeros(size, dtype=torch.int64)
        favour = None
        if floors or weights:
            favour = Favour(
                torch.tensor(floors or [0] * size, dtype=torch.int32),
                torch.tensor(weights or [1.0] * size, dtype=torch.float32),
            )
        lengths = admission(survival, drafted, group, rules, favour)
        return tuple(lengths.tolist()), None

    return choose


def survivals(model: Model, prefix: Word, draft: Word, width: int) -> tuple[float, ...]:
    """Return a_1.. of a draft, padded: entry j reads the tokens before j only."""
    chances, a = [], 1.0
    for j in range(len(draft)):
        a *= model.c(prefix + draft[:j])
        chances.append(a)
    return tuple(chances + [0.0] * (width - len(draft)))


def rejection(model: Model, prefix: Word, draft: Word, length: int) -> Mapping[Word, Fraction]:
    """Return the law of the tokens that one round emits: the rejection scheme in closed form."""
    law: dict[Word, Fraction] = defaultdict(Fraction)
    reach = ONE
    for j, x in enumerate(draft[:length]):
        p, q = model.p(prefix + draft[:j]), model.q(prefix + draft[:j])
        keep = min(ONE, p[x] / q[x])
        residual = [max(a - b, Fraction(0)) for a, b in zip(p, q, strict=True)]
        for y, mass in enumerate(residual):
            if keep < 1 and mass:
                law[(*draft[:j], y)] += reach * (1 - keep) * mass / sum(residual)
        reach *= keep
    for y, mass in enumerate(model.p(prefix + draft[:length])):
        if reach:
            law[(*draft[:length], y)] += reach * mass
    return law


def point_mass(model: Model, prefix: Word, draft: Word, length: int) -> Mapping[Word, Fraction]:
    """Return the law of one round where drafts count as deterministic, whatever law they were drawn from."""
    law: dict[Word, Fraction] = defaultdict(Fraction)
    reach = ONE
    for j, x in enumerate(draft[:length]):
        for y, mass in enumerate(model.p(prefix + draft[:j])):
            if y != x:
                law[(*draft[:j], y)] += reach * mass
        reach *= model.p(prefix + draft[:j])[x]
    for y, mass in enumerate(model.p(prefix + draft[:length])):
        law[(*draft[:length], y)] += reach * mass
    return law


@dataclass(frozen=True)
class Parts:
    """What a round is made of besides the choice of lengths.

    reuse_noise  a draft not committed is drafted again at its position, as if noise were keyed by position alone;
                 only for a q that ignores the prefix
    share_noise  sequences with equal prefixes draft the same tokens, as if they had one nonce
    """

    survivals: Survivals = survivals
    verify: EmittedLaw = rejection
    reuse_noise: bool = False
    share_noise: bool = False


HONEST = Parts()


def output_law(model: Model, shape: Shape, choose: Choose, parts: Parts = HONEST) -> OutputLaw:
    """Return {outputs of all sequences: probability}; choose(Round) -> lengths, memory for the next round."""
    nothing: Words = ((),) * shape.num_sequences
    states: dict[tuple[Words, Any, Words], Fraction] = {(nothing, None, nothing): ONE}
    finished: dict[Words, Fraction] = defaultdict(Fraction)
    while states:
        following: dict[tuple[Words, Any, Words], Fraction] = defaultdict(Fraction)
        for (prefixes, memory, pending), mass in states.items():
            if all(len(prefix) == shape.num_tokens for prefix in prefixes):
                finished[prefixes] += mass
                continue
            for drafts, chance in _all_drafts(model, shape, prefixes, pending):
                if parts.share_noise:
                    drafts = _shared(prefixes, drafts)
                pairs = zip(prefixes, drafts, strict=True)
                seen = tuple(parts.survivals(model, *pair, shape.num_drafts) for pair in pairs)
                lengths, remembered = choose(Round(model, prefixes, drafts, seen, memory))
                for emitted, share in _verdicts(model, (prefixes, drafts, lengths), shape, parts.verify):
                    after = tuple((a + b)[: shape.num_tokens] for a, b in zip(prefixes, emitted, strict=True))
                    left = nothing
                    if parts.reuse_noise:
                        left = tuple(d[len(e) :] for d, e in zip(drafts, emitted, strict=True))
                    following[after, remembered, left] += mass * chance * share
        states = following
    return dict(finished)


def target_law(model: Model, shape: Shape) -> OutputLaw:
    """Return what output_law must be: independent samples from p."""
    words = {}
    for word in product(range(model.vocab), repeat=shape.num_tokens):
        words[word] = prod((model.p(word[:i])[word[i]] for i in range(shape.num_tokens)), start=ONE)
    return {outs: prod((words[w] for w in outs), start=ONE) for outs in product(words, repeat=shape.num_sequences)}


def distance(law: OutputLaw, other: OutputLaw) -> Fraction:
    """Return the total variation between two laws, exactly."""
    gaps = (abs(law.get(key, Fraction(0)) - other.get(key, Fraction(0))) for key in law.keys() | other.keys())
    return sum(gaps, start=Fraction(0)) / 2


def _all_drafts(model: Model, shape: Shape, prefixes: Words, pending: Words) -> Iterator[tuple[Words, Fraction]]:
    """Yield every joint draft of the unfinished sequences with its probability; pending tokens are certain."""
    choices = []
    for prefix, known in zip(prefixes, pending, strict=True):
        width = 0 if len(prefix) == shape.num_tokens else shape.num_drafts
        free = max(0, width - len(known))
        words = [known[:width] + word for word in product(range(model.vocab), repeat=free)]
        choices.append([(word, _chance(model, prefix, word, min(len(known), width))) for word in words])
    for joint in product(*choices):
        yield tuple(word for word, _ in joint), prod((chance for _, chance in joint), start=ONE)


def _shared(prefixes: Words, drafts: Words) -> Words:
    """Give the second sequence the first one's draft where both stand at the same prefix, whatever its own was."""
    return (drafts[0], drafts[0]) if prefixes[0] == prefixes[1] else drafts


def _chance(model: Model, prefix: Word, word: Word, num_known: int) -> Fraction:
    return prod((model.q(prefix + word[:j])[word[j]] for j in range(num_known, len(word))), start=ONE)


def _verdicts(
    model: Model, batch: tuple[Words, Words, Word], shape: Shape, verify: EmittedLaw
) -> Iterator[tuple[Words, Fraction]]:
    """Yield every joint outcome of verification: emitted tokens per sequence, and its probability."""
    laws = []
    for prefix, draft, length in zip(*batch, strict=True):
        is_done = len(prefix) == shape.num_tokens
        laws.append({(): ONE} if is_done else verify(model, prefix, draft, length))
    for joint in product(*(law.items() for law in laws)):
        yield tuple(word for word, _ in joint), prod((share for _, share in joint), start=ONE)
