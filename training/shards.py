"""Prepared documents on disk: shards of token ids and loss masks, and the index that lists them.

A folder holds `index.json` and numbered safetensors files of a few million tokens each. A shard has tokens i32 [N],
mask u8 [N], offsets i64 [D + 1] and kinds u16 [D]: document d is the slice offsets[d]:offsets[d + 1], of the kind
that the index names at kinds[d]. The index is replaced whole after every shard, so what it lists is there whole.
"""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct
from safetensors import SafetensorError
from safetensors.numpy import load

from core.errors import DataError

INDEX_FILE = "index.json"
VERSION = 1


class Document(Struct, frozen=True):
    """One text: tokens i32 [S], mask bool [S], true where the target wrote the token; kind says what it came from."""

    tokens: np.ndarray
    mask: np.ndarray
    kind: str


class Shard(Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a folder; num_masked of its tokens are to be learnt."""

    file: str
    num_documents: int
    num_tokens: int
    num_masked: int
    sha256: str


class ShardIndex(Struct, frozen=True, forbid_unknown_fields=True):
    """What a folder holds.

    made_from    hash of the sources and choices that it was made from: only the same may be gone on with
    is_complete  false until the last shard is written
    last_record  number of the last source record in the shards, -1 before the first
    dropped      records up to that one that gave no document, by reason
    num_split    records up to that one that gave several
    """

    made_from: str
    tokenizer_sha256: str
    kinds: tuple[str, ...] = ()
    shards: tuple[Shard, ...] = ()
    is_complete: bool = False
    last_record: int = -1
    dropped: dict[str, int] = {}
    num_split: int = 0
    version: int = VERSION

    @property
    def texts_sha256(self) -> str:
        """Hash of the texts of all shards, in their order."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    @property
    def num_documents(self) -> int:
        """Documents of all shards."""
        return sum(shard.num_documents for shard in self.shards)

    @property
    def num_tokens(self) -> int:
        """Tokens of all shards."""
        return sum(shard.num_tokens for shard in self.shards)

    @property
    def num_masked(self) -> int:
        """Tokens of all shards that are to be learnt."""
        return sum(shard.num_masked for shard in self.shards)


class Shards:
    """The documents of one folder, read a shard at a time; raises DataError for a folder that has none.

    A run that was stopped before its end left whole shards: they are read like any others.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = read_index(folder)

    def __len__(self) -> int:
        return self.index.num_documents

    def __iter__(self) -> Iterator[Document]:
        for number in range(len(self.index.shards)):
            yield from self.shard(number)

    def shuffled(self, seed: int, start: int = 0) -> Iterator[Document]:
        """Yield all documents once, in an order that the seed gives: shards mixed, and documents within each.

        The first `start` of them are left out; whole shards among these are not read.
        """
        rng = random.Random(seed)  # noqa: S311, a seed must give the same order
        for number in rng.sample(range(len(self.index.shards)), len(self.index.shards)):
            count = self.index.shards[number].num_documents
            order = rng.sample(range(count), count)
            if start < count:
                documents = self.shard(number)
                yield from (documents[place] for place in order[start:])
            start = max(0, start - count)

    def shard(self, number: int) -> list[Document]:
        """Read one shard; raises DataError if it is not what the index says."""
        shard = self.index.shards[number]
        path = self.folder / shard.file
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() != shard.sha256:
                raise DataError(f"{path} is not the file that {INDEX_FILE} lists: its hash differs; prepare it again")
            tensors = load(data)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        tokens, mask, offsets = tensors["tokens"], tensors["mask"].view(bool), tensors["offsets"].tolist()
        return [
            Document(tokens[start:end], mask[start:end], self.index.kinds[kind])
            for start, end, kind in zip(offsets[:-1], offsets[1:], tensors["kinds"].tolist(), strict=True)
        ]


def read_shards(folder: Path) -> Shards:
    """Open what `specd data prepare` wrote, such as DATA/train; iterate over it for Documents. Raises DataError."""
    return Shards(folder)


def read_index(folder: Path) -> ShardIndex:
    """Read a folder's index; raises DataError if there is none, or one of another version."""
    path = folder / INDEX_FILE
    try:
        index = msgspec.json.decode(path.read_bytes(), type=ShardIndex)
    except FileNotFoundError as error:
        raise DataError(f"no prepared data at {folder}: {INDEX_FILE} is missing; run `specd data prepare`") from error
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if index.version != VERSION:
        raise DataError(f"{path} is of version {index.version}, this specd reads version {VERSION}; prepare it again")
    return index
