"""Reproducible under speculation: in batch-invariant numerics a text is a function of model, prompt, parameters, seed.

Greedy and seeded texts of 256 tokens are compared bit for bit with those of the plainest engine there is: one request
at a time, no drafter, whole prompts, nothing cached. Every cell proves that drafts were made, kept and lost in it, and
that the event it is named after happened.
"""

import pytest
import torch

from core.types import Numerics
from drafters.ngram import NGram
from engine.shape import EngineShape
from every_other import every_other
from policies.confidence import Confidence
from policies.fixed import Fixed, Off
from policies.load_adaptive import LoadAdaptive
from toys import make_engine, request, run, tiny_dspark, tiny_target

NUM_TOKENS = 96
LAWS = {"greedy": {"temperature": 0.0}, "coupled": {"temperature": 1.0, "seed": 7}}
DRAFTERS = ("dspark", "ngram")
POLICIES = {
    "off": Off,
    "fixed-1": lambda: Fixed(1),
    "fixed-4": lambda: Fixed(4),
    # Low enough that drafts of an n-gram in random text are still tried once calibration has found them out.
    "confidence": lambda: Confidence(0.03),
    "load-adaptive": LoadAdaptive,
}
WIDE = EngineShape(max_num_seqs=16, max_num_batched_tokens=256, kv_cache_tokens=8192, block_size=4)


def shape(**changes):
    return EngineShape(**{name: getattr(WIDE, name) for name in WIDE.__struct_fields__} | changes)


def random_prompt(index):
    generator = torch.Generator().manual_seed(index)
    return tuple(torch.randint(0, 32, (3 + 5 * index,), generator=generator).tolist())


PROMPTS = [random_prompt(index) for index in range(8)]


@pytest.fixture(scope="module")
def target():
    return tiny_target(numerics=Numerics.BATCH_INVARIANT)


def requests(law, count):
    # Nonces differ from run to run in life; only the seed may matter.
    return [request(PROMPTS[i], 1000 + i, str(i), max_tokens=NUM_TOKENS, **LAWS[law]) for i in range(count)]


@pytest.fixture(scope="module")
def plain(target):
    """Texts by law: one request at a time, no drafter, no cache."""
    texts = {}
    for law, options in LAWS.items():
        engine = make_engine(target, None, Off(), shape(prefix_cache=False))
        texts[law] = {}
        for i, prompt in enumerate(PROMPTS):
            texts[law] |= run(engine, [request(prompt, i, str(i), max_tokens=NUM_TOKENS, **options)])
    return texts


def engine_with(target, drafter, policy="fixed-4", **changes):
    made = {"none": None, "dspark": tiny_dspark(target), "ngram": NGram(max_drafts=4)}[drafter]
    return make_engine(target, made, POLICIES[policy](), shape(**changes))


def assert_drafts_were_kept_and_lost(engine):
    stats = engine.stats
    assert 0 < stats.accepted < stats.verified <= stats.drafted
    assert not stats.fallbacks


@pytest.mark.parametrize("concurrency", [pytest.param(1, marks=pytest.mark.slow), 8])
@pytest.mark.parametrize(("law", "drafter", "policy"), every_other([*LAWS], [*DRAFTERS], [*POLICIES]))
def test_drafter_policy_length_and_company_change_nothing(target, plain, law, drafter, policy, concurrency):
    engine = engine_with(target, drafter, policy)
    texts = run(engine, requests(law, concurrency))
    assert texts == {name: plain[law][name] for name in texts}
    if policy == "off":
        assert engine.stats.drafted == 0
    else:
        assert_drafts_were_kept_and_lost(engine)


@pytest.mark.parametrize(("law", "drafter", "chunk"), every_other([*LAWS], [*DRAFTERS], [1, 7, 64]))
def test_chunks_of_a_prefill_change_nothing(target, plain, law, drafter, chunk):
    engine = engine_with(target, drafter, max_num_batched_tokens=chunk)
    assert run(engine, requests(law, 8)) == plain[law]
    assert_drafts_were_kept_and_lost(engine)
    # Rows beyond one per sample were prefilled, in so many steps at least.
    assert engine.stats.steps >= (sum(map(len, PROMPTS)) - 8) / chunk


@pytest.mark.parametrize(("law", "drafter", "first"), every_other([*LAWS], [*DRAFTERS], ["none", "dspark"]))
def test_cached_prefixes_change_nothing_whoever_computed_them(target, plain, law, drafter, first):
    engine = engine_with(target, drafter)
    cap = {"max_drafts": 0} if first == "none" else {}
    run(engine, [request(p, i, f"w{i}", max_tokens=20, temperature=1.0, **cap) for i, p in enumerate(PROMPTS)])
    assert engine.scheduler.prefix_hits == 0
    assert run(engine, requests(law, 8)) == plain[law]
    assert engine.scheduler.prefix_hits == sum((len(prompt) - 1) // 4 * 4 for prompt in PROMPTS)
    assert bool(engine.stats.catch_up_rows) == (drafter == "dspark" and first == "none")
    assert_drafts_were_kept_and_lost(engine)


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("law", LAWS)
def test_preemption_changes_nothing(target, plain, law, drafter):
    engine = engine_with(target, drafter, kv_cache_tokens=400)
    assert run(engine, requests(law, 8)) == plain[law]
    assert engine.scheduler.num_preemptions > 0
    assert_drafts_were_kept_and_lost(engine)


def test_other_seeds_give_other_texts(target, plain):
    engine = engine_with(target, "dspark")
    other = run(engine, [request(PROMPTS[0], 0, "0", max_tokens=NUM_TOKENS, temperature=1.0, seed=8)])
    assert other["0"] != plain["coupled"]["0"] != plain["greedy"]["0"]
