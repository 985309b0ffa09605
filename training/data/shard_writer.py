"""Write prepared documents as shards (training/shards.py): a stop or a full disk loses at most the shard in the making.

A shard is written under another name, forced to disk and moved into place before the index lists it.
"""

import hashlib
import os
from pathlib import Path

import msgspec
import numpy as np
from safetensors.numpy import save

from core.errors import DataError
from training.shards import INDEX_FILE, Document, Shard, ShardIndex, read_index

SHARD_TOKENS = 1 << 22


class ShardWriter:
    """Collects documents and writes a shard whenever there are `shard_tokens` of them; mutable.

    A folder with an index is gone on with if it was made from the same; `index` says where it stands.
    Raises DataError if it was made from something else, and if the disk does not take what is written.
    """

    def __init__(self, folder: Path, made_from: str, tokenizer_sha256: str, shard_tokens: int = SHARD_TOKENS) -> None:
        self._folder, self._shard_tokens = folder, shard_tokens
        self._documents: list[Document] = []
        self._num_tokens = 0
        self._dropped: dict[str, int] = {}
        self._last_record, self._num_split = -1, 0
        self.index = ShardIndex(made_from, tokenizer_sha256)
        if (folder / INDEX_FILE).exists():
            self.index = read_index(folder)
            if self.index.made_from != made_from:
                raise DataError(
                    f"{folder} was made from other sources, another target, with other flags or by another specd; "
                    "name another --output, or remove it"
                )
            self._last_record, self._dropped = self.index.last_record, dict(self.index.dropped)
            self._num_split = self.index.num_split

    @property
    def last_record(self) -> int:
        """Number of the last source record that needs not be seen again."""
        return self.index.last_record

    def add(self, record: int, documents: list[Document]) -> None:
        """Add the documents of one source record; records come in rising order."""
        self._documents.extend(documents)
        self._num_tokens += sum(len(one.tokens) for one in documents)
        self._last_record = record
        self._num_split += len(documents) > 1
        if self._num_tokens >= self._shard_tokens:
            self._flush(is_complete=False)

    def drop(self, record: int, reason: str) -> None:
        """Count a source record that gives no document."""
        self._dropped[reason] = self._dropped.get(reason, 0) + 1
        self._last_record = record

    def finish(self) -> ShardIndex:
        """Write what is left and mark the folder complete."""
        if not self.index.is_complete:
            self._flush(is_complete=True)
        return self.index

    def _flush(self, *, is_complete: bool) -> None:
        kinds = list(self.index.kinds)
        kinds += [kind for kind in dict.fromkeys(one.kind for one in self._documents) if kind not in kinds]
        shards = list(self.index.shards)
        if self._documents:
            shards.append(self._write_shard(len(shards), kinds))
        index = msgspec.structs.replace(
            self.index,
            kinds=tuple(kinds),
            shards=tuple(shards),
            is_complete=is_complete,
            last_record=self._last_record,
            dropped=dict(self._dropped),
            num_split=self._num_split,
        )
        write_durable(self._folder / INDEX_FILE, msgspec.json.format(msgspec.json.encode(index), indent=1) + b"\n")
        self.index = index
        self._documents, self._num_tokens = [], 0

    def _write_shard(self, number: int, kinds: list[str]) -> Shard:
        documents = self._documents
        lengths = [len(one.tokens) for one in documents]
        tokens = np.concatenate([one.tokens for one in documents]).astype(np.int32, copy=False)
        mask = np.concatenate([one.mask for one in documents]).astype(np.uint8)
        data = save(
            {
                "tokens": tokens,
                "mask": mask,
                "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
                "kinds": np.array([kinds.index(one.kind) for one in documents], dtype=np.uint16),
            }
        )
        file = f"{number:05d}.safetensors"
        write_durable(self._folder / file, data)
        return Shard(file, len(documents), len(tokens), int(mask.sum()), hashlib.sha256(data).hexdigest())


def write_durable(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one move once it is on the disk; if it cannot be, raises DataError and leaves nothing."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DataError(f"cannot write {path}: {error.strerror}; what is written so far can be gone on with") from error
