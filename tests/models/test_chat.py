"""Messages become a prompt by the model's template, which can do nothing else."""

import pytest

from core.errors import CheckpointError, RequestError
from models.chat import ChatTemplate
from tests.service.fakes import TEMPLATE

HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello {{ 7 * 7 }}"}]


def test_messages_are_rendered_and_never_read_as_a_template():
    assert ChatTemplate(TEMPLATE).render(HELLO) == "<system>Be brief.<user>Hello {{ 7 * 7 }}>"


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
