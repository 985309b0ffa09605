"""Documents to training rows: tasks packed whole into rows of fixed length, gaps filled with library text.

A row carries the document of every token, so that attention can stop at boundaries, and the weight of predicting
each token. Rows are drawn without end from a seed and a position, so that training can resume where it stopped.
"""

import random
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from training.chatml import END_OF_TEXT, render_answer, render_prompt, token_id
from training.tasks.catalog import tasks
from training.tasks.sessions import sessions
from training.tasks.task import Task

PROMPT_WEIGHT = 0.2  # prompts are drawn, not answered: learn to read them, spend little on predicting them
TASKS_PER_ENCODE = 64
SESSIONS = "sessions"


class Document(msgspec.Struct, frozen=True):
    """Token ids with the index where the answer starts (0: all of it is text to learn).

    questions   of a session: [start, end) of everything that is said between two answers
    """

    ids: list[int]
    answer_start: int = 0
    questions: tuple[tuple[int, int], ...] = ()


class Rows(msgspec.Struct, frozen=True):
    """A batch: tokens i64 [B, S], documents i64 [B, S] (numbered within the row), weights f32 [B, S] of each token."""

    tokens: Tensor
    documents: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> "Rows":
        """Return the rows on a device."""
        return Rows(self.tokens.to(device), self.documents.to(device), self.weights.to(device))


class Mixture(msgspec.Struct, frozen=True):
    """Shares of the rows' tokens; what is left is library text."""

    math: float = 0.2
    code: float = 0.2
    chat: float = 0.12
    sessions: float = 0.12


def encode_tasks(tokenizer: Tokenizer, chosen: Sequence[Task]) -> list[Document]:
    """Render tasks as dialogues and tokenize prompt and answer apart, as serving does."""
    prompts = tokenizer.encode_batch([render_prompt(task.messages) for task in chosen])
    answers = tokenizer.encode_batch([render_answer(task.answer) for task in chosen])
    return [Document(prompt.ids + answer.ids, len(prompt.ids)) for prompt, answer in zip(prompts, answers, strict=True)]


def encode_session(tokenizer: Tokenizer, chosen: Sequence[Task]) -> Document:
    """Render the tasks of a session as one dialogue."""
    ids: list[int] = []
    starts: list[tuple[int, int]] = []
    for task in encode_tasks(tokenizer, chosen):
        starts.append((len(ids), len(ids) + task.answer_start))
        ids += task.ids
    return Document(ids, starts[0][1], tuple(starts[1:]))


def first_answers(document: Document, room: int) -> Document | None:
    """Return as much of a document as `room` tokens hold, up to the end of an answer; None if not even one fits."""
    ends = [start for start, _ in document.questions] + [len(document.ids)]
    end = max((end for end in ends if end <= room), default=0)
    if not end:
        return None
    return Document(
        document.ids[:end], document.answer_start, tuple(one for one in document.questions if one[1] <= end)
    )


def task_documents(tokenizer: Tokenizer, domain: str, seed: int, part: str) -> Iterator[Document]:
    """Yield tokenized tasks of a domain, or sessions of all, without end."""
    if domain == SESSIONS:
        yield from (encode_session(tokenizer, chosen) for chosen in sessions(seed, part))
        return
    source = tasks(domain, seed, part)
    while True:
        yield from encode_tasks(tokenizer, [next(source) for _ in range(TASKS_PER_ENCODE)])


def encode_library(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """Tokenize library files; each ends with the end-of-text token."""
    end = token_id(tokenizer, END_OF_TEXT)
    return [np.array([*encoding.ids, end], dtype=np.int32) for encoding in tokenizer.encode_batch(list(texts))]


class LibraryStream:
    """Library tokens in an endless shuffled order of files; mutable: `take` moves on."""

    def __init__(self, files: Sequence[np.ndarray], seed: int) -> None:
        self._files = list(files)
        self._rng = random.Random(seed)  # noqa: S311, a seed must give the same text
        self._rest: np.ndarray = np.empty(0, dtype=np.int32)
        self._queue: list[np.ndarray] = []

    def take(self, count: int) -> list[np.ndarray]:
        """Return pieces of `count` tokens in all; a piece never crosses a file."""
        pieces = []
        while count > 0:
            if not len(self._rest):
                if not self._queue:
                    self._queue = self._rng.sample(self._files, len(self._files))
                self._rest = self._queue.pop()
            piece, self._rest = self._rest[:count], self._rest[count:]
            pieces.append(piece)
            count -= len(piece)
        return pieces


class RowStream:
    """Endless training rows of a mixture; mutable: `batch` moves on."""

    def __init__(
        self, tokenizer: Tokenizer, library: Sequence[np.ndarray], row_len: int, seed: int, mixture: Mixture
    ) -> None:
        shares = msgspec.structs.asdict(mixture)
        self._row_len = row_len
        self._sources = {name: task_documents(tokenizer, name, seed, "train") for name in shares}
        self._shares = {**shares, "library": 1.0 - sum(shares.values())}
        self._drawn = dict.fromkeys(self._shares, 0)
        self._library = LibraryStream(library, seed)

    def batch(self, num_rows: int) -> Rows:
        """Draw the next rows."""
        return stack([self._row() for _ in range(num_rows)])

    def skip(self, num_rows: int) -> None:
        """Draw rows and drop them, as a run does that has taken them before: some hundred times as fast as a step."""
        for _ in range(num_rows):
            self._row()

    def _row(self) -> list[Document]:
        documents: list[Document] = []
        room = self._row_len
        while room > 0:
            name = min(self._shares, key=lambda key: self._drawn[key] / self._shares[key])
            document = None if name == "library" else first_answers(next(self._sources[name]), room)
            if document is None:
                pieces = self._library.take(room)
                documents.extend(Document(piece.tolist()) for piece in pieces)
                self._drawn["library"] += room
                return documents
            documents.append(document)
            self._drawn[name] += len(document.ids)
            room -= len(document.ids)
        return documents


def stack(rows: Sequence[Sequence[Document]]) -> Rows:
    """Stack rows of documents of one total length."""
    tokens = [[token for document in row for token in document.ids] for row in rows]
    numbers = [[index for index, document in enumerate(row) for _ in document.ids] for row in rows]
    weights = [[weight for document in row for weight in document_weights(document)] for row in rows]
    return Rows(torch.tensor(tokens), torch.tensor(numbers), torch.tensor(weights))


def document_weights(document: Document) -> list[float]:
    """Weight of predicting each token of a document; its first token has no context and weighs nothing."""
    prompt = [PROMPT_WEIGHT] * document.answer_start
    weights = prompt + [1.0] * (len(document.ids) - document.answer_start)
    for start, end in document.questions:
        weights[start:end] = [PROMPT_WEIGHT] * (end - start)
    return [0.0, *weights[1:]]
