import pytest
import torch

from kernels.gates import sigmoid, tanh


@pytest.mark.parametrize("size", [1, 8, 63, 64, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("ours", "theirs"), [(sigmoid, torch.sigmoid), (tanh, torch.tanh)])
def test_every_row_is_the_same_bits_in_any_company(ours, theirs, dtype, size):
    x = (3 * torch.randn(64, 3 * size, generator=torch.Generator().manual_seed(size))).to(dtype)
    part = x.chunk(3, -1)[1]
    whole = ours(part)
    torch.testing.assert_close(
        whole.double(), theirs(part.double()), atol=0, rtol=1e-2 if dtype.itemsize == 2 else 1e-6
    )
    for rows in range(1, 9):
        assert torch.equal(ours(part[:rows]), whole[:rows])
    assert torch.equal(ours(part[3]), whole[3])


def test_torch_does_not_promise_it_so_the_test_above_has_power():
    x = 3 * torch.randn(64, 63, generator=torch.Generator().manual_seed(0))
    assert any(not torch.equal(torch.sigmoid(x[:rows]), torch.sigmoid(x)[:rows]) for rows in range(1, 9))
