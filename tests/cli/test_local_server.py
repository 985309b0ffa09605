"""A server of our own is waited for, says why it died, and leaves nothing behind."""

import os

import pytest

from cli.local_server import local_server
from core.errors import SpecdError


def test_a_server_that_cannot_start_says_why(monkeypatch):
    monkeypatch.setenv("SPECD_NO__SUCH", "the shell's settings do not reach it")
    with local_server("--policy", "fixd") as server, pytest.raises(SpecdError, match="did you mean 'fixed'"):
        server.wait_until_ready()


def test_a_server_is_gone_when_its_block_ends():
    with local_server("--policy", "fixd") as server:
        pass
    assert server.process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.killpg(server.process.pid, 0)
