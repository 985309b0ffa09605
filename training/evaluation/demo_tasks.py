"""Held-out tasks of the demo's curriculum as conversations: unseen operands, wordings and packages."""

import itertools
from functools import partial

from tokenizers import Tokenizer

from training.corpus import read_corpus
from training.evaluation.conversation import Conversation, Message
from training.onpolicy import MAX_NEW_TOKENS, SOURCES, prompt_source
from training.packing import encode_library
from training.tasks.catalog import DOMAINS, is_right, tasks

# Asked for in place of task files.
DEMO, TRANSCRIPTS = "demo", "demo-transcripts"
SEED = 4242
TASKS_PER_SESSION = 4
SESSION = "You solve one task after another. A tool checks each answer and says what it found."
NEW_WORDING, NEW_OPERANDS = "new wording", "new operands"
LAST_OF_SESSION = f"after {TASKS_PER_SESSION - 1} others"


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


def transcripts(count: int) -> list[Conversation]:
    """Return sessions of several tasks with a tool's word after each recorded answer; every answer is asked for.

    The last one is judged: what is right after others is not what is right alone.

    The demo's chat template knows no tools, so the tool speaks as the user does.
    """
    streams = [tasks(source, SEED, "held_out") for source in ("math", "code")]
    made = []
    for index in range(count):
        turns: list[tuple[Message, ...]] = []
        before: tuple[Message, ...] = ({"role": "system", "content": SESSION},)
        for number in range(TASKS_PER_SESSION):
            task = next(streams[number % len(streams)])
            said = "Checked: correct.\n\n" if number else ""
            turns.append((*before, {"role": "user", "content": said + task.turns[-1]["content"]}))
            before = ({"role": "assistant", "content": task.answer},)
        made.append(
            Conversation(
                "transcripts",
                f"session {index}",
                tuple(turns),
                is_own=False,
                max_tokens=max(MAX_NEW_TOKENS.values()),
                is_right=partial(is_right, task),
                kind=LAST_OF_SESSION,
            )
        )
    return made


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
