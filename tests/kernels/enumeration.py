"""Exact output laws of speculative decoding on toy models: every draft and verdict enumerated with Fractions.

A round is played as the engine plays it: draft, look at survival, choose lengths, verify. Survivals are floats, since
they only steer; all probabilities are rational, so a law either equals the target's or it does not.
"""

from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import prod
from random import Random

import torch

from core.types import Rule
from kernels.admit import admit

Law = tuple[Fraction, ...]


class RandomModel:
    """Random rational laws p and q for every prefix, and a conditional acceptance c told by the prefix alone."""

    def __init__(self, vocab, seed):
        self.vocab, self.seed = vocab, seed

    def law(self, name, prefix) -> Law:
        rng = Random(f"{self.seed} {name} {prefix}")
        weights = [rng.randint(1, 9) for _ in range(self.vocab)]
        return tuple(Fraction(w, sum(weights)) for w in weights)

    def p(self, prefix):
        return self.law("p", prefix)

    def q(self, prefix):
        return self.law("q", prefix)

    def c(self, prefix):
        return Random(f"{self.seed} c {prefix}").choice([0.2, 0.5, 0.8, 0.95, 1.0])


class PaperModel:
    """The worked example of the DSpark paper, Appendix A: p = (.7, .3), q = (.5, .5) after any prefix."""

    vocab = 2

    def p(self, prefix):
        return Fraction(7, 10), Fraction(3, 10)

    def q(self, prefix):
        return Fraction(1, 2), Fraction(1, 2)

    def c(self, prefix):
        """Token A makes the next draft look safe, token B doubtful."""
        return 0.8 if not prefix or prefix[-1] == 0 else 0.4


@dataclass(frozen=True)
class Round:
    """What a rule under test may look at: per sequence its prefix, drafts and survival; and what it remembered."""

    model: object
    prefixes: tuple
    drafts: tuple
    survival: tuple
    memory: object


def ask_admit(rule: Rule):
    """Return a chooser that is the engine's own: kernels.admit on this round's survival."""

    def choose(view: Round):
        survival = torch.tensor(view.survival, dtype=torch.float32)
        drafted = torch.tensor([len(d) for d in view.drafts], dtype=torch.int32)
        lengths = admit(survival, drafted, torch.zeros(len(survival), dtype=torch.int64), (rule,))
        return tuple(lengths.tolist()), None

    return choose


def output_law(model, shape, choose, *, reuse_noise=False):
    """Return {outputs of all sequences: probability}; shape is (sequences, drafts, tokens).

    choose(Round) -> lengths, memory for the next round. With reuse_noise a draft not committed is drafted again at
    its position, as if noise were keyed by position alone (only for a q that ignores the prefix).
    """
    num_sequences, _, num_tokens = shape
    states = {(((),) * num_sequences, None, ((),) * num_sequences): Fraction(1)}
    finished = defaultdict(Fraction)
    while states:
        following = defaultdict(Fraction)
        for (prefixes, memory, pending), mass in states.items():
            if all(len(prefix) == num_tokens for prefix in prefixes):
                finished[prefixes] += mass
                continue
            for drafts, chance in all_drafts(model, shape, prefixes, pending):
                survival = tuple(survivals(model, *pair, shape[1]) for pair in zip(prefixes, drafts, strict=True))
                lengths, remembered = choose(Round(model, prefixes, drafts, survival, memory))
                for emitted, share in verdicts(model, prefixes, drafts, lengths, num_tokens):
                    after = tuple((a + b)[:num_tokens] for a, b in zip(prefixes, emitted, strict=True))
                    left = tuple(d[len(e) :] if reuse_noise else () for d, e in zip(drafts, emitted, strict=True))
                    following[after, remembered, left] += mass * chance * share
        states = following
    return dict(finished)


def target_law(model, shape):
    """Return what output_law must be: independent samples from p."""
    num_sequences, _, num_tokens = shape
    words = {}
    for word in product(range(model.vocab), repeat=num_tokens):
        words[word] = prod((model.p(word[:i])[word[i]] for i in range(num_tokens)), start=Fraction(1))
    return {outs: prod((words[w] for w in outs), start=Fraction(1)) for outs in product(words, repeat=num_sequences)}


def distance(law, other):
    """Return the total variation between two laws, exactly."""
    return sum(abs(law.get(key, 0) - other.get(key, 0)) for key in law.keys() | other.keys()) / 2


def all_drafts(model, shape, prefixes, pending):
    """Yield every joint draft of the unfinished sequences with its probability; pending tokens are certain."""
    choices = []
    for prefix, known in zip(prefixes, pending, strict=True):
        width = 0 if len(prefix) == shape[2] else shape[1]
        words = [known[:width] + word for word in product(range(model.vocab), repeat=max(0, width - len(known)))]
        choices.append([(w, chance_of(model, prefix, w, min(len(known), width))) for w in words])
    for joint in product(*choices):
        yield tuple(word for word, _ in joint), prod((chance for _, chance in joint), start=Fraction(1))


def chance_of(model, prefix, word, known):
    return prod((model.q(prefix + word[:j])[word[j]] for j in range(known, len(word))), start=Fraction(1))


def survivals(model, prefix, draft, width):
    """Return a_1.. of a draft, padded: entry j reads the tokens before j only."""
    chances, a = [], 1.0
    for j in range(len(draft)):
        a *= model.c(prefix + draft[:j])
        chances.append(a)
    return tuple(chances + [0.0] * (width - len(draft)))


def verdicts(model, prefixes, drafts, lengths, num_tokens):
    """Yield every joint outcome of verification: emitted tokens per sequence, and its probability."""
    laws = []
    for prefix, draft, length in zip(prefixes, drafts, lengths, strict=True):
        is_done = len(prefix) == num_tokens
        laws.append({(): Fraction(1)} if is_done else emitted_law(model, prefix, draft[:length]))
    for joint in product(*(law.items() for law in laws)):
        yield tuple(word for word, _ in joint), prod((share for _, share in joint), start=Fraction(1))


def emitted_law(model, prefix, draft):
    """Return the law of the tokens one round emits: the rejection scheme in closed form."""
    law, reach = defaultdict(Fraction), Fraction(1)
    for j, x in enumerate(draft):
        p, q = model.p(prefix + draft[:j]), model.q(prefix + draft[:j])
        keep = min(Fraction(1), p[x] / q[x])
        residual = [max(a - b, Fraction(0)) for a, b in zip(p, q, strict=True)]
        for y, mass in enumerate(residual):
            if keep < 1 and mass:
                law[(*draft[:j], y)] += reach * (1 - keep) * mass / sum(residual)
        reach *= keep
    for y, mass in enumerate(model.p(prefix + draft)):
        if reach:
            law[(*draft, y)] += reach * mass
    return law
