"""What a grammar forbids has no chance, and other rows keep their bits."""

import pytest
import torch

from core.errors import ShapeError
from core.tensors import Allowed
from kernels.allowed import disallow
from kernels.dispatch import interpreted


def in_triton(logits, allowed):
    with interpreted():
        return disallow(logits, allowed)


@pytest.mark.parametrize("vocab", [1, 8, 63, 257])
@pytest.mark.parametrize("body", [disallow, in_triton], ids=["twin", "triton"])
def test_tokens_without_a_bit_are_struck_out(vocab, body, poisoned):
    rng = torch.Generator().manual_seed(vocab)
    logits = torch.randn(5, vocab, generator=rng)
    rows, is_allowed = torch.tensor([3, 0]), torch.rand(2, vocab, generator=rng) < 0.5
    bits = torch.zeros(2, -(-vocab // 32) * 4, dtype=torch.uint8)
    for row in range(2):
        for token in is_allowed[row].nonzero().flatten().tolist():
            bits[row, token // 8] |= 1 << token % 8
    before = logits.clone()
    struck = body(logits, Allowed(rows, bits))
    expected = before.clone()
    for row, allowed in zip(rows.tolist(), is_allowed, strict=True):
        expected[row, ~allowed] = -torch.inf
    assert torch.equal(struck, expected)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("body", [disallow, in_triton], ids=["twin", "triton"])
def test_fewer_bits_than_tokens_are_refused(body):
    with pytest.raises(ShapeError, match="9 tokens need 2 bytes of bits, got 1"):
        body(torch.zeros(1, 9), Allowed(torch.tensor([0]), torch.zeros(1, 1, dtype=torch.uint8)))
