"""Servers by name and URL; what is no such pair is refused."""

import pytest

from bench.against_servers import server_target
from core.errors import ConfigError
from tests.bench.fake_server import chunk, serving


def test_a_server_is_asked_for_the_model_it_lists():
    with serving(lambda _: iter([chunk(1)])) as (url, _):
        target = server_target(f"vllm={url}", None)
    assert target.name == "vllm"
    assert target._connect()._fields == {"model": "served"}


@pytest.mark.parametrize("text", ["vllm", "=http://x", "vllm=x:80", "vllm="])
def test_what_names_no_server_is_refused(text):
    with pytest.raises(ConfigError, match="NAME=URL"):
        server_target(text, "m")
