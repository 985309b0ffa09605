"""The three task domains behind one table: generator, checker and held-out templates of each."""

from collections.abc import Callable, Iterator

import msgspec

from training.tasks import chat, code, math
from training.tasks.task import Generate, Task, split, stream


class Domain(msgspec.Struct, frozen=True):
    """How to draw tasks of a domain and how to judge an answer."""

    generate: Generate
    is_right: Callable[[Task, str], bool]
    held_out_templates: frozenset[str]


DOMAINS = {
    "math": Domain(math.generate, math.is_right, math.HELD_OUT_TEMPLATES),
    "code": Domain(code.generate, code.is_right, code.HELD_OUT_TEMPLATES),
    "chat": Domain(chat.generate, chat.is_right, chat.HELD_OUT_TEMPLATES),
}


def tasks(domain: str, seed: int, part: str) -> Iterator[Task]:
    """Yield tasks of a domain and part ("train" or "held_out") without end."""
    row = DOMAINS[domain]
    return stream(row.generate, row.held_out_templates, seed, part)


def part_of(task: Task) -> str:
    """Return the part a task belongs to."""
    return split(task, DOMAINS[task.domain].held_out_templates)


def is_right(task: Task, text: str) -> bool:
    """Tell whether a text answers a task."""
    return DOMAINS[task.domain].is_right(task, text)
