"""The Llama family against transformers' LlamaForCausalLM."""

import pytest
from transformers import LlamaConfig as ReferenceConfig
from transformers import LlamaForCausalLM

from core.errors import CheckpointError
from models.llama import LlamaConfig
from parity import MatchesTransformers, save_random

# So short a first training that each pair of channels is kept, blended or stretched within the tests' texts.
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip

CASES = {
    "llama3-rope-tied": {"rope_parameters": LLAMA3, "tie_word_embeddings": True},
    "linear-rope-wide-heads": {
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        "head_dim": 20,
        "num_key_value_heads": 1,
    },
    "plain-rope-biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4},
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """A checkpoint folder and transformers' model of it."""
    keys = {"num_key_value_heads": 2, "max_position_embeddings": 256} | CASES[request.param]
    reference = LlamaForCausalLM(
        ReferenceConfig(
            vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4, **keys
        )
    )
    return save_random(tmp_path_factory.mktemp("llama"), reference), reference


class TestLlama(MatchesTransformers):
    """All of it, in each case above."""


def test_older_files_name_the_rotation_in_rope_scaling():
    keys = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3}
    told = {name: value for name, value in LLAMA3.items() if name != "rope_theta"}
    old = LlamaConfig.from_json({**keys, "num_attention_heads": 4, "rope_theta": 500.0, "rope_scaling": told})
    new = LlamaConfig.from_json({**keys, "num_attention_heads": 4, "rope_parameters": LLAMA3})
    assert old == new
    assert old.rope_theta == 500.0
    assert old.scaling is not None


def test_a_rotation_that_is_not_computed_is_named():
    with pytest.raises(CheckpointError, match=r"rope type .*yarn"):
        LlamaConfig.from_json({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}})
