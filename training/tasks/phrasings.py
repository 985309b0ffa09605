"""How people ask for a function who follow no form: the same functions in other words, said to do something.

A phrasing is an order without its end ("count the even numbers in a list"); `third_person` makes of it what a function
does ("counts the even numbers in a list").
"""

import random
from collections.abc import Mapping

from training.tasks.functions import Function

PLACES = ("", "", " in a list", " in a list", " of a list", " in a list of numbers")
# The numbers that a condition holds for, by its kind; how many decides `numbers` and `are`.
CONDITIONS: dict[str, tuple[str, ...]] = {
    "even": ("even {numbers}", "even {numbers}", "{numbers} that {are} even"),
    "odd": ("odd {numbers}", "odd {numbers}", "{numbers} that {are} odd"),
    "above": ("{numbers} greater than {n}", "{numbers} above {n}", "{numbers} larger than {n}", "{numbers} over {n}"),
    "below": ("{numbers} less than {n}", "{numbers} below {n}", "{numbers} smaller than {n}", "{numbers} under {n}"),
    "from": ("{numbers} that {are} at least {n}", "{numbers} of {n} or more", "{numbers} not below {n}"),
    "to": ("{numbers} that {are} at most {n}", "{numbers} of {n} or less", "{numbers} up to {n}"),
    "equal": ("{numbers} equal to {n}", "{numbers} that {are} exactly {n}"),
    "not": ("{numbers} not equal to {n}", "{numbers} other than {n}"),
    "by": ("{numbers} divisible by {n}", "{numbers} that {n} divides", "{numbers} that can be divided by {n}"),
    "not_by": ("{numbers} not divisible by {n}", "{numbers} that {n} does not divide"),
}
MANY = {"numbers": "numbers", "are": "are"}
ONE = {"numbers": "number", "are": "is"}
# `them` and `one` are the numbers of the condition, `condition` its plain words.
LISTS: dict[str, tuple[str, ...]] = {
    "count": (
        "count the {them}{place}",
        "count how many {them} there are{place}",
        "return the number of {them}{place}",
        "find how many {them} a list has",
    ),
    "sum": (
        "add up the {them}{place}",
        "sum the {them}{place}",
        "return the sum of the {them}{place}",
        "compute the sum of all {them}{place}",
        "calculate the total of the {them}{place}",
    ),
    "keep": (
        "keep only the {them}{place}",
        "return the {them}{place}",
        "get all {them} from a list",
        "select the {them}{place}",
    ),
    "drop": (
        "remove the {them} from a list",
        "remove all {them}",
        "delete the {them} from a list",
        "drop the {them}{place}",
    ),
    "any": (
        "check whether any number is {condition}",
        "check if there is any {one}{place}",
        "tell if a list has any {them}",
        "return True if any number is {condition}",
    ),
    "all": (
        "check whether all numbers are {condition}",
        "check if every number{place} is {condition}",
        "tell if a list has only {them}",
        "return True if all numbers are {condition}",
    ),
    "first": ("find the first {one}{place}", "return the first {one}{place}", "get the first of the {them}{place}"),
    "last": ("find the last {one}{place}", "return the last {one}{place}", "get the last of the {them}{place}"),
    "largest": (
        "find the largest {one}{place}",
        "return the biggest {one}{place}",
        "get the maximum of the {them}{place}",
        "return the largest of all {them}{place}",
    ),
    "positions": (
        "find the positions of the {them}{place}",
        "return the indices of the {them}{place}",
        "list the indices of all {them}{place}",
    ),
    "squares": (
        "square the {them}{place}",
        "return the squares of the {them}{place}",
        "compute the square of all {them}{place}",
    ),
}
OTHERS: dict[str, tuple[str, ...]] = {
    "add_each": ("add {n} to every number{place}", "add {n} to each number{place}", "increase all numbers by {n}"),
    "times_each": ("multiply every number{place} by {n}", "multiply each number by {n}", "scale all numbers by {n}"),
    "cap": ("limit a number to at most {n}", "cap a number at {n}", "return a number, but never more than {n}"),
    "clamp": ("clamp a number between {low} and {high}", "limit a number to the range from {low} to {high}"),
    "table": ("list the first multiples of {n}", "return the multiples of {n}", "make the times table of {n}"),
    "powers": ("list the first powers of {n}", "return the powers of {n}", "compute the first powers of {n}"),
    "countdown": ("count down to 0 in steps of {n}", "count down from a number to zero by {n}"),
    "repeat": ("repeat a text {n} times with {mark!r} in between", "repeat a word {n} times, joined by {mark!r}"),
    "longer": (
        "find the words longer than {n} letters",
        "keep the words with more than {n} letters",
        "return all words longer than {n} characters",
    ),
    "starting": (
        "find the words that start with {letter!r}",
        "keep the words that begin with {letter!r}",
        "return all words starting with {letter!r}",
    ),
    "count_letter": (
        "count the letter {letter!r} in a string",
        "count how many times {letter!r} occurs in a text",
        "count the occurrences of {letter!r} in a word",
    ),
    "remove_letter": (
        "remove all {letter!r} from a string",
        "remove the letter {letter!r} from a text",
        "delete every {letter!r} from a word",
    ),
    "keep_letters": ("keep only the letters {letters!r} of a string", "remove all letters but {letters!r} from a text"),
    "swap_letter": (
        "replace {old!r} with {new!r} in a string",
        "replace every {old!r} by {new!r} in a text",
        "change all {old!r} to {new!r} in a word",
    ),
    "reverse": ("reverse a string", "reverse a text", "return a string backwards", "turn a word around"),
    "palindrome": ("check if a word is a palindrome", "check whether a string is a palindrome", "detect palindromes"),
    "vowels": ("count the vowels in a string", "count the vowels of a word", "return the number of vowels in a text"),
    "upper": ("convert a string to upper case", "make a text uppercase", "capitalize all letters of a string"),
    "word_count": ("count the words in a text", "count the words in a sentence", "return how many words a text has"),
    "factorial": ("compute the factorial of a number", "calculate the factorial of n", "return the factorial of n"),
    "fibonacci": ("list the first Fibonacci numbers", "return the Fibonacci sequence", "compute Fibonacci numbers"),
    "prime": ("check if a number is prime", "check whether a number is a prime", "test for prime numbers"),
    "divisors": ("list the divisors of a number", "find all divisors of n", "return the factors of a number"),
    "average": ("compute the average of a list", "return the mean of the numbers{place}", "average a list of numbers"),
    "maximum": ("find the largest number{place}", "return the maximum of a list", "get the biggest number{place}"),
    "minimum": ("find the smallest number{place}", "return the minimum of a list", "get the smallest number{place}"),
    "total": ("sum a list of numbers", "add up all numbers{place}", "return the sum of a list", "sum all numbers"),
    "sort": ("sort a list", "sort a list of numbers", "sort the numbers{place}", "return a list in sorted order"),
    "unique": ("remove duplicates from a list", "drop the duplicates{place}", "return the unique numbers{place}"),
}
ORDERS = (
    "Write a Python function to {do}.",
    "Write a function to {do}.",
    "Write Python code to {do}.",
    "Can you write a Python function to {do}?",
    "Please write a function to {do}.",
    "Give me a Python function to {do}.",
    "I need code to {do}.",
    "How do I {do} in Python?",
    "How can I {do} in Python?",
    "Show me how to {do} in Python.",
    "Python function to {do}",
)
DESCRIPTIONS = (
    "Write a Python function that {does}.",
    "Write a Python function that {does}.",
    "Write a function that {does}.",
    "Write Python code that {does}.",
    "Create a Python function that {does}.",
    "Could you write me a function that {does}?",
    "I want a Python function that {does}.",
    "Please give me a Python function which {does}.",
)


