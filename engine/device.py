"""Between host and device: what goes up goes through pinned memory and waits for nothing, what comes down comes once.

On the CPU both are the tensors themselves.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CPU = torch.device("cpu")
Values = Sequence[int] | Sequence[bool] | NDArray[np.generic] | Tensor


def upload(values: Values, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return host values on `device`; a copy to a GPU is only begun, in the order of what its stream is given.

    The pinned memory is torch's to reuse, once the copy is over.
    """
    if isinstance(values, np.ndarray):
        host = torch.from_numpy(values)
    else:
        host = values if isinstance(values, Tensor) else torch.tensor(values, dtype=dtype)
    if device.type == "cpu":
        return host
    return (host.pin_memory() if device.type == "cuda" else host).to(device, non_blocking=True)


def upload_all(parts: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """Return tensors of one dtype and one axis on `device`, by a single copy."""
    if device.type == "cpu":
        return parts
    return upload(torch.cat(list(parts)), device).split([len(part) for part in parts])


def download(parts: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors of one device on the host, by a single copy: the one place where a step waits for the device."""
    device = parts[0].device
    if device.type == "cpu":
        return list(parts)
    # By falling size of their numbers, so that each begins where its type may begin.
    order = sorted(range(len(parts)), key=lambda i: -parts[i].itemsize)
    packed = torch.cat([parts[i].contiguous().view(torch.uint8).flatten() for i in order])
    host = torch.empty(len(packed), dtype=torch.uint8, pin_memory=device.type == "cuda")
    host.copy_(packed)
    found: dict[int, Tensor] = {}
    start = 0
    for i in order:
        stop = start + parts[i].numel() * parts[i].itemsize
        found[i] = host[start:stop].view(parts[i].dtype).view(parts[i].shape)
        start = stop
    return [found[i] for i in range(len(parts))]
