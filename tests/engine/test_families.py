"""Texts through the real loop for every kind of drafter beside every family of targets, whatever the two agree on.

A drafter is forced to be right in every token, in some or in none (drafters/forced.py); what it computes, keeps in its
cache and overwrites there is the real one's. Every text must be the one that the target writes alone and undrafted: by
bits in batch-invariant numerics; for the target that transformers computes, which has only fast ones, but for near
ties. And a drafter must say the same at the same place of a text whatever was agreed on before, in whatever company
and from whichever prefix it came there.

The product is drafters x families x agreements x laws, with a cache of many blocks, in which a prefix is found, and for
drafters with KV again with few blocks, in which sequences are preempted. All of it is marked `slow`; what is not is a
subset of it that meets every class of drafters with every family once, each kind of agreement and law with every class
and with every family, other settings of a class with two families, and preemption in every family. Planted bugs show
that the cells can fail.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from bench.prove.tiny import tiny_dflash, tiny_dspark, tiny_eagle3
from core.types import Numerics
from drafters import dflash, eagle3
from drafters.draft_model import DraftModel
from drafters.ngram import NGram
from drafters.suffix import Suffix
from engine.shape import EngineShape
from equality import NEAR_TIE
from families import FAMILIES, VOCAB_SIZE
from kernels import reference
from kernels.attention_layout import cache_rows
from kernels.noise import gumbel_noise
from parity import dense
from policies.fixed import Fixed, Off
from tests.drafters.forced import AGREEMENTS, FULLY, NEVER, PARTLY, Forced
from toys import make_engine, request, run

LAWS = {"greedy": {"temperature": 0.0}, "coupled": {"temperature": 1.0, "seed": 7}}
WINDOWS = {"layer_types": ("sliding_attention", "full_attention"), "sliding_window": 6}
# Each takes the target, and a model that knows the target's successors but not what bends them.
DRAFTERS = {
    "dspark": lambda target, _: tiny_dspark(target),
    "dspark_gated": lambda target, _: tiny_dspark(target, head="gated"),
    "dspark_rnn": lambda target, _: tiny_dspark(target, head="rnn"),
    "dflash": lambda target, _: tiny_dflash(target),
    # A block reaches one row further than there are drafts, over the end of a KV block.
    "dflash_fill_in": lambda target, _: tiny_dflash(target, block_size=5, sample_from_anchor=False),
    "dflash_window": lambda target, _: tiny_dflash(target, **WINDOWS),
    "eagle3": lambda target, _: tiny_eagle3(target),
    "eagle3_reduced": lambda target, _: tiny_eagle3(target, num_never=5),
    "ngram": lambda *_: NGram(max_drafts=4),
    "suffix": lambda *_: Suffix(max_drafts=6),
    "draft_model": lambda target, similar: DraftModel("draft_model", similar, target.shape.vocab_size),
}
# Of the same classes as others are, and met by two families, one greedily and one not.
VARIANTS = ("dspark_gated", "dspark_rnn", "dflash_fill_in", "dflash_window", "eagle3_reduced")
WITH_KV = [name for name in DRAFTERS if name not in ("ngram", "suffix")]

# Fewer slots than requests: who comes last finds a prefix. Small blocks and chunks: texts cross many of both.
WIDE = EngineShape(max_num_seqs=4, max_num_batched_tokens=16, kv_cache_tokens=1024, block_size=4)
# Four texts of up to 66 tokens want 66 blocks.
TIGHT = EngineShape(max_num_seqs=4, max_num_batched_tokens=16, kv_cache_tokens=140, block_size=4)


def random_tokens(seed, count):
    return tuple(torch.randint(0, VOCAB_SIZE, (count,), generator=torch.Generator().manual_seed(seed)).tolist())


SHARED = random_tokens(0, 18)
# Prompt and number of tokens; the last shares a prefix of four blocks and a half with the one before.
ASKED = (
    (random_tokens(1, 3), 48),
    (random_tokens(2, 9), 56),
    (random_tokens(3, 20), 36),
    (SHARED + random_tokens(4, 4), 44),
    (SHARED + random_tokens(5, 9), 40),
)
LAST = len(ASKED) - 1


def requests(law, first_nonce=0):
    return [
        request(prompt, first_nonce + i, str(i), max_tokens=count, **LAWS[law])
        for i, (prompt, count) in enumerate(ASKED)
    ]


class Family:
    """A target, and what it writes by itself: one text at a time, without a drafter, nothing cached."""

    def __init__(self, name, folder):
        make = FAMILIES[name]
        self.target, self.similar = make(3, folder), make(4, folder)
        self.is_exact = self.target.numerics is Numerics.BATCH_INVARIANT
        self.plain = cache(self._plain)

    def _plain(self, law):
        engine = make_engine(self.target, None, Off(), WIDE)
        return [run(engine, [each])[each.id] for each in requests(law)]

    def forced(self, drafter, agreement, law):
        texts = [[*prompt, *answer] for (prompt, _), answer in zip(ASKED, self.plain(law), strict=True)]
        return Forced(DRAFTERS[drafter](self.target, self.similar), texts, agreement, VOCAB_SIZE)

    def assert_plain(self, got, law):
        """Compare texts by name with those it writes by itself."""
        for name, tokens in got.items():
            plain = self.plain(law)[int(name)]
            assert len(tokens) == len(plain)
            if tokens != plain:
                assert not self.is_exact, f"text {name} differs"
                place = next(i for i, (ours, theirs) in enumerate(zip(tokens, plain)) if ours != theirs)
                assert self.margin(int(name), place, law) < NEAR_TIE, f"text {name} differs from place {place} on"

    @torch.inference_mode()
    def margin(self, index, place, law):
        """Return by how much the best token of a text's place is ahead of the next, under the law."""
        prompt = ASKED[index][0]
        ids = torch.tensor([[*prompt, *self.plain(law)[index][:place]]])
        hidden, _ = self.target(ids, torch.arange(ids.shape[1])[None], dense(self.target))
        scores = self.target.logits(hidden[0, -1])
        if law == "coupled":
            keys, positions = np.array([LAWS[law]["seed"]], dtype=np.uint64), np.array([[ids.shape[1]]])
            scores = scores + gumbel_noise(keys, positions, np.zeros(1, dtype=np.int64), VOCAB_SIZE, ids.device)[0, 0]
        best = scores.topk(2).values
        return float(best[0] - best[1])


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """Families by name, made when first asked for."""
    return cache(lambda name: Family(name, tmp_path_factory.mktemp(name)))


