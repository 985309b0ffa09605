"""The head's kernels against the same walk in float64; what is compared is every number they leave."""

from dataclasses import replace

import pytest
import torch

from kernels import markov
from tests.kernels.head_cases import HeadCase, true_logits

MIXED = (True, False)
CASES = [
    HeadCase("vanilla", 3, 3, 100, rank=10),
    HeadCase("vanilla", 1, 2, 1, rank=3, temperatures=(1.0,)),
    HeadCase("vanilla", 5, 2, 257, rank=64, temperatures=(1.0, 0.5, 0.0, 1.7), coupled=MIXED),
    HeadCase("vanilla", 5, 2, 257, rank=64, temperatures=(1.0, 0.5, 0.0, 1.7), coupled=MIXED, names_noise=True),
    HeadCase("gated", 17, 1, 63, temperatures=(1.0,)),
    HeadCase("gated", 3, 2, 257, draftable=190, temperatures=(0.7, 0.0)),
    HeadCase("rnn", 3, 3, 257, temperatures=(0.7, 2.0)),
    HeadCase("rnn", 2, 2, 100, draftable=63, coupled=(True,), names_noise=True),
    HeadCase("vanilla", 3, 2, 130, rank=33, temperatures=(0.0,), dtype=torch.float16),
    HeadCase("vanilla", 3, 2, 130, scale=300.0, temperatures=(1e-4, 2.0, 0.0)),
    HeadCase("gated", 5, 2, 130, coupled=MIXED, names_noise=True, base_dtype=torch.float16),
]
# float32 sums of `rank` products beside logits of this scale.
TOLERANCE = 2e-5


def expected_tokens(case, logits, ask):
    """Return the token of each slot, and by how far (in law, in score) it is the one."""
    heat = ask.processing.temperature[:, None].double()
    law = logits / torch.where(heat == 0, 1.0, heat)[..., None]
    cumulative = law.softmax(-1).cumsum(-1)
    drawn = torch.searchsorted(cumulative, ask.noise.double()[..., None], right=True).squeeze(-1)
    if case.coupled:
        drawn = torch.where(ask.coupled[:, None], (law + case.gumbel().double()).argmax(-1), drawn)
    return torch.where(heat == 0, logits.argmax(-1), drawn), law


@pytest.mark.parametrize("case", CASES, ids=str)
def test_triton_walks_as_the_head_says(case, poisoned):
    round_ = case.build()
    found, left = round_.walk()
    logits = true_logits(round_, found.tokens)
    expected, law = expected_tokens(case, logits, round_.ask)
    assert torch.equal(found.tokens, expected)
    slack = TOLERANCE * case.scale
    if case.vocab > 1:
        best = logits.topk(2).values
        torch.testing.assert_close(found.margins.double(), best[..., 0] - best[..., 1], atol=slack, rtol=1e-5)
    torch.testing.assert_close(found.log_total.double(), law.logsumexp(-1), atol=slack, rtol=1e-5)
    is_drawn = round_.ask.processing.temperature > 0
    if case.coupled:
        is_drawn &= ~round_.ask.coupled
    torch.testing.assert_close(found.law[is_drawn].double(), law[is_drawn], atol=slack, rtol=2e-5)
    assert found.law.dtype == torch.float32
    is_own = found.law.data_ptr() != left.data_ptr()
    assert is_own == (case.base_dtype != torch.float32)
    unread = torch.ones_like(is_drawn) if is_own else ~is_drawn
    assert torch.equal(left[unread], round_.logits[unread]), "logits that nobody verifies with were written"
    assert not is_own or bool(found.law[~is_drawn].isnan().all()), "a law was written that nobody reads"


def test_triton_gives_a_sequence_the_same_bits_whoever_is_beside_it():
    case = HeadCase("vanilla", 18, 2, 100, coupled=MIXED, names_noise=True)
    round_ = case.build()
    found, left = round_.walk()
    for b in (0, 1, 17):
        row = slice(b, b + 1)
        ask, laws = round_.ask, round_.ask.processing
        keys = replace(
            ask.gumbel, **{name: getattr(ask.gumbel, name)[row] for name in ("low", "high", "child", "first")}
        )
        alone = replace(
            ask,
            anchors=ask.anchors[row],
            noise=ask.noise[row],
            gumbel=keys,
            coupled=ask.coupled[row],
            processing=replace(laws, temperature=laws.temperature[row]),
        )
        single, own = replace(round_, logits=round_.logits[row], ask=alone).walk()
        assert torch.equal(single.tokens[0], found.tokens[b])
        assert torch.equal(single.log_total[0], found.log_total[b])
        assert torch.equal(own[0], left[b])


def test_triton_draws_each_token_as_often_as_its_law_says():
    round_ = HeadCase("vanilla", 1, 1, 130, rank=4, temperatures=(0.8,), scale=1.0).build()
    num = 100
    ask = round_.ask
    steps = (torch.arange(num) + 0.5)[:, None] / num
    laws = replace(ask.processing, temperature=ask.processing.temperature.expand(num).contiguous())
    many = replace(ask, anchors=ask.anchors.repeat(num), noise=steps, processing=laws)
    found, left = replace(round_, logits=round_.logits.repeat(num, 1, 1), ask=many).walk()
    seen = torch.bincount(found.tokens[:, 0], minlength=130) / num
    # A scan of the unit interval finds each mass to within one point of it.
    assert float((seen - left[0, 0].softmax(-1)).abs().max()) < 1.1 / num
    assert (seen[:64] > 0).sum() > 5
    assert (seen[64:128] > 0).sum() > 5


@pytest.mark.parametrize("names_noise", [False, True], ids=["given", "named"])
def test_triton_gives_equals_to_the_lowest_id_and_never_draws_what_has_no_chance(names_noise, poisoned):
    case = HeadCase("vanilla", 3, 1, 70, rank=4, coupled=(False, True, False), names_noise=names_noise)
    round_ = replace(case.build(), logits=torch.full((3, 1, 70), -torch.inf))
    round_.head.w2.zero_()
    round_.logits[:, :, 65:68] = 1.0
    laws = replace(round_.ask.processing, temperature=torch.tensor([0.0, 1.0, 1.0]))
    for uniform in (0.0, 1 - 2**-24):
        ask = replace(round_.ask, noise=torch.full((3, 1), uniform), processing=laws)
        tokens = replace(round_, ask=ask).walk()[0].tokens.squeeze(1).tolist()
        assert tokens[0] == 65
        assert tokens[1] == 65 + int(case.gumbel()[1, 0, 65:68].argmax())
        assert tokens[2] == (65 if uniform == 0.0 else 67)


def test_triton_has_nothing_to_walk_for_nobody():
    round_ = HeadCase("vanilla", 1, 2, 70).build()
    empty = replace(round_.ask, anchors=round_.ask.anchors[:0])
    assert markov.walk(round_.logits[:0], None, round_.head, empty).tokens.shape == (0, 2)
