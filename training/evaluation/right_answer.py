"""Right answers of task files: numbers are compared, Python functions are called in a sandbox."""

import re
from collections.abc import Sequence
from fractions import Fraction
from functools import partial

from training.evaluation.conversation import Judge
from training.tasks.code import BLOCK
from training.tasks.sandbox import run_calls

# A number as people write it: thousands may have commas, a fraction a slash.
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:/\d+)?")
BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
LABEL = re.compile(r"(?:answer(?:\s+is)?\s*[:=]?|####)\s*", re.IGNORECASE)


def number_is(expected: Fraction) -> Judge:
    """Return a judge of texts whose final number must be this one."""
    return partial(_has_number, expected)


def calls_give(tests: Sequence[tuple[str, str]]) -> Judge:
    """Return a judge of texts whose Python function must give the repr of each (call, repr)."""
    return partial(_passes, tuple(tests))


def final_number(text: str) -> Fraction | None:
    r"""Return the number a text ends up with; None if it has none.

    It is that in the last \boxed{}, else the first one after the last "answer" or "####", else the last of all.
    """
    if boxed := BOXED.findall(text):
        return _number(NUMBER.findall(boxed[-1])[-1:])
    *_, after = LABEL.split(text)
    is_labelled = len(after) < len(text)
    found = NUMBER.findall(after)
    return _number(found[:1] if is_labelled else found[-1:]) or _number(NUMBER.findall(text)[-1:])


def _has_number(expected: Fraction, text: str) -> bool:
    return final_number(text) == expected


def _passes(tests: tuple[tuple[str, str], ...], text: str) -> bool:
    block = BLOCK.search(text)
    return block is not None and run_calls(block.group(1), [call for call, _ in tests]) == [want for _, want in tests]


def _number(found: Sequence[str]) -> Fraction | None:
    try:
        return Fraction(found[0].replace(",", "")) if found else None
    except (ValueError, ZeroDivisionError):
        return None
