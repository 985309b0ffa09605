"""A grammar restricts the target's law and nothing else: texts follow it, with and without speculation."""

import itertools
import threading

import numpy as np
import pytest

from bench.prove.cells import COSTS, DRAFTERS, every_policy
from bench.prove.text_laws import last_logits, next_law
from bench.prove.tiny import tiny_target
from core.random import derive_coupled_key, derive_nonce
from core.statistics import chi_square_p_value, draws_needed
from core.types import FinishReason, Request, Sampling, Speculation
from engine.engine import Engine
from engine.shape import EngineShape
from letters import EOS, FORCED, NO_DOUBLE, TOKENS, allowed_forced, allowed_no_double, letters, regex

PROMPT = (0, 1, 2, 3, 0, 1, 2, 3, 0)
ALPHA, POWER, VARIATION = 1e-4, 0.999, 0.1
SHAPE = EngineShape(max_num_seqs=256, max_num_batched_tokens=4096, kv_cache_tokens=16384, block_size=4)


@pytest.fixture(scope="module")
def target():
    return tiny_target(len(TOKENS), seed=5, sharpness=0.25)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return letters(tmp_path_factory.mktemp("letters"))


def make_engine(target, tokenizer, drafter=None, policy="fixed", **more):
    drafters = {} if drafter is None else {drafter: DRAFTERS[drafter](target)}
    policies = {policy: every_policy()[policy]}
    engine = Engine(target, drafters, policies, SHAPE, (EOS,), tokenizer, **more)
    engine.costs.update(dict.fromkeys(drafters, COSTS))
    return engine


def ask(index, grammar, *, coupled=False, output_ids=(), **sampling):
    job = f"grammar {index}".encode()
    return Request(
        str(index),
        PROMPT,
        Sampling(grammar=grammar, **sampling),
        derive_nonce(job, 0, 0),
        output_ids=output_ids,
        coupled_key=derive_coupled_key(job) if coupled else None,
        speculation=Speculation(),
    )


def run(engine, requests):
    """Run requests to their ends; return tokens and finish reason of each, in order."""
    tokens = {request.id: [] for request in requests}
    reasons = {}
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for emission in engine.step():
            assert emission.token_ids or emission.error
            tokens[emission.request_id] += emission.token_ids
            reasons[emission.request_id] = (emission.finish_reason, emission.error)
    return {name: (tuple(ids), *reasons[name]) for name, ids in tokens.items()}


def law_of(target, allowed, length):
    """The chances of the first tokens of an answer: at each step the target's own, restricted and renormalised."""
    law = {(): 1.0}
    for _ in range(length):
        longer = {}
        for prefix, chance in law.items():
            own = next_law(last_logits(target, (*PROMPT, *prefix)), Sampling(), PROMPT, prefix)
            kept = allowed(prefix)
            longer |= {(*prefix, v): chance * own[v] / own[kept].sum() for v in kept}
        law = longer
    return law


LANGUAGES = {
    "no double": (NO_DOUBLE, allowed_no_double, 3),
    "forced": (FORCED, allowed_forced, 9),
    # Most of what the uneven drafter draws is forbidden, and of the rest it draws what the target likes less.
    "few": (regex("[ac]{20}"), lambda output: [0, 2], 3),
}
DRAFTING = [(None, "fixed"), ("dspark", "fixed"), ("dspark", "load_adaptive"), ("ngram", "fixed"), ("uneven", "fixed")]
QUICK = [
    ("forced", "dspark", "fixed", False),
    ("few", "uneven", "fixed", False),
]
CELLS = [
    cell if cell in QUICK else pytest.param(*cell, marks=pytest.mark.slow)
    for language, drafting, coupled in itertools.product(LANGUAGES, DRAFTING, [False, True])
    for cell in [(language, *drafting, coupled)]
]


