"""Kernel tests run Triton in its interpreter, and never let unwritten memory pass for a result."""

import pytest
import torch
import triton


def pytest_configure():
    if not triton.knobs.runtime.interpret:
        raise pytest.UsageError("TRITON_INTERPRET must be set before kernels are imported: run from the project's root")


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
