"""Short Python functions asked for in words and a doctest; the answer is one canonical function.

Families (count, keep, sum ... over a list; string and loop functions) meet conditions with parameters. The key is
the function with its parameters, so a held-out function is an unseen combination. A model's text runs only in
training.tasks.sandbox.
"""

import random
import re

from training.tasks.functions import FAMILIES, Function, draw_function
from training.tasks.sandbox import run_calls
from training.tasks.task import Task

# Pairs of a family and a condition that training never shows together, though it shows both with others.
HELD_OUT_TEMPLATES = frozenset({"last from", "last not", "last odd", "last by"})
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
NUM_TESTS = 5
ASKED = (
    "Write a Python function {call} that {words}.",
    "Define a function {call} in Python that {words}.",
    "I need a Python function {call} that {words}.",
    "Please write {call}, a Python function that {words}.",
)


def generate(rng: random.Random) -> Task:
    """Draw one task."""
    family = rng.choice(FAMILIES)
    function = draw_function(rng, family)
    call = f"{function.name}({function.argument})"
    shown = function.draw(rng)
    example = f">>> {function.name}({shown!r})\n{function.reference(shown)!r}"
    prompt = f"{rng.choice(ASKED).format(call=f'`{call}`', words=function.words)}\n\n{example}"
    tests = []
    for _ in range(NUM_TESTS):
        value = function.draw(rng)
        tests.append((f"{function.name}({value!r})", repr(function.reference(value))))
    return Task(
        "code",
        f"{family} {function.kind}".strip(),
        f"{function.name}: {function.words}",
        (("user", prompt),),
        render(function, call, example),
        tuple(tests),
    )


def render(function: Function, call: str, example: str) -> str:
    """Write the canonical answer: a function with its description and doctest."""
    summary = function.words[0].upper() + function.words[1:]
    lines = [f'"""{summary}.', "", *example.splitlines(), '"""', *function.body.splitlines()]
    indented = "\n".join(f"    {line}" if line else "" for line in lines)
    return f"```python\ndef {call}:\n{indented}\n```"


def is_right(task: Task, text: str) -> bool:
    """Tell whether the function in a text gives the expected value for every held test."""
    block = BLOCK.search(text)
    if block is None:
        return False
    return run_calls(block.group(1), [call for call, _ in task.tests]) == [value for _, value in task.tests]
