"""The Llama family against transformers' LlamaForCausalLM."""

import pytest
import torch
from transformers import LlamaConfig as ReferenceConfig
from transformers import LlamaForCausalLM

from core.errors import CheckpointError
from core.types import Numerics
from models.llama import LlamaConfig
from models.load_target import load_target
from parity import (
    assert_same_bits_in_any_company,
    assert_same_function,
    assert_same_greedy_texts,
    assert_same_over_pages,
    save_random,
)

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


@pytest.mark.parametrize("numerics", Numerics)
def test_logits_and_every_layers_output_match_transformers(case, numerics):
    folder, reference = case
    assert_same_function(load_target(folder, torch.float32, numerics), reference)


@pytest.mark.parametrize("numerics", Numerics)
def test_so_do_ragged_rows_over_pages(case, numerics):
    folder, reference = case
    assert_same_over_pages(load_target(folder, torch.float32, numerics), reference)


def test_batch_invariant_rows_are_the_same_bits_in_any_company(case):
    assert_same_bits_in_any_company(case[0])


def test_the_engine_writes_the_greedy_texts_of_transformers(case):
    folder, reference = case
    assert_same_greedy_texts(load_target(folder, torch.float32), reference)


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
