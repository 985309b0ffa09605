"""A drafter with a lookahead in the engine: it drafts as if it had seen every row itself, however the rows came.

Every proposal is compared, bit for bit in batch-invariant numerics, with that of a fresh drafter that was told of the
whole sequence in one call; its cache in the engine begins as poison, so that nothing unwritten can be read unnoticed.
"""

from dataclasses import replace

import pytest
import torch
from msgspec import structs

from core.cost import CostTable
from core.tensors import Commit, VerifyRows
from core.types import Numerics, Speculation
from drafters.eagle3 import Eagle3
from engine.engine import Engine
from engine.kv_cache import KVGroup
from engine.shape import EngineShape
from engine.speculator import Speculator
from engine.target import TargetForward
from policies.fixed import Fixed, Off
from policies.load_adaptive import LoadAdaptive
from tests.engine.test_catch_up import Flicker
from toys import make_engine, request, run, tiny_dspark, tiny_eagle3, tiny_target

NUM_TOKENS = 64
LAWS = ({"temperature": 0.0}, {"temperature": 1.0, "seed": 7})
WIDE = EngineShape(max_num_seqs=8, max_num_batched_tokens=256, kv_cache_tokens=4096, block_size=4)


def shape(**changes):
    return EngineShape(**{name: getattr(WIDE, name) for name in WIDE.__struct_fields__} | changes)


def random_prompt(index):
    generator = torch.Generator().manual_seed(index)
    return tuple(torch.randint(0, 32, (1 + 10 * index,), generator=generator).tolist())


# Of 1, 11, 21 and 31 tokens; two are answered greedily, two by the seed.
PROMPTS = [random_prompt(index) for index in range(4)]
EVERYONE = (0, 1, 2, 3)
LONGEST = PROMPTS[3]


