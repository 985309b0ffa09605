"""What this device can do at most, measured in the same run as what is compared with it: copying and multiplying."""

import torch
from msgspec import Struct

from bench.gpu.device import free_bytes
from bench.gpu.timing import Stopwatch

GIB = 1 << 30
MATMUL_SIZE = 8192


class Ceilings(Struct, frozen=True):
    """Bytes per second of a large copy, read and written both counted, and bfloat16 operations per second."""

    copy_bytes_per_s: float
    matmul_per_s: float

    def floor_s(self, num_bytes: float, operations: float) -> float:
        """Return the least seconds for moving so many bytes and doing so many multiplications and additions."""
        return max(num_bytes / self.copy_bytes_per_s, operations / self.matmul_per_s)


def measure_ceilings(watch: Stopwatch) -> Ceilings:
    """Measure both, on random data: on zeros some devices run faster than on any real data."""
    device = watch.device
    size = min(2 * GIB, free_bytes(device) // 8)
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_us = watch.time(lambda: target.copy_(source)).median_us
    # The matrices need the room.
    source = target = torch.empty(0, device=device)
    side = MATMUL_SIZE if device.type == "cuda" else 256
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    matmul_us = watch.time(lambda: left @ right).median_us
    return Ceilings(2 * size / (copy_us / 1e6), 2 * side**3 / (matmul_us / 1e6))
