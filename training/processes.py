"""Several processes train one drafter: FSDP2 under torchrun, gloo on CPUs, NCCL on GPUs.

The drafter is one unit of sharding: its gradients and its optimiser's state are split, its weights are whole while a
step runs, and every process keeps the whole target. A process takes every so-manieth row of a batch; losses are
divided by what all of them weigh, so the gradients are those of one process with all rows.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from msgspec import Struct
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from training.losses import EPS


class Place(Struct, frozen=True):
    """This process among all: rank 0..world-1, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Tell whether this process writes files and shows progress."""
        return self.rank == 0

    def weight_of_all(self, weight: Tensor) -> Tensor:
        """Return what this process' sums are divided by, so that the mean over processes is that of all rows."""
        if self.world == 1:
            return weight + EPS
        total = weight.detach().clone()
        dist.all_reduce(total)
        return (total + EPS) / self.world

    def is_failed(self, error: Exception | None) -> bool:
        """Tell whether any process has an error; all must ask."""
        if self.world == 1:
            return error is not None
        failed = torch.tensor([float(error is not None)], device=self.device)
        dist.all_reduce(failed, dist.ReduceOp.MAX)
        return bool(failed.item())


def num_processes(environ: Mapping[str, str] = os.environ) -> int:
    """Return how many processes torchrun started, 1 without it."""
    return int(environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined(device: str, environ: Mapping[str, str] = os.environ) -> Iterator[Place]:
    """Join the processes that torchrun started, if it did; device is "auto", "cpu" or "cuda"."""
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    world = num_processes(environ)
    if world == 1:
        yield Place(0, 1, torch.device("cuda" if on_gpu else "cpu"))
        return
    local = int(environ.get("LOCAL_RANK", "0"))
    if on_gpu:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Place(dist.get_rank(), world, torch.device("cuda", local) if on_gpu else torch.device("cpu"))
    finally:
        dist.destroy_process_group()


def share(module: nn.Module, place: Place) -> None:
    """Split a module's parameters over all processes, in place; what its forward touches is whole meanwhile."""
    if place.world > 1:
        fully_shard(module, mesh=init_device_mesh(place.device.type, (place.world,)), reshard_after_forward=False)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor that may be split over processes in one piece; all of them must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def split_like(tensor: Tensor, example: Tensor) -> Tensor:
    """Return a whole tensor, the same everywhere, split as `example` is."""
    if isinstance(example, DTensor):
        return distribute_tensor(tensor.to(example.device), example.device_mesh, example.placements)
    return tensor.to(example.device)
