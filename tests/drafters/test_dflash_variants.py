"""Every way in which checkpoints of the family differ, against dense float64 by hand (dflash_oracle.py)."""

from dataclasses import replace

import pytest
import torch

import models.draft_fit
from core.types import Numerics
from tests.drafters.dflash_cases import (
    ask,
    commit,
    empty_kv,
    expected_of,
    fixture_target,
    make_drafter,
    noise_that_draws,
    random_checkpoint,
)
from tests.drafters.dflash_oracle import draft_by_hand

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
LENGTHS = (1, 3, 4, 5, 23)
SLIDING, FULL = "sliding_attention", "full_attention"
RNN = {"markov_rank": 8, "markov_head_type": "rnn", "enable_confidence_head": True}
REDUCED = {"draft_vocab_size": 100, "own_ends": True}

VARIANTS = {
    "shifted": {},
    "fill-in": {"sample_from_anchor": False},
    "fill-in with a recurrent head": {"sample_from_anchor": False, **RNN},
    "window of 5, causal": {"layer_types": [SLIDING, SLIDING], "sliding_window": 5},
    "window of 5, not causal": {"layer_types": [SLIDING] * 2, "sliding_window": 5, "sliding_is_causal": False},
    "window of 1": {"layer_types": [SLIDING, FULL], "sliding_window": 1},
    "window of 16 in one layer of two": {
        "layer_types": [FULL, SLIDING],
        "sliding_window": 16,
        "use_sliding_window": True,
    },
    "window and causal full layers": {"layer_types": [FULL, SLIDING], "sliding_window": 6, "is_causal": True},
    "causal block": {"is_causal": True},
    "own embedding and head": {"own_ends": True},
    "reduced vocabulary": REDUCED,
    "reduced vocabulary with a vanilla head": {**REDUCED, "markov_rank": 8},
    "reduced vocabulary with a gated head": {**REDUCED, "markov_rank": 8, "markov_head_type": "gated"},
    "reduced vocabulary with a recurrent head": {**REDUCED, **RNN},
    "narrower than the target": {"hidden_size": 48, "target_hidden_size": 64, "own_ends": True},
    "confidence without a sequential head": {"enable_confidence_head": True, "confidence_head_with_markov": False},
    "llama layers": {"model_type": "llama"},
    "llama layers with biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama layers, rotation stretched": {
        "model_type": "llama",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
    },
    "all of it": {
        **REDUCED,
        **RNN,
        "model_type": "llama",
        "hidden_size": 48,
        "target_hidden_size": 64,
        "sample_from_anchor": False,
        "layer_types": [SLIDING, FULL],
        "sliding_window": 6,
    },
}


def text(length):
    """Features and an anchor of a text of the target's."""
    expected = expected_of("dflash")
    return expected["features"][:length], int(expected["prompt_ids"][length])


@torch.inference_mode()
def check_blocks(drafter, config, tensors):
    """Raise AssertionError unless a ragged batch drafts, sequence by sequence, what comes out by hand."""
    target, width = fixture_target(), drafter.spec.max_drafts
    kv = empty_kv(drafter, sequences=len(LENGTHS))
    by_hand = [draft_by_hand(config, tensors, target.embedding, target.head, *text(length)) for length in LENGTHS]
    for b, length in enumerate(LENGTHS):
        drafter.extend(commit(text(length)[0], replace(kv, block_tables=kv.block_tables[b : b + 1]), 0, length))
    anchors = [text(length)[1] for length in LENGTHS]
    hidden = drafter._block(ask(kv, anchors, LENGTHS, width))
    torch.testing.assert_close(hidden.double(), torch.stack([block.hidden for block in by_hand]), **CLOSE)
    greedy = drafter.propose(ask(kv, anchors, LENGTHS, width))
    assert greedy.tokens.tolist() == [block.tokens for block in by_hand]
    ids = torch.arange(256) if "d2t" not in tensors else torch.arange(len(tensors["d2t"])) + tensors["d2t"]
    wide = [torch.full((width, 256), -torch.inf).double().index_copy(1, ids, block.logits) for block in by_hand]
    noise = torch.cat([noise_that_draws(law, block.tokens) for law, block in zip(wide, by_hand, strict=True)])
    drawn = drafter.propose(ask(kv, anchors, LENGTHS, width, 1.0, noise))
    assert drawn.tokens.tolist() == greedy.tokens.tolist()
    torch.testing.assert_close(drawn.q_logits.double(), torch.stack(wide), **CLOSE)
    if by_hand[0].confidence:
        wanted = torch.tensor([block.confidence for block in by_hand])
        torch.testing.assert_close(drawn.evidence, wanted, **CLOSE)


