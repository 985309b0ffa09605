"""Planted mistakes: each takes one guard of the queue away, and the history checker has to notice."""

import msgspec

import service.worker
from service.storage.scripts import SCRIPTS
from service.takeover import to_request

NO_FENCE, NO_COUNT, STAR_IDS, NAIVE_RESUME = "no_fence", "no_count", "star_ids", "naive_resume"


def plant(name: str) -> None:
    """Break this process; raises ValueError where the code to be broken has changed."""
    if name == NO_FENCE:
        _replace("emit", "row[1] ~= epoch or ", "")
        _replace("finish", "if (row[1] or '') ~= ARGV[1] then return -1 end", "")
    elif name == NO_COUNT:
        _take_count_away()
    elif name == STAR_IDS:
        # With the count still checked the explicit id is a second lock on the same door: both are taken off.
        _take_count_away()
        _replace("emit", "count .. '-0'", "'*'")
        _replace("finish", "(row[3] or '0') .. '-1'", "'*'")
    elif name == NAIVE_RESUME:
        service.worker.to_request = _from_the_start
    else:
        raise ValueError(f"nothing is planted under the name {name!r}")


def _take_count_away() -> None:
    _replace("emit", "if row[3] == before then", "if true then")


def _replace(script: str, old: str, new: str) -> None:
    if SCRIPTS[script].count(old) != 1:
        raise ValueError(f"{script}.lua does not hold {old!r} once: the plant has to be fitted to it")
    SCRIPTS[script] = SCRIPTS[script].replace(old, new)


def _from_the_start(claim, verifier):
    return msgspec.structs.replace(to_request(claim, verifier), output_ids=())
