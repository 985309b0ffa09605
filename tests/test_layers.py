"""The house stands as drawn: imports go down the layers, heavy packages stay where they belong."""

import subprocess
import sys

import pytest

from layers import LAYERS, ROOT, module_names, violations

MODULES = module_names()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_keeps_the_layer_rules(module):
    assert list(violations(module, MODULES[module].read_text(encoding="utf-8"))) == []


def test_every_top_level_package_has_a_layer():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"tests"} == set(LAYERS)


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("drafters.x", "from policies import base", "must not see"),
        ("policies.x", "import drafters.ngram", "must not see"),
        ("engine.x", "from service.jobs import Job", "must not see"),
        ("kernels.x", "from client.wire import Job", "must not see"),
        ("core.x", "import kernels", "must not see"),
        ("service.x", "from cli.main import main", "must not see"),
        ("engine.x", "def f():\n    import json", "inside a function"),
        ("engine.x", "async def f():\n    from json import loads", "inside a function"),
        ("engine.x", "def f(): return importlib.import_module('json')", "inside a function"),
        ("engine.x", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import json", "TYPE_CHECKING"),
        ("engine.x", "import typing\nif typing.TYPE_CHECKING:\n    pass", "TYPE_CHECKING"),
        ("engine.x", "import triton.language as tl", "triton belongs to"),
        ("cli.x", "from redis.asyncio import Redis", "redis belongs to"),
        ("engine.x", "import aiohttp", "aiohttp belongs to"),
        ("core.x", "import torch", "must not need torch"),
        ("engine.scheduler", "from torch import Tensor", "must not need torch"),
        ("engine.blocks", "from core.tensors import Draft", "must not need torch"),
        ("policies.x", "from core import tensors", "must not need torch"),
        ("models.formats.x", "from models.formats.checkpoint import Checkpoint", "must not need torch"),
        ("engine.x", "from . import blocks", "absolute"),
        ("models.x", "import pickle", "can run code"),
        ("models.x", "weights = torch.load(path)", "can run code"),
        ("models.x", "value = eval(text)", "can run code"),
        ("core.x", "value = yaml.load(text)", "can run code"),
    ],
)
def test_a_planted_violation_is_caught(module, source, reason):
    found = list(violations(module, source))
    assert found
    assert reason in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("engine.x", "import torch\nfrom drafters.base import Drafter\nfrom engine.blocks import BlockPool"),
        ("core.tensors", "from torch import Tensor"),
        ("core.registry", "def load(name):\n    return import_module(name)"),
        ("kernels.x", "import triton"),
        ("service.x", "import aiohttp\nfrom redis.asyncio import Redis\nfrom client.wire import Job"),
        ("models.x", "network.eval()"),
    ],
)
def test_what_is_allowed_is_not_flagged(module, source):
    assert list(violations(module, source)) == []


@pytest.mark.parametrize(
    "module",
    [
        "cli.main",
        "cli.parser",
        "core.registry",
        "core.types",
        "policies.confidence",
        "models.drafter_kind",
        "engine.scheduler",
        "engine.blocks",
    ],
)
def test_importing_it_loads_no_torch(module):
    assert "torch" not in loaded_by(module)


@pytest.mark.parametrize("module", ["service.gateway", "service.main"])
def test_importing_the_gateway_loads_no_torch_and_no_numpy(module):
    assert not {"torch", "numpy"} & loaded_by(module)


def test_importing_transformers_beside_our_kernels_does_not_mix_them_up():
    code = "import transformers, kernels; print(transformers.utils.is_kernels_available(), kernels.__file__)"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert said.stdout.split() == ["False", str(ROOT / "kernels" / "__init__.py")]


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())
