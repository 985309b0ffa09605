import subprocess
import sys
from platform import libc_ver

import pytest


@pytest.mark.skipif(libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_glibc_takes_every_setting():
    # In a process of its own, because there is no way back.
    probe = "from kernels.heap import keep_freed_memory; print(keep_freed_memory())"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_other_c_libraries_are_left_alone():
    probe = (
        "import sys; sys.platform = 'darwin'; from kernels.heap import keep_freed_memory; print(keep_freed_memory())"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
