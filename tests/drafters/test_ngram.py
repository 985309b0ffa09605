import pytest
import torch

from core.tensors import Commit, DraftAsk, Processing
from drafters.ngram import NGram


def propose(drafter, slot, anchor, position, limit=7):
    processing = Processing(
        torch.ones(1), torch.zeros(1, dtype=torch.int64), torch.ones(1), torch.zeros(1), True, False
    )
    return drafter.propose(
        DraftAsk(
            torch.tensor([slot]),
            torch.tensor([anchor]),
            torch.tensor([position]),
            torch.tensor([limit], dtype=torch.int32),
            processing,
            torch.zeros(1, 7),
            None,
        )
    )


def proposed(tokens, **options):
    drafter = NGram(**options)
    drafter.open(0, tokens[:-1], 0)
    draft = propose(drafter, 0, tokens[-1], len(tokens) - 1)
    return draft.tokens[0, : int(draft.lengths[0])].tolist()


@pytest.mark.parametrize(
    ("tokens", "options", "expected"),
    [
        ([1, 2, 3, 9, 9, 1, 2, 3], {}, [9, 9, 1, 2, 3]),
        ([5, 1, 2, 7, 6, 1, 2, 8, 1, 2], {}, [8, 1, 2]),
        ([5, 1, 2, 7, 8, 2, 4, 5, 1, 2], {}, [7, 8, 2, 4, 5, 1, 2]),
        ([1, 2, 3, 4], {}, []),
        ([1, 5, 2, 5], {}, [2, 5]),
        ([1, 5, 2, 5], {"min_ngram": 2}, []),
        ([1, 2, 5, 6, 1, 2], {"min_ngram": 2}, [5, 6, 1, 2]),
        ([3, 1, 2, 5, 4, 1, 2, 6, 3, 1, 2], {"max_ngram": 2}, [6, 3, 1, 2]),
        ([1, 2, 3, 9, 9, 1, 2, 3], {"max_drafts": 2}, [9, 9]),
        ([4], {}, []),
    ],
    ids=["suffix", "latest", "longest", "none", "unigram", "too-short", "bigram", "capped-n", "capped-g", "one-token"],
)
def test_it_proposes_what_followed_the_last_longest_match(tokens, options, expected):
    assert proposed(tokens, **options) == expected


def test_committed_rows_become_history():
    drafter = NGram()
    drafter.open(3, [1, 2], 0)
    rows = torch.arange(6)
    tokens = torch.tensor([1, 2, 8, 9, 7, 1])
    drafter.extend(Commit(torch.tensor([3]), torch.tensor([0, 6]), rows, tokens, tokens, None, None))
    draft = propose(drafter, 3, 2, 6)
    assert draft.tokens[0, : int(draft.lengths[0])].tolist() == [8, 9, 7, 1, 2]


def test_a_rejected_token_is_forgotten():
    drafter = NGram()
    drafter.open(0, [1, 2, 3, 1], 0)
    propose(drafter, 0, 2, 4)
    assert propose(drafter, 0, 7, 4).lengths.tolist() == [0]


def test_evidence_is_the_agreement_of_the_matches():
    drafter = NGram()
    drafter.open(0, [9, 0, 1, 3, 8, 0, 1, 2, 7, 0], 0)
    draft = propose(drafter, 0, 1, 10)
    # The suffix (0, 1) was followed once by 3 and once by 2; the latest says 2.
    assert draft.tokens[0, 0] == 2
    assert draft.evidence[0, 0] == pytest.approx(0.0)
