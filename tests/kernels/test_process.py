from dataclasses import replace
from functools import partial

import pytest
import torch

from core.tensors import Allowed, LawRows, Processing
from kernels import reference
from kernels.process import process
from kernels.process_tiles import process_triton
from kernels.truncation import NUM_CANDIDATES
from tests.kernels.law_cases import make_prefixes, make_processing, verification_rows
from tests.kernels.oracles import TOLERANCE, check_draw, processed_law

# Temperature, top-k, top-p, min-p.
LIMITS = [
    (1.0, 0, 1.0, 0.0),
    (0.7, 5, 1.0, 0.0),
    (1.3, 0, 0.9, 0.0),
    (0.5, 40, 0.6, 0.0),
    (0.0, 3, 0.2, 0.5),
    (1e-30, 0, 0.0, 0.0),
    (2.0, 1, 1.0, 0.0),
    (1.0, 0, 1.0, 0.07),
    (1.5, 20, 0.9, 0.11),
    (0.9, 0, 1.0, 1.0),
]


def processing(limits):
    temperature, top_k, top_p, min_p = (torch.tensor(column) for column in zip(*limits, strict=True))
    return Processing(temperature, top_k, top_p, min_p, is_plain=False, truncates=True)


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
    assert (process(logits, processing(LIMITS), law_rows(rows)).isfinite().sum(-1) > NUM_CANDIDATES).any()
    check_process(process, logits, rows)


@pytest.mark.parametrize("mistake", ["top-p before temperature", "ties to the higher id", "min-p of the whole mass"])
def test_planted_mistakes_are_caught(mistake):
    def planted(logits, limits, rows):
        if mistake == "ties to the higher id":
            return process(logits.flip(-1), limits, rows).flip(-1)
        if mistake == "min-p of the whole mass":
            laws = process(logits, replace(limits, min_p=torch.zeros_like(limits.min_p)), rows)
            return laws.masked_fill(laws.softmax(-1) < limits.min_p[rows.sequence, None], -torch.inf)
        temperature = limits.temperature[rows.sequence, None]
        return process(logits * temperature, limits, rows) / temperature

    with pytest.raises(AssertionError):
        check_process(planted, *batch(100))


def test_plain_logits_are_returned_untouched():
    logits = torch.randn(2, 5)
    plain = Processing(torch.ones(1), torch.zeros(1), torch.ones(1), torch.zeros(1), is_plain=True, truncates=False)
    assert process(logits, plain, law_rows(torch.zeros(2, dtype=torch.int64))) is logits


def assert_rows_stand_alone(vocab, scale):
    """Assert that each row of a mixed batch has the bits it has alone, in a batch of its own sequence."""
    prefixes = make_prefixes(vocab)
    rows = verification_rows(prefixes, 2, vocab)
    logits = scale * torch.randn(len(rows.sequence), vocab, generator=torch.Generator().manual_seed(vocab))
    together = process(logits, make_processing(prefixes, vocab), rows)
    half = torch.arange(0, len(logits), 2)
    part = LawRows(rows.sequence[half], rows.offset[half], rows.drafts)
    assert torch.equal(process(logits[half], make_processing(prefixes, vocab), part), together[half])
    for row, b in enumerate(rows.sequence.tolist()):
        single = LawRows(torch.zeros(1, dtype=torch.int64), rows.offset[row : row + 1], rows.drafts[b : b + 1])
        alone = process(logits[row : row + 1], make_processing(prefixes[b : b + 1], vocab), single)
        # Plain logits alone are returned as they are: the same law, less its largest logit.
        alone = alone - alone.amax()
        assert torch.equal(alone[0], together[row]), prefixes[b].sampling


@pytest.mark.parametrize("scale", [0.05, 3.0], ids=["flat", "peaked"])
@pytest.mark.parametrize("vocab", [13, 63, 257, 1000, 4099])
def test_no_row_is_changed_by_the_rest_of_the_batch(vocab, scale):
    assert_rows_stand_alone(vocab, scale)


@pytest.fixture
def two_threads():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(num_threads)


