"""The machine a result was measured on, in words."""

import os
import platform
from pathlib import Path

import torch


def describe_machine() -> str:
    """Return processor, cores, torch and what torch was told to use."""
    names = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = dict(
            [part.strip() for part in line.split(":", 1)] for line in cpuinfo.read_text().splitlines() if ":" in line
        )
    processor = names.get("model name") or platform.processor() or "unknown processor"
    flags = set(names.get("flags", "").split())
    units = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    return (
        f"{processor} ({', '.join(units) or platform.machine()}), {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} thread(s)"
    )