class Audited(Eagle3):
    """Compares every few proposals with a fresh drafter's, and sees to it that no written block is written again."""

    every = 5

    def __init__(self, target, num_never=0):
        super().__init__("eagle3", tiny_eagle3(target, num_never=num_never).network, target)
        self.engine, self.num_asked, self.num_compared, self.wrong = None, 0, 0, []
        self.forward = TargetForward(target)

    def watch(self, engine):
        self.engine = engine
        group = engine.memory.speculators["eagle3"].kv
        for cache in (*group.keys, *group.values):
            cache.fill_(torch.nan)
        return engine

    def propose(self, ask):
        draft = super().propose(ask)
        self.num_asked += 1
        if self.num_asked % self.every == 0:
            running = {sequence.slot: sequence for sequence in self.engine.scheduler.running}
            for b, slot in enumerate(ask.slots.tolist()):
                if int(draft.lengths[b]):
                    self.compare(ask, draft, b, running[slot].tokens)
        return draft

    def compare(self, ask, draft, b, tokens):
        self.num_compared += 1
        fresh, length = self.fresh_proposal(ask, b, torch.tensor(tokens)), int(ask.lengths[b])
        same = all(
            torch.equal(ours[b, :length], theirs[0, :length])
            for ours, theirs in ((draft.tokens, fresh.tokens), (draft.evidence, fresh.evidence))
        )
        if not same:
            self.wrong.append((tokens, draft.evidence[b], fresh.evidence[0]))

    def fresh_proposal(self, ask, b, tokens):
        num_blocks = len(tokens) // 4 + 3
        table = torch.arange(1, num_blocks + 1)[None]
        layers = [layer.kv_shape for layer in self.target.shape.layers]
        rows = torch.arange(len(tokens) - 1)
        verify = VerifyRows(tokens[:-1], rows, torch.tensor([0, len(rows)]), table)
        target_kv = KVGroup(layers, num_blocks + 1, 4, torch.float32).view(table)
        _, features = self.forward(verify, target_kv, self.spec.feature_layers)
        kv = KVGroup(self.spec.kv_layers, num_blocks + 1, 4, torch.float32).view(table)
        fresh = Eagle3("fresh", self.network, self.target)
        fresh.open(0, [], 0)
        zero, own = torch.tensor([0]), slice(b, b + 1)
        fresh.extend(Commit(zero, verify.cu_rows, rows, tokens[:-1], tokens[1:], features, kv))
        terms = ask.processing
        terms = replace(terms, temperature=terms.temperature[own], top_k=terms.top_k[own])
        terms = replace(terms, top_p=terms.top_p[own], min_p=terms.min_p[own])
        alone = replace(
            ask,
            slots=zero,
            anchors=ask.anchors[own],
            positions=ask.positions[own],
            lengths=ask.lengths[own],
            processing=terms,
            noise=ask.noise[own],
            kv=kv,
            gumbel=None if ask.gumbel is None else ask.gumbel[own],
            coupled=None if ask.coupled is None else ask.coupled[own],
        )
        return fresh.propose(alone)

    def _store(self, commit, before, paired, kv):
        sequence, positions = torch.repeat_interleave(commit.cu_rows.diff())[paired], commit.positions[paired]
        written = kv.block_tables[sequence, positions // kv.block_size]
        speculator = self.engine.memory.speculators["eagle3"]
        assert not any(speculator.is_written(block) for block in written.tolist()), "a written block is written again"
        super()._store(commit, before, paired, kv)


@pytest.fixture(scope="module")
def target():
    return tiny_target(numerics=Numerics.BATCH_INVARIANT)


@pytest.fixture(scope="module")
def plain(target):
    """Texts of the requests, one at a time, without drafter or cache."""
    engine = make_engine(target, None, Off(), shape(prefix_cache=False))
    texts = {}
    for each in requests():
        texts |= run(engine, [each])
    return texts


def requests(members=EVERYONE, prefix=""):
    return [request(PROMPTS[i], i, f"{prefix}{i}", max_tokens=NUM_TOKENS, **LAWS[i % 2]) for i in members]


def warm_up(engine, **how):
    """Leave all prompts in the cache, by requests whose answers go other ways."""
    run(engine, [request(p, i, f"w{i}", max_tokens=12, temperature=1.0, **how) for i, p in enumerate(PROMPTS)])


def audited_engine(target, policy=None, **changes):
    drafter = Audited(target)
    return drafter.watch(make_engine(target, drafter, policy or Fixed(4), shape(**changes))), drafter


def assert_all_is_well(engine, drafter):
    """Drafts were made, kept and lost; each as a drafter that had seen all would have made it."""
    stats = engine.stats
    assert 0 < stats.accepted < stats.verified <= stats.drafted
    assert not stats.fallbacks
    assert drafter.num_compared > 5
    assert not drafter.wrong, drafter.wrong[0]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_texts_are_those_of_plain_decoding_alone_and_in_company(target, plain, concurrency):
    engine, drafter = audited_engine(target)
    texts = {}
    for start in range(0, 4, concurrency):
        texts |= run(engine, requests(range(start, start + concurrency)))
    assert texts == plain
    assert_all_is_well(engine, drafter)
    assert engine.stats.catch_up_rows == 0


@pytest.mark.parametrize("chunk", [1, 7])
def test_chunks_of_a_prefill_change_nothing(target, plain, chunk):
    engine, drafter = audited_engine(target, max_num_batched_tokens=chunk)
    assert run(engine, requests()) == plain
    assert_all_is_well(engine, drafter)


def test_a_reduced_vocabulary_changes_nothing(target, plain):
    drafter = Audited(target, num_never=12)
    engine = drafter.watch(make_engine(target, drafter, Fixed(4), WIDE))
    assert run(engine, requests()) == plain
    assert_all_is_well(engine, drafter)


def test_it_shares_batches_and_blocks_with_another_drafter(target, plain):
    drafter, beside = Audited(target), tiny_dspark(target)
    drafters = {"dspark": beside, "eagle3": drafter}
    engine = drafter.watch(Engine(target, drafters, {"fixed": lambda: Fixed(4)}, WIDE, ()))
    for names in (("dspark", "eagle3"), ("eagle3", "dspark")):
        asked = [
            structs.replace(each, speculation=Speculation(drafter=names[i % 2])) for i, each in enumerate(requests())
        ]
        assert run(engine, asked) == plain
    # Blocks that one drafter filled are not the other's: each of the second round caught up with its prompt.
    assert engine.stats.catch_up_rows >= 8 + 20 + 28
    assert_all_is_well(engine, drafter)


def test_preemption_changes_nothing(target, plain):
    engine, drafter = audited_engine(target, kv_cache_tokens=200)
    assert run(engine, requests()) == plain
    assert engine.scheduler.num_preemptions > 0
    assert_all_is_well(engine, drafter)


@pytest.mark.parametrize("chunk", [4, 256])
def test_a_hit_on_a_prefix_that_the_drafter_has_seen_costs_one_row(target, plain, chunk):
    engine, drafter = audited_engine(target, max_num_batched_tokens=chunk)
    warm_up(engine)
    assert engine.stats.catch_up_rows == engine.scheduler.prefix_hits == 0
    assert run(engine, requests()) == plain
    assert engine.scheduler.prefix_hits == 8 + 20 + 28
    # The prompt of one token has no block to be found.
    assert engine.stats.catch_up_rows == 3
    assert_all_is_well(engine, drafter)


@pytest.mark.parametrize("chunk", [7, 256])
def test_a_prefix_from_plain_requests_is_caught_up_with(target, plain, chunk):
    engine, drafter = audited_engine(target, max_num_batched_tokens=chunk)
    warm_up(engine, max_drafts=0)
    assert run(engine, requests()) == plain
    assert engine.scheduler.prefix_hits == 8 + 20 + 28
    assert engine.stats.catch_up_rows >= engine.scheduler.prefix_hits
    assert_all_is_well(engine, drafter)


@pytest.mark.parametrize("chunk", [3, 256])
def test_three_that_share_a_prefix_nobody_drafted_for_fill_it_once(target, plain, chunk):
    engine, drafter = audited_engine(target, max_num_batched_tokens=chunk)
    warm_up(engine, max_drafts=0)
    sharing = [request(LONGEST, i, str(i), max_tokens=NUM_TOKENS, **LAWS[1]) for i in range(3)]
    assert list(run(engine, sharing).values()) == [plain["3"]] * 3
    assert engine.scheduler.prefix_hits == 3 * 28
    assert_all_is_well(engine, drafter)
    if chunk == 256:
        # All of it once; the two that waited then need its last row and the three of theirs of that step.
        assert engine.stats.catch_up_rows == 28 + 2 * (1 + 3)


def test_a_block_that_is_written_behind_one_that_is_not_stays_as_it_is(target, plain):
    """The first block is a plain request's, the next are those of one that drafts and came a moment later."""
    engine, drafter = audited_engine(target)
    first = request(LONGEST[:6], 1, "plain", max_tokens=1, temperature=0.0, max_drafts=0)
    run(engine, [first, request(LONGEST, 2, "drafting", max_tokens=20, temperature=0.0)])
    assert engine.stats.catch_up_rows == 0
    assert run(engine, requests([3])) == {"3": plain["3"]}
    assert engine.scheduler.prefix_hits == 28
    # The block that nobody had filled; then the last row of those written behind it, and three that were new by then.
    assert engine.stats.catch_up_rows == 4 + 1 + 3
    assert_all_is_well(engine, drafter)


@pytest.mark.parametrize("chunk", [3, 256])
def test_one_that_was_not_followed_catches_up(target, plain, chunk):
    engine, drafter = audited_engine(target, Flicker(), max_num_batched_tokens=chunk)
    drafter.every = 1
    assert run(engine, requests([3])) == {"3": plain["3"]}
    assert engine.stats.catch_up_rows > 5
    assert_all_is_well(engine, drafter)


# --- The first decoding step after a hit --------------------------------------------------------------------------

COSTS = CostTable(
    sequences=(1, 8),
    lengths=(0, 4),
    contexts=(16,),
    plain_s=((0.001, 0.002),),
    verify_s=(((0.001, 0.0011), (0.002, 0.0024)),),
    draft_s=((0.0001, 0.0002),),
    prefill_row_s=0.0001,
    catch_up_row_s=0.0005,
)


@pytest.mark.parametrize("policy", [lambda: Fixed(4), LoadAdaptive], ids=["fixed", "load-adaptive"])
@pytest.mark.parametrize("spare", [0, 200])
def test_after_a_hit_the_first_decoding_step_drafts(target, policy, spare):
    engine, _ = audited_engine(target, policy(), max_num_batched_tokens=31 - 28 + spare)
    engine.costs["eagle3"] = COSTS
    run(engine, [request(LONGEST, 1, "first", max_tokens=30, temperature=0.0)])
    assert engine.stats.catch_up_rows == 0
    drafted = engine.stats.drafted
    engine.add(request(LONGEST, 2, "again", max_tokens=30, temperature=0.0))
    engine.step()
    # However much the prefill takes of the step, there is room for the one row.
    assert engine.stats.catch_up_rows == 1
    assert engine.stats.drafted == drafted
    assert engine.scheduler.running[0].num_stale == 0
    engine.step()
    assert engine.stats.drafted > drafted
    assert engine.stats.catch_up_rows == 1


# --- Mistakes of the engine that the audit must notice ------------------------------------------------------------


def test_a_watermark_that_forgets_the_lookahead_is_noticed(target, monkeypatch):
    advance = Speculator.advance

    def advance_to_the_end(self, sequence):
        before = sequence.extended
        advance(self, sequence)
        sequence.extended += sequence.extended > before

    monkeypatch.setattr(Speculator, "advance", advance_to_the_end)
    engine, drafter = audited_engine(target)
    warm_up(engine)
    run(engine, requests())
    assert drafter.wrong


def test_a_written_block_that_is_written_again_is_noticed(target, monkeypatch):
    monkeypatch.setattr(Speculator, "advance", lambda self, sequence: None)
    engine, _ = audited_engine(target)
    warm_up(engine)
    run(engine, requests())
    assert engine.stats.fallbacks["drafter"] > 0


def test_features_that_are_kept_in_the_wrong_slot_are_noticed(target):
    class Mixes(Audited):
        def extend(self, commit):
            super().extend(commit)
            self._kept[commit.slots] = self._kept[commit.slots].roll(1, 0)

    drafter = Mixes(target)
    run(drafter.watch(make_engine(target, drafter, Fixed(4), WIDE)), requests())
    assert drafter.wrong
