import pytest
import torch
from torch import nn

from kernels.linear import PackedLinear, can_pack, pack_linears

needs_units = pytest.mark.skipif(
    not can_pack(torch.device("cpu"), torch.bfloat16), reason="this processor has no bfloat16 units"
)


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
def test_only_bias_free_bfloat16_layers_are_packed():
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
    assert not isinstance(network["float32"], PackedLinear)
