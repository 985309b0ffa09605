"""The device that is measured: a CUDA device, or, in a dry run, the CPU in its place."""

import gc
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from bench.gpu.results import Circumstances
from bench.machine import describe_machine
from core.errors import ConfigError

PACKAGES = ("torch", "triton", "transformers", "tokenizers", "safetensors", "numpy", "msgspec")
MIB = 1 << 20


def find_device(*, is_dry_run: bool) -> torch.device:
    """Return the device to measure; raises ConfigError where there is none."""
    if is_dry_run:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"no CUDA device is visible to torch {torch.__version__}; bench.gpu measures one. "
            "--dry-run tries the stages on the CPU, without measuring anything"
        )
    return torch.device("cuda", torch.cuda.current_device())


def describe(device: torch.device, *, is_dry_run: bool) -> Circumstances:
    """Return what the results of this process were measured on and with."""
    name = f"CPU of {platform.node() or 'this machine'}"
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        name = (
            f"{facts.name}, compute capability {facts.major}.{facts.minor}, {facts.multi_processor_count} "
            f"multiprocessors, {facts.total_memory // MIB} MiB, {facts.L2_cache_size // MIB} MiB of L2"
        )
    return Circumstances("CPU" if is_dry_run else name, describe_machine(), package_versions(), is_dry_run)


def package_versions() -> dict[str, str]:
    """Return the versions of what decides speed; a package that is not installed is left out."""
    found = {"CUDA": torch.version.cuda or "none"}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def wait_for(device: torch.device) -> None:
    """Return when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def let_go(device: torch.device) -> None:
    """Give back the memory of what nobody needs any more: engines refer to themselves, so it waits to be collected."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int:
    """Return how much of the device's memory is free; of a CPU, what a dry run may use."""
    let_go(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return 64 * MIB
