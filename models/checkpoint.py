"""Read and write checkpoints in the Hugging Face layout: config.json and safetensors, nothing that can run code.

Networks keep q, k, v and gate, up in one fused matrix each; files keep them apart. The map between the two is here.
Every tensor of a file must be used and every parameter filled, else the error names the tensor.
"""

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.errors import CheckpointError

FUSED = {
    ".qkv_proj.": (".q_proj.", ".k_proj.", ".v_proj."),
    ".qk_proj.": (".q_proj.", ".k_proj."),
    ".gate_up_proj.": (".gate_proj.", ".up_proj."),
}


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a checkpoint folder; raises CheckpointError if it is missing or no JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {folder}: config.json is missing")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(config).__name__}")
    return config


def check_architecture(config: dict[str, Any], supported: tuple[str, ...], folder: Path) -> None:
    """Raise CheckpointError unless config.json names one of the `supported` architectures."""
    named = config.get("architectures") or []
    if not isinstance(named, list) or not any(name in supported for name in named):
        raise CheckpointError(f"{folder}: architectures must name one of {', '.join(supported)}, got {named!r}")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of model.safetensors, or of the shards that model.safetensors.index.json names."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        # A shard is a plain file name: an index must not reach outside its folder.
        if any(Path(name).name != name for name in shards):
            raise CheckpointError(f"{index} names a file outside its folder")
    else:
        shards = ["model.safetensors"]
    tensors: dict[str, Tensor] = {}
    for name in shards:
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"no weights at {folder}: {name} is missing")
        try:
            tensors.update(load_file(path))
        except (SafetensorError, OSError, struct.error) as error:
            raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    return tensors


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
    tensors: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        names = _file_names(name)
        pieces: Iterable[Tensor] = [parameter.detach()]
        if ".gate_up_proj." in name:
            pieces = parameter.detach().chunk(2)
        elif len(names) > 1:
            attention = network.get_submodule(name.partition(".qk")[0])
            heads, kv_heads, dim = attention.num_heads, attention.num_kv_heads, attention.head_dim
            sizes = (heads * dim, kv_heads * dim, kv_heads * dim)  # type: ignore[operator]
            pieces = parameter.detach().split(sizes[: len(names)])
        tensors.update(zip(names, pieces, strict=True))
    return tensors


def save(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Write config.json and model.safetensors, tensors cast to `dtype`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    packed = {name: tensor.to(dtype).contiguous().clone() for name, tensor in tensors.items()}
    save_file(packed, folder / "model.safetensors", metadata={"format": "pt"})


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
