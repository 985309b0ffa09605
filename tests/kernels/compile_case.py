"""One kernel in one configuration, compiled to machine code without a GPU, and what that code needs."""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
EVERYWHERE = tuple(TARGETS)
# Names of machine instructions, by what keeps them waiting. The first that matches counts.
NVIDIA_KINDS = {
    "tensor": r"HMMA|HGMMA|IMMA|DMMA",
    "exp": r"MUFU",
    "global load": r"LDG|LDGSTS|UTMALDG",
    "global store": r"STG|RED|ATOM",
    "shared": r"LDS|STS|LDSM|STSM",
    "barrier": r"BAR|SYNCS|DEPBAR|LDGDEPBAR|WARPGROUP",
    "float": r"F(FMA|ADD|MUL|MNMX|SEL|SET|CHK|2F)|H(FMA2|ADD2|MUL2|MNMX2|SET)|D(FMA|ADD|MUL|SETP)|I2F",
}
AMD_KINDS = {
    "tensor": r"v_mfma",
    "exp": r"v_(exp|log|rcp|rsq|sqrt)_",
    "global load": r"(global|buffer|flat)_load",
    "global store": r"(global|buffer|flat)_(store|atomic)",
    "shared": r"ds_",
    "barrier": r"s_barrier|s_waitcnt",
    "float": r"v_(pk_)?(fma|fmac|add|sub|mul|max|min|cmp\w*|cvt\w*)_(f|pk)",
}
KINDS = tuple(NVIDIA_KINDS)


@dataclass(frozen=True)
class CompileCase:
    """A kernel, its constants, and Triton's names of the types of its other arguments, by argument name.

    aligned   integers that are multiples of 16 wherever the kernel is launched, as row strides are; pointers all are
    is_quick  whether every run of the tests compiles it, and not only those of the long proofs
    targets   where it is used
    multiplies  has products for the matrix units, whose instructions are other ones on each target
    """

    name: str
    kernel: Any
    constants: dict[str, Any]
    arguments: dict[str, str]
    options: dict[str, int] = field(default_factory=dict)
    aligned: tuple[str, ...] = ()
    is_quick: bool = True
    targets: tuple[str, ...] = EVERYWHERE
    multiplies: bool = False

    @property
    def quick_targets(self) -> tuple[str, ...]:
        """Where every run of the tests compiles it: without matrix products, sm_80's code is much like sm_90's."""
        return self.targets if self.multiplies else tuple(name for name in self.targets if name != "sm_80")

    def compile(self, target):
        names = self.kernel.arg_names
        signature = {name: "constexpr" if name in self.constants else self.arguments[name] for name in names}
        # A launch at run time tells the compiler what is divisible by 16, as all of torch's allocations are.
        aligned = {
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(names)
            if signature[name].startswith("*") or name in self.aligned
        }
        source = ASTSource(fn=self.kernel, signature=signature, constexprs=self.constants, attrs=aligned)
        return triton.compile(source, target=target, options=self.options)

    def needs(self, name: str, *, counts: bool = True) -> dict[str, Any]:
        """Return what the code for a target needs: bytes spilled and shared, registers.

        With `counts` also its instructions by kind; on NVIDIA's that takes longer than compiling most kernels.
        """
        target = TARGETS[name]
        compiled = self.compile(target)
        is_amd = target.backend == "hip"
        spilled, registers = _resources_amd(compiled) if is_amd else _resources_nvidia(compiled, target)
        found = {
            "kernel": self.name,
            "target": name,
            "spilled": spilled,
            "shared": compiled.metadata.shared,
            "registers": registers,
        }
        if counts:
            names = _instructions_amd(compiled) if is_amd else instructions(listing(compiled, target))
            mix = _count(names, AMD_KINDS if is_amd else NVIDIA_KINDS)
            found["mix"] = {kind: mix[kind] for kind in (*KINDS, "all")}
        return found


def _resources_amd(compiled):
    code = compiled.asm["amdgcn"]
    spilled = sum(int(n) for n in re.findall(r"\.[sv]gpr_spill_count:\s*(\d+)", code))
    return spilled, max(int(n) for n in re.findall(r"\.vgpr_count:\s*(\d+)", code))


def _instructions_amd(compiled):
    return re.findall(r"^\s+([vs]_\w+|ds_\w+|global_\w+|buffer_\w+|flat_\w+)", compiled.asm["amdgcn"], re.M)


def _resources_nvidia(compiled, target):
    report = _tool("cuobjdump", compiled, target, "--dump-resource-usage")
    # What registers do not hold is spilled to the stack; kernels have nothing else there.
    spilled = sum(int(n) for n in re.findall(r"(?:STACK|LOCAL):(\d+)", report))
    return spilled, max(int(n) for n in re.findall(r"REG:(\d+)", report))


def listing(compiled, target):
    """Return the machine code for an NVIDIA GPU as text, with labels."""
    return _tool("nvdisasm", compiled, target, "-c")


def instructions(code):
    """Return the names of the instructions of a listing, in order."""
    names = re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", code, re.M)
    return [name for name in names if name != "NOP"]


def _tool(name, compiled, target, *arguments):
    """Return what a tool beside the assembler says of the very code that a launch would load."""
    tool = Path(get_ptxas(target.arch).path).parent / name
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        done = subprocess.run([str(tool), *arguments, str(cubin)], capture_output=True, text=True, check=True)
    return done.stdout


def _count(names, kinds):
    counts = Counter({"all": len(names)})
    for name in names:
        kind = next((kind for kind, pattern in kinds.items() if re.match(pattern, name)), None)
        if kind is not None:
            counts[kind] += 1
    return counts
