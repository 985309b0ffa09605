"""The family against the reference implementation's outputs, and the classic mistakes, each planted and caught."""

from dataclasses import replace

import pytest
import torch

import models.layers
from drafters.dflash import DFlash
from models.markov_heads import RecurrentMarkovHead
from tests.drafters.dflash_cases import (
    BLOCK_SIZE,
    FIXTURE_NAMES,
    ask,
    commit,
    empty_kv,
    expected_of,
    features_by_target,
    fixture_checkpoint,
    fixture_drafter,
    fixture_target,
    noise_that_draws,
)
from tests.drafters.dflash_oracle import draft_by_hand

CLOSE = {"atol": 1e-4, "rtol": 1e-4}


@torch.inference_mode()
def check_rounds(drafter, name):
    """Raise AssertionError unless every round of a fixture comes out, from the target's own features."""
    expected = expected_of(name)
    kv, ids, done = empty_kv(drafter), expected["prompt_ids"], 0
    features = features_by_target(drafter, ids)
    for index, length in enumerate(expected["rounds"].tolist()):
        drafter.extend(commit(features, kv, done, length))
        done = length
        wanted = {key.split(".")[1]: value for key, value in expected.items() if key.startswith(f"round{index}.")}
        anchor, place = [int(ids[length])], [length]
        hidden = drafter._block(ask(kv, anchor, place))
        torch.testing.assert_close(hidden[0], wanted["hidden"], **CLOSE)
        base = drafter.network.vocabulary.logits(hidden, drafter.target)
        torch.testing.assert_close(base[0], wanted["base_logits"], **CLOSE)
        greedy = drafter.propose(ask(kv, anchor, place))
        assert greedy.tokens[0].tolist() == wanted["greedy_tokens"].tolist()
        noise = noise_that_draws(wanted["draft_logits"], wanted["greedy_tokens"])
        drawn = drafter.propose(ask(kv, anchor, place, temperature=1.0, noise=noise))
        assert drawn.tokens[0].tolist() == wanted["greedy_tokens"].tolist()
        torch.testing.assert_close(drawn.q_logits[0], wanted["draft_logits"], **CLOSE)
        if "confidence_logits" in wanted:
            torch.testing.assert_close(greedy.evidence[0], wanted["confidence_logits"], **CLOSE)


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_every_round_matches_the_reference_implementation(name):
    check_rounds(fixture_drafter(name), name)


@torch.inference_mode()
@pytest.mark.parametrize("chunks", [(23,), (1,) * 23, (5, 11, 7), (3, 8, 1, 4, 7)], ids=str)
@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_context_rows_do_not_depend_on_how_they_were_chunked(name, chunks):
    drafter, expected = fixture_drafter(name), expected_of(name)
    kv, done = empty_kv(drafter), 0
    for size in chunks:
        drafter.extend(commit(expected["features"], kv, done, done + size))
        done += size
    places = kv.block_tables[0][torch.arange(23) // BLOCK_SIZE] * BLOCK_SIZE + torch.arange(23) % BLOCK_SIZE
    for layer in range(2):
        keys = kv.keys[layer].flatten(0, 1)[places].transpose(0, 1)
        values = kv.values[layer].flatten(0, 1)[places].transpose(0, 1)
        torch.testing.assert_close(keys, expected[f"context_k.{layer}"], **CLOSE)
        torch.testing.assert_close(values, expected[f"context_v.{layer}"], **CLOSE)


@torch.inference_mode()
@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_a_ragged_batch_at_block_boundaries_drafts_what_each_sequence_drafts_alone_and_by_hand(name):
    drafter, features = fixture_drafter(name), expected_of(name)["features"]
    ids, lengths = expected_of(name)["prompt_ids"], [1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 23]
    kv = empty_kv(drafter, sequences=len(lengths))
    noise = torch.rand(len(lengths), 7, generator=torch.Generator().manual_seed(3))
    target, alone = fixture_target(), []
    for b, length in enumerate(lengths):
        own = replace(kv, block_tables=kv.block_tables[b : b + 1])
        drafter.extend(commit(features, own, 0, length))
        alone.append(drafter.propose(ask(own, [int(ids[length])], [length], 7, 1.0, noise[b : b + 1])))
    anchors = [int(ids[length]) for length in lengths]
    whole = drafter.propose(ask(kv, anchors, lengths, 7, 1.0, noise))
    greedy = drafter.propose(ask(kv, anchors, lengths))
    for b, (single, length) in enumerate(zip(alone, lengths, strict=True)):
        assert whole.tokens[b].tolist() == single.tokens[0].tolist()
        torch.testing.assert_close(whole.evidence[b], single.evidence[0], **CLOSE)
        wanted = draft_by_hand(
            *fixture_checkpoint(name), target.embedding, target.head, features[:length], int(ids[length])
        )
        assert greedy.tokens[b].tolist() == wanted.tokens
        if wanted.confidence:
            torch.testing.assert_close(greedy.evidence[b].double(), torch.tensor(wanted.confidence).double(), **CLOSE)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["dspark_vanilla", "dspark_gated", "dspark_rnn", "dspark_plain"])
