"""The C heap between steps: freed memory stays with the process instead of going back to the kernel.

glibc returns the largest blocks it frees, and takes them anew, page by page, in a later operation; with the tensors of
a full batch those page faults are up to a tenth of a step.
"""

import ctypes
import sys

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The most that every glibc takes.
LARGEST_KEPT_BYTES = 1 << 25


def keep_freed_memory() -> bool:
    """Tell glibc to keep blocks of up to LARGEST_KEPT_BYTES for reuse; False where the C library knows no such thing.

    For the whole process, from now on; a process of one engine does not grow by it beyond what its largest step needs.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
