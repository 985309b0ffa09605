"""Kernels compile for real GPUs, spill nothing, and fit shared memory.

Every run compiles the kernels that count in the configuration that Qwen3-8B and its published drafters have, and counts
the instructions of one: those with matrix products for three GPUs, the others for sm_90 and gfx942. The slow test
compiles everything for all three, other head sizes, types and kinds of weights too. What docs/kernels.md prints of each
kernel is counted by `compile_offline --table`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.compile_offline import HEADINGS, row

ROOT = Path(__file__).parents[2]
# The most shared memory one program may take; the compiler does not check it without a device.
SHARED_LIMIT = {"sm_80": 166912, "sm_90": 232448, "gfx942": 65536}
COUNTED = "head_tile_16"


def compile_kernels(folder, *arguments):
    """Return what the code of kernels needs; another process compiles them, for this one interprets."""
    environ = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environ |= {"TRITON_CACHE_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.kernels.compile_offline", *arguments]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_needs(needs):
    assert {need["target"] for need in needs} == SHARED_LIMIT.keys()
    assert [need for need in needs if need["spilled"]] == []
    assert [need for need in needs if need["shared"] > SHARED_LIMIT[need["target"]]] == []


@pytest.fixture(scope="module")
def quick_needs(tmp_path_factory):
    return compile_kernels(tmp_path_factory.mktemp("triton"), "--quick", "--count", COUNTED)


def test_kernels_compile_without_spilling(quick_needs):
    check_needs(quick_needs)


@pytest.mark.slow
def test_every_configuration_compiles_without_spilling(tmp_path):
    check_needs(compile_kernels(tmp_path))


def test_the_table_counts_registers_and_instructions_on_every_target(quick_needs):
    rows = [[cell.strip() for cell in row(need).strip("|").split("|")] for need in quick_needs if "mix" in need]
    places = {name: place for place, name in enumerate(HEADINGS)}
    assert [line[places["target"]] for line in rows] == list(SHARED_LIMIT)
    for line in rows:
        assert line[places["kernel"]] == f"`{COUNTED}`"
        for name in ("registers", "instructions", "tensor", "global load", "global store", "float"):
            assert int(line[places[name]]) > 0, name
