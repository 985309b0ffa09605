import math

import pytest
import torch

from core.errors import ShapeError
from kernels.logprobs import token_logprobs, token_logprobs_triton


def tied_logits(num, vocab):
    # Halves make ties, which must go to the lower id.
    return (6 * torch.randn(num, vocab, generator=torch.Generator().manual_seed(vocab))).round() / 2


@pytest.mark.parametrize("vocab", [1, 63, 100, 257])
def test_scores_are_those_of_the_sorted_law(vocab):
    logits = tied_logits(20, vocab)
    tokens = torch.randint(vocab, (20,), generator=torch.Generator().manual_seed(0))
    scores = token_logprobs(logits, tokens, 5)
    for n, (row, token) in enumerate(zip(logits.tolist(), tokens.tolist(), strict=True)):
        order = sorted(range(vocab), key=lambda v: (-row[v], v))
        total = math.log(sum(math.exp(x) for x in row))
        assert scores.rank[n] == order.index(token) + 1
        assert scores.top_ids[n].tolist() == order[:5]
        assert float(scores.logprob[n]) == pytest.approx(row[token] - total, abs=2e-5)
        assert scores.top_logprobs[n].tolist() == pytest.approx([row[v] - total for v in order[:5]], abs=2e-5)


def test_the_most_likely_token_has_rank_one_and_leads_the_top():
    scores = token_logprobs(torch.tensor([[0.0, 3.0, 3.0]]), torch.tensor([1]), 2)
    assert int(scores.rank) == 1
    assert scores.top_ids.tolist() == [[1, 2]]
    assert float(scores.top_logprobs[0, 0]) == float(scores.logprob)


@pytest.mark.parametrize("vocab", [63, 1000, 40000])
def test_no_row_is_changed_by_the_rest_of_the_batch(vocab):
    logits = 3 * torch.randn(9, vocab, generator=torch.Generator().manual_seed(0))
    tokens = torch.arange(9)
    together = token_logprobs(logits, tokens, 3)
    for n in range(9):
        alone = token_logprobs(logits[n : n + 1], tokens[n : n + 1], 3)
        assert torch.equal(alone.logprob[0], together.logprob[n])
        assert torch.equal(alone.top_logprobs[0], together.top_logprobs[n])


def test_no_alternatives_and_more_than_there_are():
    logits, tokens = tied_logits(4, 3), torch.zeros(4, dtype=torch.int64)
    assert token_logprobs(logits, tokens, 0).top_ids.shape == (4, 0)
    assert token_logprobs(logits, tokens, 20).top_ids.sort().values.tolist() == [[0, 1, 2]] * 4


def test_tokens_of_another_number_are_told():
    with pytest.raises(ShapeError):
        token_logprobs(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), 1)


@pytest.mark.parametrize(("vocab", "tile"), [(1, 64), (63, 64), (257, 64), (257, 1024)])
def test_triton_scores_as_the_twin(vocab, tile, poisoned):
    logits, tokens = tied_logits(6, vocab), torch.arange(6) * 40 % vocab
    logits[1] = 2.0
    logits[2, vocab // 2 + 1 :] = -torch.inf
    logits[3] *= 1e4
    tokens[2] = 0
    found, twin = token_logprobs_triton(logits, tokens, 5, tile), token_logprobs(logits, tokens, 5)
    assert torch.equal(found.rank, twin.rank)
    assert torch.equal(found.top_ids, twin.top_ids)
    torch.testing.assert_close(found.logprob, twin.logprob, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(found.top_logprobs, twin.top_logprobs, atol=1e-5, rtol=1e-6)


def test_triton_reports_no_alternatives_more_than_there_are_and_no_rows():
    logits, tokens = tied_logits(4, 3), torch.zeros(4, dtype=torch.int64)
    assert token_logprobs_triton(logits, tokens, 0).top_ids.shape == (4, 0)
    assert token_logprobs_triton(logits, tokens, 20).top_ids.sort().values.tolist() == [[0, 1, 2]] * 4
    assert token_logprobs_triton(logits[:0], tokens[:0], 2).top_ids.shape == (0, 2)
