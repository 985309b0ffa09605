"""The task generators: reproducible, split by key, and judged by checkers that tell right from wrong."""

import itertools
import random
import re

import pytest

from training.tasks import code
from training.tasks.casual import casual
from training.tasks.catalog import DOMAINS, is_right, part_of, tasks
from training.tasks.classics import CLASSICS
from training.tasks.functions import LIST_FAMILIES, draw_function
from training.tasks.math import work_add, work_multiply, work_subtract
from training.tasks.phrasings import CONDITIONS, LISTS, OTHERS, asked, third_person
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


@pytest.mark.parametrize(("domain", "count"), [("math", 300), ("code", 15), ("chat", 300)])
def test_the_canonical_answer_is_right(domain, count):
    for part in ("train", "held_out"):
        assert all(is_right(task, task.answer) for task in first(domain, part, count))


def test_a_wrong_sum_is_wrong():
    task = first("math", "train", 1)[0]
    assert not is_right(task, task.answer + "\nAnswer: 123456")
    assert not is_right(task, "no answer")


def test_a_function_that_returns_something_else_is_wrong():
    task = next(task for task in first("code", "train", 50) if task.template not in CLASSICS)
    assert not is_right(task, task.answer.replace("return ", "return 'wrong', "))
    assert not is_right(task, "def without_block(): return 1")


@pytest.mark.parametrize("family", CLASSICS)
def test_a_function_known_by_heart_does_what_is_expected_of_it(family):
    function, rng = CLASSICS[family], random.Random(1)
    shown = [function.draw(rng) for _ in range(8)]
    source = code.BLOCK.search(code.render(function, code.doctest(function, shown[0]))).group(1)
    values = run_calls(source, [f"{function.name}({value!r})" for value in shown])
    assert values == [repr(function.reference(value)) for value in shown]


def test_a_function_known_by_heart_is_always_trained_on():
    assert CLASSICS.keys().isdisjoint(task.template for task in first("code", "held_out", 1000))
    assert CLASSICS.keys() <= {task.template for task in first("code", "train", 1000)}


def test_every_function_can_be_asked_for_in_other_words():
    assert set(LISTS) == set(LIST_FAMILIES)
    assert set(LISTS) | set(OTHERS) == set(code.ALL_FAMILIES)
    rng = random.Random(1)
    for family in code.FAMILIES:
        kinds = set()
        for _ in range(60):
            function = draw_function(rng, family)
            kinds.add(function.kind)
            question = asked(rng, family, function)
            assert not set("{}") & set(question), question
        assert kinds == (set(CONDITIONS) if family in LISTS else {""})


def test_numbers_of_a_condition_are_named_where_it_has_any():
    rng = random.Random(1)
    for _ in range(50):
        function = draw_function(rng, "sum")
        assert str(function.parameters["n"]) in asked(rng, "sum", function)


def test_what_is_asked_for_without_an_example_is_answered_without_one():
    shown = [task for task in first("code", "train", 200) if ">>>" in task.messages[0][1]]
    bare = [task for task in first("code", "train", 200) if ">>>" not in task.messages[0][1]]
    assert len(shown) > len(bare) > 40
    assert all(">>>" in task.answer for task in shown)
    assert not any(">>>" in task.answer for task in bare)


@pytest.mark.parametrize(
    ("order", "does"),
    [
        ("count the words", "counts the words"),
        ("multiply every number by 3", "multiplies every number by 3"),
        ("check if a word is a palindrome", "checks if a word is a palindrome"),
        ("delay it", "delays it"),
        ("add up the even numbers", "adds up the even numbers"),
    ],
)
def test_an_order_becomes_what_a_function_does(order, does):
    assert third_person(order) == does


def test_what_follows_a_question_begins_a_sentence():
    asked_for = [task.messages[0][1] for task in first("code", "train", 600)]
    followed = [prompt for prompt in asked_for if " Call it" in prompt or " Name it" in prompt]
    assert len(followed) > 30
    assert all(re.search(r"[.?] (Call|Name) it", prompt) for prompt in followed)


def test_a_function_asked_for_without_a_name_may_have_any():
    for task in first("code", "train", 16):
        prompt, name = task.messages[0][1], task.tests[0][0].partition("(")[0]
        is_bare = not any(word in prompt for word in ("`", ">>>", "Name it"))
        assert is_right(task, task.answer.replace(f"def {name}(", "def other_name(")) is is_bare


def test_a_held_out_sum_is_worked_out_in_no_sequence():
    sums = {task.key for task in first("math", "held_out", 600) if task.template == "add"}
    shown = {task.key for task in first("math", "train", 3000) if task.template == "sequence"}
    assert shown
    assert all("+" in key for key in shown)
    assert sums.isdisjoint(shown)


def test_a_prompt_typed_in_a_hurry_keeps_its_words():
    rng = random.Random(1)
    typed = {casual(rng, "What is 3 + 4?") for _ in range(200)}
    assert typed == {"What is 3 + 4?", "what is 3 + 4?", "What is 3 + 4", "what is 3 + 4"}


def test_what_it_was_not_taught_is_answered_by_saying_so():
    task = next(task for task in first("chat", "held_out", 300) if task.template == "beyond")
    assert is_right(task, task.answer)
    assert not is_right(task, "The capital is Paris.")


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
