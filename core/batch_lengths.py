"""Draft lengths by batch size: rows of (first, last, drafts), in settings, flags and vLLM's JSON the same."""

from typing import Annotated

from msgspec import Meta

from core.errors import ConfigError

BatchSize = Annotated[int, Meta(ge=1, le=1 << 20)]
BatchLengths = tuple[tuple[BatchSize, BatchSize, Annotated[int, Meta(ge=0, le=64)]], ...]


def check_batch_lengths(lengths: BatchLengths, where: str) -> None:
    """Raise ConfigError unless the rows begin at 1, ascend and do not overlap."""
    if not lengths or lengths[0][0] != 1:
        raise ConfigError(f"{where} must be rows of [first, last, drafts], the first from 1; got {_shown(lengths)}")
    last_before = 0
    for first, last, _ in lengths:
        if not last_before < first <= last:
            raise ConfigError(f"{where} must ascend without overlap; got {_shown(lengths)}")
        last_before = last


def read_batch_lengths(text: str, where: str) -> list[list[int]]:
    """Read "1-8=7,9-32=3,33-4096=0"; raises ConfigError if it is not of that form."""
    try:
        return [_read_row(row) for row in text.split(",")]
    except ValueError:
        raise ConfigError(f"{where} must be FIRST-LAST=DRAFTS,..., such as 1-8=7,9-32=3; got {text!r}") from None


def _read_row(row: str) -> list[int]:
    sizes, _, drafts = row.partition("=")
    first, _, last = sizes.partition("-")
    return [int(first), int(last), int(drafts)]


def _shown(lengths: BatchLengths) -> list[list[int]]:
    return [list(row) for row in lengths]
