"""Sessions: tasks of all domains one after another, as conversations go, with a word from whoever asks between them.

Knows nothing of models or tokens. A task of a session has what is said before its answer and after the one before.
"""

import random
from collections.abc import Iterator

import msgspec

from training.tasks.catalog import DOMAINS, tasks
from training.tasks.task import Task

NUM_TASKS = (2, 8)
# What stays with one kind of task, as much traffic does.
ONE_DOMAIN_SHARE = 0.35
# What may stand before everything, and before a later question: not the words that evaluation uses.
OPENINGS = ("", "", "You are a helpful assistant.", "Answer every question.", "Somebody checks what you write.")
WORDS = (
    "",
    "",
    "",
    "Thanks. ",
    "Good. ",
    "The check has passed.\n\n",
    "Now the next one:\n\n",
    "All tests passed.\n\n",
)


def sessions(seed: int, part: str) -> Iterator[list[Task]]:
    """Yield sessions of tasks of a part ("train" or "held_out") without end; the same seed gives the same."""
    rng = random.Random(seed)  # noqa: S311, a seed must give the same text
    sources = {domain: tasks(domain, seed, part) for domain in DOMAINS}
    while True:
        domains = [rng.choice(list(sources))] if rng.random() < ONE_DOMAIN_SHARE else list(sources)
        first, *later = (next(sources[rng.choice(domains)]) for _ in range(rng.randint(*NUM_TASKS)))
        yield [_opened(first, rng.choice(OPENINGS)), *(_with_word(task, rng.choice(WORDS)) for task in later)]


def _opened(task: Task, opening: str) -> Task:
    return msgspec.structs.replace(task, messages=(("system", opening), *task.messages)) if opening else task


def _with_word(task: Task, word: str) -> Task:
    (role, content), *rest = task.messages
    return msgspec.structs.replace(task, messages=((role, word + content), *rest))
