"""What share of its roofline a kernel can reach on an H100, counted from its machine code, without one.

    python -m tests.kernels.roofline        prints the table of docs/kernels.md

A pass is one turn of a kernel's loops, or the whole of one without any. Four times are counted for a pass of a program
on one multiprocessor: its bytes at the multiprocessor's part of the memory's bandwidth, its products at the matrix
units' rate, its exponentials at the special function unit's, and all instructions at four a cycle. The longest is its
roofline's bound; the share is that of memory, or of the matrix units, in it. Bytes on their way must cover the latency:
where the loads of the programs that fit beside each other do not, the share is so much less. Nothing else is counted:
this is the most a kernel can reach, not what it does.
"""

import re

from msgspec import Struct

from kernels import activations, coupled, logprobs, markov, noise, process_tiles, reject, rope_store
from tests.kernels.compile_case import NVIDIA_KINDS, TARGETS, instructions, listing
from tests.kernels.compile_offline import CASES

# NVIDIA H100 SXM: data sheet and CUDA's table of compute capability 9.0, but for the latency, which is a usual one.
UNITS, CLOCK_HZ = 132, 1.7e9
BYTES_PER_S, PRODUCTS_PER_S = 3.35e12 / UNITS, 989e12 / UNITS
ISSUED_PER_CYCLE, EXP_WARPS_PER_CYCLE = 4, 0.5
REGISTERS, SHARED_BYTES, WARPS, PROGRAMS = 65536, 233472, 64, 32
LATENCY_S = 700e-9
BF16, F32 = 2, 4


class Pass(Struct, frozen=True):
    """What one pass of a program moves from and to memory, in bytes, and its operations in matrix products.

    turns  of the loop in a pass that runs the rest of the code once; None: loops are so long that nothing else counts
    """

    read: float
    written: float = 0.0
    operations: float = 0.0
    turns: int | None = None


class Bound(Struct, frozen=True):
    """The times of a pass in seconds by what bounds it, and how many programs share a multiprocessor."""

    times: dict[str, float]
    residents: int
    covered: float

    @property
    def by(self) -> str:
        """What takes longest."""
        return max(self.times, key=lambda name: self.times[name])

    def share(self, of: str) -> float:
        """Return the share of the rate of `of` that is left by the rest; latency is the memory's."""
        part = self.times[of] / self.times[self.by]
        return part * self.covered if of == "memory" else part


def attention(queries: int, places: int, *, in_cache: bool = False) -> Pass:
    """Return a turn of attention: keys and values of some places, of 128 numbers each."""
    return Pass(0.0 if in_cache else 2 * places * 128 * BF16, operations=4.0 * queries * places * 128)


