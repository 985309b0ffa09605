import pytest
import torch

from core.tensors import LawRows, Processing
from kernels import reference
from kernels.process import process
from tests.kernels.oracles import TOLERANCE, check_draw, processed_law

LIMITS = [(1.0, 0, 1.0), (0.7, 5, 1.0), (1.3, 0, 0.9), (0.5, 40, 0.6), (0.0, 3, 0.2), (1e-30, 0, 0.0), (2.0, 1, 1.0)]


def processing(limits):
    temperature, top_k, top_p = (torch.tensor(column) for column in zip(*limits, strict=True))
    return Processing(temperature, top_k, top_p, torch.zeros(len(limits)), is_plain=False, truncates=True)


def law_rows(sequence):
    return LawRows(sequence, torch.zeros_like(sequence))


def check_process(body, logits, row_sequence):
    laws = body(logits, processing(LIMITS), law_rows(row_sequence)).softmax(-1)
    for row, sequence, law in zip(logits.tolist(), row_sequence.tolist(), laws.tolist(), strict=True):
        expected = processed_law(row, *LIMITS[sequence])
        assert law == pytest.approx(expected, abs=TOLERANCE)
        assert [p > 0 for p in law] == [p > 0 for p in expected]


def batch(vocab, scale=3.0):
    rows = torch.arange(len(LIMITS)).repeat_interleave(2)
    # Halves make ties, which must fall to the lower id.
    return (scale * torch.randn(len(rows), vocab, generator=torch.Generator().manual_seed(vocab)) * 2).round() / 2, rows


@pytest.mark.parametrize("vocab", [1, 63, 100, 257, 1000])
def test_laws_are_what_was_asked_for(vocab):
    check_process(process, *batch(vocab))


def test_flat_laws_outgrow_the_candidates():
    logits, rows = batch(1000, scale=0.1)
    assert (process(logits, processing(LIMITS), law_rows(rows)).isfinite().sum(-1) > reference.NUM_CANDIDATES).any()
    check_process(process, logits, rows)


@pytest.mark.parametrize("mistake", ["top-p before temperature", "ties to the higher id"])
def test_planted_mistakes_are_caught(mistake):
    def planted(logits, limits, rows):
        if mistake == "ties to the higher id":
            return process(logits.flip(-1), limits, rows).flip(-1)
        temperature = limits.temperature[rows.sequence, None]
        return process(logits * temperature, limits, rows) / temperature

    with pytest.raises(AssertionError):
        check_process(planted, *batch(100))


def test_plain_logits_are_returned_untouched():
    logits = torch.randn(2, 5)
    plain = Processing(torch.ones(1), torch.zeros(1), torch.ones(1), torch.zeros(1), is_plain=True, truncates=False)
    assert process(logits, plain, law_rows(torch.zeros(2, dtype=torch.int64))) is logits


def test_greedy_is_one_hot_at_the_first_largest():
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    greedy = Processing(torch.zeros(1), torch.zeros(1), torch.ones(1), torch.zeros(1), is_plain=False, truncates=False)
    result = process(logits, greedy, law_rows(torch.zeros(1, dtype=torch.int64)))
    assert result.tolist() == [[-torch.inf, 0.0, -torch.inf, -torch.inf]]


@pytest.mark.parametrize("vocab", [1, 63, 100, 257])
def test_draw_inverts_the_cumulative_mass(vocab):
    rng = torch.Generator().manual_seed(vocab)
    mass = torch.rand(100, vocab, generator=rng) * (torch.rand(100, vocab, generator=rng) < 0.3)
    mass[:, vocab // 2] = 1.0
    uniforms = torch.rand(100, generator=rng)
    for row, uniform, token in zip(mass.tolist(), uniforms.tolist(), reference.draw(mass, uniforms), strict=True):
        check_draw(int(token), row, uniform)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_draw_never_returns_a_token_without_mass(uniform):
    mass = torch.zeros(257, 257).fill_diagonal_(1e-30)
    assert reference.draw(mass, torch.full((257,), uniform)).tolist() == list(range(257))
