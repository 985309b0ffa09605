import pytest
import torch

from core.errors import RequestError
from core.types import FinishReason
from drafters.ngram import NGram
from engine.shape import EngineShape
from policies.fixed import Fixed, Off
from toys import SHAPE, make_engine, request, run, tiny_dspark, tiny_target

PROMPT = tuple(range(20))


@pytest.fixture(scope="module")
def target():
    return tiny_target()


def collect(engine):
    emissions = []
    while engine.has_work:
        emissions += engine.step()
    return emissions


@pytest.mark.parametrize("drafter", [None, "dspark", "ngram"])
@pytest.mark.parametrize("max_tokens", [1, 2, 7])
def test_a_request_gets_exactly_max_tokens(target, drafter, max_tokens):
    made = {"dspark": tiny_dspark(target), "ngram": NGram(), None: None}[drafter]
    engine = make_engine(target, made, Fixed(4), SHAPE, ())
    engine.add(request(PROMPT, max_tokens=max_tokens))
    emissions = collect(engine)
    assert sum(len(e.token_ids) for e in emissions) == max_tokens
    assert emissions[-1].finish_reason is FinishReason.LENGTH
    assert all(e.finish_reason is None for e in emissions[:-1])


def test_a_stop_id_ends_the_text_and_nothing_after_it_is_emitted(target):
    greedy = {"temperature": 0.0, "max_tokens": 60}
    plain = run(make_engine(target, None, Off(), SHAPE, ()), [request(PROMPT, **greedy)])["r"]
    stop = plain[30]
    wanted = plain[: plain.index(stop) + 1]
    for where in ({"eos_ids": (stop,)}, {"stop_token_ids": (stop,)}):
        engine = make_engine(target, tiny_dspark(target), Fixed(4), SHAPE, where.pop("eos_ids", ()))
        engine.add(request(PROMPT, **greedy, **where))
        emissions = collect(engine)
        assert [t for e in emissions for t in e.token_ids] == wanted
        assert emissions[-1].finish_reason is FinishReason.STOP
        assert emissions[-1].num_draft_tokens <= len(emissions[-1].token_ids)


def test_ignore_eos_goes_on(target):
    engine = make_engine(target, None, Off(), SHAPE, tuple(range(32)))
    assert len(run(engine, [request(PROMPT, max_tokens=9, ignore_eos=True)])["r"]) == 9
    assert len(run(engine, [request(PROMPT, max_tokens=9)])["r"]) == 1


@pytest.mark.parametrize("chunk", [1, 3, 19, 20, 64])
def test_chunked_prefill_changes_nothing(target, chunk):
    shape = EngineShape(max_num_seqs=4, max_num_batched_tokens=chunk, kv_cache_tokens=512, block_size=4)
    greedy = {"temperature": 0.0, "max_tokens": 40}
    whole = run(make_engine(target, None, Off(), SHAPE, ()), [request(PROMPT, **greedy)])
    engine = make_engine(target, tiny_dspark(target), Fixed(4), shape, ())
    assert run(engine, [request(PROMPT, **greedy)]) == whole
    assert engine.stats.accepted > 0


def test_decoding_goes_on_while_a_long_prompt_is_prefilled(target):
    shape = EngineShape(max_num_seqs=4, max_num_batched_tokens=4, kv_cache_tokens=1024, block_size=4)
    engine = make_engine(target, None, Off(), shape, ())
    engine.add(request((1, 2), 1, "short", max_tokens=30))
    engine.step()
    engine.add(request(tuple(range(32)) * 2, 2, "long", max_tokens=2))
    names = []
    while "long" not in names:
        names += [emission.request_id for emission in engine.step()]
    assert names.count("short") >= 15


def test_a_resumed_request_continues_from_its_tokens(target):
    greedy = {"temperature": 0.0, "max_tokens": 40}
    whole = run(make_engine(target, None, Off(), SHAPE, ()), [request(PROMPT, **greedy)])["r"]
    again = request(PROMPT, 9, **greedy)
    resumed = type(again)(**{f: getattr(again, f) for f in again.__struct_fields__} | {"output_ids": tuple(whole[:13])})
    engine = make_engine(target, tiny_dspark(target), Fixed(4), SHAPE, ())
    assert run(engine, [resumed])["r"] == whole[13:]


def test_more_requests_than_slots_or_blocks_all_finish_and_free_everything(target):
    shape = EngineShape(max_num_seqs=3, max_num_batched_tokens=16, kv_cache_tokens=128, block_size=4)
    engine = make_engine(target, tiny_dspark(target), Fixed(4), shape, ())
    texts = run(engine, [request(PROMPT[: 1 + i], i, str(i), max_tokens=5 + i) for i in range(12)])
    assert [len(texts[str(i)]) for i in range(12)] == [5 + i for i in range(12)]
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_usable
    assert engine.num_free_slots == 3


def test_aborting_frees_slot_and_blocks_at_once(target):
    engine = make_engine(target, tiny_dspark(target), Fixed(4), SHAPE, ())
    for name in ("a", "b", "c"):
        engine.add(request(PROMPT, 1, name, max_tokens=50))
    engine.abort("c")
    engine.step()
    engine.abort("a")
    engine.abort("unknown")
    assert {e.request_id for e in collect(engine)} == {"b"}
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_usable


