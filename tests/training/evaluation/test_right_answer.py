"""Right answers: the number a text ends up with, and functions that do what was asked."""

from fractions import Fraction

import pytest

from training.evaluation.right_answer import calls_give, final_number, number_is


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("12 + 30 = 42", 42),
        ("Answer: 232 shells, of 634", 232),
        ("The answer is 7. I checked 3 times.", 7),
        (r"so \boxed{-3/4}, not 5", Fraction(-3, 4)),
        ("She pays 1,234.50 dollars", Fraction(2469, 2)),
        ("#### 18", 18),
        ("no number", None),
        ("1/0", None),
        ("the answer is unclear: 5 or 6", 5),
    ],
)
def test_the_final_number_of_a_text(text, number):
    assert final_number(text) == number


def test_numbers_are_compared_not_spellings():
    assert number_is(Fraction(1, 2))("it is 0.50")
    assert not number_is(Fraction(42))("it is 420")


def test_functions_are_run_against_tests():
    judge = calls_give([("double(2)", "4"), ("double('a')", "'aa'")])
    assert judge("Sure:\n```python\ndef double(x):\n    return x + x\n```")
    assert not judge("```python\ndef double(x):\n    return 4\n```")
    assert not judge("```python\nimport os\ndef double(x):\n    return x + x\n```")
    assert not judge("def double(x): return x + x")


@pytest.mark.slow
def test_a_function_that_never_ends_is_wrong():
    assert not calls_give([("f()", "1")])("```python\ndef f():\n    while True:\n        pass\n```")
