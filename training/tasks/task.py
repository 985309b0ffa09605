"""A task: one dialogue with a known right answer, and the rule that decides what is held out.

Knows nothing of models or tokens. The key names what must be unseen for a task to count as held out (operands,
parameters, pairs of facts), never the wording; so the same key is on the same side whatever the template.
"""

import hashlib
import random
from collections.abc import Callable, Iterator

import msgspec

HELD_OUT_SHARE = 16  # one key in so many is held out

Generate = Callable[[random.Random], "Task"]


class Task(msgspec.Struct, frozen=True):
    """One prompt with its canonical answer.

    messages are everything before the answer (role, content); tests are what the domain's checker needs.
    """

    domain: str
    template: str
    key: str
    messages: tuple[tuple[str, str], ...]
    answer: str
    tests: tuple[tuple[str, str], ...] = ()

    @property
    def turns(self) -> list[dict[str, str]]:
        """Return the prompt as chat messages."""
        return [{"role": role, "content": content} for role, content in self.messages]


def stable_hash(text: str) -> int:
    """Hash text to 0..2**64-1, the same in every process and version."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def split(task: Task, held_out_templates: frozenset[str]) -> str:
    """Return "train" or "held_out" for a task."""
    if task.template in held_out_templates or stable_hash(task.key) % HELD_OUT_SHARE == 0:
        return "held_out"
    return "train"


def stream(generate: Generate, held_out_templates: frozenset[str], seed: int, part: str) -> Iterator[Task]:
    """Yield tasks of one part ("train" or "held_out") without end; the same seed gives the same tasks."""
    rng = random.Random(seed)  # noqa: S311, a seed must give the same text
    while True:
        task = generate(rng)
        if split(task, held_out_templates) == part:
            yield task
