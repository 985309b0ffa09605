"""Which body of a kernel runs: Triton on a GPU, the torch twin elsewhere. The one place that decides it.

`interpreted` lets Triton's interpreter run the kernels on the CPU, for tests that need no GPU. It is a switch of the
calling thread's context and ends with its block: nothing is read from the environment, and no module is patched.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from core.errors import EngineError
from kernels.jit import is_interpreter

_EVERYWHERE: ContextVar[bool] = ContextVar("run Triton bodies on every device", default=False)


def takes_triton(tensor: Tensor) -> bool:
    """Tell whether the Triton body serves a tensor: one on a GPU (CUDA or HIP), any within `interpreted`."""
    return tensor.is_cuda or _EVERYWHERE.get()


def infers_in_triton(tensor: Tensor) -> bool:
    """Tell whether the Triton body of a layer serves a tensor: none has a gradient, so training keeps the twins."""
    return takes_triton(tensor) and not torch.is_grad_enabled()


@contextmanager
def interpreted() -> Iterator[None]:
    """Run Triton bodies on the CPU too, in Triton's interpreter, within this block and thread.

    Raises EngineError in a process whose kernels were defined for a GPU: Triton decides that once, by
    TRITON_INTERPRET, when it is imported.
    """
    if not is_interpreter():
        raise EngineError("kernels are interpreted only where TRITON_INTERPRET=1 was set before they were imported")
    token = _EVERYWHERE.set(True)
    try:
        yield
    finally:
        _EVERYWHERE.reset(token)
