"""Short Python functions asked for in words, mostly with a doctest; the answer is one canonical function.

Families (count, keep, sum ... over a list; string and loop functions) meet conditions with parameters. The key is
the function with its parameters, so a held-out function is an unseen combination; what everybody asks for first has
none. Half of them are asked for in a form, the rest as it comes, often with neither name nor example. A model's text
runs only in training.tasks.sandbox.
"""

import random
import re

from training.tasks.casual import casual
from training.tasks.classics import CLASSICS
from training.tasks.functions import FAMILIES, Function, draw_function
from training.tasks.phrasings import asked
from training.tasks.sandbox import run_calls
from training.tasks.task import Task

# Pairs of a family and a condition that training never shows together, though it shows both with others.
HELD_OUT_TEMPLATES = frozenset({"last from", "last not", "last odd", "last by"})
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
DEFINED = re.compile(r"^def (\w+)\(", re.MULTILINE)
# How a prompt says what a function is to be called; a name may be a common word.
NAMED = r"`{0}\b|>>> {0}\(| it {0}\b"
NUM_TESTS = 5
FORMS = (
    "Write a Python function {call} that {words}.",
    "Define a function {call} in Python that {words}.",
    "I need a Python function {call} that {words}.",
    "Please write {call}, a Python function that {words}.",
)
FORM_SHARE = 0.5
# What may follow a question that follows no form.
ENDINGS = ("", "", "", " Call it `{name}`.", " Name it {name}.", "\n\n{example}", " For example:\n\n{example}")
ALL_FAMILIES = (*FAMILIES, *CLASSICS)


def generate(rng: random.Random) -> Task:
    """Draw one task."""
    family = rng.choice(ALL_FAMILIES)
    function = CLASSICS[family] if family in CLASSICS else draw_function(rng, family)
    example = doctest(function, function.draw(rng))
    if rng.random() < FORM_SHARE:
        prompt = f"{rng.choice(FORMS).format(call=f'`{call(function)}`', words=function.words)}\n\n{example}"
    else:
        ending = rng.choice(ENDINGS)
        example = example if "{example}" in ending else ""
        question = asked(rng, family, function)
        stop = "." if ending and question[-1] not in ".?" else ""
        prompt = casual(rng, f"{question}{stop}{ending.format(name=function.name, example=example)}")
    tests = []
    for _ in range(NUM_TESTS):
        value = function.draw(rng)
        tests.append((f"{function.name}({value!r})", repr(function.reference(value))))
    return Task(
        "code",
        f"{family} {function.kind}".strip(),
        f"{function.name}: {function.words}",
        (("user", prompt),),
        render(function, example),
        tuple(tests),
    )


def call(function: Function) -> str:
    """Return how a function is called."""
    return f"{function.name}({function.argument})"


def doctest(function: Function, value: object) -> str:
    """Show what a function makes of a value."""
    return f">>> {function.name}({value!r})\n{function.reference(value)!r}"


def render(function: Function, example: str) -> str:
    """Write the canonical answer: a function with its description, and the doctest where one is given."""
    summary = f"{function.words[0].upper()}{function.words[1:]}."
    description = [f'"""{summary}', "", *example.splitlines(), '"""'] if example else [f'"""{summary}"""']
    indented = "\n".join(f"    {line}" if line else "" for line in (*description, *function.body.splitlines()))
    return f"```python\ndef {call(function)}:\n{indented}\n```"


def is_right(task: Task, text: str) -> bool:
    """Tell whether the function in a text gives the expected value for every held test.

    A function that was asked for without a name may have any.
    """
    block = BLOCK.search(text)
    defined = DEFINED.findall(block.group(1)) if block else []
    if block is None or not defined:
        return False
    name = task.tests[0][0].partition("(")[0]
    is_named = any(re.search(NAMED.format(name), content) for _, content in task.messages)
    calls = [one if is_named else f"{defined[-1]}{one.removeprefix(name)}" for one, _ in task.tests]
    return run_calls(block.group(1), calls) == [value for _, value in task.tests]
