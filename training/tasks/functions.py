"""The functions that the code domain asks for: families over lists, words and numbers, with drawn parameters.

Each carries its description, canonical body and a reference in Python, so that expected values never come from
running text.
"""

import random
import re
from collections.abc import Callable

import msgspec


class Condition(msgspec.Struct, frozen=True):
    """A test on one item: its words, name part, source over `value`, and reference."""

    words: str
    name: str
    source: str
    holds: Callable[[int], bool]


class Function(msgspec.Struct, frozen=True):
    """A function to write: name, argument, description, body, and the reference that the tests come from.

    kind names the condition it uses, without its number; "" for families that have none.
    parameters are what was drawn for it, for whoever words it otherwise.
    """

    name: str
    argument: str
    words: str
    body: str
    reference: Callable[..., object]
    draw: Callable[[random.Random], object]
    kind: str = ""
    parameters: dict[str, object] = {}


def _conditions(rng: random.Random) -> Condition:
    """Draw a condition on a whole number."""
    n = rng.randint(2, 20)
    few = rng.randint(2, 9)
    return rng.choice(
        (
            Condition("even", "even", "value % 2 == 0", lambda value: value % 2 == 0),
            Condition("odd", "odd", "value % 2 == 1", lambda value: value % 2 == 1),
            Condition(f"greater than {n}", f"above_{n}", f"value > {n}", lambda value: value > n),
            Condition(f"less than {n}", f"below_{n}", f"value < {n}", lambda value: value < n),
            Condition(f"at least {n}", f"from_{n}", f"value >= {n}", lambda value: value >= n),
            Condition(f"at most {n}", f"to_{n}", f"value <= {n}", lambda value: value <= n),
            Condition(f"equal to {n}", f"equal_{n}", f"value == {n}", lambda value: value == n),
            Condition(f"not equal to {n}", f"not_{n}", f"value != {n}", lambda value: value != n),
            Condition(f"divisible by {few}", f"by_{few}", f"value % {few} == 0", lambda value: value % few == 0),
            Condition(
                f"not divisible by {few}", f"not_by_{few}", f"value % {few} != 0", lambda value: value % few != 0
            ),
        )
    )


def draw_numbers(rng: random.Random) -> list[int]:
    """Draw a short list of whole numbers."""
    return [rng.randint(0, 24) for _ in range(rng.randint(3, 6))]


def draw_word(rng: random.Random) -> str:
    """Draw a word."""
    return rng.choice(WORDS)


def draw_words(rng: random.Random) -> list[str]:
    """Draw a short list of words."""
    return [rng.choice(WORDS) for _ in range(rng.randint(2, 4))]


def draw_small(rng: random.Random) -> int:
    """Draw a small whole number."""
    return rng.randint(1, 9)


def _any_number(rng: random.Random) -> int:
    """Draw a whole number that may be negative."""
    return rng.randint(-30, 60)


def _filtered(rng: random.Random, family: str) -> Function:
    """Build a family over a list with a condition; the family's row says how."""
    condition = _conditions(rng)
    phrase, body, reference = LIST_FAMILIES[family]
    name = f"{family}_{condition.name}"
    return Function(
        name,
        "values",
        phrase.format(condition.words),
        body.replace("CONDITION", condition.source),
        lambda values: reference(values, condition.holds),
        draw_numbers,
        condition.name.rstrip("_0123456789"),
        {"condition": condition.words, "n": re.sub("[^0-9]", "", condition.name)},
    )


