import pytest
import torch
from torch import nn

from core.errors import ConfigError
from kernels.linear import can_pack
from kernels.tiled_linear import TILE_ROWS, TiledLinear, tile_linears

DTYPES = [torch.float32, torch.bfloat16]


def layer_and_rows(rows, inner, outer, dtype):
    generator = torch.Generator().manual_seed(inner)
    weight, bias = torch.randn(outer, inner, generator=generator), torch.randn(outer, generator=generator)
    x = torch.randn(rows, inner, generator=generator)
    return TiledLinear(weight.to(dtype), bias.to(dtype)), x.to(dtype)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, TILE_ROWS - 1, TILE_ROWS, TILE_ROWS + 1, 63])
def test_it_is_the_plain_product(rows):
    tiled, x = layer_and_rows(rows, 100, 257, torch.float32)
    exact = (x.double() @ tiled.weight.double().T + tiled.bias).float()
    torch.testing.assert_close(tiled(x), exact, rtol=1e-5, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("inner", "outer"), [(256, 512), (48, 97), (100, 63), (768, 256), (64, 1)], ids=str)
def test_a_row_is_the_same_bits_among_any_others(inner, outer, dtype):
    if not can_pack(torch.device("cpu"), dtype):
        pytest.skip(f"this processor has no units for {dtype}")
    tiled, x = layer_and_rows(100, inner, outer, dtype)
    whole = tiled(x)
    for start, stop in ((0, 1), (99, 100), (3, 10), (17, 33), (5, 100)):
        assert torch.equal(tiled(x[start:stop]), whole[start:stop])
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tiled(x[order]), whole[order])


@torch.no_grad()
def test_a_vector_product_is_not_the_same_bits_so_the_test_above_has_power():
    tiled, x = layer_and_rows(100, 256, 512, torch.float32)
    whole = nn.functional.linear(x, tiled.weight)
    assert not all(torch.equal(nn.functional.linear(x[row], tiled.weight), whole[row]) for row in range(100))


def test_leading_shapes_are_kept():
    tiled, x = layer_and_rows(24, 32, 5, torch.float32)
    with torch.no_grad():
        assert torch.equal(tiled(x.view(2, 3, 4, 32)), tiled(x).view(2, 3, 4, 5))


def test_a_machine_whose_products_depend_on_the_place_is_refused(monkeypatch):
    honest = TiledLinear._tile
    monkeypatch.setattr(TiledLinear, "_tile", lambda self, tile: honest(self, tile) + torch.arange(len(tile))[:, None])
    with pytest.raises(ConfigError, match="batch_invariant"):
        TiledLinear(torch.randn(4, 4))


def test_every_linear_layer_of_a_network_is_tiled():
    network = nn.ModuleDict({"biased": nn.Linear(8, 8), "deep": nn.Sequential(nn.Linear(8, 8, bias=False))})
    tile_linears(network)
    assert isinstance(network["biased"], TiledLinear)
    assert isinstance(network["deep"][0], TiledLinear)
