"""Kernels compile for real GPUs, spill nothing, and fit shared memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The most shared memory one program may take; the compiler does not check it without a device.
SHARED_LIMIT = {"sm_80": 166912, "sm_90": 232448, "gfx942": 65536}


def compile_kernels(tmp_path, *arguments):
    environ = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environ |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.kernels.compile_offline", *arguments]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def check_needs(lines):
    needs = [json.loads(line) for line in lines]
    assert {need["target"] for need in needs} == SHARED_LIMIT.keys()
    assert [need for need in needs if need["spilled"]] == []
    assert [need for need in needs if need["shared"] > SHARED_LIMIT[need["target"]]] == []


def test_kernels_compile_without_spilling(tmp_path):
    check_needs(compile_kernels(tmp_path, "--quick"))


@pytest.mark.slow
def test_every_configuration_compiles_without_spilling(tmp_path):
    check_needs(compile_kernels(tmp_path))


def test_the_table_counts_registers_and_instructions_on_every_target(tmp_path):
    lines = compile_kernels(tmp_path, "--table", "--kernel", "prefix")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    places = {name: place for place, name in enumerate(rows[0])}
    assert [row[places["target"]] for row in rows[2:]] == list(SHARED_LIMIT)
    for row in rows[2:]:
        for name in ("registers", "instructions", "global load", "global store", "float"):
            assert int(row[places[name]]) > 0, name
