import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from core.tensors import Commit, DraftAsk, PagedKV, Processing
from drafters.dflash import DFlash
from drafters.dspark import DSpark
from drafters.margin import GREATEST, SLOPE
from kernels.reference import draw
from models.load_drafter import load_dspark
from models.load_target import load_target
from paths import FIXTURES

BLOCK_SIZE = 4


@pytest.fixture(scope="module")
def expected():
    return load_file(FIXTURES / "dspark_vanilla" / "expected.safetensors")


@pytest.fixture(scope="module")
def drafter():
    target = load_target(FIXTURES / "target_qwen3", torch.float32)
    return DSpark("dspark", load_dspark(FIXTURES / "dspark_vanilla", target), target)


def empty_kv(drafter, sequences=1, blocks=12):
    # Poisoned: a row that is read before it was written spoils the result.
    caches = [
        tuple(torch.full((sequences * blocks + 1, BLOCK_SIZE, *layer), torch.nan) for layer in drafter.spec.kv_layers)
        for _ in range(2)
    ]
    tables = torch.randperm(sequences * blocks).view(sequences, blocks) + 1
    return PagedKV(*caches, tables, BLOCK_SIZE)


def commit(expected, kv, start, stop):
    ids = expected["prompt_ids"]
    rows = torch.arange(start, stop)
    return Commit(
        torch.tensor([0]),
        torch.tensor([0, stop - start]),
        rows,
        ids[rows],
        ids[rows + 1],
        expected["features"][rows],
        kv,
    )


def ask(kv, anchors, positions, temperature=0.0, noise=None):
    batch = len(anchors)
    off = torch.zeros(batch, dtype=torch.int64)
    temperatures, is_plain = torch.full((batch,), temperature), temperature == 1.0
    processing = Processing(temperatures, off, torch.ones(batch), torch.zeros(batch), is_plain, truncates=False)
    noise = torch.rand(batch, 7) if noise is None else noise
    lengths = torch.full((batch,), 7, dtype=torch.int32)
    slots = torch.arange(batch)
    return DraftAsk(slots, torch.tensor(anchors), torch.tensor(positions), lengths, processing, noise, kv)


