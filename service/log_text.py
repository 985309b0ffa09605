"""What a log may show of texts that others wrote: one line, of bounded length, that no terminal obeys."""

import re
import traceback

import structlog

MAX_CHARS = 2000
MAX_TRACEBACK_CHARS = 20_000
# Controls, line ends of every alphabet, marks that reorder a line, and halves of characters that no encoding has.
UNSHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# Traceback lines begin with this, as no event does.
MARGIN = "    | "


def one_line(text: str, most: int = MAX_CHARS) -> str:
    """Return a text with what could end its line, or order a terminal about, spelt as escapes; cut if it is long."""
    cut = f"{text[:most]}... ({len(text)} characters)" if len(text) > most else text
    return UNSHOWN.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), cut)


def frames(error: BaseException) -> str:
    """Return where an error comes from, and of which kinds it and its causes are, but nothing of what they say.

    An error that nobody foresaw, in the midst of a request, may quote the request.
    """
    told = []
    for each in _chain(error):
        told += [type(each).__name__, *(line.rstrip() for line in traceback.format_tb(each.__traceback__))]
    return "\n".join(told)


def as_one_line(
    _: structlog.typing.WrappedLogger, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Make every value of an event fit for a log; only a traceback keeps its lines, behind a margin."""
    return {one_line(str(name), 100): _shown(str(name), value) for name, value in event.items()}


def _shown(name: str, value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if name == "exception":
        lines = str(value)[-MAX_TRACEBACK_CHARS:].splitlines()
        return "\n".join(MARGIN + one_line(line) for line in lines)
    return one_line(value if isinstance(value, str) else repr(value))


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an error and what it came of, the first cause first."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.insert(0, error)
        error = error.__cause__ or error.__context__
    return found
