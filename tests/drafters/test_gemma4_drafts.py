"""Drafters with Gemma 4's layers, against dense float64 by hand (gemma4_oracle.py), as DeepSpec's files hold them."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from transformers import Gemma4TextConfig

from core.errors import CheckpointError
from core.types import Numerics
from drafters.dflash import DFlash
from drafters.dspark import DSpark
from models.load_drafter import load_drafter, make_network
from tests.drafters.dflash_cases import ask, commit, empty_kv, noise_that_draws
from tests.drafters.gemma4_cases import (
    DRAFTER,
    FULL,
    HIDDEN_SIZE,
    ROPE,
    SLIDING,
    TARGET,
    VOCAB_SIZE,
    canonical,
    gemma4_target,
    random_checkpoint,
)
from tests.drafters.gemma4_oracle import draft_by_hand

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
LENGTHS = (1, 3, 4, 5, 23)
VARIANTS = {
    "keys as values": {},
    "values of their own": {"attention_k_eq_v": False},
    "a recurrent head": {"markov_head_type": "rnn"},
    "own embedding and head": {"own_ends": True},
    "no cap on its own head": {"own_ends": True, "final_logit_softcapping": None},
    "plain DFlash": {
        "markov_rank": 0,
        "markov_head_type": None,
        "enable_confidence_head": False,
        "confidence_head_with_markov": None,
    },
}


@pytest.fixture(scope="module")
def targets():
    return {numerics: gemma4_target(numerics) for numerics in Numerics}


@pytest.fixture(scope="module")
def target(targets):
    return targets[Numerics.FAST]


def make_drafter(config, tensors, target):
    network = make_network("dflash", config, tensors, target, "here")
    return (DSpark if network.markov_head else DFlash)("drafter", network, target)


def text(length):
    """Features of random states and an anchor."""
    generator = torch.Generator().manual_seed(length)
    return torch.randn(length, 3 * HIDDEN_SIZE, generator=generator), length % VOCAB_SIZE


@torch.inference_mode()
def check_blocks(drafter, config, tensors):
    """Raise AssertionError unless a ragged batch drafts, sequence by sequence, what comes out by hand."""
    target, width = drafter.target, drafter.spec.max_drafts
    kv = empty_kv(drafter, sequences=len(LENGTHS))
    by_hand = [draft_by_hand(config, tensors, target.embedding, target.head, *text(length)) for length in LENGTHS]
    for b, length in enumerate(LENGTHS):
        drafter.extend(commit(text(length)[0], replace(kv, block_tables=kv.block_tables[b : b + 1]), 0, length))
    anchors = [text(length)[1] for length in LENGTHS]
    hidden = drafter._block(ask(kv, anchors, LENGTHS, width))
    torch.testing.assert_close(hidden.double(), torch.stack([block.hidden for block in by_hand]), **CLOSE)
    greedy = drafter.propose(ask(kv, anchors, LENGTHS, width))
    assert greedy.tokens.tolist() == [block.tokens for block in by_hand]
    noise = torch.cat([noise_that_draws(block.logits, block.tokens) for block in by_hand])
    drawn = drafter.propose(ask(kv, anchors, LENGTHS, width, 1.0, noise))
    assert drawn.tokens.tolist() == greedy.tokens.tolist()
    torch.testing.assert_close(drawn.q_logits.double(), torch.stack([block.logits for block in by_hand]), **CLOSE)
    if by_hand[0].confidence:
        wanted = torch.tensor([block.confidence for block in by_hand])
        torch.testing.assert_close(drawn.evidence, wanted, **CLOSE)


@pytest.mark.parametrize("numerics", Numerics)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_drafts_what_comes_out_by_hand(targets, variant, numerics):
    config, tensors = random_checkpoint(**VARIANTS[variant])
    check_blocks(make_drafter(config, tensors, targets[numerics]), config, tensors)


# --- Mistakes that are easily made ---------------------------------------------------------------------------------

WHOLE_ROPE = {**ROPE, FULL: ROPE[FULL] | {"partial_rotary_factor": 1.0}}


@pytest.mark.parametrize(
    "misread",
    [{"final_logit_softcapping": 7.0}, {"rope_parameters": WHOLE_ROPE}, {"rms_norm_eps": 1e-2}],
    ids=str,
)
def test_a_config_misread_does_not_pass(target, misread):
    config, tensors = random_checkpoint(own_ends=True)
    with pytest.raises(AssertionError, match=r"not close|=="):
        check_blocks(make_drafter(config | misread, tensors, target), config, tensors)


@pytest.mark.parametrize("name", ["post_feedforward_layernorm.weight", "layer_scalar", "self_attn.k_norm.weight"])
def test_a_tensor_that_was_not_heeded_does_not_pass(target, name):
    config, tensors = random_checkpoint()
    ones = torch.ones_like(tensors[f"layers.0.{name}"])
    with pytest.raises(AssertionError, match=r"not close|=="):
        check_blocks(make_drafter(config, tensors | {f"layers.0.{name}": ones}, target), config, tensors)


def test_an_embedding_of_its_own_without_the_scale_does_not_pass(target):
    config, tensors = random_checkpoint(own_ends=True)
    drafter = make_drafter(config, tensors, target)
    drafter.network.vocabulary.scale = 1.0
    with pytest.raises(AssertionError, match=r"not close|=="):
        check_blocks(drafter, config, tensors)


class CapsTheBias(DSpark):
    """Adds the Markov bias before the cap is applied."""

    def _choose(self, hidden, logits, ask):
        add, cap = self.network.vocabulary.add, TARGET["final_logit_softcapping"]

        def before_the_cap(own, bias):
            return own.copy_(cap * torch.tanh(add(cap * torch.atanh(own / cap), bias) / cap))

        self.network.vocabulary.add = before_the_cap
        chosen = super()._choose(hidden, logits, ask)
        del self.network.vocabulary.add
        return chosen


def test_a_bias_within_the_cap_does_not_pass(target):
    config, tensors = random_checkpoint()
    drafter = CapsTheBias("drafter", make_network("dflash", config, tensors, target, "here"), target)
    with pytest.raises(AssertionError, match=r"not close|=="):
        check_blocks(drafter, config, tensors)


# --- Files ---------------------------------------------------------------------------------------------------------


def test_a_file_that_keeps_all_keys_of_its_targets_config_is_read(tmp_path, target):
    config, tensors = random_checkpoint()
    written = json.loads(json.dumps(Gemma4TextConfig(**TARGET).to_dict())) | DRAFTER
    (tmp_path / "config.json").write_text(json.dumps(written))
    ends = {"embed_tokens.weight": target.embedding.clone(), "lm_head.weight": target.head.clone()}
    save_file(tensors | ends, tmp_path / "model.safetensors")
    network = load_drafter(tmp_path, target, "dspark")
    assert not list(network.vocabulary.parameters())
    check_blocks(DSpark("drafter", network, target), config, tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": [FULL, SLIDING]}, "layer_types of Gemma 4 draft layers must all be 'full_attention'"),
        ({"enable_moe_block": True}, "sets enable_moe_block"),
        ({"hidden_size_per_layer_input": 16}, "sets hidden_size_per_layer_input"),
        ({"use_double_wide_mlp": True, "num_kv_shared_layers": 2}, "sets use_double_wide_mlp"),
        ({"global_head_dim": None}, "global_head_dim is missing"),
        ({"num_global_key_value_heads": None}, "num_global_key_value_heads is missing"),
        ({"final_logit_softcapping": 0.0}, "final_logit_softcapping must be above 0"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention 'all' is not supported"),
        ({"hidden_activation": "relu"}, "hidden_activation 'relu' is not supported"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "does not describe a gemma4"),
    ],
    ids=str,
)
def test_layers_that_are_not_computed_are_refused_by_name(target, changes, message):
    config, tensors = random_checkpoint()
    config = {name: value for name, value in canonical(**changes).items() if value is not None}
    with pytest.raises(CheckpointError, match=f"^here: .*{message}"):
        make_network("dflash", config, tensors, target, "here")


def test_an_eagle3_of_gemma_is_refused_by_name(target):
    config = canonical(architectures=["Gemma4Eagle3Model"], layer_types=[FULL], num_hidden_layers=1, block_size=None,
                       mask_token_id=None, markov_rank=None, markov_head_type=None, enable_confidence_head=None,
                       confidence_head_with_markov=None)  # fmt: skip
    with pytest.raises(CheckpointError, match=r"^here: Eagle3 with model_type 'gemma4_text' is not supported"):
        make_network("eagle3", config, {}, target, "here")
