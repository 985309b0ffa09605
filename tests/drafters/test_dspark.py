"""How the family draws and what it reports; that its numbers are right is tests/drafters/test_dflash_*.py."""

import pytest
import torch
from msgspec.structs import replace

from core.tensors import PagedKV
from drafters.dflash import DFlash
from drafters.dspark import DSpark
from drafters.margin import GREATEST, SLOPE
from kernels.reference import draw
from tests.drafters.dflash_cases import BLOCK_SIZE, ask, commit, empty_kv, expected_of, fixture_drafter


@pytest.fixture(scope="module")
def expected():
    return expected_of("dspark_vanilla")


@pytest.fixture(scope="module")
def drafter():
    return fixture_drafter("dspark_vanilla")


@torch.inference_mode()
def test_drafts_follow_the_law_they_report(drafter, expected):
    kv, ids = empty_kv(drafter), expected["prompt_ids"]
    drafter.extend(commit(expected["features"], kv, 0, 11))
    steps = (torch.arange(2000) + 0.5) / 2000
    noise = torch.full((7,), 0.5).repeat(2000, 1)
    noise[:, 0] = steps
    many = PagedKV(kv.keys, kv.values, kv.block_tables.expand(2000, -1), BLOCK_SIZE)
    draft = drafter.propose(ask(many, [int(ids[11])] * 2000, [11] * 2000, 7, 1.0, noise))
    law = draft.q_logits[0, 0].softmax(-1)
    seen = torch.bincount(draft.tokens[:, 0], minlength=len(law)) / 2000
    # A scan of the unit interval by 2000 points finds each mass to within one point.
    assert float((seen - law).abs().max()) < 1.1 / 2000


@torch.inference_mode()
def test_without_the_sequential_head_every_slot_is_drawn_from_its_base_logits(drafter, expected):
    kv, ids = empty_kv(drafter), expected["prompt_ids"]
    drafter.extend(commit(expected["features"], kv, 0, 11))
    question = ask(kv, [int(ids[11])], [11], temperature=1.0)
    draft = DFlash("dflash", drafter.network, drafter.target).propose(question)
    torch.testing.assert_close(draft.q_logits[0], expected["round0.base_logits"], atol=1e-4, rtol=1e-4)
    assert draft.tokens[0].tolist() == draw(draft.q_logits[0].softmax(-1), question.noise[0]).tolist()
    best = expected["round0.base_logits"].topk(2).values
    torch.testing.assert_close(draft.evidence[0], SLOPE * (best[:, 0] - best[:, 1]), atol=1e-4, rtol=1e-4)


class Headless:
    """A network without its confidence head."""

    def __init__(self, network):
        self._network = network
        self.config = replace(network.config, enable_confidence_head=False)

    def __getattr__(self, name):
        return getattr(self._network, name)


@torch.inference_mode()
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_without_a_confidence_head_the_margin_before_each_draw_is_the_evidence(drafter, expected, temperature):
    headless = DSpark("dspark", Headless(drafter.network), drafter.target)
    kv, ids = empty_kv(drafter), expected["prompt_ids"]
    drafter.extend(commit(expected["features"], kv, 0, 12))
    noise = torch.full((1, 7), 0.9)
    before = headless.propose(ask(kv, [int(ids[12])], [12], 7, temperature, noise))
    assert ((before.evidence > 0) & (before.evidence < SLOPE * GREATEST)).all()
    for k in range(7):
        changed = noise.clone()
        changed[0, k] = 0.01
        after = headless.propose(ask(kv, [int(ids[12])], [12], 7, temperature, changed))
        assert torch.equal(after.evidence[0, : k + 1], before.evidence[0, : k + 1])
        if temperature and k < 6:
            assert int(after.tokens[0, k]) != int(before.tokens[0, k])
            assert float(after.evidence[0, k + 1]) != float(before.evidence[0, k + 1])
