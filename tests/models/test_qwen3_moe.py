"""The sparse Qwen3 family against transformers' Qwen3MoeForCausalLM."""

import json

import pytest
import torch
from transformers import Qwen3MoeConfig as ReferenceConfig
from transformers import Qwen3MoeForCausalLM

from core.errors import CheckpointError
from models.experts import mix_experts
from models.qwen3_moe import Qwen3MoeConfig
from parity import MatchesTransformers, save_random

CASES = {
    "all-sparse-normed-tied": {"norm_topk_prob": True, "tie_word_embeddings": True},
    "every-second-layer": {"decoder_sparse_step": 2, "num_experts_per_tok": 1},
    "a-dense-layer-wide-heads": {"mlp_only_layers": [1], "num_experts_per_tok": 3, "head_dim": 20},
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """A checkpoint folder and transformers' model of it."""
    keys = {"num_experts": 5, "num_experts_per_tok": 2, "head_dim": 8} | CASES[request.param]
    reference = Qwen3MoeForCausalLM(
        ReferenceConfig(
            vocab_size=97,
            hidden_size=48,
            intermediate_size=80,
            moe_intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            **keys,
        )
    )
    return save_random(tmp_path_factory.mktemp("qwen3_moe"), reference), reference


class TestQwen3Moe(MatchesTransformers):
    """All of it, in each case above."""


def test_a_row_is_the_weighted_sum_of_its_experts_in_their_order():
    experts = [torch.nn.Linear(6, 6) for _ in range(4)]
    x, chosen = torch.randn(3, 6), torch.tensor([[3, 1], [0, 3], [2, 0]])
    weights = torch.rand(3, 2)
    with torch.no_grad():
        expected = [sum(w * experts[e](row) for e, w in zip(*pair)) for row, *pair in zip(x, chosen, weights)]
        torch.testing.assert_close(mix_experts(x, chosen, weights, experts), torch.stack(expected))


def test_the_number_of_experts_may_go_by_the_name_of_the_models_makers(case):
    config = json.loads((case[0] / "config.json").read_text())
    by_makers = {name: value for name, value in config.items() if name != "num_local_experts"} | {"num_experts": 5}
    assert Qwen3MoeConfig.from_json(by_makers) == Qwen3MoeConfig.from_json(config)


def test_choosing_more_experts_than_there_are_is_refused(case):
    config = json.loads((case[0] / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"num_experts_per_tok must be in 1..5, got 6"):
        Qwen3MoeConfig.from_json(config | {"num_experts_per_tok": 6})
