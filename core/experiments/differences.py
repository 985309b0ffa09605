"""In which settings two experiments differ."""

from collections.abc import Iterator
from typing import Any

import msgspec

from core.experiments.spec import Experiment


def differences(one: Experiment, other: Experiment) -> list[str]:
    """Return a line for each setting that differs, by its path, such as `stop.min_blocks is 30, was 24`."""
    return list(_differing("", msgspec.to_builtins(one), msgspec.to_builtins(other)))


def _differing(path: str, one: Any, other: Any) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from _differing(f"{path}.{key}" if path else key, one.get(key), other.get(key))
    elif one != other:
        yield f"{path} is {one!r}, was {other!r}"
