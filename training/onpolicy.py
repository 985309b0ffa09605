"""Text that the target itself writes, for training and measuring drafters: a drafter must know the target's habits.

Prompts are tasks of the three domains and beginnings of library text; most texts are sampled at temperature 1.
"""

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from models.checkpoint import write_tensors
from models.qwen3 import Qwen3
from training.chatml import END, END_OF_TEXT, render_prompt, token_id
from training.generate import Prompt, generate
from training.packing import Document
from training.tasks.catalog import DOMAINS, tasks

TEMPERATURES = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.6, 0.6, 0.0)
ROWS_PER_BATCH = 192
LIBRARY_PREFIX_LEN = (16, 160)
# Twice what a canonical answer takes: a text that rambles on teaches little.
MAX_NEW_TOKENS = {"math": 160, "code": 200, "chat": 112, "library": 192}
SOURCES = (*DOMAINS, "library")


class Texts(msgspec.Struct, frozen=True):
    """Documents of one source: prompt and the target's continuation."""

    source: str
    documents: list[Document]

    @property
    def num_new_tokens(self) -> int:
        """Count the tokens that the target wrote."""
        return sum(len(document.ids) - document.answer_start for document in self.documents)


def write_texts(
    network: Qwen3,
    tokenizer: Tokenizer,
    source: str,
    library: Sequence[np.ndarray],
    part: str,
    seed: int,
    num_new_tokens: int,
    temperatures: Sequence[float] = TEMPERATURES,
    num_rows: int = ROWS_PER_BATCH,
) -> Texts:
    """Let a frozen target write at least so many tokens, `num_rows` texts at once, for prompts of a source and part."""
    draw = prompt_source(tokenizer, source, library, part, seed, temperatures)
    end_id = token_id(tokenizer, END_OF_TEXT if source == "library" else END)
    documents: list[Document] = []
    made = 0
    for batch in itertools.count():
        prompts = sorted((draw() for _ in range(num_rows)), key=lambda prompt: len(prompt.ids))
        for prompt, output in zip(prompts, generate(network, prompts, end_id, seed + batch), strict=True):
            documents.append(Document(prompt.ids + output, len(prompt.ids)))
            made += len(output)
        if made >= num_new_tokens:
            break
    return Texts(source, documents)


def prompt_source(
    tokenizer: Tokenizer,
    source: str,
    library: Sequence[np.ndarray],
    part: str,
    seed: int,
    temperatures: Sequence[float],
) -> Callable[[], Prompt]:
    """Return a function that draws prompts without end."""
    rng = random.Random(seed)  # noqa: S311, a seed must give the same text
    if source == "library":
        long = [file for file in library if len(file) > 2 * LIBRARY_PREFIX_LEN[1]]
        sizes = [len(file) for file in long]

        def draw_library() -> Prompt:
            file = rng.choices(long, sizes)[0]
            prefix_len = rng.randint(*LIBRARY_PREFIX_LEN)
            start = rng.randrange(len(file) - prefix_len)
            prefix = file[start : start + prefix_len].tolist()
            return Prompt(prefix, MAX_NEW_TOKENS[source], rng.choice(temperatures))

        return draw_library
    stream = tasks(source, seed, part)

    def draw_task() -> Prompt:
        ids = tokenizer.encode(render_prompt(next(stream).messages)).ids
        return Prompt(ids, MAX_NEW_TOKENS[source], rng.choice(temperatures))

    return draw_task


def save_texts(path: Path, texts: Texts) -> None:
    """Write documents as flat int32 tokens with lengths and answer starts. Raises OSError."""
    flat = [token for document in texts.documents for token in document.ids]
    write_tensors(
        path,
        {
            "tokens": torch.tensor(flat, dtype=torch.int32),
            "lengths": torch.tensor([len(document.ids) for document in texts.documents], dtype=torch.int32),
            "answer_starts": torch.tensor([document.answer_start for document in texts.documents], dtype=torch.int32),
        },
    )


def load_texts(path: Path, source: str) -> Texts:
    """Read what `save_texts` wrote."""
    tensors = load_file(path)
    pieces = tensors["tokens"].split(tensors["lengths"].tolist())
    starts = tensors["answer_starts"].tolist()
    return Texts(source, [Document(piece.tolist(), start) for piece, start in zip(pieces, starts, strict=True)])