@pytest.mark.parametrize(("language", "drafter", "policy", "coupled"), CELLS)
def test_texts_follow_the_targets_law_restricted_to_the_grammar(target, tokenizer, language, drafter, policy, coupled):
    grammar, allowed, length = LANGUAGES[language]
    law = law_of(target, allowed, length)
    num = draws_needed(len(law) - 1, VARIATION, ALPHA, POWER)
    engine = make_engine(target, tokenizer, drafter, policy)
    # As many without a grammar share the batches.
    requests = [ask(i, grammar if i % 2 else None, coupled=coupled, max_tokens=length + 2) for i in range(2 * num)]
    texts = [text[:length] for text, *_ in list(run(engine, requests).values())[1::2]]
    assert set(texts) <= set(law)
    counts = np.array([texts.count(text) for text in law])
    assert chi_square_p_value(counts, np.array(list(law.values()))) > ALPHA
    assert not engine.stats.fallbacks
    if drafter is not None:
        assert 0 < engine.stats.accepted < engine.stats.verified


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("drafter", ["dspark", "ngram", "eagle3"])
@pytest.mark.parametrize("language", ["no double", "forced"])
def test_seeded_and_greedy_texts_are_the_same_with_and_without_speculation(
    target, tokenizer, language, drafter, temperature
):
    grammar = LANGUAGES[language][0]
    requests = [
        ask(i, grammar if i % 3 else None, coupled=True, max_tokens=40, temperature=temperature, logprobs=1)
        for i in range(12)
    ]
    plain = run(make_engine(target, tokenizer), requests)
    engine = make_engine(target, tokenizer, drafter)
    assert run(engine, requests) == plain
    assert engine.stats.accepted > 0
    assert engine.stats.constrained_rounds < sum(len(text) for text, *_ in plain.values())


def test_forced_tokens_are_drafted_by_the_engine_and_counted_apart(target, tokenizer):
    engine = make_engine(target, tokenizer, "ngram")
    run(engine, [ask(i, FORCED if i % 2 else NO_DOUBLE, max_tokens=40) for i in range(16)])
    stats = engine.stats
    assert stats.forced_verified > 0
    assert stats.forced_accepted == stats.forced_verified
    assert stats.forced_accepted < stats.accepted <= stats.verified
    assert stats.snapshot()["forced_accepted"] == stats.forced_accepted