def test_no_row_is_changed_by_threads(two_threads):
    # From 32768 numbers on torch may share a single row's sum out between threads. Here each row's top-p lies within
    # a rounding of one of its cumulative masses, where the last bit of the sum decides.
    logits = 3 * torch.randn(1, 40000, generator=torch.Generator().manual_seed(2)).expand(60, -1)
    ordered = (logits[0] - logits[0].amax()).sort(descending=True).values.exp()
    top_p = (ordered.double().cumsum(0) / ordered.double().sum())[:60].float()
    limits = [(1.0, 0, float(mass), 0.0) for mass in top_p]
    together = process(logits, processing(limits), law_rows(torch.arange(60)))
    for row in range(60):
        alone = process(logits[:1], processing(limits[row : row + 1]), law_rows(torch.zeros(1, dtype=torch.int64)))
        assert torch.equal(alone[0], together[row])


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


# --- Triton ------------------------------------------------------------------------------------------------------

in_tiles = partial(process_triton, tile=128)


def check_as_twin(logits, limits, rows):
    found, twin = in_tiles(logits, limits, rows), process(logits, limits, rows)
    assert torch.equal(found.isfinite(), twin.isfinite())
    torch.testing.assert_close(found, twin, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("vocab", "scale"), [(1, 3.0), (63, 3.0), (257, 0.1)])
def test_triton_makes_the_laws_asked_for(vocab, scale, poisoned):
    logits, rows = batch(vocab, scale)
    half = torch.arange(0, len(logits), 2)
    check_process(in_tiles, logits[half], rows[half])
    check_as_twin(logits[half], processing(LIMITS), law_rows(rows[half]))


def test_triton_truncates_rows_in_which_little_is_left(poisoned):
    logits = torch.full((4, 200), -torch.inf)
    logits[0, 150] = 2.0
    logits[1, [3, 199]] = torch.tensor([1.0, 1.0])
    logits[2, 10:20] = 1e30
    logits[3] = torch.linspace(-1e4, 0, 200)
    check_as_twin(logits, processing([(1.0, 5, 0.9, 0.0)]), law_rows(torch.zeros(4, dtype=torch.int64)))


def grammar(num_rows, vocab):
    """Allow a third of the tokens in every third row."""
    bits = torch.randint(256, (len(range(0, num_rows, 3)), -(-vocab // 8) + 1), dtype=torch.uint8)
    bits &= torch.randint(256, bits.shape, dtype=torch.uint8)
    bits[:, 0] |= 1
    return Allowed(torch.arange(0, num_rows, 3), bits)


@pytest.mark.parametrize("vocab", [13, 150])
def test_triton_edits_as_the_twin(vocab, poisoned):
    torch.manual_seed(vocab)
    prefixes = make_prefixes(vocab)
    rows = verification_rows(prefixes, 1, vocab)
    rows = replace(rows, allowed=grammar(len(rows.sequence), vocab))
    logits = 3 * torch.randn(len(rows.sequence), vocab)
    before = logits.clone()
    check_as_twin(logits, make_processing(prefixes, vocab), rows)
    assert torch.equal(logits, before)


def test_triton_freezes_the_counts_of_a_drafters_rows_at_the_anchor():
    prefixes = make_prefixes(63)
    rows = replace(verification_rows(prefixes, 1, 63), drafts=None)
    check_as_twin(torch.randn(len(rows.sequence), 63), make_processing(prefixes, 63), rows)


def test_triton_gives_each_row_the_bits_it_has_alone():
    logits, rows = batch(150)
    together = in_tiles(logits[:10], processing(LIMITS), law_rows(rows[:10]))
    for row in (5, 8):
        alone = in_tiles(logits[row : row + 1], processing(LIMITS), law_rows(rows[row : row + 1]))
        assert torch.equal(alone[0], together[row])


def test_triton_processes_no_rows():
    none = torch.zeros(0, dtype=torch.int64)
    assert process_triton(torch.zeros(0, 9), processing(LIMITS), law_rows(none)).shape == (0, 9)
