import pytest
import torch
from torch import nn

from kernels.linear import PackedLinear, TwoLayoutLinear, can_pack, pack_linears

needs_units = pytest.mark.skipif(
    not can_pack(torch.device("cpu"), torch.bfloat16), reason="this processor has no bfloat16 units"
)


@pytest.mark.parametrize(("rows", "inner", "outer"), [(1, 64, 63), (7, 256, 100), (63, 100, 257)], ids=str)
def test_a_packed_float32_product_is_the_plain_one(rows, inner, outer):
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(outer, inner, generator=generator)
    x = torch.randn(rows, inner, generator=generator)
    exact = (x.double() @ weight.double().T).float()
    with torch.no_grad():
        torch.testing.assert_close(TwoLayoutLinear(weight)(x), exact, rtol=1e-5, atol=1e-4)


def test_gradients_and_autocast_take_the_plain_weight():
    weight, x = torch.randn(10, 6), torch.randn(3, 6, requires_grad=True)
    linear = TwoLayoutLinear(weight)
    linear(x).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(3, -1))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(linear(x), nn.functional.linear(x, weight))


@needs_units
@pytest.mark.parametrize(("rows", "inner", "outer"), [(1, 64, 63), (7, 256, 100), (63, 100, 257)], ids=str)
def test_a_packed_product_is_the_plain_one(rows, inner, outer):
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(outer, inner, generator=generator).bfloat16()
    x = torch.randn(rows, inner, generator=generator).bfloat16()
    exact = x.double() @ weight.double().T
    # Accumulated in float32 and rounded once: half a unit in the last of bfloat16's 8 bits.
    torch.testing.assert_close(PackedLinear(weight)(x).double(), exact, rtol=2**-8, atol=1e-4)


@needs_units
def test_the_plain_weight_comes_back():
    weight = torch.randn(100, 64).bfloat16()
    assert torch.equal(PackedLinear(weight).weight, weight)


@needs_units
def test_only_bias_free_layers_are_packed():
    network = nn.ModuleDict(
        {
            "packed": nn.Linear(8, 8, bias=False, dtype=torch.bfloat16),
            "biased": nn.Linear(8, 8, dtype=torch.bfloat16),
            "float32": nn.Linear(8, 8, bias=False),
            "deep": nn.Sequential(nn.Linear(8, 8, bias=False, dtype=torch.bfloat16)),
        }
    )
    pack_linears(network)
    assert isinstance(network["packed"], PackedLinear)
    assert isinstance(network["deep"][0], PackedLinear)
    assert not isinstance(network["biased"], PackedLinear)
    assert isinstance(network["float32"], TwoLayoutLinear)