def head_tile(rows: int, batch: int, *, draws: bool) -> Pass:
    """Return a tile of the head: a tile of W2 comes from memory once for all sequences of a batch."""
    cells = rows * markov.TILE
    weights = BF16 * markov.TILE * 256 * rows / batch
    return Pass(weights + BF16 * cells, F32 * cells * draws, 2.0 * cells * 256, 256 // markov.CHUNK)


PASSES = {
    "attend_shared_bf16_128_16": attention(16, 64),
    "attend_split_bf16_128_64": attention(64, 64),
    "attend_window_bf16_128_64": attention(64, 32),
    # Tiles of a chunk's rows that run beside each other read the same keys and values.
    "attend_whole_bf16_128_64": attention(64, 64, in_cache=True),
    "norm_bf16_4096": Pass(BF16 * 4096, BF16 * 4096),
    "add_norm_bf16_4096": Pass(2 * BF16 * 4096, 2 * BF16 * 4096),
    "gated_silu_bf16": Pass(2 * BF16 * activations.TILE, BF16 * activations.TILE),
    "gated_gelu_tanh_bf16": Pass(2 * BF16 * activations.TILE, BF16 * activations.TILE),
    "norm_rope_store_bf16_128": Pass(BF16 * 128 * rope_store.ROWS, BF16 * 128 * rope_store.ROWS),
    "judge": Pass(4 * F32 * reject.TILE),
    "judge_point_mass": Pass(F32 * reject.TILE),
    "draw": Pass(4 * F32 * reject.TILE),
    "draw_point_mass": Pass(2 * F32 * reject.TILE),
    "race_given": Pass(3 * F32 * coupled.TILE),
    "noise": Pass(0.0, F32 * noise.TILE),
    "scores": Pass(F32 * logprobs.TILE),
    "law_plain": Pass(2 * F32 * process_tiles.TILE, F32 * process_tiles.TILE),
    "head_tile_16": head_tile(16, 16, draws=True),
    "head_tile_64": head_tile(64, 128, draws=True),
    "head_tile_64_greedy": head_tile(64, 128, draws=False),
    "head_tile_32_named": head_tile(32, 128, draws=False),
}
HEADINGS = ("kernel", "bytes", "operations", "instructions", "programs", "bound by", "of bandwidth", "of matrix units")


def loops(code: str) -> list[tuple[int, int]]:
    """Return the innermost loops of a listing, as the places of their first and last instructions among all."""
    labels: dict[str, int] = {}
    found, place = [], 0
    for line in code.splitlines():
        if label := re.match(r"^(\.L_\w+):", line):
            labels[label[1]] = place
        elif instructions(line):
            jump = re.search(r"BRA\S*\s.*`\((\.L_\w+)\)", line)
            # A program ends in an empty loop, which nobody enters; two or three instructions wait for something.
            if jump and labels.get(jump[1], place) <= place - 3:
                found.append((labels[jump[1]], place))
            place += 1
    return [loop for loop in found if not any(loop[0] <= low and high < loop[1] for low, high in found)]


def bound(one: Pass, code: str, warps: int, registers: int, shared: int) -> Bound:
    """Return what bounds a pass of code with such needs."""
    names, inside = instructions(code), loops(code)
    is_inside = [any(first <= place <= last for first, last in inside) for place in range(len(names))]
    once = 1.0 if one.turns is not None or not inside else 0.0

    def runs(pattern: str) -> float:
        return sum(
            (one.turns or 1.0) if looped else once
            for name, looped in zip(names, is_inside, strict=True)
            if re.match(pattern, name)
        )

    times = {
        "memory": (one.read + one.written) / BYTES_PER_S,
        "matrix units": one.operations / PRODUCTS_PER_S,
        "exponentials": runs(NVIDIA_KINDS["exp"]) * warps / EXP_WARPS_PER_CYCLE / CLOCK_HZ,
        "instructions": runs("") * warps / ISSUED_PER_CYCLE / CLOCK_HZ,
    }
    # Registers are given out to warps by 8 for each thread.
    per_program = warps * 32 * -(-registers // 8) * 8
    residents = min(REGISTERS // per_program, SHARED_BYTES // (shared + 1024), WARPS // warps, PROGRAMS)
    # Writes wait for nobody.
    is_read = one.read > 0
    needed = BYTES_PER_S * LATENCY_S * one.read / (one.read + one.written) if is_read else 1.0
    return Bound(times, residents, min(1.0, residents * one.read / needed) if is_read else 1.0)


def row(name: str) -> str:
    """Return the line of the table for a kernel."""
    case, one = next(case for case in CASES if case.name == name), PASSES[name]
    target = TARGETS["sm_90"]
    compiled = case.compile(target)
    need = case.needs("sm_90", counts=False)
    code = listing(compiled, target)
    found = bound(one, code, compiled.metadata.num_warps, need["registers"], need["shared"])
    issued = found.times["instructions"] * ISSUED_PER_CYCLE * CLOCK_HZ / compiled.metadata.num_warps
    moved = one.read + one.written
    products = f"{found.share('matrix units'):.0%}" if one.operations else ""
    cells = (
        f"`{name}`",
        f"{moved:.0f}" if moved else "",
        f"{one.operations:.0f}" if one.operations else "",
        f"{issued:.0f}",
        found.residents,
        found.by,
        f"{found.share('memory'):.0%}" if moved else "",
        products,
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Print the table."""
    print("| " + " | ".join(HEADINGS) + " |")
    print("| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: |")
    for name in PASSES:
        print(row(name), flush=True)


if __name__ == "__main__":
    main()
