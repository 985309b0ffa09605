"""The functions that everybody asks for first: nothing is drawn for them, so they are known by heart or not at all."""

import math
import random

from training.tasks.functions import WORDS, Function, draw_numbers, draw_small, draw_word, draw_words

PALINDROMES = ("level", "noon", "radar", "kayak", "civic", "anna")
VOWELS = "aeiou"


def _word_or_palindrome(rng: random.Random) -> str:
    return rng.choice(PALINDROMES if rng.random() < 0.5 else WORDS)


def _sentence(rng: random.Random) -> str:
    return " ".join(draw_words(rng))


def _up_to_thirty(rng: random.Random) -> int:
    return rng.randint(1, 30)


def _with_doubles(rng: random.Random) -> list[int]:
    return [rng.randint(0, 4) for _ in range(rng.randint(4, 6))]


def fibonacci(count: int) -> list[int]:
    """Return the first Fibonacci numbers."""
    result, a, b = [], 0, 1
    for _ in range(count):
        result.append(a)
        a, b = b, a + b
    return result


def divisors(number: int) -> list[int]:
    """Return what divides a number without remainder."""
    return [value for value in range(1, number + 1) if number % value == 0]


CLASSICS = {
    "reverse": Function(
        "reverse", "text", "reverses the text", "return text[::-1]", lambda text: text[::-1], draw_word
    ),
    "palindrome": Function(
        "is_palindrome",
        "text",
        "tells whether the text is a palindrome",
        "return text == text[::-1]",
        lambda text: text == text[::-1],
        _word_or_palindrome,
    ),
    "vowels": Function(
        "count_vowels",
        "text",
        "counts the vowels in the text",
        "return sum(1 for letter in text if letter in 'aeiou')",
        lambda text: sum(1 for letter in text if letter in VOWELS),
        draw_word,
    ),
    "upper": Function(
        "to_upper",
        "text",
        "turns the text to upper case",
        "return text.upper()",
        lambda text: text.upper(),
        draw_word,
    ),
    "word_count": Function(
        "count_words",
        "text",
        "counts the words in the text",
        "return len(text.split())",
        lambda text: len(text.split()),
        _sentence,
    ),
    "factorial": Function(
        "factorial",
        "number",
        "returns the factorial of a number",
        "result = 1\nfor factor in range(2, number + 1):\n    result *= factor\nreturn result",
        math.factorial,
        draw_small,
    ),
    "fibonacci": Function(
        "fibonacci",
        "count",
        "lists the first count Fibonacci numbers",
        "result = []\na, b = 0, 1\nfor _ in range(count):\n    result.append(a)\n    a, b = b, a + b\nreturn result",
        fibonacci,
        draw_small,
    ),
    "prime": Function(
        "is_prime",
        "number",
        "tells whether a number is prime",
        "if number < 2:\n    return False\nreturn all(number % divisor for divisor in range(2, number))",
        lambda number: len(divisors(number)) == 2,
        _up_to_thirty,
    ),
    "divisors": Function(
        "divisors",
        "number",
        "lists the divisors of a number",
        "return [value for value in range(1, number + 1) if number % value == 0]",
        divisors,
        _up_to_thirty,
    ),
    "average": Function(
        "average",
        "values",
        "returns the average of all numbers",
        "return sum(values) / len(values)",
        lambda values: sum(values) / len(values),
        draw_numbers,
    ),
    "maximum": Function("maximum", "values", "returns the largest number", "return max(values)", max, draw_numbers),
    "minimum": Function("minimum", "values", "returns the smallest number", "return min(values)", min, draw_numbers),
    "total": Function("total", "values", "adds up all numbers", "return sum(values)", sum, draw_numbers),
    "sort": Function("sort", "values", "sorts the numbers", "return sorted(values)", sorted, draw_numbers),
    "unique": Function(
        "unique",
        "values",
        "drops numbers that came before",
        "result = []\nfor value in values:\n    if value not in result:\n        result.append(value)\nreturn result",
        lambda values: list(dict.fromkeys(values)),
        _with_doubles,
    ),
}
