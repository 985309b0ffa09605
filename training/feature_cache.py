"""Features on disk, in DeepSpec's target-cache format, version 2: for many epochs over few texts, or its own caches.

A folder holds manifest.json, samples.idx (a record of 56 bytes per sample) and shards of the samples' tensors back to
back: ids i32 [S], attention mask u8 [S], loss mask u8 [S], captured states bf16 [S, m*H] and final-normed states
bf16 [S, H]. It takes 2 (m + 1) H + 6 bytes a token: mind that before it is written.
"""

import hashlib
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor

from core.errors import DataError
from core.whole_file import write_whole

MANIFEST, INDEX = "manifest.json", "samples.idx"
# sample_id, shard_id, seq_len, then where each tensor begins in the shard.
RECORD = struct.Struct("<QIIQQQQQ")
SHARD_BYTES = 64 << 30
VERSION = 2


class Shard(msgspec.Struct, frozen=True):
    """One file of tensors."""

    shard_id: int
    file_name: str


class Origin(msgspec.Struct, frozen=True):
    """What features are of: the target's weights and the texts by hash, and the tokens at which these are cut."""

    target_sha256: str
    texts_sha256: str
    row_len: int


class Manifest(msgspec.Struct, frozen=True):
    """What the folder says of itself; further keys, which DeepSpec writes, are let be.

    origin   what its features are of; DeepSpec's caches have none
    """

    version: int
    num_samples: int
    num_shards: int
    target_layer_ids: tuple[int, ...]
    hidden_size: int
    shards: tuple[Shard, ...]
    target_model_name_or_path: str = ""
    hidden_dtype: str = "bfloat16"
    token_dtype: str = "int32"  # noqa: S105, no secret: what token ids are stored as
    mask_dtype: str = "uint8"
    index_record_size: int = RECORD.size
    origin: Origin | None = None


class Sample(NamedTuple):
    """One text: tokens i64 [S], loss_mask f32 [S], features [S, m*H] and last_hidden [S, H] in bfloat16."""

    tokens: Tensor
    loss_mask: Tensor
    features: Tensor
    last_hidden: Tensor


