"""A service that asks for keys: two tenants without limits, and one with a limit of each kind."""

import msgspec
import pytest

from service.door.api_keys import ApiKey, hash_of, write_keys
from tests.service.fakes import fake_settings

# Names of tenants are their keys', too: what is tested is not how keys are drawn.
KEYS = {
    "alice": {},
    "bob": {},
    "often": {"requests_per_minute": 12},
    "many": {"max_concurrency": 2},
    "long": {"max_prompt_tokens": 4},
    "urgent": {"top_priority": "low"},
}


def key_of(name: str) -> dict[str, str]:
    """Return the header that shows a tenant's key."""
    return {"Authorization": f"Bearer sk-{name}"}


def keys_of(names: dict[str, dict]) -> dict[str, ApiKey]:
    return {name: ApiKey(sha256=hash_of(f"sk-{name}"), **limits) for name, limits in names.items()}


@pytest.fixture
def keys_file(tmp_path):
    path = tmp_path / "keys.toml"
    write_keys(path, keys_of(KEYS))
    return path


@pytest.fixture
def open_settings(redis_url, tmp_path):
    """Settings of a server that asks nobody for a key."""
    return fake_settings(redis_url, tmp_path / "model")


@pytest.fixture
def settings(open_settings, keys_file):
    server = msgspec.structs.replace(open_settings.server, api_keys_file=str(keys_file))
    return msgspec.structs.replace(open_settings, server=server)