LIST_FAMILIES: dict[str, tuple[str, str, Callable[..., object]]] = {
    "count": (
        "counts the numbers that are {}",
        "total = 0\nfor value in values:\n    if CONDITION:\n        total += 1\nreturn total",
        lambda values, holds: sum(1 for value in values if holds(value)),
    ),
    "sum": (
        "adds up the numbers that are {}",
        "total = 0\nfor value in values:\n    if CONDITION:\n        total += value\nreturn total",
        lambda values, holds: sum(value for value in values if holds(value)),
    ),
    "keep": (
        "keeps the numbers that are {}",
        "return [value for value in values if CONDITION]",
        lambda values, holds: [value for value in values if holds(value)],
    ),
    "drop": (
        "drops the numbers that are {}",
        "return [value for value in values if not (CONDITION)]",
        lambda values, holds: [value for value in values if not holds(value)],
    ),
    "any": (
        "tells whether any number is {}",
        "return any(CONDITION for value in values)",
        lambda values, holds: any(holds(value) for value in values),
    ),
    "all": (
        "tells whether all numbers are {}",
        "return all(CONDITION for value in values)",
        lambda values, holds: all(holds(value) for value in values),
    ),
    "first": (
        "returns the first number that is {}, or None",
        "for value in values:\n    if CONDITION:\n        return value\nreturn None",
        lambda values, holds: next((value for value in values if holds(value)), None),
    ),
    "last": (
        "returns the last number that is {}, or None",
        "for value in reversed(values):\n    if CONDITION:\n        return value\nreturn None",
        lambda values, holds: next((value for value in reversed(values) if holds(value)), None),
    ),
    "largest": (
        "returns the largest number that is {}, or None",
        "return max((value for value in values if CONDITION), default=None)",
        lambda values, holds: max((value for value in values if holds(value)), default=None),
    ),
    "positions": (
        "lists the positions of the numbers that are {}",
        "return [index for index, value in enumerate(values) if CONDITION]",
        lambda values, holds: [index for index, value in enumerate(values) if holds(value)],
    ),
    "squares": (
        "squares the numbers that are {}",
        "return [value * value for value in values if CONDITION]",
        lambda values, holds: [value * value for value in values if holds(value)],
    ),
}


def _add_each(rng: random.Random) -> Function:
    n = rng.randint(2, 30)
    return Function(
        f"add_{n}",
        "values",
        f"adds {n} to every number",
        f"return [value + {n} for value in values]",
        lambda values: [value + n for value in values],
        draw_numbers,
        parameters={"n": n},
    )


def _times_each(rng: random.Random) -> Function:
    n = rng.randint(2, 30)
    return Function(
        f"times_{n}",
        "values",
        f"multiplies every number by {n}",
        f"return [value * {n} for value in values]",
        lambda values: [value * n for value in values],
        draw_numbers,
        parameters={"n": n},
    )


def _cap(rng: random.Random) -> Function:
    n = rng.randint(2, 40)
    return Function(
        f"cap_{n}",
        "number",
        f"returns the number, but at most {n}",
        f"if number > {n}:\n    return {n}\nreturn number",
        lambda number: min(number, n),
        _any_number,
        parameters={"n": n},
    )


def _clamp(rng: random.Random) -> Function:
    low, high = rng.randint(-9, 9), rng.randint(10, 40)
    return Function(
        f"clamp_{low}_{high}".replace("-", "minus_"),
        "number",
        f"limits a number to {low}..{high}",
        f"return max({low}, min({high}, number))",
        lambda number: max(low, min(high, number)),
        _any_number,
        parameters={"low": low, "high": high},
    )


def _table(rng: random.Random) -> Function:
    n = rng.randint(2, 30)
    return Function(
        f"table_of_{n}",
        "count",
        f"lists the first count multiples of {n}",
        f"return [{n} * index for index in range(1, count + 1)]",
        lambda count: [n * index for index in range(1, count + 1)],
        draw_small,
        parameters={"n": n},
    )


def _powers(rng: random.Random) -> Function:
    n = rng.randint(2, 9)
    return Function(
        f"powers_of_{n}",
        "count",
        f"lists the first count powers of {n}",
        f"result = []\npower = 1\nfor _ in range(count):\n    result.append(power)\n    power *= {n}\nreturn result",
        lambda count: [n**index for index in range(count)],
        draw_small,
        parameters={"n": n},
    )


