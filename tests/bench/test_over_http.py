"""A server under load: clients in a closed loop, counted only between the ramp and the end."""

import time
from functools import partial

import pytest

from bench.load import Load, Questions
from bench.openai_stream import Connection
from bench.over_http import ServerTarget
from bench.prompt_pool import PromptPool
from core.errors import ConfigError, QueueError
from tests.bench.fake_server import chunk, serving

PAUSE_S = 0.02


def paced(token_ids=(), told=None):
    """Streams that give two tokens at a time, at a steady pace, up to the limit that was asked for."""

    def lines(body):
        for count in range(2, body["max_tokens"] + 1, 2):
            time.sleep(PAUSE_S)
            yield chunk(count, token_ids, **({"speculation": told} if told else {}))
        yield "[DONE]"

    return lines


def measure(url, load, seconds=0.4, **options):
    target = ServerTarget("s", partial(Connection, url, {}), **options)
    target.start(load, Questions(PromptPool(["math"], seed=0), 0, load))
    return target.measure(seconds)


def test_tokens_are_counted_over_the_window_alone():
    with serving(paced()) as (url, _):
        window = measure(url, Load(4, 1.0))
    assert window.seconds == 0.4
    # Four clients at two tokens per pause would see 160; a busy machine sees fewer, none can see more.
    assert 40 <= window.tokens <= 4 * 2 * (0.4 / PAUSE_S + 1)
    assert sum(window.gaps_s) / len(window.gaps_s) > 0.9 * PAUSE_S


def test_rounds_are_counted_where_the_server_tells_them():
    with serving(paced(told={"token_ids": [1, 2], "verified": 3, "num_drafts": 1})) as (url, _):
        window = measure(url, Load(1, 1.0))
    assert window.tokens == 2 * window.rounds == 2 * window.accepted
    assert window.verified == 3 * window.rounds > 0


def test_clients_are_out_of_step_in_every_window():
    with serving(paced()) as (url, bodies):
        load = Load(4, 1.0)
        target = ServerTarget("s", partial(Connection, url, {}))
        target.start(load, Questions(PromptPool(["math"], seed=0), 0, load))
        firsts = []
        for _ in range(2):
            before = len(bodies)
            target.measure(0.2)
            firsts.append(sorted(body["max_tokens"] for _, body in bodies[before : before + 4]))
    longest = firsts[0][-1]
    assert firsts[0] == firsts[1] == [round(longest * share) for share in (0.25, 0.5, 0.75, 1.0)]


def test_no_two_requests_share_a_cached_prefix():
    with serving(paced()) as (url, bodies):
        measure(url, Load(3, 1.0))
    salts = [body["cache_salt"] for _, body in bodies]
    assert len(set(salts)) == len(salts) >= 3


def test_a_server_that_knows_no_salt_gets_none():
    with serving(paced()) as (url, bodies):
        measure(url, Load(1, 1.0), has_cache_salt=False)
    assert all("cache_salt" not in body for _, body in bodies)


def test_a_greedy_answer_that_repeats_itself_is_ended():
    with serving(paced([7, 7])) as (url, bodies):
        window = measure(url, Load(1, 0.0))
    assert bodies[0][1]["return_token_ids"]
    # A thirteenth 7 repeats the first twelve: of every answer one token counts, and the next answer begins.
    assert len(bodies) > 1
    assert window.tokens < 2 * (0.4 / PAUSE_S)


def test_a_greedy_load_needs_token_ids():
    with serving(paced()) as (url, _), pytest.raises(ConfigError, match="does not stream token ids"):
        measure(url, Load(1, 0.0))


def test_a_failing_server_fails_the_window():
    with serving(paced(), status=503) as (url, _), pytest.raises(QueueError, match="503"):
        measure(url, Load(2, 1.0))
