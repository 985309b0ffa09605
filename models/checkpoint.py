"""Read and write checkpoints in the Hugging Face layout: config.json and safetensors, nothing that can run code.

Networks keep q, k, v and gate, up in one fused matrix each; files keep them apart. The map between the two is here.
Every tensor of a file must be used and every parameter filled, else the error names the tensor.
"""

import json
import math
import os
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from core.errors import CheckpointError

FUSED = {
    ".qkv_proj.": (".q_proj.", ".k_proj.", ".v_proj."),
    ".qk_proj.": (".q_proj.", ".k_proj."),
    ".gate_up_proj.": (".gate_proj.", ".up_proj."),
}

# Types of a safetensors header that are read; what is computed in, weights are cast to.
FLOATS = {"F64", "F32", "F16", "BF16"}
WHOLE = {"I64", "I32", "I16", "U8", "BOOL"}
# Tables between a drafter's vocabulary and its target's: the only tensors of whole numbers.
TABLES = {"d2t", "t2d"}
# Weights that can run code when they are read, or are not tensors in a form that is read.
UNREAD = {".bin", ".pt", ".pth", ".ckpt", ".gguf", ".npz"}
CONVERT = "Where you trust a file of another kind, load it and write it with safetensors.torch.save_file"


# Which part of a tensor of some name and shape is wanted, a slice per axis.
Part = Callable[[str, tuple[int, ...]], tuple[slice, ...]]


class Header(NamedTuple):
    """What a file says of a tensor before its numbers: which shard, its shape, and its type by safetensors' name."""

    path: Path
    shape: tuple[int, ...]
    dtype: str


def check_architecture(config: dict[str, Any], supported: tuple[str, ...], folder: Path) -> None:
    """Raise CheckpointError unless config.json names one of the `supported` architectures."""
    named = config.get("architectures") or []
    if not isinstance(named, list) or not any(name in supported for name in named):
        raise CheckpointError(f"{folder}: architectures must name one of {', '.join(supported)}, got {named!r}")


def read_tensors(folder: Path, part: Part | None = None) -> dict[str, Tensor]:
    """Return all tensors of model.safetensors, or of the shards that model.safetensors.index.json names.

    part says how much of each is read, None: all. Raises CheckpointError naming what is missing or unreadable, or a
    tensor of a type that is not computed with.
    """
    headers = read_headers(folder)
    if part is None:
        return read_some(folder, set(headers))
    tensors: dict[str, Tensor] = {}
    for path in _shards(folder):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                tensors[name] = file.get_slice(name)[part(name, headers[name].shape)]
    return tensors


def read_parts(folder: Path, most: int) -> dict[str, Tensor]:
    """Return the first numbers of all tensors, about `most` of each in whole rows; raises as `read_tensors` does."""

    def beginning(_: str, shape: tuple[int, ...]) -> tuple[slice, ...]:
        row = max(1, math.prod(shape[1:]))
        return (slice(0, max(1, most // row)),) if shape else ()

    return read_tensors(folder, beginning)


def read_headers(folder: Path) -> dict[str, Header]:
    """Return what each tensor is, without reading the numbers; raises CheckpointError as `read_tensors` does."""
    headers: dict[str, Header] = {}
    for path in _shards(folder):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                slice_ = file.get_slice(name)
                header = Header(path, tuple(slice_.get_shape()), slice_.get_dtype())
                if header.dtype not in FLOATS | (WHOLE if name.rpartition(".")[2] in TABLES else set()):
                    raise CheckpointError(
                        f"{path}: tensor {name!r} is stored as {header.dtype}; quantised checkpoints are not "
                        "supported, bfloat16, float16 and float32 are"
                    )
                headers[name] = header
    return headers


def read_some(folder: Path, names: Collection[str]) -> dict[str, Tensor]:
    """Return the tensors of these names; raises CheckpointError as `read_tensors` does."""
    tensors: dict[str, Tensor] = {}
    for path in _shards(folder):
        with _opened(path) as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys() if name in names}  # noqa: SIM118
    return tensors


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, struct.error) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error


def _shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} has no weight_map of tensors to files") from error
        # A shard is a plain file name: an index must not reach outside its folder.
        if any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise CheckpointError(f"{index} names a file outside its folder")
    else:
        names = ["model.safetensors"]
    for name in names:
        if not (folder / name).is_file():
            unread = sorted(path.name for path in folder.glob("*") if path.suffix in UNREAD)
            # Of a model of the Hub, other files are not even fetched.
            hint = f"{unread[0]} is not read: only safetensors are" if unread else "only safetensors are read"
            cure = "" if index.is_file() else f". {CONVERT}"
            raise CheckpointError(f"no weights at {folder}: {name} is missing; {hint}{cure}")
    return [folder / name for name in names]


def load_into(network: nn.Module, tensors: dict[str, Tensor], *, source: str, skip: Iterable[str] = ()) -> None:
    """Copy file tensors into `network`, fusing where it fuses; `skip` names tensors that belong to others.

    Raises CheckpointError naming the first tensor that is missing, left over or of another shape.
    """
    left = {name: tensor for name, tensor in tensors.items() if name not in set(skip)}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parts = [_take(left, part, source) for part in _file_names(name)]
            value = parts[0] if len(parts) == 1 else torch.cat(parts)
            if value.shape != parameter.shape:
                raise CheckpointError(
                    f"{source}: {_file_names(name)[0]} makes {list(value.shape)}, "
                    f"config.json asks for {list(parameter.shape)}"
                )
            parameter.copy_(value)
    if left:
        raise CheckpointError(f"{source}: tensor {min(left)!r} is not understood")


def split_fused(network: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of `network` under the names and in the pieces of the file format."""
    return split_weights(network, {name: parameter.detach() for name, parameter in network.named_parameters()})


def split_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights, or gradients, given by the names of the network's parameters, as `split_fused` does."""
    tensors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        names = _file_names(name)
        pieces: Iterable[Tensor] = [weight]
        if ".gate_up_proj." in name:
            pieces = weight.chunk(2)
        elif len(names) > 1:
            attention = network.get_submodule(name.partition(".qk")[0])
            heads, kv_heads, dim = attention.num_heads, attention.num_kv_heads, attention.head_dim
            sizes = (heads * dim, kv_heads * dim, kv_heads * dim)  # type: ignore[operator]
            pieces = weight.split(sizes[: len(names)])
        tensors.update(zip(names, pieces, strict=True))
    return tensors


def save(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Write config.json and model.safetensors, tensors cast to `dtype`. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    packed = {name: tensor.to(dtype).contiguous().clone() for name, tensor in tensors.items()}
    write_tensors(folder / "model.safetensors", packed, {"format": "pt"})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file whole and onto the disk, or leave what was there; raises OSError naming it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    try:
        save_file(dict(tensors), partial, metadata=metadata)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        # Of a full disk safetensors says so by an error of its own.
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written: {error}") from error


def strip_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Drop `prefix` from the names that carry it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _take(left: dict[str, Tensor], name: str, source: str) -> Tensor:
    if name not in left:
        raise CheckpointError(f"{source}: tensor {name!r} is missing")
    return left.pop(name)


def _file_names(name: str) -> list[str]:
    for fused, parts in FUSED.items():
        if fused in name:
            return [name.replace(fused, part) for part in parts]
    return [name]
