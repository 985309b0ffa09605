"""Triton where it is installed; elsewhere its kernels are only definitions, and the torch twins serve.

Kernel modules take `jit` and `tl` from here, because Triton has no wheels for every platform we run on.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None
    tl = SimpleNamespace(constexpr=object)

__all__ = ["is_interpreter", "jit", "tl"]


def is_interpreter() -> bool:
    """Tell whether this process interprets its kernels on the CPU."""
    return triton is not None and bool(triton.knobs.runtime.interpret)


def jit(*, do_not_specialize: tuple[str, ...] = ()) -> Callable[[Callable[..., Any]], Any]:
    """Mark a Triton kernel; `do_not_specialize` names arguments that change from step to step.

    Without it Triton would compile once more for a 1 and for multiples of 16.
    """
    if triton is None:
        return lambda kernel: kernel
    decorate: Callable[[Callable[..., Any]], Any] = triton.jit(do_not_specialize=list(do_not_specialize))
    return decorate
