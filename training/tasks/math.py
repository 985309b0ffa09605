"""Worked arithmetic and word problems, one canonical wording of the answer per operation.

Every answer spells the digits out step by step, so that a model of a few million weights can learn it, and ends in
"Answer: N". The key is the operation with its operands, so a held-out sum is unseen in every story.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from training.tasks.casual import casual
from training.tasks.task import Task

NAMES = (
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Felix",
    "Grace",
    "Hugo",
    "Ida",
    "Jonas",
    "Kate",
    "Leo",
    "Mia",
    "Noah",
)
THINGS = ("apples", "books", "coins", "marbles", "pencils", "shells", "stamps", "cards", "eggs", "stones")
GAINS = ("bought", "picked up", "collected", "got", "received", "won", "earned", "made", "saved")
LOSSES = (
    "got lost",
    "were stolen",
    "fell down",
    "melted",
    "disappeared",
    "were eaten",
    "were sold",
    "went missing",
    "blew away",
    "cracked",
    "sank",
    "tore",
)
CONTAINERS = ("boxes", "bags", "baskets", "crates")
PLACE_NAMES = ("Ones", "Tens", "Hundreds", "Thousands")
SUMS = (
    "What is {} + {}?",
    "Add {} and {}.",
    "Compute {} + {}.",
    "Find the sum of {} and {}.",
    "What is {} plus {}?",
    "What's {} + {}?",
    "How much is {} + {}?",
    "Calculate {} + {}.",
    "Can you add {} and {}?",
    "What is the sum of {} and {}?",
    "{} + {}",
    "{} + {} = ?",
    "{}+{}",
    "{} plus {}",
)
DIFFERENCES = (
    "What is {0} - {1}?",
    "Subtract {1} from {0}.",
    "Compute {0} - {1}.",
    "Take {1} away from {0}.",
    "What is {0} minus {1}?",
    "What's {0} - {1}?",
    "How much is {0} - {1}?",
    "Calculate {0} - {1}.",
    "Can you subtract {1} from {0}?",
    "What is the difference between {0} and {1}?",
    "{0} - {1}",
    "{0} - {1} = ?",
    "{0}-{1}",
    "{0} minus {1}",
)
PRODUCTS = (
    "What is {} * {}?",
    "Multiply {} by {}.",
    "Compute {} * {}.",
    "What is {} times {}?",
    "What's {} * {}?",
    "How much is {} times {}?",
    "Calculate {} * {}.",
    "Can you multiply {} by {}?",
    "What is {} x {}?",
    "{} * {}",
    "{} * {} = ?",
    "{}*{}",
    "{} x {}",
    "{} times {}",
)
QUOTIENTS = (
    "What is {} / {}?",
    "Divide {} by {}.",
    "Compute {} / {}.",
    "What is {} divided by {}?",
    "What's {} / {}?",
    "How much is {} divided by {}?",
    "Calculate {} / {}.",
    "Can you divide {} by {}?",
    "{} / {}",
    "{} / {} = ?",
    "{}/{}",
    "{} divided by {}",
)
# Wordings that training never shows; what they ask for is taught in other words.
HELD_OUT_TEMPLATES = frozenset({"story_found", "story_broke"})

Worked = tuple[str, str, int]  # key, steps, result


def work_add(left: int, right: int) -> Worked:
    """Add column by column with carries."""
    steps, carry, result = [], 0, left + right
    for place in range(max(len(str(left)), len(str(right)))):
        a, b = digit(left, place), digit(right, place)
        total = a + b + carry
        carried = f" + {carry}" if carry else ""
        carry = total // 10
        kept = f", write {total % 10}, carry 1" if carry else ""
        steps.append(f"{PLACE_NAMES[place]}: {a} + {b}{carried} = {total}{kept}.")
    low, high = sorted((left, right))
    return f"{low}+{high}", "\n".join([*steps, f"So {left} + {right} = {result}."]), result


def work_subtract(left: int, right: int) -> Worked:
    """Subtract column by column with borrows; left >= right."""
    steps, borrow, result = [], 0, left - right
    for place in range(len(str(left))):
        a, b = digit(left, place), digit(right, place)
        borrowed = f" - {borrow}" if borrow else ""
        total = a - b - borrow
        borrow = int(total < 0)
        shown = f"1{a}" if borrow else f"{a}"
        note = ", borrow 1" if borrow else ""
        steps.append(f"{PLACE_NAMES[place]}: {shown} - {b}{borrowed} = {total % 10}{note}.")
    return f"{left}-{right}", "\n".join([*steps, f"So {left} - {right} = {result}."]), result


def work_multiply(left: int, right: int) -> Worked:
    """Multiply a number below 100 by one digit, in two parts."""
    tens, ones, result = left // 10 * 10, left % 10, left * right
    steps = [f"{left} = {tens} + {ones}.", f"{tens} * {right} = {tens * right}.", f"{ones} * {right} = {ones * right}."]
    total = f"{tens * right} + {ones * right} = {result}."
    return f"{left}*{right}", "\n".join([*steps, total, f"So {left} * {right} = {result}."]), result


def work_divide(left: int, right: int) -> Worked:
    """Divide within the small table, without remainder."""
    result = left // right
    return f"{left}/{right}", f"{right} * {result} = {left}.\nSo {left} / {right} = {result}.", result


def digit(number: int, place: int) -> int:
    """Return a decimal digit; place 0 is the ones."""
    return number // int(10**place) % 10


def generate(rng: random.Random) -> Task:
    """Draw one task."""
    template = rng.choice(tuple(TEMPLATES))
    key, prompt, answer = TEMPLATES[template](rng)
    return Task("math", template, key, (("user", prompt),), answer)


def is_right(task: Task, text: str) -> bool:
    """Tell whether the last "Answer:" of a text is the right one."""
    found = re.findall(r"Answer: (\S+)", text)
    expected = re.findall(r"Answer: (\S+)", task.answer)
    return bool(found) and found[-1].rstrip(".") == expected[-1]


def finish(worked: Worked, prompt: str, opening: str = "", unit: str = "") -> tuple[str, str, str]:
    """Join the opening, the steps and the final line into (key, prompt, answer)."""
    key, steps, result = worked
    first = f"{opening}\n" if opening else ""
    return key, prompt, f"{first}{steps}\nAnswer: {result}{unit}"


def operands(rng: random.Random) -> tuple[int, int]:
    """Draw two numbers of up to three digits, mostly of two."""
    high = 999 if rng.random() < 0.25 else 99
    return rng.randint(3, high), rng.randint(3, high)


def _add(rng: random.Random) -> tuple[str, str, str]:
    left, right = operands(rng)
    return finish(work_add(left, right), casual(rng, rng.choice(SUMS).format(left, right)))


def _subtract(rng: random.Random) -> tuple[str, str, str]:
    right, left = sorted(operands(rng))
    return finish(work_subtract(left, right), casual(rng, rng.choice(DIFFERENCES).format(left, right)))


def _multiply(rng: random.Random) -> tuple[str, str, str]:
    left, right = rng.randint(11, 99), rng.randint(2, 9)
    return finish(work_multiply(left, right), casual(rng, rng.choice(PRODUCTS).format(left, right)))


def _divide(rng: random.Random) -> tuple[str, str, str]:
    right, result = rng.randint(2, 9), rng.randint(2, 12)
    return finish(work_divide(right * result, right), casual(rng, rng.choice(QUOTIENTS).format(right * result, right)))


def _compare(rng: random.Random) -> tuple[str, str, str]:
    left = rng.randint(10, 99)
    right = rng.choice([number for number in range(10, 100) if number != left])
    larger, smaller = max(left, right), min(left, right)
    place = 1 if larger // 10 != smaller // 10 else 0
    asked = rng.choice(("Which is greater, {} or {}?", "Which number is larger: {} or {}?"))
    same = "" if place else f"Tens: both {larger // 10}.\n"
    seen = f"{same}{PLACE_NAMES[place]}: {digit(larger, place)} > {digit(smaller, place)}."
    answer = f"{seen}\nSo {larger} > {smaller}.\nAnswer: {larger}"
    return f"{smaller}<{larger}", asked.format(left, right), answer


def _sequence(rng: random.Random) -> tuple[str, str, str]:
    start, step = rng.randint(1, 40), rng.randint(2, 12)
    shown = [start + step * index for index in range(4)]
    listed = ", ".join(map(str, shown))
    key, steps, result = work_add(shown[-1], step)
    opening = f"{shown[1]} - {shown[0]} = {step}, so each step adds {step}.\n{shown[-1]} + {step}:"
    asked = rng.choice(("What comes next: {}?", "Continue the sequence {}."))
    return key, asked.format(listed), f"{opening}\n{steps}\nAnswer: {result}"


def _story_gains(rng: random.Random) -> tuple[str, str, str]:
    (left, right), (name, other), things = operands(rng), rng.sample(NAMES, 2), rng.choice(THINGS)
    prompt = f"{name} has {left} {things}. {other} gives {name} {right} more. How many {things} does {name} have now?"
    opening = f"{name} has {left} {things} and gets {right} more, so we add."
    return finish(work_add(left, right), prompt, opening, f" {things}")


def _story_both(rng: random.Random) -> tuple[str, str, str]:
    (left, right), (name, other), things = operands(rng), rng.sample(NAMES, 2), rng.choice(THINGS)
    prompt = f"{name} has {left} {things} and {other} has {right} {things}. How many {things} do they have together?"
    opening = f"{name} has {left} {things} and {other} has {right}, so we add."
    return finish(work_add(left, right), prompt, opening, f" {things}")


def _story_more(rng: random.Random) -> tuple[str, str, str]:
    return _gained(rng, rng.choice(GAINS))


def _story_found(rng: random.Random) -> tuple[str, str, str]:
    return _gained(rng, "found")


def _gained(rng: random.Random, verb: str) -> tuple[str, str, str]:
    (left, right), name, things = operands(rng), rng.choice(NAMES), rng.choice(THINGS)
    prompt = f"{name} had {left} {things} and {verb} {right} more. How many {things} does {name} have now?"
    opening = f"{name} has {left} {things} and gets {right} more, so we add."
    return finish(work_add(left, right), prompt, opening, f" {things}")


def _story_loses(rng: random.Random) -> tuple[str, str, str]:
    (right, left), name, things = sorted(operands(rng)), rng.choice(NAMES), rng.choice(THINGS)
    prompt = f"{name} has {left} {things} and gives away {right}. How many {things} are left?"
    opening = f"{name} has {left} {things} and loses {right}, so we subtract."
    return finish(work_subtract(left, right), prompt, opening, f" {things}")


def _story_difference(rng: random.Random) -> tuple[str, str, str]:
    (right, left), (name, other), things = sorted(operands(rng)), rng.sample(NAMES, 2), rng.choice(THINGS)
    prompt = f"{name} has {left} {things}. {other} has {right}. How many more {things} does {name} have than {other}?"
    opening = f"{name} has {left} {things} and {other} has {right}, so we subtract."
    return finish(work_subtract(left, right), prompt, opening, f" {things}")


def _story_fewer(rng: random.Random) -> tuple[str, str, str]:
    return _lost(rng, rng.choice(LOSSES))


def _story_broke(rng: random.Random) -> tuple[str, str, str]:
    return _lost(rng, "broke")


def _lost(rng: random.Random, verb: str) -> tuple[str, str, str]:
    (right, left), name, things = sorted(operands(rng)), rng.choice(NAMES), rng.choice(THINGS)
    prompt = f"{name} had {left} {things}, but {right} {verb}. How many {things} are left?"
    opening = f"{name} has {left} {things} and loses {right}, so we subtract."
    return finish(work_subtract(left, right), prompt, opening, f" {things}")


def _story_price(rng: random.Random) -> tuple[str, str, str]:
    count, price, name, things = rng.randint(11, 99), rng.randint(2, 9), rng.choice(NAMES), rng.choice(THINGS)
    prompt = f"{name} buys {count} {things} for {price} dollars each. How many dollars does {name} pay?"
    opening = f"{name} buys {count} {things} for {price} dollars each, so we multiply."
    return finish(work_multiply(count, price), prompt, opening, " dollars")


def _story_boxes(rng: random.Random) -> tuple[str, str, str]:
    size, boxes, things = rng.randint(11, 99), rng.randint(2, 9), rng.choice(THINGS)
    kind = rng.choice(CONTAINERS)
    prompt = f"There are {boxes} {kind} with {size} {things} in each. How many {things} are there in all?"
    opening = f"There are {boxes} {kind} of {size} {things}, so we multiply."
    return finish(work_multiply(size, boxes), prompt, opening, f" {things}")


def _story_share(rng: random.Random) -> tuple[str, str, str]:
    right, result, name, things = rng.randint(2, 9), rng.randint(2, 12), rng.choice(NAMES), rng.choice(THINGS)
    prompt = f"{name} shares {right * result} {things} equally among {right} friends. How many {things} does each get?"
    opening = f"{name} shares {right * result} {things} among {right} friends, so we divide."
    return finish(work_divide(right * result, right), prompt, opening, f" {things}")


def _area(rng: random.Random) -> tuple[str, str, str]:
    length, width = rng.randint(11, 99), rng.randint(2, 9)
    prompt = f"A rectangle is {length} meters long and {width} meters wide. What is its area in square meters?"
    opening = f"The area is {length} times {width}, so we multiply."
    return finish(work_multiply(length, width), prompt, opening)


def _perimeter(rng: random.Random) -> tuple[str, str, str]:
    side = rng.randint(11, 99)
    prompt = f"A square has sides of {side} meters. What is its perimeter in meters?"
    return finish(work_multiply(side, 4), prompt, f"The perimeter is {side} times 4, so we multiply.")


TEMPLATES: dict[str, Callable[[random.Random], tuple[str, str, str]]] = {
    maker.__name__.removeprefix("_"): maker
    for maker in (
        _add,
        _subtract,
        _multiply,
        _divide,
        _compare,
        _sequence,
        _story_gains,
        _story_both,
        _story_more,
        _story_found,
        _story_loses,
        _story_difference,
        _story_fewer,
        _story_broke,
        _story_price,
        _story_boxes,
        _story_share,
        _area,
        _perimeter,
    )
}
