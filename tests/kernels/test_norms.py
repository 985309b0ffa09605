import pytest
import torch
from torch.nn import functional as F

from kernels.norms import LeanRMSNorm


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
