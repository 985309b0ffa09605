"""Messages become a prompt by the model's template, which can do nothing else."""

import time

import pytest

from core.errors import CheckpointError, RequestError
from models import chat
from models.chat import ChatTemplate
from tests.service.fakes import TEMPLATE

HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello {{ 7 * 7 }}"}]


def test_messages_are_rendered_and_never_read_as_a_template():
    assert ChatTemplate(TEMPLATE).render(HELLO) == "<system>Be brief.<user>Hello {{ 7 * 7 }}>"


def test_a_template_may_name_other_values_that_never_hide_the_messages():
    template = ChatTemplate("{{ messages[0].content }} {{ enable_thinking }}")
    assert template.render(HELLO, values={"enable_thinking": False, "messages": []}) == "Be brief. False"
    assert template.render(HELLO) == "Be brief. "


def test_special_tokens_may_be_named():
    assert ChatTemplate("{{ eos_token }}!", {"eos_token": "<eos>"}).render(HELLO) == "<eos>!"


def test_a_model_without_template_says_what_to_use():
    with pytest.raises(RequestError, match="/v1/completions"):
        ChatTemplate(None).render(HELLO)


def test_an_unknown_role_is_named_with_its_place():
    with pytest.raises(RequestError, match=r"messages\[1\]\.role.*'robot'"):
        ChatTemplate(TEMPLATE).render([HELLO[0], {"role": "robot", "content": ""}])


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages.__class__.__mro__ }}{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ range(1000000000) | list }}",
        "{{ messages[9]['content'] + 1 }}",
        "{{ 1 / 0 }}",
    ],
)
def test_what_a_template_must_not_or_cannot_do_is_the_request_s_error(source):
    with pytest.raises(RequestError, match="chat template refuses"):
        ChatTemplate(source).render(HELLO)


def test_a_broken_template_is_the_checkpoint_s_error():
    with pytest.raises(CheckpointError, match="not valid Jinja"):
        ChatTemplate("{% if %}")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "longer than 0.2 s"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}", "longer than 0.2 s"),
        ("{% for i in range(9) %}{{ messages[0].content * 1048576 }}{% endfor %}", "more than 8388608 characters"),
        ("{{ messages[0].content * 1000000000 }}", "beyond 1048576"),
        ("{{ 9 ** 9 ** 9 }}", "beyond 1048576|beyond 64"),
    ],
    ids=["an empty loop", "a loop", "long output", "a long text", "a long number"],
)
def test_a_template_that_runs_away_is_ended(monkeypatch, source, why):
    monkeypatch.setattr(chat, "RENDER_S", 0.2)
    began_s = time.monotonic()
    with pytest.raises(RequestError, match=why):
        ChatTemplate(source).render([{"role": "user", "content": "x"}])
    assert time.monotonic() - began_s < 5.0


def test_a_range_is_what_templates_take_it_for():
    for source, text in (
        ("{{ range(3)[::-1] | list }}{{ range(2, 5) | length }}{{ 3 in range(5) }}", "[2, 1, 0]3True"),
        ("{% for i in range(2) %}{{ loop.last }}{{ loop.length }}{% endfor %}", "False2True2"),
    ):
        assert ChatTemplate(source).render(HELLO) == text