@pytest.mark.parametrize("drafter", ["dspark", None])
def test_an_answer_ends_where_nothing_can_follow_and_needs_no_end_of_text(target, tokenizer, drafter):
    answers = run(make_engine(target, tokenizer, drafter), [ask(i, regex("ca?bc"), max_tokens=40) for i in range(20)])
    assert {text for text, *_ in answers.values()} == {(2, 1, 2), (2, 3, 2), (2, 0, 1, 2)}
    assert {reason for _, reason, _ in answers.values()} == {FinishReason.STOP}


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_an_end_of_text_comes_only_where_the_grammar_allows_it(target, tokenizer, ignore_eos):
    requests = [ask(i, regex("(cb)+"), max_tokens=200, ignore_eos=ignore_eos) for i in range(20)]
    for text, reason, _ in run(make_engine(target, tokenizer, "dspark"), requests).values():
        assert reason is FinishReason.STOP
        assert text[-1] == EOS
        assert text[:-1] == (2, 1) * (len(text) // 2)


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_min_tokens_keeps_an_answer_from_ending_while_the_grammar_can_go_on(target, tokenizer, ignore_eos):
    requests = [ask(i, regex("(cb)+"), max_tokens=200, min_tokens=9, ignore_eos=ignore_eos) for i in range(20)]
    lengths = {len(text) for text, *_ in run(make_engine(target, tokenizer, "dspark"), requests).values()}
    assert min(lengths) == 11


def test_a_bias_counts_among_what_the_grammar_allows_and_no_further(target, tokenizer):
    requests = [ask(i, regex("(c|b){9}"), max_tokens=40, logit_bias=((0, 100.0), (1, 90.0))) for i in range(4)]
    assert {text for text, *_ in run(make_engine(target, tokenizer, "dspark"), requests).values()} == {(1,) * 9}


def test_an_answer_goes_on_in_its_grammar_from_the_tokens_already_streamed(target, tokenizer):
    whole = run(make_engine(target, tokenizer), [ask(1, FORCED, coupled=True, max_tokens=30)])["1"][0]
    for cut in range(1, 12):
        request = ask(1, FORCED, coupled=True, max_tokens=30, output_ids=whole[:cut])
        assert run(make_engine(target, tokenizer, "dspark"), [request])["1"][0] == whole[cut:]


def test_streamed_tokens_that_left_the_grammar_end_the_request_with_an_error(target, tokenizer):
    answers = run(make_engine(target, tokenizer), [ask(1, FORCED, output_ids=(2, 2)), ask(2, FORCED)])
    assert answers["1"][1] is FinishReason.ERROR
    assert "left the grammar" in answers["1"][2]
    assert answers["2"][2] is None


def test_a_grammar_that_does_not_compile_ends_its_request_alone(target, tokenizer):
    answers = run(make_engine(target, tokenizer), [ask(1, regex("(a")), ask(2, FORCED), ask(3, None)])
    assert answers["1"][0] == ()
    assert "does not compile" in answers["1"][2]
    assert [answers[name][2] for name in ("2", "3")] == [None, None]


def test_a_grammar_that_takes_too_long_to_compile_is_given_up_and_nobody_waits(target, tokenizer, monkeypatch):
    engine = make_engine(target, tokenizer)
    engine.grammar_pool.timeout_s = 0.05
    release = block_compiling(engine, monkeypatch)
    answers = run(engine, [ask(1, FORCED), ask(2, None)])
    release.set()
    assert "took longer" in answers["1"][2]
    assert answers["2"][2] is None


def block_compiling(engine, monkeypatch):
    release = threading.Event()
    compiler = engine.grammar_pool._compiler
    honest = compiler.compile
    monkeypatch.setattr(compiler, "compile", lambda grammar: (release.wait(30), honest(grammar))[1])
    return release


def test_a_request_can_be_dropped_while_its_grammar_is_compiled(target, tokenizer, monkeypatch):
    engine = make_engine(target, tokenizer)
    release = block_compiling(engine, monkeypatch)
    engine.add(ask(1, FORCED))
    assert engine.step() == []
    engine.abort("1")
    assert not engine.has_work
    release.set()


class BrokenMatcher:
    """A matcher that fails at its third token."""

    def __init__(self, matcher, fails_in):
        self._matcher, self._fails_in, self._left = matcher, fails_in, 3

    def __getattr__(self, name):
        if name == self._fails_in and self._left <= 0:
            raise RuntimeError("planted")
        self._left -= name == "consume_token"
        return getattr(self._matcher, name)


@pytest.mark.parametrize("fails_in", ["consume_token", "compute_ff_tokens", "is_error"])
@pytest.mark.parametrize("drafter", ["dspark", None])
def test_a_fault_in_a_grammar_ends_its_own_request_and_leaves_the_others_as_they_were(
    target, tokenizer, drafter, fails_in
):
    requests = [ask(i, FORCED if i else None, coupled=True, max_tokens=30) for i in range(4)]
    usual = run(make_engine(target, tokenizer, drafter), requests)
    engine = make_engine(target, tokenizer, drafter)
    compiler, made = engine.grammar_pool._compiler, []
    honest = compiler.compile

    def plants_one(grammar):
        constraint = honest(grammar)
        made.append(constraint)
        if len(made) == 1:
            constraint.matcher = BrokenMatcher(constraint.matcher, fails_in)
        return constraint

    compiler.compile = plants_one
    answers = run(engine, requests)
    broken = [name for name, (_, reason, _) in answers.items() if reason is FinishReason.ERROR]
    assert len(broken) == 1
    assert {name: answer for name, answer in answers.items() if name not in broken} == {
        name: answer for name, answer in usual.items() if name not in broken
    }
    assert engine.stats.fallbacks == {"grammar": 1}


def test_a_constrained_round_teaches_neither_the_calibration_nor_the_policy(target, tokenizer, monkeypatch):
    engine = make_engine(target, tokenizer, "dspark", "fixed")
    requests = [ask(i, FORCED if i % 2 else None, max_tokens=30) for i in range(8)]
    engine.groups.join(requests[0])
    [group] = engine.groups.by_key.values()
    learnt, taught = [], []
    monkeypatch.setattr(group, "_learn", learnt.append)
    monkeypatch.setattr(group.policy, "observe", taught.append)
    run(engine, requests)
    assert group.counts.verified > sum(int(outcome.verified.sum()) for outcome in learnt) > 0
    assert all(ours is theirs for ours, theirs in zip(learnt, taught, strict=True))
    assert max(len(outcome.slots) for outcome in learnt) == len(requests) / 2
