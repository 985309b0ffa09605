"""The kernels over the vocabulary and over drafts, in the configurations that are used, for compile_offline.py."""

from kernels import admit, reject
from tests.kernels.compile_case import CompileCase

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


def case(name, kernel, **constants):
    return CompileCase(name, kernel, constants, ARGUMENTS)


CASES = [
    case("judge", reject._judge_kernel, HAS_Q=True, TILE=reject.TILE),
    case("judge_point_mass", reject._judge_kernel, HAS_Q=False, TILE=reject.TILE),
    case("draw", reject._draw_kernel, HAS_Q=True, TILE=reject.TILE, WIDTH=8),
    case("draw_point_mass", reject._draw_kernel, HAS_Q=False, TILE=reject.TILE, WIDTH=8),
    case("prefix", admit._prefix_kernel, ROWS=admit.SLOTS // 8, WIDTH=8),
    case("rank", admit._rank_kernel, EARLY=False, ROWS=admit.SLOTS // 8, WIDTH=8),
    case("rank_early", admit._rank_kernel, EARLY=True, ROWS=admit.SLOTS // 8, WIDTH=8),
]
