import pytest
import torch
from torch.nn import functional as F

from kernels.dispatch import interpreted
from kernels.norms import LeanRMSNorm, add_norm_triton, rms_norm, rms_norm_triton


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e4])
@pytest.mark.parametrize("shape", [(1, 64), (7, 100), (3, 5, 63)], ids=str)
def test_it_is_the_rms_norm_of_torch(shape, scale, dtype):
    generator = torch.Generator().manual_seed(len(shape))
    x = (torch.randn(shape, generator=generator) * scale).to(dtype)
    weight = torch.randn(shape[-1], generator=generator).to(dtype)
    exact = F.rms_norm(x.double(), shape[-1:], weight.double(), 1e-6).to(dtype)
    # One unit in the last place of bfloat16 is 2^-8 of the value, of float32 2^-23.
    torch.testing.assert_close(
        LeanRMSNorm(weight, 1e-6)(x), exact, rtol=2**-7 if dtype == torch.bfloat16 else 1e-6, atol=1e-7
    )


def test_each_head_may_have_its_own_weight():
    x, weight = torch.randn(5, 3, 16), torch.randn(3, 16)
    lean = LeanRMSNorm(weight, 1e-6)(x)
    for head in range(3):
        torch.testing.assert_close(lean[:, head], F.rms_norm(x[:, head], (16,), weight[head], 1e-6))


TRITON_TOLERANCE = {torch.float32: 1e-6, torch.float16: 2**-9}


@pytest.mark.parametrize("dtype", TRITON_TOLERANCE, ids=str)
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e3])
@pytest.mark.parametrize("shape", [(1, 64), (7, 100), (3, 5, 63), (2, 257), (0, 16)], ids=str)
def test_triton_norms_as_torch_does(shape, scale, dtype, poisoned):
    generator = torch.Generator().manual_seed(len(shape))
    x = (torch.randn(shape, generator=generator) * scale).to(dtype)
    weight = torch.randn(shape[-1], generator=generator).to(dtype)
    exact = F.rms_norm(x.double(), shape[-1:], weight.double(), 1e-6).to(dtype)
    tolerance = TRITON_TOLERANCE[dtype]
    torch.testing.assert_close(rms_norm_triton(x, weight, 1e-6), exact, rtol=2 * tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", TRITON_TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(1, 64), (7, 100), (2, 3, 257)], ids=str)
def test_triton_norms_the_rounded_sum(shape, dtype, poisoned):
    generator = torch.Generator().manual_seed(0)
    x, delta = (torch.randn(shape, generator=generator).to(dtype) for _ in "xd")
    weight = torch.randn(shape[-1], generator=generator).to(dtype)
    total, normed = add_norm_triton(x, delta, weight, 1e-6)
    assert torch.equal(total, x + delta)
    exact = F.rms_norm((x + delta).double(), shape[-1:], weight.double(), 1e-6).to(dtype)
    torch.testing.assert_close(normed, exact, rtol=2 * TRITON_TOLERANCE[dtype], atol=TRITON_TOLERANCE[dtype])
    if dtype == torch.float16:
        # The norm of the sum before rounding would be another number in a third of the places.
        assert (normed == exact).float().mean() > 0.95


def test_triton_gives_each_head_its_own_weight_and_reads_parts_of_wider_rows(poisoned):
    wide, weight = torch.randn(5, 4, 16), torch.randn(3, 16)
    x = wide[:, 1:]
    normed = rms_norm_triton(x, weight, 1e-6)
    for head in range(3):
        torch.testing.assert_close(normed[:, head], F.rms_norm(x[:, head], (16,), weight[head], 1e-6))


def test_a_gradient_keeps_the_norm_to_torch():
    x, weight = torch.randn(2, 8), torch.randn(8, requires_grad=True)
    with interpreted():
        rms_norm(x, weight, 1e-6).sum().backward()
    assert weight.grad is not None
