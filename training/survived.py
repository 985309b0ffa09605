"""What a run can do without: a curve, a record, one of its saved states."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def survived(warn: Callable[[str], None], what_stays: str = "the run goes on") -> Iterator[None]:
    """Warn of a file that cannot be written, in place of raising OSError."""
    try:
        yield
    except OSError as error:
        # The disk may have room again by the next time.
        warn(f"{error}; {what_stays}")
