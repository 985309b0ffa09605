import math

import pytest
import torch

from core.errors import ShapeError
from core.planning import Calibration
from kernels.survival import survival, survival_triton


@pytest.mark.parametrize("calibration", [None, Calibration((2.0, 0.5, 1.0), (0.1, -1.0, 0.0))], ids=["none", "affine"])
@pytest.mark.parametrize("batch", [1, 63])
@pytest.mark.parametrize("body", [survival, survival_triton], ids=["twin", "triton"])
def test_survival_is_the_product_of_acceptances(batch, calibration, body, poisoned):
    evidence = 3 * torch.randn(batch, 3, generator=torch.Generator().manual_seed(batch))
    lengths = torch.arange(batch, dtype=torch.int32) % 4
    slope, intercept = (calibration.slope, calibration.intercept) if calibration else ((1.0,) * 3, (0.0,) * 3)
    expected = torch.zeros(batch, 3)
    for b in range(batch):
        chance = 1.0
        for j in range(int(lengths[b])):
            chance /= 1 + math.exp(-(slope[j] * float(evidence[b, j]) + intercept[j]))
            expected[b, j] = chance
    torch.testing.assert_close(body(evidence, lengths, calibration), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("body", [survival, survival_triton], ids=["twin", "triton"])
def test_unknown_evidence_spoils_only_what_follows_it(body):
    evidence = torch.tensor([[torch.inf, torch.nan, 0.0], [0.0, 0.0, torch.nan]])
    result = body(evidence, torch.tensor([3, 2], dtype=torch.int32), None)
    assert result.isnan().tolist() == [[False, True, True], [False, False, False]]
    assert result[1].tolist() == [0.5, 0.25, 0.0]


@pytest.mark.parametrize("body", [survival, survival_triton], ids=["twin", "triton"])
def test_a_calibration_of_another_drafter_is_refused(body):
    with pytest.raises(ShapeError, match="3 places"):
        body(torch.zeros(1, 3), torch.ones(1, dtype=torch.int32), Calibration((1.0,), (0.0,)))
