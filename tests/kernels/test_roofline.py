"""What bounds a kernel is counted from its listing: loops where there are any, the rest once or not at all."""

import pytest

from tests.kernels.compile_offline import CASES
from tests.kernels.roofline import BYTES_PER_S, LATENCY_S, PASSES, Pass, bound, loops

CODE = """
.text.kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_x_2:
        /*0010*/                   S2R R0, SR_TID.X ;
.L_x_1:
        /*0020*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0030*/                   MUFU.EX2 R5, R4 ;
        /*0040*/                   FADD R6, R5, R6 ;
        /*0050*/                   NOP ;
        /*0060*/              @!P0 BRA `(.L_x_1) ;
        /*0070*/               @P1 BRA `(.L_x_2) ;
        /*0080*/               @P2 BRA `(.L_x_3) ;
        /*0090*/                   STG.E.128 desc[UR4][R2.64], R4 ;
.L_x_3:
        /*00a0*/                   EXIT ;
.L_x_0:
        /*00b0*/                   BRA `(.L_x_0) ;
"""


def test_only_the_innermost_loops_count_and_the_empty_one_at_the_end_does_not():
    assert loops(CODE) == [(2, 5)]


@pytest.mark.parametrize(("turns", "issued", "exponentials"), [(None, 4, 1), (3, 19, 3)])
def test_a_pass_runs_a_turn_of_a_long_loop_or_everything_and_its_loop_so_often(turns, issued, exponentials):
    found = bound(Pass(4096.0, turns=turns), CODE, warps=4, registers=32, shared=0)
    assert found.times["instructions"] == pytest.approx(issued * 4 / 4 / 1.7e9)
    assert found.times["exponentials"] == pytest.approx(exponentials * 4 * 2 / 1.7e9)


def test_memory_bounds_what_moves_much_and_the_slowest_unit_what_moves_little():
    much, little = (bound(Pass(size), CODE, 4, 32, 0) for size in (65536.0, 16.0))
    assert (much.by, much.share("memory")) == ("memory", 1.0)
    assert little.by == "exponentials"
    assert little.share("memory") < 0.2


def test_few_programs_with_small_loads_do_not_cover_the_latency():
    found = bound(Pass(4096.0), CODE, warps=8, registers=250, shared=0)
    assert found.residents == 1
    assert found.share("memory") == pytest.approx(4096 / (BYTES_PER_S * LATENCY_S))


def test_every_pass_is_one_of_a_kernel_that_is_compiled():
    assert PASSES.keys() <= {case.name for case in CASES}
