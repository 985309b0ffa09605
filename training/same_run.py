"""Whether a saved run is the one that is to go on: key by key, and the first that differs is named."""

from collections.abc import Mapping, Set
from pathlib import Path

import msgspec

from core.errors import ConfigError


def check_same_run(ours: object, saved: object, free: Set[str], path: Path, ours_is: str, cure: str) -> None:
    """Raise ConfigError naming the first key, as in "run.seed", by which what `path` was made from is another run's.

    free      keys that may differ, or be in one alone
    ours_is   who has ours, such as "this run"; cure is what else than setting it back helps
    """
    # By way of JSON, which knows no tuples.
    now, then = (_flat(msgspec.json.decode(msgspec.json.encode(one))) for one in (ours, saved))
    for key in sorted((now.keys() | then.keys()) - free):
        if now.get(key) != then.get(key):
            raise ConfigError(
                f"{path} is of a run with {key} = {then.get(key)!r}, {ours_is} has {now.get(key)!r}; "
                f"set it back to go on, or give {cure} to begin anew"
            )


def _flat(tree: Mapping[str, object], where: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
    return flat