def test_confidence_sees_the_tokens_before_the_one_it_judges_and_never_that_one(name):
    drafter, ids = fixture_drafter(name), expected_of(name)["prompt_ids"]
    reads_tokens = drafter.network.config.confidence_reads_markov
    assert reads_tokens == (name != "dspark_plain")
    kv = empty_kv(drafter)
    drafter.extend(commit(expected_of(name)["features"], kv, 0, 12))
    # Hot, so that there is more than one token to draw.
    noise = torch.full((1, 7), 0.5)
    before = drafter.propose(ask(kv, [int(ids[12])], [12], 7, 2.0, noise))
    for k in range(7):
        law = before.q_logits[0, k].clone()
        law[before.tokens[0, k]] = -torch.inf
        changed = noise.clone()
        changed[0, k] = noise_that_draws(before.q_logits[0, k : k + 1], [int(law.argmax())])
        after = drafter.propose(ask(kv, [int(ids[12])], [12], 7, 2.0, changed))
        assert int(after.tokens[0, k]) != int(before.tokens[0, k])
        assert torch.equal(after.evidence[0, : k + 1], before.evidence[0, : k + 1])
        if k < 6:
            assert (float(after.evidence[0, k + 1]) != float(before.evidence[0, k + 1])) == reads_tokens


@pytest.mark.parametrize("name", ["dspark_gated", "dspark_rnn"])
def test_a_head_walked_slot_by_slot_is_the_head_of_whole_blocks(name):
    expected, head = expected_of(name), fixture_drafter(name).network.markov_head
    assert head is not None
    hidden = torch.stack([expected[f"round{index}.hidden"] for index in range(4)])
    tokens = torch.stack([expected[f"round{index}.greedy_tokens"] for index in range(4)])
    anchors = torch.stack([expected[f"round{index}.anchor"] for index in range(4)])
    base = torch.stack([expected[f"round{index}.base_logits"] for index in range(4)])
    drafted = torch.stack([expected[f"round{index}.draft_logits"] for index in range(4)])
    biases = head(torch.cat((anchors, tokens[:, :-1]), 1), hidden)
    torch.testing.assert_close(base + biases, drafted, **CLOSE)


# The classic mistakes. Each is planted into code that passes above, and must be caught by the very same check.


def shifted_slots(monkeypatch):
    right = DFlash._block
    monkeypatch.setattr(DFlash, "_block", lambda self, asked: right(self, asked).roll(1, 1))


def context_with_the_anchor(monkeypatch):
    # The anchor's own features end up as a context row, and the block one row further on.
    right_block, right_extend = DFlash._block, DFlash.extend

    def extend(self, told):
        more = torch.cat((told.positions, told.positions[-1:] + 1))
        features = torch.cat((told.features, told.features[-1:]))
        cu_rows = told.cu_rows + torch.tensor([0, 1])
        right_extend(self, replace(told, positions=more, features=features, cu_rows=cu_rows))

    monkeypatch.setattr(DFlash, "extend", extend)
    monkeypatch.setattr(
        DFlash, "_block", lambda self, asked: right_block(self, replace(asked, positions=asked.positions + 1))
    )


def interleaved_rotation(monkeypatch):
    def rotate(x, cos, sin):
        half = x.shape[-1] // 2
        even, odd, cos, sin = x[..., ::2], x[..., 1::2], cos[..., :half], sin[..., half:]
        return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)

    monkeypatch.setattr(models.layers, "rotate", rotate)


def rows_of_blocks_kept_as_context(monkeypatch):
    right = DFlash.extend

    def extend(self, told):
        blocks = told.kv.block_tables[0, told.positions // BLOCK_SIZE]
        is_new = told.kv.keys[0][blocks, told.positions % BLOCK_SIZE].isnan().flatten(1).any(1)
        if is_new.any():
            fewer = torch.tensor([0, int(is_new.sum())])
            right(
                self,
                replace(told, positions=told.positions[is_new], features=told.features[is_new], cu_rows=fewer),
            )

    monkeypatch.setattr(DFlash, "extend", extend)


def state_kept_between_blocks(monkeypatch):
    right_start, right_step, left = RecurrentMarkovHead.start, RecurrentMarkovHead.step, []

    def step(self, previous, hidden, state):
        bias, state = right_step(self, previous, hidden, state)
        left.append(state)
        return bias, state

    monkeypatch.setattr(RecurrentMarkovHead, "step", step)
    monkeypatch.setattr(RecurrentMarkovHead, "start", lambda *given: left[-1] if left else right_start(*given))


CODE_MISTAKES = [
    (shifted_slots, "dflash"),
    (context_with_the_anchor, "dflash"),
    (interleaved_rotation, "dflash"),
    (rows_of_blocks_kept_as_context, "dflash"),
    (state_kept_between_blocks, "dspark_rnn"),
]


@pytest.mark.parametrize(("plant", "name"), CODE_MISTAKES, ids=lambda part: getattr(part, "__name__", part))
def test_a_mistake_in_the_code_does_not_pass(monkeypatch, plant, name):
    drafter = fixture_drafter(name)
    check_rounds(drafter, name)
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=r"not close|=="):
        check_rounds(drafter, name)


@pytest.mark.parametrize(
    "changes",
    [
        {"target_layer_ids": [2, 4, 6]},
        {"target_layer_ids": [0, 2, 4]},
        {"mask_token_id": 254},
        {"is_causal": True},
        {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_config_misread_does_not_pass(changes):
    with pytest.raises(AssertionError, match=r"not close|=="):
        check_rounds(fixture_drafter("dflash", **changes), "dflash")


def test_a_fill_in_block_read_as_a_shifted_one_has_a_slot_too_few():
    assert fixture_drafter("dflash").spec.max_drafts == 7
    assert fixture_drafter("dflash", sample_from_anchor=False).spec.max_drafts == 6
