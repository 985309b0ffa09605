"""Where a run stands, on disk: weights, optimiser state and counters in one safetensors file, replaced whole.

A run that goes on from it is bit for bit the run that was not stopped, on the same machine: batches and anchors depend
on the step's number alone (training/packed_rows.py).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from core.errors import CheckpointError, DataError
from models.checkpoint import write_tensors
from training.processes import Place, split_like, whole
from training.recipe import Recipe
from training.same_run import check_same_run

# What may differ between a run and its continuation.
FREE = frozenset({"output", "run.save_s", "run.log_steps", "run.tensorboard", "run.device", "run.threads"})
VERSION = 2


class Counters(msgspec.Struct):
    """Steps done, text tokens seen and seconds spent; mutable, the trainer's."""

    steps: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0


class Origin(msgspec.Struct, frozen=True):
    """What a run learns from, by hash: its target's weights, and its texts or features."""

    target_sha256: str
    data_sha256: str


class Version(msgspec.Struct, frozen=True):
    """What is read of a file first: others have other keys."""

    version: int


class Header(msgspec.Struct, frozen=True):
    """What the file says beside its tensors."""

    version: int
    counters: Counters
    recipe: Recipe
    origin: Origin


def save_run(
    path: Path,
    network: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    counters: Counters,
    recipe: Recipe,
    origin: Origin,
    place: Place,
) -> None:
    """Write everything a run needs to go on; all processes must call it, the first writes. Raises OSError.

    The file before stays until the new one is whole and on the disk.
    """
    named = dict(network.named_parameters())
    tensors = {f"network.{name}": _on_cpu(parameter) for name, parameter in named.items()}
    for name, parameter in named.items():
        for optimizer in optimizers:
            state = optimizer.state.get(parameter, {})
            tensors |= {f"optimiser.{name}:{key}": _on_cpu(value) for key, value in state.items()}
    if not place.is_first:
        return
    header = msgspec.json.encode(Header(VERSION, counters, recipe, origin)).decode()
    write_tensors(path, tensors, {"header": header})


def load_run(
    path: Path, network: nn.Module, optimizers: Sequence[torch.optim.Optimizer], recipe: Recipe, origin: Origin
) -> Counters:
    """Restore what `save_run` wrote of this very recipe, target and data; returns the counters.

    Raises ConfigError naming a key of the recipe that has changed, DataError where the target or the data have,
    CheckpointError naming a tensor that does not fit.
    """
    named = dict(network.named_parameters())
    owner = {parameter: optimizer for optimizer in optimizers for parameter in _parameters(optimizer)}
    with _opened(path) as file, torch.no_grad():
        header = _read_header(file, path)
        check_same_run(recipe, header.recipe, FREE, path, "the recipe", "another output")
        check_origin(origin, header.origin, recipe, path)
        for key in file.keys():  # noqa: SIM118, safe_open is no mapping
            kind, _, rest = key.partition(".")
            name, _, part = rest.partition(":")
            value = file.get_tensor(key)
            if name not in named or (value.ndim and value.shape != named[name].shape):
                raise CheckpointError(f"{path}: tensor {key!r} {list(value.shape)} does not fit the recipe's drafter")
            parameter = named[name]
            if kind == "network":
                parameter.copy_(split_like(value, parameter))
            elif parameter in owner:
                owner[parameter].state[parameter][part] = value if not value.ndim else split_like(value, parameter)
    return header.counters


def check_origin(origin: Origin, saved: Origin, recipe: Recipe, path: Path) -> None:
    """Raise DataError naming the target or the data, whichever is not what a run began with."""
    for name, ours, theirs in (
        (f"target {recipe.target!r}", origin.target_sha256, saved.target_sha256),
        (f"data {recipe.data.folder or recipe.data.source!r}", origin.data_sha256, saved.data_sha256),
    ):
        if ours != theirs:
            raise DataError(
                f"{path} is of a run whose {name} was another (sha256 {theirs[:12]}) than it is now ({ours[:12]}); "
                "put it back to go on, or give another output to begin anew"
            )


def _read_header(file: Any, path: Path) -> Header:
    text = (file.metadata() or {}).get("header", "")
    try:
        version = msgspec.json.decode(text, type=Version).version
        if version != VERSION:
            raise CheckpointError(
                f"{path} is of version {version}, this specd goes on with version {VERSION}; give another output"
            )
        return msgspec.json.decode(text, type=Header)
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path} is no state of a run: {error}") from error


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no state of a run: {error}") from error


def _on_cpu(tensor: Tensor) -> Tensor:
    # Copied: weights that share memory may not be written twice.
    return whole(tensor.detach()).cpu().contiguous().clone()


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