@torch.inference_mode()
def test_every_round_matches_the_reference_implementation(drafter, expected):
    kv, ids, done = empty_kv(drafter), expected["prompt_ids"], 0
    for index, length in enumerate(expected["rounds"].tolist()):
        drafter.extend(commit(expected, kv, done, length))
        done = length
        question = ask(kv, [int(ids[length])], [length])
        hidden = drafter._block(question)
        wanted = {name.split(".")[1]: value for name, value in expected.items() if name.startswith(f"round{index}.")}
        torch.testing.assert_close(hidden[0], wanted["hidden"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(drafter.target.logits(hidden)[0], wanted["base_logits"], atol=1e-4, rtol=1e-4)
        draft = drafter.propose(question)
        assert draft.tokens[0].tolist() == wanted["greedy_tokens"].tolist()
        torch.testing.assert_close(draft.evidence[0], wanted["confidence_logits"], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_biased_logits_match_the_reference_along_its_tokens(drafter, expected):
    kv, ids = empty_kv(drafter), expected["prompt_ids"]
    drafter.extend(commit(expected, kv, 0, 11))
    question = ask(kv, [int(ids[11])], [11], temperature=1.0)
    hidden = drafter._block(question)
    previous = torch.cat((ids[11:12], expected["round0.greedy_tokens"][:-1]))
    biased = drafter.target.logits(hidden)[0] + drafter.network.markov_head(previous, hidden[0])
    torch.testing.assert_close(biased, expected["round0.draft_logits"], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("chunks", [(23,), (1,) * 23, (5, 11, 7), (3, 8, 1, 4, 7)], ids=str)
def test_context_rows_do_not_depend_on_how_they_were_chunked(drafter, expected, chunks):
    kv, done = empty_kv(drafter), 0
    for size in chunks:
        drafter.extend(commit(expected, kv, done, done + size))
        done += size
    places = kv.block_tables[0][torch.arange(23) // BLOCK_SIZE] * BLOCK_SIZE + torch.arange(23) % BLOCK_SIZE
    for layer in range(2):
        keys = kv.keys[layer].flatten(0, 1)[places].transpose(0, 1)
        values = kv.values[layer].flatten(0, 1)[places].transpose(0, 1)
        torch.testing.assert_close(keys, expected[f"context_k.{layer}"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(values, expected[f"context_v.{layer}"], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_ragged_batch_drafts_what_each_sequence_drafts_alone(drafter, expected):
    ids, lengths = expected["prompt_ids"], [1, 3, 4, 5, 23]
    kv = empty_kv(drafter, sequences=len(lengths))
    noise = torch.rand(len(lengths), 7, generator=torch.Generator().manual_seed(3))
    alone = []
    for b, length in enumerate(lengths):
        own = PagedKV(kv.keys, kv.values, kv.block_tables[b : b + 1], BLOCK_SIZE)
        drafter.extend(commit(expected, own, 0, length))
        alone.append(drafter.propose(ask(own, [int(ids[length])], [length], 1.0, noise[b : b + 1])))
    whole = drafter.propose(ask(kv, [int(ids[n]) for n in lengths], lengths, 1.0, noise))
    for b, single in enumerate(alone):
        assert whole.tokens[b].tolist() == single.tokens[0].tolist()
        torch.testing.assert_close(whole.evidence[b], single.evidence[0], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_confidence_never_sees_the_token_it_judges(drafter, expected):
    kv, ids = empty_kv(drafter), expected["prompt_ids"]
    drafter.extend(commit(expected, kv, 0, 12))
    noise = torch.full((1, 7), 0.5)
    before = drafter.propose(ask(kv, [int(ids[12])], [12], 1.0, noise))
    for k in range(7):
        changed = noise.clone()
        changed[0, k] = 0.01
        after = drafter.propose(ask(kv, [int(ids[12])], [12], 1.0, changed))
        assert int(after.tokens[0, k]) != int(before.tokens[0, k])
        assert torch.equal(after.evidence[0, : k + 1], before.evidence[0, : k + 1])
        if k < 6:
            assert float(after.evidence[0, k + 1]) != float(before.evidence[0, k + 1])


@torch.inference_mode()
def test_drafts_follow_the_law_they_report(drafter, expected):
    kv, ids = empty_kv(drafter), expected["prompt_ids"]
    drafter.extend(commit(expected, kv, 0, 11))
    steps = (torch.arange(2000) + 0.5) / 2000
    noise = torch.full((7,), 0.5).repeat(2000, 1)
    noise[:, 0] = steps
    many = PagedKV(kv.keys, kv.values, kv.block_tables.expand(2000, -1), BLOCK_SIZE)
    draft = drafter.propose(ask(many, [int(ids[11])] * 2000, [11] * 2000, 1.0, noise))
    law = draft.q_logits[0, 0].softmax(-1)
    seen = torch.bincount(draft.tokens[:, 0], minlength=len(law)) / 2000
    # A scan of the unit interval by 2000 points finds each mass to within one point.
    assert float((seen - law).abs().max()) < 1.1 / 2000


@torch.inference_mode()
def test_without_the_sequential_head_every_slot_is_drawn_from_its_base_logits(drafter, expected):
    kv, ids = empty_kv(drafter), expected["prompt_ids"]
    drafter.extend(commit(expected, kv, 0, 11))
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
    drafter.extend(commit(expected, kv, 0, 12))
    noise = torch.full((1, 7), 0.9)
    before = headless.propose(ask(kv, [int(ids[12])], [12], temperature, noise))
    assert ((before.evidence > 0) & (before.evidence < SLOPE * GREATEST)).all()
    for k in range(7):
        changed = noise.clone()
        changed[0, k] = 0.01
        after = headless.propose(ask(kv, [int(ids[12])], [12], temperature, changed))
        assert torch.equal(after.evidence[0, : k + 1], before.evidence[0, : k + 1])
        if temperature and k < 6:
            assert int(after.tokens[0, k]) != int(before.tokens[0, k])
            assert float(after.evidence[0, k + 1]) != float(before.evidence[0, k + 1])
