"""At temperature 1 the first tokens follow the target's own law, through the whole loop; a wrong residual is caught.

The target is small enough to enumerate all V**3 texts. A total variation of .1 must be found at alpha 1e-4: over 124
degrees of freedom the power of the chi-square test with 4000 draws and a shift of .1 exceeds .999
(noncentrality >= 4 n TV^2 = 160).
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.random import derive_nonce
from core.statistics import chi_square_p_value
from drafters.ngram import NGram
from engine import accept as accept_module
from engine.shape import EngineShape
from equality import dense_causal
from policies.confidence import Confidence
from policies.fixed import Fixed, Off
from toys import make_engine, request, run, tiny_dspark, tiny_target

VOCABULARY, LENGTH, NUM_DRAWS, ALPHA = 5, 3, 4000, 1e-4
# The prompt repeats itself, so that n-grams of it are found.
WIDE = EngineShape(max_num_seqs=128, max_num_batched_tokens=1408, kv_cache_tokens=4096, block_size=4)
PROMPT = (1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1)


@pytest.fixture(scope="module")
def target():
    return tiny_target(VOCABULARY, seed=5, sharpness=0.25)


def make_drafter(name, target):
    return tiny_dspark(target, block_size=3) if name == "dspark" else NGram(max_drafts=3)


def enumerate_law(target, **sampling):
    """Return the probability of each of the V**LENGTH texts by running each prefix through plain greedy rows."""
    texts = list(itertools.product(range(VOCABULARY), repeat=LENGTH))
    laws = {}
    for prefix in itertools.chain.from_iterable(itertools.product(range(VOCABULARY), repeat=n) for n in range(LENGTH)):
        laws[prefix] = next_law(target, (*PROMPT, *prefix), **sampling)
    return texts, np.array([np.prod([laws[text[:i]][text[i]] for i in range(LENGTH)]) for text in texts])


def next_law(target, ids, temperature=1.0, top_k=0, top_p=1.0):
    hidden, _ = target(torch.tensor(ids), torch.arange(len(ids)), dense_causal)
    law = (target.logits(hidden[-1]).double() / temperature).softmax(-1)
    order = law.argsort(descending=True, stable=True)
    keep = torch.zeros_like(law, dtype=torch.bool)
    before = torch.cat((torch.zeros(1, dtype=torch.double), law[order].cumsum(-1)[:-1]))
    keep[order[(before < top_p) & (torch.arange(len(law)) < (top_k or len(law)))]] = True
    law = torch.where(keep, law, 0.0)
    return (law / law.sum()).tolist()


def sample(engine, **sampling):
    requests = [
        request(PROMPT, derive_nonce(b"law", i, 0), str(i), max_tokens=LENGTH + 1, **sampling) for i in range(NUM_DRAWS)
    ]
    counts = dict.fromkeys(itertools.product(range(VOCABULARY), repeat=LENGTH), 0)
    for tokens in run(engine, requests).values():
        counts[tuple(tokens[:LENGTH])] += 1
    return np.array(list(counts.values()))


PLAIN = {"temperature": 1.0}
CELLS = {
    "dspark-fixed": ("dspark", Fixed(3), PLAIN),
    "dspark-confidence": ("dspark", Confidence(0.5), PLAIN),
    "dspark-conditional": ("dspark", Confidence(0.7, cumulative=False), PLAIN),
    "dspark-top-p": ("dspark", Confidence(0.5), {"temperature": 0.7, "top_p": 0.9}),
    "dspark-top-k": ("dspark", Fixed(3), {"temperature": 1.3, "top_k": 3}),
    "ngram-fixed": ("ngram", Fixed(3), PLAIN),
    "ngram-confidence": ("ngram", Confidence(0.3), PLAIN),
    "ngram-top-p": ("ngram", Fixed(2), {"temperature": 0.7, "top_p": 0.9}),
}


@pytest.mark.parametrize("cell", CELLS)
def test_first_tokens_follow_the_targets_law(target, cell):
    drafter, policy, sampling = CELLS[cell]
    engine = make_engine(target, make_drafter(drafter, target), policy, WIDE, ())
    counts = sample(engine, **sampling)
    assert 0 < engine.stats.accepted < engine.stats.verified <= engine.stats.drafted
    _, law = enumerate_law(target, **sampling)
    assert chi_square_p_value(counts, law) > ALPHA


def test_plain_decoding_follows_the_targets_law(target):
    counts = sample(make_engine(target, None, Off(), WIDE, ()), temperature=1.0)
    assert chi_square_p_value(counts, enumerate_law(target)[1]) > ALPHA


@pytest.mark.parametrize("drafter", ["dspark", "ngram"])
def test_a_planted_wrong_residual_is_caught(target, drafter, monkeypatch):
    """After a rejection the next token is drawn from p instead of the residual."""
    honest = accept_module.reject

    def draws_from_the_target(logits, draft, lengths, uniforms):
        verdict = honest(logits, draft, lengths, uniforms)
        first = torch.cumsum(lengths + 1, 0) - lengths - 1
        law = logits[first + verdict.accepted].softmax(-1).cumsum(-1)
        wrong = (law <= uniforms[:, -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)
        return replace(verdict, next_token=wrong)

    monkeypatch.setattr(accept_module, "reject", draws_from_the_target)
    engine = make_engine(target, make_drafter(drafter, target), Fixed(3), WIDE, ())
    counts = sample(engine, temperature=1.0)
    assert chi_square_p_value(counts, enumerate_law(target)[1]) < ALPHA


def test_a_total_variation_of_a_tenth_is_detected(target):
    """The power of the tests above: honest draws are told from a law that differs by .1."""
    counts = sample(make_engine(target, tiny_dspark(target, block_size=3), Fixed(3), WIDE, ()), temperature=1.0)
    _, law = enumerate_law(target)
    order = np.argsort(law)
    shifted, missing = law.copy(), 0.1
    for place in order[::-1]:
        taken = min(missing, shifted[place] / 2)
        shifted[place] -= taken
        missing -= taken
    shifted[order[: len(order) // 2]] += 0.1 / (len(order) // 2)
    assert abs(np.abs(shifted - law).sum() / 2 - 0.1) < 1e-9
    assert chi_square_p_value(counts, shifted) < ALPHA
