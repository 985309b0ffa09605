"""A key that nothing has is found wherever it stands, and the nearest known one is told."""

import pytest
from msgspec import Struct

from core.known_keys import UnknownKey, find_unknown_key


class Inner(Struct, frozen=True):
    seconds: float = 0.0


class Outer(Struct):
    slot: Inner = Inner()
    arms: dict[str, Inner] = {}
    numbers: dict[str, float] = {}
    either: Inner | None = None


@pytest.mark.parametrize(
    ("said", "path", "near"),
    [
        ({"slots": {}}, "slots", "slot"),
        ({"slot": {"secnds": 1}}, "slot.secnds", "seconds"),
        ({"arms": {"a": {"seconds": 1}, "b": {"second": 2}}}, "arms.b.second", "seconds"),
    ],
)
def test_an_unknown_key_is_told_by_its_path(said, path, near):
    found = find_unknown_key(said, Outer)
    assert isinstance(found, UnknownKey)
    assert found.path == path
    assert repr(near) in found.hint


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"slot": {"seconds": 1}, "arms": {"a": {"seconds": 2}}},
        {"numbers": {"whatever": 1.0}},
        # What is no table is for the types to refuse.
        {"slot": 3, "arms": {"a": 4}},
    ],
)
def test_nothing_is_found_where_all_keys_are_known(said):
    assert find_unknown_key(said, Outer) is None


def test_an_entry_of_several_kinds_is_looked_at_as_the_one_it_is():
    said = {"numbers": {"a": {"kind": "inner", "secnds": 1}}}
    found = find_unknown_key(said, Outer, narrow=lambda each, _: ({"secnds": each["secnds"]}, Inner))
    assert found is not None
    assert found.path == "numbers.a.secnds"