class CacheWriter:
    """Appends samples; mutable. A folder that a stopped writer left is gone on with after its last whole sample.

    Raises DataError if the folder is of other layers, sizes or texts or of another target, OSError if the disk does not
    take a sample.
    """

    def __init__(
        self,
        folder: Path,
        target: str,
        layer_ids: tuple[int, ...],
        hidden_size: int,
        origin: Origin,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self._folder, self._shard_bytes = folder, shard_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._manifest = Manifest(VERSION, 0, 0, layer_ids, hidden_size, (), target, origin=origin)
        if (folder / MANIFEST).exists():
            left = read_manifest(folder)
            if (left.target_layer_ids, left.hidden_size) != (layer_ids, hidden_size):
                raise DataError(
                    f"{folder} holds target_layer_ids {list(left.target_layer_ids)} of hidden_size {left.hidden_size}, "
                    f"not {list(layer_ids)} of {hidden_size}; name another folder"
                )
            check_origin(folder, left.origin, origin)
        self.num_samples, self._shard, self._end = self._recover()
        self.flush()

    def add(self, sample: Sample) -> None:
        """Append one sample."""
        pieces = (
            sample.tokens.to(torch.int32),
            torch.ones(len(sample.tokens), dtype=torch.uint8),
            (sample.loss_mask > 0).to(torch.uint8),
            sample.features.to(torch.bfloat16).view(torch.int16),
            sample.last_hidden.to(torch.bfloat16).view(torch.int16),
        )
        data = [piece.contiguous().cpu().numpy().tobytes() for piece in pieces]
        if self._end and self._end + sum(map(len, data)) > self._shard_bytes:
            self._shard, self._end = self._shard + 1, 0
        offsets = (self._end + np.cumsum([0, *map(len, data[:-1])])).tolist()
        with self._path(self._shard).open("ab") as file:
            # What a failed write left behind the last sample.
            file.truncate(self._end)
            file.write(b"".join(data))
        with (self._folder / INDEX).open("ab") as file:
            file.write(RECORD.pack(self.num_samples, self._shard, len(sample.tokens), *offsets))
        self._end += sum(map(len, data))
        self.num_samples += 1

    def flush(self) -> None:
        """Force all samples to the disk and count them in the manifest."""
        for path in (self._path(self._shard), self._folder / INDEX):
            if path.exists():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        shards = tuple(Shard(number, shard_name(number)) for number in range(self._shard + 1 if self._end else 0))
        manifest = msgspec.structs.replace(
            self._manifest, num_samples=self.num_samples, num_shards=len(shards), shards=shards
        )
        write_whole(self._folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")

    def _recover(self) -> tuple[int, int, int]:
        """Drop half-written ends; returns the samples that are whole, the shard to go on with and its length."""
        path = self._folder / INDEX
        data = path.read_bytes() if path.exists() else b""
        count = len(data) // RECORD.size
        while count:
            record = RECORD.unpack_from(data, (count - 1) * RECORD.size)
            end = record[-1] + 2 * record[2] * self._manifest.hidden_size
            shard = self._path(record[1])
            if shard.exists() and shard.stat().st_size >= end:
                os.truncate(path, count * RECORD.size)
                return count, record[1], end
            count -= 1
        if path.exists():
            os.truncate(path, 0)
        return 0, 0, 0

    def _path(self, number: int) -> Path:
        return self._folder / shard_name(number)


class CacheReader:
    """Reads samples by number; raises DataError for a folder that is no cache of this kind, or is damaged."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.manifest = read_manifest(folder)
        try:
            self._index = (folder / INDEX).read_bytes()
        except OSError as error:
            raise DataError(f"{folder / INDEX} cannot be read: {error.strerror}") from error
        if len(self._index) < RECORD.size * self.manifest.num_samples:
            raise DataError(f"{folder / INDEX} is shorter than the {self.manifest.num_samples} samples of {MANIFEST}")
        self._files = {shard.shard_id: folder / shard.file_name for shard in self.manifest.shards}

    def __len__(self) -> int:
        return self.manifest.num_samples

    @property
    def sha256(self) -> str:
        """Hash of the manifest and the index: which samples there are, and of which lengths."""
        return hashlib.sha256(msgspec.json.encode(self.manifest) + self._index).hexdigest()

    def length(self, number: int) -> int:
        """Return the tokens of a sample."""
        return int(RECORD.unpack_from(self._index, number * RECORD.size)[2])

    def sample(self, number: int) -> Sample:
        """Read one."""
        _, shard, length, ids, _, loss, hidden, last = RECORD.unpack_from(self._index, number * RECORD.size)
        width, size = len(self.manifest.target_layer_ids) * self.manifest.hidden_size, self.manifest.hidden_size
        try:
            with self._files[shard].open("rb") as file:

                def read(offset: int, dtype: Any, *shape: int) -> np.ndarray:
                    file.seek(offset)
                    wanted = int(np.prod(shape))
                    found = np.fromfile(file, dtype, wanted)
                    if len(found) < wanted:
                        raise DataError(f"{self._files[shard]} ends within sample {number}")
                    return found.reshape(shape)

                tokens, mask = read(ids, "<i4", length), read(loss, "u1", length)
                features, last_hidden = read(hidden, "<i2", length, width), read(last, "<i2", length, size)
        except (OSError, KeyError) as error:
            raise DataError(f"{self._folder}: shard {shard} of sample {number} cannot be read: {error}") from error
        return Sample(
            torch.from_numpy(tokens).long(),
            torch.from_numpy(mask).float(),
            torch.from_numpy(features).view(torch.bfloat16),
            torch.from_numpy(last_hidden).view(torch.bfloat16),
        )


def check_origin(folder: Path, found: Origin | None, wanted: Origin) -> None:
    """Raise DataError naming what differs between the features of a folder and those that are to be added."""
    if found is None:
        raise DataError(f"{folder} does not say of which target and texts its features are; name another folder")
    for name in Origin.__struct_fields__:
        has, asked = getattr(found, name), getattr(wanted, name)
        if has != asked:
            raise DataError(f"{folder} holds features of {name} {has}, not {asked}; name another folder")


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.bin"


def read_manifest(folder: Path) -> Manifest:
    """Read a cache's manifest; raises DataError naming the key that is not read here."""
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise DataError(f"no feature cache at {folder}: {MANIFEST} is missing") from error
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    wanted = Manifest(VERSION, 0, 0, (), 0, ())
    for key in ("version", "hidden_dtype", "token_dtype", "mask_dtype", "index_record_size"):
        if getattr(manifest, key) != getattr(wanted, key):
            raise DataError(f"{path}: {key} is {getattr(manifest, key)!r}, only {getattr(wanted, key)!r} is read")
    if any(Path(shard.file_name).name != shard.file_name for shard in manifest.shards):
        raise DataError(f"{path} names a file outside its folder")
    return manifest
