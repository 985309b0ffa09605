import pytest
import torch
from torch.nn import functional as F

from kernels.activations import INVARIANT, TILE, gated_triton, gelu_tanh, invariant_sigmoid

NAMES = {"silu": F.silu, "gelu_tanh": gelu_tanh, "sigmoid": torch.sigmoid}
OURS = INVARIANT | {torch.sigmoid: invariant_sigmoid}
WIDTHS = (1, 8, 63, 100)


def num_moved_by_company(activation, width):
    """Rows whose result differs when it is computed alone, of 40."""
    x = torch.randn(40, width, generator=torch.Generator().manual_seed(width)) * 3
    together = activation(x)
    return sum(not torch.equal(activation(row[None])[0], together[i]) for i, row in enumerate(x))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_row_is_the_same_bits_in_any_company(name, width):
    assert num_moved_by_company(OURS[NAMES[name]], width) == 0


@pytest.mark.parametrize("name", NAMES)
def test_so_it_is_however_the_threads_share_the_rows(name):
    activation, before = OURS[NAMES[name]], torch.get_num_threads()
    x = torch.randn(11, 9728, generator=torch.Generator().manual_seed(0))
    expected = activation(x)
    try:
        torch.set_num_threads(3)
        assert torch.equal(activation(x), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_is_the_function_of_torch(name, dtype):
    x = torch.cat((torch.linspace(-100, 100, 4001), torch.linspace(-2, 2, 4001))).to(dtype)
    expected = NAMES[name](x.double()).to(dtype)
    torch.testing.assert_close(OURS[NAMES[name]](x), expected, atol=1e-6, rtol=1e-5 if dtype.itemsize > 2 else 1e-2)


GATED = {"silu": F.silu, "gelu_tanh": gelu_tanh}


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # from numpy, in the interpreter
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(1, 2), (3, 126), (2, 2, 2 * TILE + 10), (0, 8)], ids=str)
@pytest.mark.parametrize("name", GATED)
def test_triton_gates_as_torch_does(name, shape, dtype, poisoned):
    gate_up = torch.randn(shape, generator=torch.Generator().manual_seed(1)).mul(3).to(dtype)
    gate, up = gate_up.double().chunk(2, -1)
    tolerance = 1e-6 if dtype == torch.float32 else 2**-9
    expected = (GATED[name](gate) * up).to(dtype)
    torch.testing.assert_close(gated_triton(gate_up, name), expected, rtol=2 * tolerance, atol=tolerance)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # from numpy, in the interpreter
@pytest.mark.parametrize("name", GATED)
def test_triton_gates_extreme_numbers_as_torch_does(name, poisoned):
    gate = torch.tensor([-1e30, -1e4, -88.0, 0.0, 88.0, 1e4, 1e30])
    expected = GATED[name](gate.double()).float()
    ours = gated_triton(torch.cat((gate, torch.ones_like(gate))), name)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
