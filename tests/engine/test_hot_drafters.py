"""Drafters come and go while an engine runs, within the room that was reserved, and no answer changes for it."""

import pytest

from core.errors import ConfigError, RequestError
from core.types import Request, Sampling, Speculation
from drafters.ngram import NGram
from engine.engine import Engine
from engine.shape import EngineShape
from policies.fixed import Fixed
from toys import SHAPE, make_engine, request, run, tiny_dspark, tiny_target

PROMPTS = [(1, 2, 3, 1, 2, 3, 1, 2), (5, 6, 7), tuple(range(20))]
GREEDY = {"max_tokens": 80, "temperature": 0.0}


@pytest.fixture(scope="module")
def target():
    return tiny_target()


def engine_of(target, drafters, **room):
    shape = EngineShape(**{name: getattr(SHAPE, name) for name in SHAPE.__struct_fields__} | room)
    return Engine(target, drafters, {"fixed": lambda: Fixed(4)}, shape, ())


def naming(drafter, prompt=PROMPTS[0], name="r"):
    return Request(name, prompt, Sampling(**GREEDY), 1, speculation=Speculation(drafter=drafter))


@pytest.fixture(scope="module")
def plain(target):
    engine = make_engine(target, None, Fixed(4))
    return run(engine, [request(prompt, name=str(i), **GREEDY) for i, prompt in enumerate(PROMPTS)])


def step_on(engine, texts, num_steps=10**6):
    while engine.has_work and num_steps:
        num_steps -= 1
        for emission in engine.step():
            texts.setdefault(emission.request_id, []).extend(emission.token_ids)


def test_a_drafter_that_was_loaded_drafts_beside_the_others_in_one_batch(target, plain):
    engine = engine_of(target, {"ngram": NGram(max_drafts=4)}, spare_kv_bytes=1 << 24)
    texts = {}
    engine.add(naming("ngram", PROMPTS[0], "0"))
    step_on(engine, texts, 5)
    engine.load_drafter("later", tiny_dspark(target))
    engine.add(naming("later", PROMPTS[1], "1"))
    engine.add(naming(None, PROMPTS[2], "2"))
    step_on(engine, texts)
    assert texts == plain
    drafted = {key[0]: counts.accepted for key, counts in engine.stats.groups.items()}
    assert drafted["later"] > 0
    assert drafted["ngram"] > 0
    assert set(engine.memory.speculators.kv_bytes) == {"later"}


def test_sequences_of_a_drafter_that_goes_decode_plainly_to_their_ends(target, plain):
    drafter, released = tiny_dspark(target), []
    drafter.release = released.append
    engine = engine_of(target, {"dspark": drafter}, max_num_seqs=2)
    texts = {}
    for i, prompt in enumerate(PROMPTS):
        engine.add(naming("dspark", prompt, str(i)))
    step_on(engine, texts, 8)
    accepted = engine.stats.accepted
    engine.unload_drafter("dspark")
    assert sorted(released) == [0, 1]
    step_on(engine, texts)
    assert texts == plain
    assert engine.stats.accepted == accepted > 0
    assert engine.memory.drafter_bytes == 0
    assert not engine.stats.fallbacks


def test_requests_that_were_let_in_for_a_drafter_that_is_gone_are_served_and_unknown_names_are_not(target, plain):
    engine = engine_of(target, {"dspark": tiny_dspark(target)})
    engine.unload_drafter("dspark")
    assert run(engine, [naming("dspark", PROMPTS[0], "0")]) == {"0": plain["0"]}
    assert run(engine, [naming(None, PROMPTS[0], "0")]) == {"0": plain["0"]}
    with pytest.raises(RequestError, match="unknown drafter 'dspork'"):
        engine.add(naming("dspork"))


def test_the_default_comes_back_with_its_name_and_nothing_else_becomes_it(target):
    engine = engine_of(target, {"dspark": tiny_dspark(target)}, spare_kv_bytes=1 << 24)
    engine.load_drafter("ngram", NGram(max_drafts=3))
    engine.unload_drafter("dspark")
    assert engine.groups.default[0] == "none"
    engine.load_drafter("dspark", tiny_dspark(target))
    assert engine.groups.default[0] == "dspark"


def test_a_drafter_loaded_again_takes_nothing_for_written_that_its_namesake_wrote(target, plain):
    engine = engine_of(target, {"dspark": tiny_dspark(target)})
    shared = tuple(range(1, 21))
    run(engine, [naming("dspark", shared, "before")])
    engine.unload_drafter("dspark")
    engine.load_drafter("dspark", tiny_dspark(target))
    missed = engine.stats.catch_up_rows
    hits = engine.scheduler.prefix_hits
    again = run(engine, [naming("dspark", shared, "again")])
    assert engine.scheduler.prefix_hits > hits
    # The target's part of the prefix was found, the drafter's had to be made.
    assert engine.stats.catch_up_rows > missed
    assert again["again"] == run(make_engine(target, None, Fixed(4)), [request(shared, name="p", **GREEDY)])["p"]


def test_what_does_not_fit_the_reserve_is_refused_and_says_what_would_be_enough(target):
    engine = engine_of(target, {"ngram": NGram(max_drafts=4)}, spare_kv_bytes=1000)
    with pytest.raises(
        ConfigError, match=r"needs .* MiB of KV memory, 0.0 MiB are left .* engine.spare_kv_mib larger by 2"
    ):
        engine.load_drafter("later", tiny_dspark(target))
    with pytest.raises(ConfigError, match=r"makes 7 drafts, this engine keeps room for 4; .* engine.most_drafts = 7"):
        engine.load_drafter("wide", NGram(max_drafts=7))
    assert "later" not in engine.memory.speculators
    assert engine_of(target, {"ngram": NGram(max_drafts=4)}, most_drafts=7).memory.width == 7


def test_a_drafter_that_goes_makes_room_for_one_as_large(target):
    engine = engine_of(target, {"dspark": tiny_dspark(target)})
    before = engine.memory.drafter_bytes
    with pytest.raises(ConfigError, match=r"0\.0 MiB are left"):
        engine.load_drafter("other", tiny_dspark(target))
    engine.unload_drafter("dspark")
    engine.load_drafter("other", tiny_dspark(target, seed=4))
    assert engine.memory.drafter_bytes == before > 0


@pytest.mark.parametrize(("name", "message"), [("dspork", "did you mean 'dspark'"), ("none", "no drafter 'none'")])
def test_only_what_is_loaded_can_be_unloaded(target, name, message):
    engine = engine_of(target, {"dspark": tiny_dspark(target)})
    with pytest.raises(ConfigError, match=message):
        engine.unload_drafter(name)


def test_a_name_that_is_taken_is_not_replaced(target):
    engine = engine_of(target, {"ngram": NGram(max_drafts=4)})
    with pytest.raises(ConfigError, match="there is a drafter 'ngram' already"):
        engine.load_drafter("ngram", NGram(max_drafts=2))
