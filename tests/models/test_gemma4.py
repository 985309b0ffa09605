"""The Gemma 4 text family against transformers' Gemma4ForCausalLM and the text part of the multimodal model."""

import json

import pytest
import torch
from transformers import Gemma4Config as MultimodalConfig
from transformers import Gemma4ForCausalLM, Gemma4ForConditionalGeneration, Gemma4TextConfig

from core.errors import CheckpointError
from models.gemma4_config import Gemma4Config
from models.load_target import load_target
from parity import MatchesTransformers, dense, save_random

SLIDING, FULL = "sliding_attention", "full_attention"
SHAPE = {
    "vocab_size": 97, "vocab_size_per_layer_input": 97, "hidden_size": 48, "intermediate_size": 64,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "global_head_dim": 24,
    "sliding_window": 7, "max_position_embeddings": 256, "layer_types": [SLIDING, FULL, SLIDING, FULL],
    "hidden_size_per_layer_input": 0,
}  # fmt: skip

CASES = {
    "keys-as-values": {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "final_logit_softcapping": 4.0},
    "shared-keys-per-layer-inputs": {
        "num_kv_shared_layers": 2, "use_double_wide_mlp": True, "hidden_size_per_layer_input": 8,
    },
    "experts-untied": {
        "enable_moe_block": True, "num_experts": 5, "top_k_experts": 2, "moe_intermediate_size": 24,
        "tie_word_embeddings": False,
    },
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """A checkpoint folder and transformers' model of it."""
    reference = Gemma4ForCausalLM(Gemma4TextConfig(**SHAPE | CASES[request.param]))
    return save_random(tmp_path_factory.mktemp("gemma4"), reference), reference


class TestGemma4(MatchesTransformers):
    """All of it, in each case above."""


def test_layers_that_share_keys_and_values_take_no_cache():
    shape = Gemma4Config.from_json(SHAPE | {"num_kv_shared_layers": 2}).shape
    assert [layer.kv_layer for layer in shape.layers] == [None, None, 0, 1]
    assert shape.kv_layers == ((2, 12), (2, 24))


def test_the_text_part_of_a_multimodal_checkpoint_is_read(tmp_path):
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
              "num_key_value_heads": 1, "head_dim": 16, "patch_size": 4, "position_embedding_size": 16}  # fmt: skip
    text = Gemma4TextConfig(**SHAPE | CASES["shared-keys-per-layer-inputs"])
    reference = Gemma4ForConditionalGeneration(MultimodalConfig(text_config=text, vision_config=vision))
    folder = save_random(tmp_path, reference)
    target, ids = load_target(folder, torch.float32), torch.arange(20)
    with torch.no_grad():
        hidden, _ = target(ids, ids, dense(target))
        expected = reference(ids[None]).logits[0]
    torch.testing.assert_close(target.logits(hidden), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("by_layer", [True, False], ids=["transformers-5", "makers"])
def test_the_heads_of_full_layers_have_two_spellings(by_layer):
    told = SHAPE | {"attention_k_eq_v": True, "num_global_key_value_heads": 1}
    if by_layer:
        told = json.loads(json.dumps(Gemma4TextConfig(**told).to_dict()))
        assert "global_head_dim" not in told
    assert Gemma4Config.from_json(told).heads == ((2, 12), (1, 24), (2, 12), (1, 24))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention 'all' is not supported"),
        ({"attention_bias": True}, "attention_bias True is not supported"),
        ({"hidden_activation": "relu"}, "hidden_activation 'relu' is not supported"),
        ({"layer_types": [FULL, "linear_attention", SLIDING, FULL]}, "linear_attention"),
        ({"layer_types": [FULL]}, "layer_types must name 4 layers, got 1"),
        ({"num_kv_shared_layers": 3}, "no full_attention layer is left for layer 1 to share keys with"),
        ({"rope_parameters": {FULL: {"rope_type": "yarn", "rope_theta": 1.0}}}, "yarn"),
        ({"per_layer_config": {"1": {"sliding_window": 3}}}, "per_layer_config sets .'sliding_window'."),
        ({"enable_moe_block": True, "num_experts": 2, "top_k_experts": 3}, r"top_k_experts must be in 1\.\.2, got 3"),
    ],
)
def test_what_the_network_does_not_compute_is_refused_by_name(changes, message):
    with pytest.raises(CheckpointError, match=message):
        Gemma4Config.from_json(SHAPE | changes)