def asked(rng: random.Random, family: str, function: Function) -> str:
    """Ask for a function of a family in some words."""
    do = phrasing(rng, family, function)
    if rng.random() < 0.5:
        return rng.choice(DESCRIPTIONS).format(does=third_person(do))
    return rng.choice(ORDERS).format(do=do)


def phrasing(rng: random.Random, family: str, function: Function) -> str:
    """Say what a function of a family is to do."""
    words: dict[str, object] = {**function.parameters, "place": rng.choice(PLACES)}
    if family in LISTS:
        shape = rng.choice(CONDITIONS[function.kind])
        words |= {"them": numbers(shape, MANY, words), "one": numbers(shape, ONE, words)}
        return rng.choice(LISTS[family]).format(**words)
    return rng.choice(OTHERS[family]).format(**words)


def numbers(shape: str, how_many: Mapping[str, str], words: Mapping[str, object]) -> str:
    """Name the numbers of a condition, or one of them."""
    return shape.format(**how_many, n=words.get("n"))


def third_person(order: str) -> str:
    """Turn "carry ..." into "carries ..."."""
    verb, _, rest = order.partition(" ")
    if verb.endswith("y") and verb[-2] not in "aeiou":
        verb = f"{verb[:-1]}ie"
    elif verb.endswith(("s", "sh", "ch", "x")):
        verb = f"{verb}e"
    return f"{verb}s {rest}"
