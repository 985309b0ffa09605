"""Where batches come from: prepared shards, features on disk, or the demo's own text."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from tokenizers import Tokenizer

from core.errors import CheckpointError
from models.qwen3 import Qwen3
from models.target import Target
from training.corpus import read_corpus
from training.features import States
from training.generate import frozen_copy
from training.identity import check_tokens, weights_sha256
from training.onpolicy import ROWS_PER_BATCH, SOURCES, load_texts, save_texts, write_texts
from training.own_texts import claim_texts
from training.packed_rows import MaskedText, PackedRows
from training.packing import SESSIONS, Rows, encode_library
from training.recipe import Data, Run
from training.sessions import load_sessions, save_sessions, write_sessions
from training.shards import read_shards

# Chat and library text vary most, so they need most examples.
TEXT_SHARES = {"math": 0.2, "code": 0.2, "chat": 0.2, "library": 0.4}
# Tokens of real library text beside each that the target wrote.
LIBRARY_SHARE = 0.3


class Batch(msgspec.Struct, frozen=True):
    """Rows, and what the target makes of them where that is on disk."""

    rows: Rows
    states: States | None = None


class Batches(Protocol):
    """Training batches by number, without end; the same number is the same batch."""

    @property
    def sha256(self) -> str:
        """What they are made of, by hash."""
        ...

    @property
    def batches_per_epoch(self) -> int:
        """How many there are before documents come again."""
        ...

    def batch(self, number: int) -> Batch:
        """Return one."""
        ...


class TextBatches:
    """Packed documents, whose features are made in the training step."""

    def __init__(self, rows: PackedRows) -> None:
        self._rows = rows

    @property
    def sha256(self) -> str:
        """As of the rows."""
        return self._rows.sha256

    @property
    def batches_per_epoch(self) -> int:
        """As of the rows."""
        return self._rows.batches_per_epoch

    def batch(self, number: int) -> Batch:
        """Return rows alone."""
        return Batch(self._rows.batch(number))


def shard_batches(data: Data, run: Run, target_folder: Path) -> TextBatches:
    """Open shards that were prepared for a target; raises DataError, also for tokens of another tokenizer."""
    shards = read_shards(Path(data.folder))
    check_tokens(shards.folder, shards.index.tokenizer_sha256, target_folder)
    rows = PackedRows(shards, data.row_len, run.num_rows, run.seed)
    if rows.num_dropped:
        print(f"{data.folder}: left out {rows.num_dropped} documents with nothing to learn, {rows.num_documents} stay")
    return TextBatches(rows)


def demo_batches(data: Data, run: Run, target: Target, target_folder: Path, work: Path) -> TextBatches:
    """Let the demo target write texts, kept in `work`, and mix library text in."""
    if not isinstance(target, Qwen3):
        raise CheckpointError(f"{target_folder}: the demo's text is written by a Qwen3ForCausalLM")
    tokenizer = Tokenizer.from_file(str(target_folder / "tokenizer.json"))
    library = encode_library(tokenizer, list(read_corpus().train.values()))
    return TextBatches(
        PackedRows(
            demo_texts(data, run, target, weights_sha256(target_folder), tokenizer, library, work),
            data.row_len,
            run.num_rows,
            run.seed,
        )
    )


def demo_texts(
    data: Data,
    run: Run,
    target: Qwen3,
    target_sha256: str,
    tokenizer: Tokenizer,
    library: list[np.ndarray],
    work: Path,
    rows_at_once: int = ROWS_PER_BATCH,
) -> list[MaskedText]:
    """Return what the target has written in `work`, or writes there now, and library text beside it.

    Raises DataError for a folder of texts that a target of another hash wrote, or nobody knows which.
    """
    claim_texts(work, target_sha256)
    writer = Writer(data, target, tokenizer, library, work, rows_at_once)
    own = [text for source in SOURCES for text in writer.own_text(source)] + writer.sessions()
    num_library = int(LIBRARY_SHARE * sum(len(text.tokens) for text in own))
    pieces = cut(library, data.row_len // 2, num_library, run.seed)
    return [*own, *(masked(piece.tolist(), 0) for piece in pieces)]


class Writer(msgspec.Struct, frozen=True):
    """The demo target as it writes texts for its drafters, or finds them written in `work`."""

    data: Data
    target: Qwen3
    tokenizer: Tokenizer
    packages: list[np.ndarray]
    work: Path
    rows_at_once: int

    def own_text(self, source: str) -> list[MaskedText]:
        """Return the target's texts of one source."""
        path = self.work / f"{source}.safetensors"
        if not path.exists():
            count = self._told(source, TEXT_SHARES[source] * (1.0 - self.data.session_share))
            seed = 1000 * (1 + SOURCES.index(source))
            written = write_texts(
                frozen_copy(self.target), self.tokenizer, source, self.packages, "train", seed, count,
                num_rows=self.rows_at_once,
            )  # fmt: skip
            save_texts(path, written)
        return [masked(document.ids, document.answer_start) for document in load_texts(path, source).documents]

    def sessions(self) -> list[MaskedText]:
        """Return the sessions that the target has answered."""
        if not self.data.session_share:
            return []
        path = self.work / f"{SESSIONS}.safetensors"
        if not path.exists():
            count = self._told(SESSIONS, self.data.session_share)
            seed = 1000 * (1 + len(SOURCES))
            network, longest, at_once = frozen_copy(self.target), self.data.row_len, self.rows_at_once
            save_sessions(path, write_sessions(network, self.tokenizer, "train", seed, count, longest, at_once))
        return load_sessions(path)

    def _told(self, source: str, share: float) -> int:
        count = int(self.data.text_tokens * share)
        print(f"{source}: the target writes {count} tokens", flush=True)
        return count


def masked(ids: list[int], answer_start: int) -> MaskedText:
    """Return a text of which all from answer_start on is to be learnt."""
    return MaskedText(np.array(ids, np.int32), np.arange(len(ids)) >= answer_start)


def cut(files: list[np.ndarray], length: int, count: int, seed: int) -> Iterable[np.ndarray]:
    """Yield pieces of files in a random order, about `count` tokens in all."""
    pieces = [file[start : start + length] for file in files for start in range(0, len(file), length)]
    for index in np.random.default_rng(seed).permutation(len(pieces)):
        if count <= 0:
            return
        count -= len(pieces[index])
        yield pieces[index]
