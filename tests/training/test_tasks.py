"""The task generators: reproducible, split by key, and judged by checkers that tell right from wrong."""

import itertools
import random

import pytest

from training.tasks.catalog import DOMAINS, is_right, part_of, tasks
from training.tasks.math import work_add, work_multiply, work_subtract
from training.tasks.sandbox import is_plain, run_calls


def first(domain, part, count, seed=1):
    return list(itertools.islice(tasks(domain, seed, part), count))


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_same_seed_gives_the_same_tasks(domain):
    assert first(domain, "train", 40) == first(domain, "train", 40)


@pytest.mark.parametrize("domain", DOMAINS)
def test_another_seed_gives_other_tasks(domain):
    assert first(domain, "train", 40) != first(domain, "train", 40, seed=2)


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_held_out_key_or_template_is_trained_on(domain):
    trained = first(domain, "train", 3000)
    held_out = first(domain, "held_out", 300)
    templates = DOMAINS[domain].held_out_templates
    seen = {task.key for task in trained}
    assert all(task.key not in seen for task in held_out if task.template not in templates)
    assert templates.isdisjoint(task.template for task in trained)


@pytest.mark.parametrize("domain", DOMAINS)
def test_held_out_tasks_contain_seen_and_unseen_templates(domain):
    templates = {task.template for task in first(domain, "held_out", 300)}
    assert templates > DOMAINS[domain].held_out_templates
    assert all(part_of(task) == "held_out" for task in first(domain, "held_out", 20))


@pytest.mark.parametrize(("domain", "count"), [("math", 300), ("code", 25), ("chat", 300)])
def test_the_canonical_answer_is_right(domain, count):
    assert all(is_right(task, task.answer) for task in first(domain, "held_out", count))


def test_a_wrong_sum_is_wrong():
    task = first("math", "train", 1)[0]
    assert not is_right(task, task.answer + "\nAnswer: 123456")
    assert not is_right(task, "no answer")


def test_a_function_that_returns_something_else_is_wrong():
    task = first("code", "train", 1)[0]
    assert not is_right(task, task.answer.replace("return ", "return 'wrong', "))
    assert not is_right(task, "def without_block(): return 1")


def test_an_answer_about_something_else_is_wrong():
    task = first("chat", "train", 1)[0]
    assert not is_right(task, "Zzz zzz.")
    assert not is_right(task, "")


@pytest.mark.parametrize("seed", range(5))
def test_worked_arithmetic_ends_in_the_true_result(seed):
    rng = random.Random(seed)
    low, high = sorted((rng.randint(0, 999), rng.randint(0, 999)))
    assert work_add(low, high)[2] == low + high
    assert work_subtract(high, low)[1].endswith(f"= {high - low}.")
    assert work_multiply(rng.randint(11, 99), 7)[1].count("\n") == 4


@pytest.mark.parametrize(
    "source",
    [
        "import os",
        "def f():\n    import os",
        "print(1)",
        "class A: pass",
        "def f(x):\n    return x.__class__",
        "def f(x):\n    return (y for y in x).gi_frame",
        "def f(:",
    ],
)
def test_what_is_not_a_plain_function_is_refused(source):
    assert not is_plain(source)


@pytest.mark.parametrize("body", ["while True: pass", "open('/etc/passwd')", "[0] * 10**10", "f(x)"])
def test_harmful_functions_fail_without_harm(body):
    assert run_calls(f"def f(x):\n    {body}", ["f(1)"]) is None


def test_plain_functions_run():
    assert run_calls("def f(x):\n    return [x] * 2", ["f(3)", "f('a')"]) == ["[3, 3]", "['a', 'a']"]
