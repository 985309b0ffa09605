"""Kernels compile for real GPUs, spill nothing, and fit shared memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The most shared memory one program may take; the compiler does not check it without a device.
SHARED_LIMIT = {"sm_80": 166912, "sm_90": 232448, "gfx942": 65536}


def test_kernels_compile_without_spilling(tmp_path):
    environ = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environ |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    script = Path(__file__).parent / "compile_offline.py"
    done = subprocess.run([sys.executable, str(script)], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    needs = [json.loads(line) for line in done.stdout.splitlines()]
    assert {need["target"] for need in needs} == SHARED_LIMIT.keys()
    assert [need for need in needs if need["spilled"]] == []
    assert [need for need in needs if need["shared"] > SHARED_LIMIT[need["target"]]] == []
