"""Save and resume a target's training: weights, optimiser state and counters in one safetensors file, replaced whole.

The file says what run it is of, and no other goes on from it. What may change is what the weights do not come from, and
the budget: who gives a run more, or less, goes on by the schedule of the new one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from core.errors import CheckpointError
from models.checkpoint import write_tensors
from training.same_run import check_same_run

FREE = frozenset({"budget.seconds", "budget.tokens", "compile", "log_steps", "save_s", "evaluate_s"})


class Counters(msgspec.Struct):
    """Where a run stands; mutable, owned by the training loop."""

    steps: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0


class Header(msgspec.Struct, frozen=True):
    """What the file says beside its tensors: made_from is all that makes the run, by name."""

    counters: Counters
    made_from: dict[str, Any]


def save_state(
    path: Path,
    network: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    counters: Counters,
    made_from: Mapping[str, object],
) -> None:
    """Write everything a run needs to go on; a reader never sees half a file. Raises OSError."""
    tensors = {f"network.{name}": value.detach() for name, value in network.named_parameters()}
    for index, optimizer in enumerate(optimizers):
        for key, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}.{name}": value for name, value in state.items()}
    contiguous = {name: value.contiguous().clone() for name, value in tensors.items()}
    header = msgspec.json.encode(Header(counters, dict(made_from))).decode()
    write_tensors(path, contiguous, {"header": header})


def load_state(
    path: Path, network: nn.Module, optimizers: list[torch.optim.Optimizer], made_from: Mapping[str, object]
) -> Counters:
    """Restore what `save_state` wrote of this very run; returns the counters.

    Raises ConfigError naming what another run was made from, CheckpointError for a file that is no such state.
    """
    parameters = dict(network.named_parameters())
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    try:
        with safe_open(path, "pt") as file, torch.no_grad():
            header = msgspec.json.decode((file.metadata() or {})["header"], type=Header)
            check_same_run(made_from, header.made_from, FREE, path, "this one", "another run folder")
            for key in file.keys():  # noqa: SIM118, safe_open is no mapping
                kind, rest = key.split(".", 1)
                if kind == "network":
                    parameters[rest].copy_(file.get_tensor(key))
                    continue
                index, number, name = rest.split(".", 2)
                states[int(index)].setdefault(int(number), {})[name] = file.get_tensor(key)
    except (SafetensorError, OSError, KeyError, msgspec.DecodeError) as error:
        raise CheckpointError(
            f"{path} is no state of a target's training that this specd wrote: {error!r}; move it away to begin anew"
        ) from error
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return header.counters
