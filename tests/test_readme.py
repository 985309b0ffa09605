"""README's code is true: its Python example runs, and its step is the engine's."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

from engine.engine import Engine

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def block_with(words):
    return next(block for block in BLOCKS if words in block)


def test_the_python_example_runs_and_prints_an_answer():
    done = subprocess.run(
        [sys.executable, "-c", block_with("build_engine")], capture_output=True, text=True, timeout=120, check=True
    )
    assert "Answer:" in done.stdout


def test_the_steps_verbs_are_the_engines_in_order():
    shown = re.findall(r"self\.(_\w+)\(", block_with("def step"))
    real = re.findall(r"self\.(_\w+)\(", inspect.getsource(Engine.step))
    assert shown == real


def test_the_folders_it_names_exist():
    for folder in re.findall(r"^\| \d \| `(\w+)/`", README, re.MULTILINE):
        assert (Path(__file__).parents[1] / folder).is_dir()
