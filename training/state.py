"""Save and resume a training run: weights, optimiser state and counters in one safetensors file, replaced whole."""

from pathlib import Path

import msgspec
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


class Counters(msgspec.Struct):
    """Where a run stands; mutable, owned by the training loop."""

    steps: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0


def save_state(path: Path, network: nn.Module, optimizers: list[torch.optim.Optimizer], counters: Counters) -> None:
    """Write everything a run needs to go on; a reader never sees half a file."""
    tensors = {f"network.{name}": value.detach() for name, value in network.named_parameters()}
    for index, optimizer in enumerate(optimizers):
        for key, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}.{name}": value for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    contiguous = {name: value.contiguous().clone() for name, value in tensors.items()}
    save_file(contiguous, partial, metadata={"counters": msgspec.json.encode(counters).decode()})
    partial.replace(path)


def load_state(path: Path, network: nn.Module, optimizers: list[torch.optim.Optimizer]) -> Counters:
    """Restore what `save_state` wrote into objects of the same shapes; returns the counters."""
    parameters = dict(network.named_parameters())
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    with safe_open(path, "pt") as file, torch.no_grad():
        counters = msgspec.json.decode(file.metadata()["counters"], type=Counters)
        for key in file.keys():  # noqa: SIM118, safe_open is no mapping
            kind, rest = key.split(".", 1)
            if kind == "network":
                parameters[rest].copy_(file.get_tensor(key))
                continue
            index, number, name = rest.split(".", 2)
            states[int(index)].setdefault(int(number), {})[name] = file.get_tensor(key)
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return counters
