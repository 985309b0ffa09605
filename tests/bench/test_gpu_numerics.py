"""The stage of numerics fails a kernel that is wrong: a check that nothing can fail would say nothing."""

import pytest
import torch

from bench.gpu.cases import attention, layers, rounds, vocabulary
from bench.gpu.contract import Call
from bench.gpu.kernel_cases import all_cases, unchecked_modules
from bench.gpu.numerics import check
from bench.gpu.stage import Bench
from core.errors import SpecdError

CPU = torch.device("cpu")
CASES = [case for case in all_cases(is_dry_run=True) if case.is_checked and not case.key.startswith("attention/")]


def spoilt(outputs):
    """Return the outputs with one number of each changed by little, or, of those that are whole, by one."""
    changed = {}
    for name, tensor in outputs.items():
        changed[name] = tensor.clone()
        flat = changed[name].view(-1)
        finite = flat.isfinite().nonzero()
        flat[finite[0] if len(finite) else 0] += 1 if not tensor.is_floating_point() else 0.5
    return changed


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.key)
def test_a_wrong_number_fails_its_case(case):
    call = case.build(CPU)
    outputs = call.run()
    assert all(gap.passes for gap in call.check(outputs).values())
    assert not all(gap.passes for gap in call.check(spoilt(outputs)).values())


@pytest.mark.parametrize(
    "name", ["decode-float32/odd", "verify-bfloat16/odd", "block-float32/odd", "window-float32/odd"]
)
def test_a_wrong_row_fails_attention(name):
    case = next(case for case in attention.cases(True) if case.name == name)
    call = case.build(CPU)
    outputs = call.run()
    assert all(gap.passes for gap in call.check(outputs).values())
    outputs["out"][-1] = outputs["out"][0]
    assert not all(gap.passes for gap in call.check(outputs).values())


def test_unwritten_memory_fails_its_case():
    case = layers.cases(True)[0]
    good = case.build(CPU)
    left = Call(lambda: {"out": torch.full_like(good.run()["out"], torch.nan)}, good.check, good.num_bytes)
    with pytest.raises(SpecdError, match="relative L2 error of a row is inf"):
        check(type(case)(case.module, case.name, lambda _: left), CPU)


def test_a_module_with_a_kernel_that_no_case_calls_is_named(tmp_path):
    (tmp_path / "admit.py").write_text("from kernels.admit_tiles import tile\n@jit()\ndef _kernel(): ...\n")
    (tmp_path / "admit_tiles.py").write_text("@jit()\ndef tile(): ...\n")
    (tmp_path / "new_kernel.py").write_text("@jit(do_not_specialize=('n',))\ndef _kernel(): ...\n")
    (tmp_path / "jit.py").write_text("def jit(): ...\n")
    assert unchecked_modules(all_cases(is_dry_run=True), tmp_path) == ["new_kernel"]


def test_the_full_table_has_a_case_for_each_bar():
    timed = {case.key for case in all_cases(is_dry_run=False) if case.is_timed}
    assert {f"attention/decode/B{batch}-C4096" for batch in (32, 64, 128, 256)} <= timed


def test_keys_are_told_apart():
    for is_dry_run in (True, False):
        for role in ("is_checked", "is_timed"):
            keys = [case.key for case in all_cases(is_dry_run=is_dry_run) if getattr(case, role)]
            assert len(keys) == len(set(keys))


@pytest.mark.parametrize("module", [rounds, vocabulary, attention, layers])
def test_bytes_and_operations_count_what_a_call_must_move(module):
    for case in module.cases(True):
        call = case.build(CPU)
        assert call.num_bytes > 0
        assert (call.operations > 0) == (module is attention)


def test_a_bench_of_a_dry_run_uses_the_cpu(tmp_path):
    assert Bench("numerics", tmp_path, 1.0, is_dry_run=True).device == CPU
