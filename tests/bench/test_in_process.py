"""An engine under load: the loop is closed, and between its windows time stands still."""

import time
import zlib

import pytest

from bench.in_process import EngineTarget
from bench.load import Load, Questions
from bench.prompt_pool import PromptPool
from core.errors import ConfigError
from policies.fixed import Fixed, Off
from tests.toys import make_engine, tiny_dspark, tiny_target


class Letters:
    """A tokenizer of ten tokens per prompt, different for every text."""

    def encode(self, text):
        return [1 + (zlib.crc32(text.encode()) >> shift) % 30 for shift in range(10)]


@pytest.fixture(scope="module")
def tiny():
    return tiny_target()


def loaded(engine, load):
    target = EngineTarget("t", engine)
    target.start(load, Questions(PromptPool(["math"], seed=0), 0, load))
    return target


def test_as_many_requests_are_in_flight_as_there_are_clients(tiny):
    engine = make_engine(tiny, None, Off(), tokenizer=Letters())
    target = loaded(engine, Load(3, 1.0))
    target.measure(0.2)
    assert len(engine.scheduler.running) + len(engine.scheduler.waiting) in (2, 3)
    target.stop()
    assert not engine.has_work


def test_a_window_counts_what_the_engine_did(tiny):
    engine = make_engine(tiny, tiny_dspark(tiny), Fixed(3), tokenizer=Letters())
    window = loaded(engine, Load(2, 1.0)).measure(0.3)
    stats = engine.stats
    assert window.seconds >= 0.3
    assert (window.steps, window.rounds, window.drafted) == (stats.steps, stats.rounds, stats.drafted)
    assert (window.verified, window.accepted) == (stats.verified, stats.accepted)
    assert 0 < window.tokens == window.accepted + window.rounds
    assert sum(window.part_s.values()) <= window.seconds


def test_an_engine_that_is_not_measured_is_paused(tiny):
    target = loaded(make_engine(tiny, None, Off(), tokenizer=Letters()), Load(2, 1.0))
    first = target.measure(0.1)
    time.sleep(0.3)
    second = target.measure(0.1)
    assert second.gaps_s
    assert max(second.gaps_s) < 0.3
    assert first.steps + second.steps == target.engine.stats.steps


def test_a_greedy_answer_ends_where_it_repeats_itself(tiny):
    # The toy target goes round in a short circle, so no answer lives to its limit.
    engine = make_engine(tiny, None, Off(), tokenizer=Letters())
    target = loaded(engine, Load(1, 0.0))
    window = target.measure(0.5)
    assert window.tokens < 0.9 * window.rounds


def test_prompts_need_a_tokenizer(tiny):
    with pytest.raises(ConfigError, match="no tokenizer"):
        EngineTarget("t", make_engine(tiny, None, Off()))