def _countdown(rng: random.Random) -> Function:
    n = rng.randint(2, 9)
    return Function(
        f"countdown_by_{n}",
        "start",
        f"counts down from start to 0 in steps of {n}",
        f"result = []\nwhile start >= 0:\n    result.append(start)\n    start -= {n}\nreturn result",
        lambda start: list(range(start, -1, -n)),
        lambda source: source.randint(5, 30),
        parameters={"n": n},
    )


def _repeat(rng: random.Random) -> Function:
    n, mark = rng.randint(2, 9), rng.choice("-+*.,_")
    return Function(
        f"repeat_{n}",
        "text",
        f"repeats the text {n} times, joined by {mark!r}",
        f"return {mark!r}.join([text] * {n})",
        lambda text: mark.join([text] * n),
        draw_word,
        parameters={"n": n, "mark": mark},
    )


def _longer(rng: random.Random) -> Function:
    n = rng.randint(2, 8)
    return Function(
        f"longer_than_{n}",
        "words",
        f"keeps the words longer than {n} letters",
        f"return [word for word in words if len(word) > {n}]",
        lambda items: [item for item in items if len(item) > n],
        draw_words,
        parameters={"n": n},
    )


def _starting(rng: random.Random) -> Function:
    letter = rng.choice(LETTERS)
    return Function(
        f"starting_with_{letter}",
        "words",
        f"keeps the words that start with {letter!r}",
        f"return [word for word in words if word.startswith({letter!r})]",
        lambda items: [item for item in items if item.startswith(letter)],
        draw_words,
        parameters={"letter": letter},
    )


def _count_letter(rng: random.Random) -> Function:
    letter = rng.choice(LETTERS)
    return Function(
        f"count_{letter}",
        "text",
        f"counts how often {letter!r} occurs in the text",
        f"return text.count({letter!r})",
        lambda text: text.count(letter),
        draw_word,
        parameters={"letter": letter},
    )


def _remove_letter(rng: random.Random) -> Function:
    letter = rng.choice(LETTERS)
    return Function(
        f"remove_{letter}",
        "text",
        f"removes every {letter!r} from the text",
        f"return text.replace({letter!r}, '')",
        lambda text: text.replace(letter, ""),
        draw_word,
        parameters={"letter": letter},
    )


def _keep_letters(rng: random.Random) -> Function:
    kept = "".join(sorted(rng.sample(LETTERS, 3)))
    return Function(
        f"keep_{kept}",
        "text",
        f"keeps only the letters in {kept!r}",
        f"return ''.join(letter for letter in text if letter in {kept!r})",
        lambda text: "".join(letter for letter in text if letter in kept),
        draw_word,
        parameters={"letters": kept},
    )


def _swap_letter(rng: random.Random) -> Function:
    old, new = rng.sample(LETTERS, 2)
    return Function(
        f"swap_{old}_{new}",
        "text",
        f"replaces every {old!r} in the text by {new!r}",
        f"return text.replace({old!r}, {new!r})",
        lambda text: text.replace(old, new),
        draw_word,
        parameters={"old": old, "new": new},
    )


WORDS = (
    "apple",
    "banana",
    "cat",
    "dog",
    "elephant",
    "forest",
    "garden",
    "house",
    "island",
    "jungle",
    "kite",
    "lemon",
    "mountain",
    "night",
    "orange",
    "paper",
    "queen",
    "river",
    "sun",
    "tiger",
    "umbrella",
    "village",
    "water",
    "zoo",
)
LETTERS = "abcdeghilmnoprstu"
OTHER_FAMILIES = {
    maker.__name__.removeprefix("_"): maker
    for maker in (
        _add_each,
        _times_each,
        _cap,
        _clamp,
        _table,
        _powers,
        _countdown,
        _repeat,
        _longer,
        _starting,
        _count_letter,
        _remove_letter,
        _keep_letters,
        _swap_letter,
    )
}
FAMILIES = (*LIST_FAMILIES, *OTHER_FAMILIES)


def draw_function(rng: random.Random, family: str) -> Function:
    """Draw the parameters of a family."""
    return _filtered(rng, family) if family in LIST_FAMILIES else OTHER_FAMILIES[family](rng)
