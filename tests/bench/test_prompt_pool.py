"""Prompts for load: by turns from each domain, each once before any comes again."""

from itertools import islice

import pytest

from bench.prompt_pool import PromptPool, Question
from core.errors import ConfigError


@pytest.fixture
def pool():
    return PromptPool(["math", "chat"], seed=1)


def test_domains_come_by_turns(pool):
    assert [question.domain for question in islice(pool.asked_from(0), 4)] == ["math", "chat", "math", "chat"]


def test_no_prompt_comes_twice_before_all_were_asked(pool):
    asked = [question.text for question in islice(pool.asked_from(7), len(pool.questions))]
    assert len(set(asked)) == len(pool.questions)


def test_there_are_enough_for_a_run(pool):
    assert len(pool.questions) > 1500


def test_a_later_start_goes_on_where_an_earlier_one_ended(pool):
    whole = list(islice(pool.asked_from(0), 10))
    assert [*islice(pool.asked_from(0), 6), *islice(pool.asked_from(6), 4)] == whole


def test_the_seed_decides_the_order(pool):
    assert PromptPool(["math", "chat"], seed=1).questions == pool.questions
    assert PromptPool(["math", "chat"], seed=2).questions != pool.questions


def test_an_unknown_domain_is_refused_with_what_there_is():
    with pytest.raises(ConfigError, match="'maths'; did you mean 'math'"):
        PromptPool(["maths"], seed=0)


def test_a_rendered_dialogue_gives_its_turns_back():
    text = "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>assistant\n"
    assert Question("chat", text, 5).messages == [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Yes?"},
    ]


def test_plain_text_is_one_user_turn():
    assert Question("library", "def f(", 5).messages == [{"role": "user", "content": "def f("}]