def assert_agreement(stats, agreement):
    assert not stats.fallbacks
    if agreement == FULLY:
        assert stats.accepted == stats.verified > 0
    elif agreement == NEVER:
        assert stats.accepted == 0 < stats.verified
    else:
        assert 0 < stats.accepted < stats.verified


def said_alone(family, drafter, law):
    """What a drafter says at every place of the last text, where nobody else and nothing of it is cached."""
    forced = family.forced(drafter, NEVER, law)
    run(make_engine(family.target, forced, Fixed(4), WIDE), requests(law)[LAST:])
    return forced.said


def assert_texts(family, drafter, agreement, law, shape):
    """Run all requests; returns the engine, for whoever wants to see more of it."""
    forced = family.forced(drafter, agreement, law)
    engine = make_engine(family.target, forced, Fixed(4), shape)
    family.assert_plain(run(engine, requests(law, first_nonce=1000)), law)
    assert_agreement(engine.stats, agreement)
    if family.is_exact:
        alone = said_alone(family, drafter, law)
        found = {place: said for place, said in forced.said.items() if place in alone}
        assert found == {place: alone[place] for place in found}, "what was said depends on more than the text"
        assert found
    return engine


ALL = [
    (family, drafter, agreement, law)
    for family in FAMILIES
    for drafter in DRAFTERS
    for agreement in AGREEMENTS
    for law in LAWS
]
DIAGONAL = [
    (family, drafter, AGREEMENTS[(f + d) % 3], list(LAWS)[(f + d) % 2])
    for f, family in enumerate(FAMILIES)
    for d, drafter in enumerate(DRAFTERS)
    if drafter not in VARIANTS or (f + d) % len(FAMILIES) in (2, 3)
]
# In the order of the families, a drafter with KV each.
PREEMPTED = [
    (family, drafter, PARTLY, list(LAWS)[i % 2])
    for i, (family, drafter) in enumerate(
        zip(FAMILIES, ("draft_model", "eagle3", "dflash_fill_in", "dspark_rnn", "eagle3_reduced"), strict=True)
    )
]


