"""Held-out tasks of the demo's curriculum as conversations: unseen operands, wordings and packages."""

import itertools
from functools import partial

from tokenizers import Tokenizer

from training.corpus import read_corpus
from training.evaluation.conversation import Conversation
from training.onpolicy import MAX_NEW_TOKENS, SOURCES, prompt_source
from training.packing import encode_library
from training.tasks.catalog import DOMAINS, is_right, tasks

# Asked for in place of a task file.
DEMO = "demo"
SEED = 4242
NEW_WORDING, NEW_OPERANDS = "new wording", "new operands"


def demo_tasks(tokenizer: Tokenizer, count: int) -> list[Conversation]:
    """Return so many held-out tasks of every source; the library's are beginnings of text."""
    found: list[Conversation] = []
    for source in SOURCES:
        found += task_prompts(source, count) if source in DOMAINS else library_prompts(tokenizer, source, count)
    return found


def task_prompts(source: str, count: int) -> list[Conversation]:
    """Return held-out tasks of a domain; right answers are known."""
    return [
        Conversation(
            task=source,
            place=f"{source} task {index}",
            turns=(tuple(task.turns),),
            max_tokens=MAX_NEW_TOKENS[source],
            is_right=partial(is_right, task),
            kind=NEW_WORDING if task.template in DOMAINS[source].held_out_templates else NEW_OPERANDS,
        )
        for index, task in enumerate(itertools.islice(tasks(source, SEED, "held_out"), count))
    ]


def library_prompts(tokenizer: Tokenizer, source: str, count: int) -> list[Conversation]:
    """Return beginnings of files of the standard library whose whole packages are held out."""
    files = encode_library(tokenizer, list(read_corpus().held_out.values()))
    draw = prompt_source(tokenizer, source, files, "held_out", SEED, (1.0,))
    return [
        Conversation(
            task=source,
            place=f"{source} text {index}",
            text=tokenizer.decode(draw().ids, skip_special_tokens=False),
            max_tokens=MAX_NEW_TOKENS[source],
        )
        for index in range(count)
    ]
