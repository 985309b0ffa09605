"""Compile every kernel to machine code for three GPUs, without one, and print what each needs, as JSON lines.

A script and not a test: kernels cannot be compiled in a process where TRITON_INTERPRET is set.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from kernels import admit, reject

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
FLOAT_ROWS = dict.fromkeys(("logits", "q_logits", "uniforms", "norms", "soft_labels", "survival"), "*fp32")
ARGUMENTS = {
    **FLOAT_ROWS,
    **dict.fromkeys(("tokens", "first", "next_token"), "*i64"),
    **dict.fromkeys(("lengths", "drafted", "accepted", "rank", "falls"), "*i32"),
    **dict.fromkeys(("certain", "member"), "*i1"),
    **dict.fromkeys(("vocab", "width", "batch", "longest", "last"), "i32"),
    **dict.fromkeys(("floor", "ratio"), "fp32"),
    "accepts": "*i8",
    "seconds": "*fp64",
}
CASES = {
    "judge": (reject._judge_kernel, {"HAS_Q": True, "TILE": reject.TILE}),
    "judge_point_mass": (reject._judge_kernel, {"HAS_Q": False, "TILE": reject.TILE}),
    "draw": (reject._draw_kernel, {"HAS_Q": True, "TILE": reject.TILE, "WIDTH": 8}),
    "draw_point_mass": (reject._draw_kernel, {"HAS_Q": False, "TILE": reject.TILE, "WIDTH": 8}),
    "prefix": (admit._prefix_kernel, {"ROWS": admit.SLOTS // 8, "WIDTH": 8}),
    "rank": (admit._rank_kernel, {"EARLY": False, "ROWS": admit.SLOTS // 8, "WIDTH": 8}),
    "rank_early": (admit._rank_kernel, {"EARLY": True, "ROWS": admit.SLOTS // 8, "WIDTH": 8}),
}


def compile_case(kernel, constants, target):
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else ARGUMENTS[name] for name in names}
    # Torch allocations are aligned; a run-time launch tells the compiler so.
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=target)


def spilled(compiled, target):
    if target.backend == "hip":
        return sum(int(n) for n in re.findall(r"\.[sv]gpr_spill_count:\s*(\d+)", compiled.asm["amdgcn"]))
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder) / "kernel.ptx"
        ptx.write_text(compiled.asm["ptx"])
        arch = {80: "sm_80", 90: "sm_90a"}[target.arch]
        command = [get_ptxas(target.arch).path, "-v", "--gpu-name", arch, str(ptx), "-o", str(ptx) + ".cubin"]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return sum(int(n) for n in re.findall(r"(\d+) bytes (?:stack frame|spill)", report))


for case, (kernel, constants) in CASES.items():
    for name, target in TARGETS.items():
        compiled = compile_case(kernel, constants, target)
        need = {
            "kernel": case,
            "target": name,
            "spilled": spilled(compiled, target),
            "shared": compiled.metadata.shared,
        }
        print(json.dumps(need))
