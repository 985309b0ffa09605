"""Bias, penalties and bans: every row after drafts is the law of its own prefix, counted from scratch."""

from dataclasses import replace

import pytest
import torch

from core.errors import ShapeError
from core.tensors import LawRows
from core.types import Sampling
from kernels.process import process
from tests.kernels.law_cases import STOP, Prefix, make_prefixes, make_processing, verification_rows
from tests.kernels.oracles import TOLERANCE, law_after

WIDTH, VOCAB = 4, 63


def random_logits(num, vocab=VOCAB, seed=0):
    return 2 * torch.randn(num, vocab, generator=torch.Generator().manual_seed(seed))


def check_rows(body, vocab=VOCAB):
    """Assert that rows after 0..WIDTH drafts have the laws of prompt + output + those drafts."""
    prefixes = make_prefixes(vocab)
    rows = verification_rows(prefixes, WIDTH, vocab)
    logits = random_logits(len(rows.sequence), vocab)
    laws = body(logits, make_processing(prefixes, vocab), rows).softmax(-1)
    for row, b, j, law in zip(
        logits.tolist(), rows.sequence.tolist(), rows.offset.tolist(), laws.tolist(), strict=True
    ):
        prefix = prefixes[b]
        output = prefix.output + rows.drafts[b, :j].tolist()
        assert law == pytest.approx(law_after(row, prefix.sampling, prefix.prompt, output), abs=TOLERANCE)


def one_row(prefix, logits, offset=0, drafts=None):
    rows = LawRows(torch.zeros(1, dtype=torch.int64), torch.tensor([offset]), drafts)
    return process(logits, make_processing([prefix], logits.shape[1]), rows).softmax(-1)[0]


@pytest.mark.parametrize("vocab", [13, 63, 100, 257])
def test_a_row_after_drafts_has_the_law_of_its_own_prefix(vocab):
    check_rows(process, vocab)


def test_a_row_after_drafts_has_the_bits_it_has_once_they_are_output():
    prefixes = make_prefixes(VOCAB)
    rows = verification_rows(prefixes, WIDTH, VOCAB)
    logits = random_logits(len(rows.sequence))
    ahead = process(logits, make_processing(prefixes, VOCAB), rows)
    for j in range(WIDTH + 1):
        grown = [replace(p, output=p.output + rows.drafts[b, :j].tolist()) for b, p in enumerate(prefixes)]
        anchors = LawRows(torch.arange(len(grown)), torch.zeros(len(grown), dtype=torch.int64), rows.drafts)
        later = process(logits[rows.offset == j], make_processing(grown, VOCAB), anchors)
        assert torch.equal(later, ahead[rows.offset == j])


def forget_the_drafts(logits, processing, rows):
    return process(logits, processing, replace(rows, drafts=None))


def count_one_draft_too_many(logits, processing, rows):
    return process(logits, processing, replace(rows, offset=(rows.offset + 1).clamp(max=WIDTH)))


def change_edits(**changes):
    """Return process with a mistake in the edits, each made from the right ones."""

    def body(logits, processing, rows):
        edits = processing.edits
        wrong = {name: change(edits) for name, change in changes.items()}
        return process(logits, replace(processing, edits=replace(edits, **wrong)), rows)

    return body


MISTAKES = {
    "penalties without the drafts": forget_the_drafts,
    "penalties with the draft itself": count_one_draft_too_many,
    "the ban one token too long": change_edits(min_left=lambda edits: edits.min_left + 1),
    "the ban one token too short": change_edits(min_left=lambda edits: (edits.min_left - 1).clamp(min=0)),
    "the prompt counted as output": change_edits(counts=lambda edits: edits.counts + edits.in_prompt),
    "the prompt forgotten": change_edits(in_prompt=lambda edits: torch.zeros_like(edits.in_prompt)),
    "an occurrence counted once": change_edits(counts=lambda edits: edits.counts.clamp(max=1)),
    "frequency taken for presence": change_edits(frequency=lambda edits: edits.presence),
}


@pytest.mark.parametrize("body", MISTAKES.values(), ids=MISTAKES.keys())
def test_planted_mistakes_are_caught(body):
    with pytest.raises(AssertionError):
        check_rows(body)


def test_min_tokens_lets_the_stop_token_come_right_after_them():
    prefix = Prefix(Sampling(min_tokens=3, stop_token_ids=(STOP,)), prompt=[1], output=[4])
    drafts = torch.tensor([[3, 3, 3, 3]])
    chances = [float(one_row(prefix, random_logits(1), j, drafts)[STOP]) for j in range(5)]
    # One token is out: the second and the third may not stop, the fourth may.
    assert [chance > 0 for chance in chances] == [False, False, True, True, True]


def test_without_drafts_counts_stay_frozen_at_the_anchor():
    prefix = Prefix(Sampling(frequency_penalty=1.0), prompt=[1], output=[4])
    at_anchor = one_row(prefix, random_logits(1), 0, torch.tensor([[4, 4]]))
    assert torch.equal(one_row(prefix, random_logits(1), 2), at_anchor)
    assert not torch.equal(one_row(prefix, random_logits(1), 2, torch.tensor([[4, 4]])), at_anchor)


def test_drafts_past_the_row_may_be_anything():
    prefix = Prefix(Sampling(frequency_penalty=1.0), prompt=[1], output=[4])
    known = one_row(prefix, random_logits(1), 1, torch.tensor([[4, 0, 0]]))
    assert torch.equal(one_row(prefix, random_logits(1), 1, torch.tensor([[4, -1, 10**9]])), known)


def test_raw_logits_stay_as_they_were():
    prefixes = make_prefixes(VOCAB)
    rows = verification_rows(prefixes, WIDTH, VOCAB)
    logits = random_logits(len(rows.sequence))
    before = logits.clone()
    process(logits, make_processing(prefixes, VOCAB), rows)
    assert torch.equal(logits, before)


def test_greedy_takes_the_lowest_id_of_equal_edited_logits():
    prefix = Prefix(Sampling(temperature=0.0, logit_bias=((3, 1.0), (1, 1.0))), prompt=[0], output=[])
    assert int(one_row(prefix, torch.tensor([[1.0, 1.0, 0.0, 1.0]])).argmax()) == 1


def test_a_bias_alone_needs_no_counts():
    prefix = Prefix(Sampling(logit_bias=((3, 100.0),)), prompt=[0], output=[])
    assert make_processing([prefix], VOCAB).edits.counts is None
    assert float(one_row(prefix, random_logits(1))[3]) == 1.0


def test_a_penalty_without_counts_is_told():
    prefix = Prefix(Sampling(presence_penalty=1.0), prompt=[0], output=[])
    processing = make_processing([prefix], VOCAB)
    lacking = replace(processing, edits=replace(processing.edits, counts=None, in_prompt=None))
    rows = LawRows(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ShapeError, match="counts"):
        process(random_logits(1), lacking, rows)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_ban_of_the_whole_vocabulary_is_not_applied(temperature):
    logits = torch.tensor([[0.0, 2.0, 1.0]])
    prefix = Prefix(Sampling(temperature=temperature, min_tokens=9, stop_token_ids=(0, 1, 2)), prompt=[0], output=[])
    free = Prefix(Sampling(temperature=temperature), prompt=[0], output=[])
    assert torch.equal(one_row(prefix, logits), one_row(free, logits))


def test_an_overflowing_penalty_leaves_a_law():
    prefix = Prefix(Sampling(repetition_penalty=1e-38), prompt=[0, 1], output=[])
    assert one_row(prefix, torch.tensor([[50.0, 40.0, 60.0]])).tolist() == [0.5, 0.5, 0.0]