@pytest.mark.parametrize("numerics", Numerics)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_drafts_what_comes_out_by_hand(variant, numerics):
    config, tensors = random_checkpoint(**VARIANTS[variant])
    check_blocks(make_drafter(config, tensors, numerics), config, tensors)


@pytest.mark.parametrize(
    ("variant", "misread"),
    [
        ("fill-in with a recurrent head", {"mask_token_id": 7}),
        ("window of 5, causal", {"sliding_window": 6}),
        ("window of 5, causal", {"sliding_window": 4}),
        ("window of 5, causal", {"sliding_is_causal": False}),
        ("window of 5, not causal", {"sliding_is_causal": True}),
        ("window and causal full layers", {"layer_types": [SLIDING, FULL]}),
        ("causal block", {"is_causal": False}),
        ("llama layers", {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}),
    ],
)
def test_a_variant_misread_does_not_pass(variant, misread):
    config, tensors = random_checkpoint(**VARIANTS[variant])
    drafter = make_drafter(config | misread, tensors)
    with pytest.raises(AssertionError, match=r"not close|=="):
        check_blocks(drafter, config, tensors)


def test_differences_taken_with_the_wrong_sign_do_not_pass(monkeypatch):
    config, tensors = random_checkpoint(**VARIANTS["reduced vocabulary with a vanilla head"])
    # Within the vocabulary whichever sign is taken: 40 tokens in their places, 60 moved by 20.
    tensors["d2t"] = torch.where(torch.arange(100) < 40, 0, 20)
    check_blocks(make_drafter(config, tensors), config, tensors)
    monkeypatch.setattr(models.draft_fit, "read_target_ids", lambda differences, *_: torch.arange(100) - differences)
    drafter = make_drafter(config, tensors)
    with pytest.raises(AssertionError, match=r"not close|=="):
        check_blocks(drafter, config, tensors)


@torch.inference_mode()
def test_a_fill_in_block_writes_no_further_than_the_rows_kept_for_its_drafts():
    drafter = make_drafter(*random_checkpoint(sample_from_anchor=False))
    kv, (features, anchor) = empty_kv(drafter), text(5)
    drafter.extend(commit(features, kv, 0, 5))
    drafter.propose(ask(kv, [anchor], [5], drafter.spec.max_drafts))
    rows = kv.keys[0][kv.block_tables[0]].flatten(0, 1)
    written = (~rows.isnan().flatten(1).any(1)).nonzero().squeeze(1).tolist()
    assert written == list(range(5 + 1 + drafter.spec.max_drafts))


@torch.inference_mode()
def test_a_reduced_vocabulary_drafts_nothing_that_it_does_not_have():
    config, tensors = random_checkpoint(**VARIANTS["reduced vocabulary with a vanilla head"])
    drafter, known = make_drafter(config, tensors), (torch.arange(100) + tensors["d2t"]).tolist()
    kv, (features, anchor) = empty_kv(drafter), text(5)
    drafter.extend(commit(features, kv, 0, 5))
    many = replace(kv, block_tables=kv.block_tables.expand(500, -1))
    draft = drafter.propose(ask(many, [anchor] * 500, [5] * 500, temperature=1.0))
    assert set(draft.tokens.flatten().tolist()) <= set(known)
    assert (draft.q_logits.softmax(-1).sum((0, 1)) > 0).nonzero().squeeze(1).tolist() == known
