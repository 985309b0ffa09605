"""Settings of a service on the byte tokenizer."""

import pytest

from tests.service.fakes import fake_settings


@pytest.fixture
def settings(redis_url, tmp_path):
    return fake_settings(redis_url, tmp_path / "model")
