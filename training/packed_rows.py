"""Documents packed into rows of one length, by random access: batch n of a run is the same whoever asks, and when.

Nothing is drawn in passing, so a run resumes at a step's number, and several processes agree without a word. A row is
bounded by tokens, what is drafted in it by its anchors (training/blocks.py): documents of any length cost the same.
"""

import hashlib
import random
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec
import numpy as np
import torch

from core.errors import DataError
from training.learnt_window import has_draft, learnt_window
from training.packing import Rows

# Rows that are open at once while documents are packed: enough to leave few gaps, few enough to be quick.
OPEN_ROWS = 32
PADDING = -1


class Text(Protocol):
    """Tokens i32 [S] and mask bool [S], true where the target wrote the token (training/shards.py Document)."""

    @property
    def tokens(self) -> np.ndarray: ...  # noqa: D102

    @property
    def mask(self) -> np.ndarray: ...  # noqa: D102


class MaskedText(msgspec.Struct, frozen=True):
    """A text from memory (`Text`)."""

    tokens: np.ndarray
    mask: np.ndarray


class PackedRows:
    """An epoch is every document once, in an order of its own; the rest of an epoch that fills no batch is left out.

    Of documents beyond row_len a window is read (training/learnt_window.py). num_dropped of them have nothing to learn
    and are left out; raises DataError where that is all, or where the others fill no batch.
    sha256 is of all documents, as they are cut.
    """

    def __init__(self, texts: Iterable[Text], row_len: int, num_rows: int, seed: int) -> None:
        kept: list[tuple[np.ndarray, np.ndarray]] = []
        self.num_dropped = 0
        for text in texts:
            window = learnt_window(text.mask, row_len)
            if has_draft(text.mask[window]):
                kept.append((text.tokens[window].astype(np.int32), text.mask[window].astype(np.uint8)))
            else:
                self.num_dropped += 1
        self.num_documents = len(kept)
        if not kept:
            if not self.num_dropped:
                raise DataError("there are no documents to train on")
            raise DataError(
                f"nothing is to be learnt from {self.num_dropped} documents: a drafter takes two tokens of an answer, "
                f"one after the other, within {row_len}; prepare data with answers, or raise data.row_len"
            )
        self._tokens = np.concatenate([tokens for tokens, _ in kept])
        self._mask = np.concatenate([mask for _, mask in kept])
        self._ends = np.cumsum([len(tokens) for tokens, _ in kept])
        self._starts = self._ends - [len(tokens) for tokens, _ in kept]
        digest = hashlib.sha256()
        for part in (self._tokens, self._mask, self._ends):
            digest.update(part.tobytes())
        self.sha256 = digest.hexdigest()
        self._row_len, self._num_rows, self._seed = row_len, num_rows, seed
        self._epoch = -1
        self._rows: list[list[int]] = []
        self.batches_per_epoch = len(self._pack(0)) // num_rows
        if not self.batches_per_epoch:
            raise DataError(f"{len(kept)} documents do not fill {num_rows} rows of {row_len} tokens")

    def batch(self, number: int) -> Rows:
        """Return batch `number` of the run, without end; padding is a document of its own that weighs nothing."""
        epoch, place = divmod(number, self.batches_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._rows = epoch, self._pack(epoch)
        # Later epochs may pack into a row less than the first.
        chosen = [(place * self._num_rows + row) % len(self._rows) for row in range(self._num_rows)]
        shape = (self._num_rows, self._row_len)
        tokens, weights = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        documents = np.full(shape, PADDING, np.int64)
        for row, index in enumerate(chosen):
            end = 0
            for order, document in enumerate(self._rows[index]):
                piece = slice(self._starts[document], self._ends[document])
                place_in_row = slice(end, end := end + self._ends[document] - self._starts[document])
                tokens[row, place_in_row] = self._tokens[piece]
                weights[row, place_in_row] = self._mask[piece]
                documents[row, place_in_row] = order
                # The first token has nothing to be predicted from.
                weights[row, place_in_row.start] = 0.0
        return Rows(torch.from_numpy(tokens), torch.from_numpy(documents), torch.from_numpy(weights))

    def _pack(self, epoch: int) -> list[list[int]]:
        lengths = (self._ends - self._starts).tolist()
        order = list(range(len(lengths)))
        random.Random(f"{self._seed} {epoch}").shuffle(order)  # noqa: S311, a seed must give the same order
        return pack(order, lengths, self._row_len)


def pack(order: Sequence[int], lengths: Sequence[int], row_len: int) -> list[list[int]]:
    """Put documents, in this order, each into the first open row that has room."""
    done: list[list[int]] = []
    rows: list[tuple[list[int], int]] = []
    for document in order:
        length = lengths[document]
        for index, (row, room) in enumerate(rows):
            if length <= room:
                row.append(document)
                rows[index] = (row, room - length)
                break
        else:
            if len(rows) == OPEN_ROWS:
                fullest = min(range(len(rows)), key=lambda index: rows[index][1])
                done.append(rows.pop(fullest)[0])
            rows.append(([document], row_len - length))
    return done + [row for row, _ in rows]