def cells(every, quick):
    return [pytest.param(*cell, marks=() if cell in quick else pytest.mark.slow, id="-".join(cell)) for cell in every]


@pytest.mark.parametrize(("family", "drafter", "agreement", "law"), cells(ALL, DIAGONAL))
def test_whoever_drafts_and_however_well_texts_are_the_targets_own(families, family, drafter, agreement, law):
    engine = assert_texts(families(family), drafter, agreement, law, WIDE)
    assert engine.scheduler.prefix_hits >= len(SHARED) // 4 * 4


@pytest.mark.parametrize(
    ("family", "drafter", "agreement", "law"), cells([cell for cell in ALL if cell[1] in WITH_KV], PREEMPTED)
)
def test_so_they_are_where_blocks_run_out(families, family, drafter, agreement, law):
    engine = assert_texts(families(family), drafter, agreement, law, TIGHT)
    assert engine.scheduler.num_preemptions > 0
    assert engine.memory.pool.num_free == engine.memory.pool.num_usable


def test_what_is_not_slow_meets_every_pair():
    for one in range(4):
        for other in range(one):
            pairs = {(cell[one], cell[other]) for cell in ALL if cell[1] not in VARIANTS}
            assert {(cell[one], cell[other]) for cell in DIAGONAL} >= pairs
    assert {(cell[1], cell[3]) for cell in DIAGONAL} == {(cell[1], cell[3]) for cell in ALL}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_no_short_circles(families, family, law):
    for text in families(family).plain(law):
        assert len(set(zip(text, text[1:], text[2:]))) >= 16


@pytest.mark.parametrize("agreement", [FULLY, NEVER])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_planted_rollback_bug_is_noticed_where_drafts_are_rejected(families, monkeypatch, family, agreement):
    """Keys and values of rejected drafts stay in the target's cache: a row is written once for a position."""
    family = families(family)
    engine = make_engine(family.target, family.forced("eagle3", agreement, "greedy"), Fixed(4), WIDE)
    attention, held = engine._forward._attention, torch.full((2 * WIDE.kv_cache_tokens,), -1)
    honest = attention.over

    def keeps_rejected_rows(kv, cu_rows, positions, visible=None, stores=None):
        rows = cache_rows(kv, torch.repeat_interleave(cu_rows.diff()), positions)
        is_new = held[rows] != positions
        held[rows] = positions
        return honest(kv, cu_rows, positions, visible, is_new if stores is None else is_new & stores)

    monkeypatch.setattr(attention, "over", keeps_rejected_rows)
    got = run(engine, requests("greedy")[:1])
    if agreement == FULLY:
        family.assert_plain(got, "greedy")
    else:
        with pytest.raises(AssertionError, match="text 0 differs"):
            family.assert_plain(got, "greedy")


@pytest.mark.parametrize("law", LAWS)
def test_a_planted_verdict_that_keeps_one_draft_too_many_is_noticed(families, monkeypatch, law):
    honest, family = reference.keep_drawn, families("gemma4")
    family.plain(law)

    def keeps_one_more(drawn, draft, lengths):
        verdict = honest(drawn, draft, lengths)
        return replace(verdict, accepted=torch.minimum(verdict.accepted + 1, lengths))

    monkeypatch.setattr(reference, "keep_drawn", keeps_one_more)
    with pytest.raises(AssertionError, match=r"text . differs"):
        assert_texts(family, "ngram", PARTLY, law, WIDE)


@pytest.mark.parametrize(("drafter", "module"), [("dspark", dflash), ("eagle3", eagle3)])
def test_a_planted_bug_in_a_drafters_own_cache_is_noticed(families, monkeypatch, drafter, module):
    """What is stored of a committed row comes one slot late: texts stay right, what is said does not."""

    def one_late(kv, sequence, positions):
        return cache_rows(kv, sequence, positions + 1)

    monkeypatch.setattr(module, "cache_rows", one_late)
    with pytest.raises(AssertionError, match="what was said depends on more than the text"):
        assert_texts(families("llama"), drafter, FULLY, "greedy", WIDE)
