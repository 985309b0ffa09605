"""Every kind of drafter through the engine: texts stay what they are, alone and all kinds in one mixed batch."""

import pytest
from msgspec.structs import replace

from core.config import DraftModelSettings, EngineSettings, FixedSettings, NgramSettings, Settings, SuffixSettings
from core.errors import ConfigError
from core.types import Numerics, Sampling, Speculation
from drafters.ngram import NGram
from engine.build import build_engine
from engine.engine import Engine
from every_other import every_other
from models.folders import target_folder
from policies.confidence import Confidence
from policies.fixed import Fixed, Off
from policies.load_adaptive import LoadAdaptive
from tests.drafters.makers import MAKERS, VOCAB_SIZE
from toys import SHAPE, make_engine, request, run, tiny_target

LAWS = {"greedy": {"temperature": 0.0}, "coupled": {"temperature": 1.0, "seed": 7}}
PROMPTS = [tuple((5 * i + j * j) % VOCAB_SIZE for j in range(4 + 3 * i)) for i in range(8)]
NUM_TOKENS = 64
# Blocks for all of it, prompts in many chunks, drafts over many blocks.
WIDE = replace(SHAPE, kv_cache_tokens=2048)


@pytest.fixture(scope="module")
def target():
    return tiny_target(VOCAB_SIZE, numerics=Numerics.BATCH_INVARIANT)


def requests(law, **speculations):
    asked = [request(p, 100 + i, str(i), max_tokens=NUM_TOKENS, **LAWS[law]) for i, p in enumerate(PROMPTS)]
    return [replace(each, speculation=speculations.get(each.id, each.speculation)) for each in asked]


@pytest.fixture(scope="module")
def plain(target):
    """Texts by law, one request at a time and without any drafter."""
    texts = {}
    for law in LAWS:
        engine = make_engine(target, None, Off(), replace(WIDE, prefix_cache=False))
        texts[law] = {}
        for each in requests(law):
            texts[law] |= run(engine, [each])
    return texts


@pytest.mark.parametrize(("law", "kind"), every_other([*LAWS], [*MAKERS]))
def test_no_kind_of_drafter_changes_a_text(target, plain, law, kind):
    engine = make_engine(target, MAKERS[kind](target), Fixed(4), WIDE)
    assert run(engine, requests(law)) == plain[law]
    stats = engine.stats
    assert 0 < stats.accepted < stats.verified <= stats.drafted
    assert not stats.fallbacks


@pytest.mark.parametrize("kind", ["suffix", "draft_model"])
def test_cached_prefixes_preemption_and_pauses_change_nothing(target, plain, kind):
    engine = make_engine(target, MAKERS[kind](target), LoadAdaptive(probe_after=3), replace(WIDE, kv_cache_tokens=320))
    run(engine, [request(p, i, f"w{i}", max_tokens=10, max_drafts=0) for i, p in enumerate(PROMPTS)])
    assert run(engine, requests("greedy")) == plain["greedy"]
    assert engine.scheduler.num_preemptions > 0
    assert engine.scheduler.prefix_hits > 0
    assert engine.stats.accepted > 0
    assert not engine.stats.fallbacks


@pytest.mark.parametrize("law", LAWS)
def test_all_kinds_draft_side_by_side_in_one_batch(target, plain, law):
    drafters = {kind: make(target) for kind, make in MAKERS.items()}
    policies = {"fixed": lambda: Fixed(4), "confidence": lambda: Confidence(0.2)}
    engine = Engine(target, drafters, policies, WIDE, ())
    kinds, names = list(MAKERS), list(policies)
    chosen = {str(i): Speculation(drafter=kinds[i % len(kinds)], policy=names[i % 2]) for i in range(len(PROMPTS))}
    assert len({drafter.spec.max_drafts for drafter in drafters.values()}) > 2
    assert run(engine, requests(law, **chosen)) == plain[law]
    groups = engine.stats.groups
    assert set(groups) == {(one.drafter, one.policy) for one in chosen.values()}
    for (_, policy), counts in groups.items():
        assert counts.verified <= counts.drafted
        assert counts.drafted > 0
        if policy == "fixed":
            assert 0 < counts.accepted <= counts.verified
    assert engine.stats.accepted < engine.stats.verified
    assert not engine.stats.fallbacks


def bringing(target):
    """An engine whose default drafter is DSpark and whose policy `chatty` brings the n-gram."""
    drafters = {"dspark": MAKERS["dspark"](target), "ngram": NGram(max_drafts=5), "suffix": MAKERS["suffix"](target)}
    policies = {"fixed": lambda: Fixed(4), "chatty": lambda: Fixed(3)}
    return Engine(target, drafters, policies, WIDE, (), policy_drafters={"chatty": "ngram"})


@pytest.mark.parametrize(
    ("asked", "group"),
    [
        (Speculation(), ("dspark", "fixed")),
        (Speculation(policy="chatty"), ("ngram", "chatty")),
        (Speculation(policy="chatty", drafter="suffix"), ("suffix", "chatty")),
        (Speculation(drafter="ngram"), ("ngram", "fixed")),
        (Speculation(policy="chatty", max_drafts=0), ("none", "off")),
    ],
)
def test_a_policy_brings_its_drafter_unless_one_is_named(target, asked, group):
    engine = bringing(target)
    run(engine, [replace(request(PROMPTS[0], max_tokens=4), speculation=asked)])
    assert list(engine.stats.groups) == [group]


def test_memory_is_reported_by_drafter(target):
    engine = bringing(target)
    layers = {"target": 3, "dspark": 2}
    num_blocks = len(engine.memory.kv.keys[0])
    row = 2 * 12 * 4 * 2
    expected = {name: num * num_blocks * WIDE.block_size * row for name, num in layers.items()}
    assert engine.snapshot()["kv_bytes"] == expected | {"ngram": 0, "suffix": 0}


def test_no_drafter_can_be_called_target(target):
    with pytest.raises(ConfigError, match="'target'"):
        Engine(target, {"target": NGram()}, {"off": Off}, SHAPE, ())


def test_settings_build_all_kinds_and_what_policies_bring():
    settings = Settings(
        engine=EngineSettings(max_num_seqs=4, kv_cache_tokens=1024, profile=False),
        drafter=SuffixSettings(max_drafts=9, max_spec_factor=2.0, min_token_prob=0.2, recent_answers=3),
        drafters={"small": DraftModelSettings(str(target_folder("demo")), max_drafts=3), "lookup": NgramSettings()},
        policies={"chatty": FixedSettings(3, drafter="small")},
    )
    engine = build_engine(settings)
    drafters = {name: each.drafter for name, each in engine.memory.speculators.items() if each.drafter}
    assert {name: each.spec.max_drafts for name, each in drafters.items()} == {"suffix": 9, "small": 3, "lookup": 7}
    assert (drafters["suffix"].max_spec_factor, drafters["suffix"].min_token_prob) == (2.0, 0.2)
    assert all(engine.memory.speculators[name].trusts_law for name in drafters)
    prompt = tuple(engine.tokenizer.encode("1 + 1 ="))
    engine.add(replace(request(prompt, temperature=0.0, max_tokens=12), speculation=Speculation(policy="chatty")))
    while engine.has_work:
        engine.step()
    counts = engine.stats.groups["small", "chatty"]
    # The draft model is the target itself: all but near ties of another batch shape are accepted.
    assert counts.accepted >= counts.verified - 1 > 3
    assert engine.generate(["1 + 1 ="], Sampling(max_tokens=4))
