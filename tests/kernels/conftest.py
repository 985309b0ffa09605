"""Kernel tests run Triton in its interpreter, and never let unwritten memory pass for a result."""

import numpy as np
import pytest
import torch
import triton

# Triton 3.6's interpreter turns one-element arrays into Python numbers in a way numpy 2.4 forbids.
HAS_BROKEN_INTERPRETER = triton.__version__.startswith("3.6.") and np.lib.NumpyVersion(np.__version__) >= "2.4.0"


def pytest_configure():
    if not triton.knobs.runtime.interpret:
        raise pytest.UsageError("TRITON_INTERPRET must be set before kernels are imported: run from the project's root")


def pytest_collection_modifyitems(items):
    if not HAS_BROKEN_INTERPRETER:
        return
    skip = pytest.mark.skip(reason=f"Triton {triton.__version__} cannot interpret under numpy {np.__version__}")
    for item in items:
        if "tests/kernels/" in item.nodeid and "triton" in item.name:
            item.add_marker(skip)


@pytest.fixture
def poisoned(monkeypatch):
    """Fill what torch.empty and torch.empty_like return with nan, the smallest integer or True."""

    def poison(make):
        def made(*args, **kwargs):
            tensor = make(*args, **kwargs)
            if tensor.dtype == torch.bool:
                return tensor.fill_(True)
            return tensor.fill_(torch.nan if tensor.is_floating_point() else torch.iinfo(tensor.dtype).min)

        return made

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poison(getattr(torch, name)))
