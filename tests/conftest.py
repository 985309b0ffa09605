"""What must hold before any test module is imported."""

import os

# Triton decides when a kernel is defined whether it is interpreted, and kernels are defined on import.
os.environ["TRITON_INTERPRET"] = "1"
