"""Requests may name the drafters and policies that are configured here, and no others."""

import msgspec
import pytest

from core.config import NgramSettings
from core.errors import RequestError
from core.types import Speculation
from service.door.speculation import KnownNames, known_names
from tests.service.fakes import FakeEngine, running

KNOWN = KnownNames(("dspark", "lookup"), ("off", "load_adaptive"))


@pytest.mark.parametrize("asked", [Speculation(), Speculation(3), Speculation(None, "lookup", "load_adaptive")])
def test_what_is_configured_may_be_named(asked):
    KNOWN.check(asked)


@pytest.mark.parametrize(
    ("asked", "near"),
    [(Speculation(drafter="look"), "'lookup'"), (Speculation(policy="load_adaptiv"), "'load_adaptive'")],
)
def test_the_nearest_name_is_told(asked, near):
    with pytest.raises(RequestError, match=f"not configured; did you mean {near}") as refused:
        KNOWN.check(asked)
    assert refused.value.param == "speculation"


def test_names_are_those_of_the_settings(settings):
    named = msgspec.structs.replace(settings, drafters={"lookup": NgramSettings()})
    assert "lookup" in known_names(named).drafters
    assert "lookup" not in known_names(settings).drafters
    assert "off" in known_names(settings).policies


async def test_each_request_of_a_server_has_its_own(settings):
    named = msgspec.structs.replace(settings, drafters={"lookup": NgramSettings()})
    engine = FakeEngine()
    async with running(named, engine) as service:
        for asked in ({"drafter": "lookup", "max_drafts": 2}, "off", None):
            assert (await service.post(prompt="a", speculation=asked))[0] == 200
        status, body = await service.post(prompt="a", speculation={"drafter": "lookpu"})
    assert [one.speculation for one in engine.seen] == [Speculation(2, "lookup"), Speculation(0), Speculation()]
    assert (status, body["error"]["param"]) == (400, "speculation")
