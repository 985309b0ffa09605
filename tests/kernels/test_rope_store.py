"""Norm, rotation and cache write in one kernel, interpreted, against the steps of torch in float64."""

from dataclasses import replace

import pytest
import torch

from kernels.rope_store import ROWS, Projected, rope_store_triton, rope_store_twin

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3}


def draw(num_rows, heads, kv_heads, dim, has_norm=True, dtype=torch.float32, size=1.0):
    rng = torch.Generator().manual_seed(num_rows + dim)
    angles = torch.rand(num_rows, 1, dim // 2, generator=rng) * 7
    rotation = torch.cat((angles.cos(),) * 2, -1), torch.cat((-angles.sin(), angles.sin()), -1)
    projected = size * torch.randn(num_rows, heads + 2 * kv_heads, dim, generator=rng)
    weights = [torch.randn(dim, generator=rng).to(dtype) if has_norm else None for _ in "qk"]
    if not heads:
        weights[0] = None
    cos, sin = (table.to(dtype) for table in rotation)
    return Projected(projected.to(dtype), heads, kv_heads, *weights, 1e-6, (cos, sin))


def exact(projected, keys, values, write):
    """What the twin gives in float64, in the types of the arguments."""
    wide = [None if weight is None else weight.double() for weight in (projected.q_weight, projected.k_weight)]
    rotation = tuple(table.double() for table in projected.rotation)
    wide = replace(projected, heads=projected.heads.double(), q_weight=wide[0], k_weight=wide[1], rotation=rotation)
    wide_keys, wide_values = keys.double(), values.double()
    q = rope_store_twin(wide, wide_keys, wide_values, write)
    return [x.to(keys.dtype) for x in (q, wide_keys, wide_values)]


CASES = {
    "one row": (1, 4, 2, 64),
    "odd rows and heads": (ROWS + 3, 3, 1, 20),
    "no norm": (5, 2, 2, 16, False),
    "keys and values only": (ROWS, 0, 2, 32),
    "half precision": (7, 2, 1, 128, True, torch.float16),
    "wide heads": (2, 2, 1, 256),
    "zeros": (3, 2, 1, 16, True, torch.float32, 0.0),
    "large": (3, 2, 1, 16, True, torch.float32, 1e15),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_triton_leaves_queries_and_cache_rows_as_the_steps_of_torch_do(case, poisoned):
    projected = draw(*case)
    num_rows, dim = len(projected.heads), projected.heads.shape[-1]
    num_places = 2 * num_rows + 5
    write = torch.randperm(num_places, generator=torch.Generator().manual_seed(0))[:num_rows]
    keys, values = (torch.full((num_places, projected.num_kv_heads, dim), torch.nan) for _ in "kv")
    keys, values = keys.to(projected.heads.dtype), values.to(projected.heads.dtype)
    expected = exact(projected, keys, values, write)
    q = rope_store_triton(projected, keys, values, write)
    tolerance = TOLERANCE[keys.dtype]
    for ours, theirs in zip((q, keys, values), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance, equal_nan=True)
    # What no row is to write is as it was.
    assert int(keys.isnan().all((1, 2)).sum()) == num_places - num_rows


def test_heads_may_be_part_of_a_wider_projection_and_of_a_wider_cache(poisoned):
    wide = draw(5, 4, 2, 16)
    narrow = replace(wide, heads=torch.cat((wide.heads, wide.heads), -1)[:, :, :16])
    assert not narrow.heads.is_contiguous()
    keys, values = torch.zeros(9, 2, 32)[:, :, :16], torch.zeros(9, 3, 16)[:, 1:]
    write = torch.tensor([8, 0, 3, 1, 6])
    expected = exact(narrow, keys, values, write)
    q = rope_store_triton(narrow, keys, values, write)
    for ours, theirs in zip((q, keys, values), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_no_rows_are_no_work():
    projected = draw(0, 4, 2, 16)
    cache = torch.zeros(3, 2, 16)
    assert rope_store_triton(projected, cache, cache, torch.zeros(0, dtype=torch.int64)).shape == (0, 4, 16)
