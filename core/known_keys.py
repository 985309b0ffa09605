"""Keys that somebody wrote and nothing has: found at any depth, with the nearest one that there is."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from msgspec import Struct

from core.config import nearest


class UnknownKey(NamedTuple):
    """A key with the tables it stands in ("slot.secnds"), and a hint at the nearest known one."""

    path: str
    hint: str


# Takes one entry of a table and the type of its entries; returns what to look at instead, such as one kind of a union.
Narrow = Callable[[Mapping[str, Any], Any], tuple[Mapping[str, Any], Any]]


def _as_it_is(said: Mapping[str, Any], shape: Any) -> tuple[Mapping[str, Any], Any]:
    return said, shape


def find_unknown_key(
    said: Mapping[str, Any], shape: type[Struct], path: str = "", narrow: Narrow = _as_it_is
) -> UnknownKey | None:
    """Return the first key of `said` that no field of `shape` has, None if all are known.

    Tables within it are looked through where a field is a Struct, or a dict of Structs.
    """
    types = get_type_hints(shape)
    for key, value in said.items():
        if key not in types:
            return UnknownKey(f"{path}{key}", nearest(key, list(types)))
        if not isinstance(value, Mapping):
            continue
        inner = types[key]
        inside = [(value, inner, f"{path}{key}.")]
        if get_origin(inner) is dict:
            tables = ((name, each) for name, each in value.items() if isinstance(each, Mapping))
            inside = [(*narrow(each, get_args(inner)[1]), f"{path}{key}.{name}.") for name, each in tables]
        for table, kind, where in inside:
            if isinstance(kind, type) and issubclass(kind, Struct):
                found = find_unknown_key(table, kind, where, narrow)
                if found is not None:
                    return found
    return None