@pytest.mark.parametrize(
    ("prompt", "sampling", "param", "message"),
    [
        ((), {}, "prompt", "at least one token"),
        ((1,) * 500, {"max_tokens": 13}, "max_tokens", "500 prompt tokens and max_tokens 13 make 513.* takes 512"),
        ((1, 32), {}, "prompt", r"0\.\.31, got 32"),
        ((-1, 3), {}, "prompt", r"0\.\.31, got -1"),
        ((1,), {"stop_token_ids": (32,)}, "stop_token_ids", r"0\.\.31, got 32"),
        ((1,), {"logit_bias": ((40, 1.0),)}, "logit_bias", r"0\.\.31, got 40"),
        ((1,), {"logit_bias": ((4, 1.0), (4, 2.0))}, "logit_bias", "two biases"),
    ],
    ids=["empty", "too-long", "above-vocabulary", "negative", "stop", "bias", "bias-twice"],
)
def test_a_request_that_can_never_run_is_refused(target, prompt, sampling, param, message):
    engine = make_engine(target, None, Off(), SHAPE, ())
    with pytest.raises(RequestError, match=message) as caught:
        engine.add(request(prompt, **sampling))
    assert caught.value.param == param
    assert not engine.has_work


def test_a_request_that_outgrows_the_cache_is_refused(target):
    shape = EngineShape(max_num_seqs=2, kv_cache_tokens=64, block_size=4)
    with pytest.raises(RequestError, match="needs 20 KV blocks, the server has 16"):
        make_engine(target, None, Off(), shape, ()).add(request(PROMPT, max_tokens=59))


class Broken:
    """A drafter or policy whose named method raises from some call on."""

    def __init__(self, inner, method, after=0):
        self.inner, self.method, self.left = inner, method, after

    def __getattr__(self, name):
        found = getattr(self.inner, name)
        if name != self.method:
            return found

        def fails(*args):
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("planted")
            return found(*args)

        return fails


@pytest.mark.parametrize("after", [0, 5])
@pytest.mark.parametrize("method", ["open", "extend", "propose", "release"])
def test_a_failing_drafter_falls_back_to_plain_decoding(target, method, after):
    greedy = {"temperature": 0.0, "max_tokens": 40}
    plain = run(make_engine(target, None, Off(), SHAPE, ()), [request(PROMPT, i, str(i), **greedy) for i in range(3)])
    engine = make_engine(target, Broken(tiny_dspark(target), method, after), Fixed(4), SHAPE, ())
    assert run(engine, [request(PROMPT, i, str(i), **greedy) for i in range(3)]) == plain
    assert engine.stats.fallbacks["drafter"] > 0 or (method in ("open", "release") and after)


@pytest.mark.parametrize("method", ["plan", "observe"])
def test_a_failing_policy_falls_back_to_plain_decoding(target, method):
    greedy = {"temperature": 0.0, "max_tokens": 40}
    plain = run(make_engine(target, None, Off(), SHAPE, ()), [request(PROMPT, **greedy)])
    engine = make_engine(target, tiny_dspark(target), Broken(Fixed(4), method, 3), SHAPE, ())
    assert run(engine, [request(PROMPT, **greedy)]) == plain
    assert engine.stats.fallbacks["policy"] > 0


def test_a_policy_that_asks_for_too_much_is_held_to_what_fits(target):
    class Greedy(Fixed):
        def plan(self, view):
            plan = super().plan(view)
            plan.draft_len[:] = 1000
            return plan

    engine = make_engine(target, tiny_dspark(target), Greedy(1000), SHAPE, ())
    assert len(run(engine, [request(PROMPT, max_tokens=30)])["r"]) == 30
    assert engine.stats.accepted > 0


def test_two_runs_with_one_nonce_give_one_text_and_two_nonces_two(target):
    def sample(nonce):
        engine = make_engine(target, tiny_dspark(target), Fixed(4), SHAPE, ())
        return run(engine, [request(PROMPT, nonce, max_tokens=40)])["r"]

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_generate_returns_completions_in_order(target):
    engine = make_engine(target, tiny_dspark(target), Fixed(4), SHAPE, ())
    done = engine.generate([PROMPT, PROMPT[:3]], request(PROMPT, max_tokens=12).sampling)
    assert [len(c.token_ids) for c in done] == [12, 12]
    assert all(c.finish_reason is FinishReason.LENGTH for c in done)


def test_statistics_add_up(target):
    engine = make_engine(target, tiny_dspark(target), Fixed(4), SHAPE, ())
    tokens = run(engine, [request(PROMPT, i, str(i), max_tokens=33) for i in range(5)])
    stats = engine.stats
    assert stats.emitted == sum(map(len, tokens.values())) == stats.accepted + stats.rounds
    assert sum(stats.verified_at.values()) == stats.verified
    assert sum(stats.accepted_at.values()) == stats.accepted
    assert stats.soft_accepts > 0
    torch.testing.assert_close(stats.accepted_length, stats.emitted / stats.rounds)
