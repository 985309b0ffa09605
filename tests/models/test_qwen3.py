import copy

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen3Config as ReferenceConfig
from transformers import Qwen3ForCausalLM

from core.types import Numerics
from equality import dense_causal
from models.checkpoint import load_into, split_fused, strip_prefix
from models.load_target import load_target
from models.qwen3 import Qwen3, Qwen3Config
from parity import (
    assert_same_bits_in_any_company,
    assert_same_function,
    assert_same_greedy_texts,
    assert_same_over_pages,
    save_random,
)
from paths import FIXTURES

FOLDER = FIXTURES / "target_qwen3"


def test_logits_and_taps_match_the_reference_implementation():
    expected = load_file(FOLDER / "expected.safetensors")
    target, ids = load_target(FOLDER, torch.float32), expected["input_ids"]
    hidden, features = target(ids, torch.arange(24).expand(ids.shape), dense_causal, (-1, 1, 3, 5))
    states = expected["hidden_states"]
    torch.testing.assert_close(target.logits(hidden), expected["logits"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        features, torch.cat([states[0], states[2], states[4], states[6]], -1), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "tied"),
    [(4, 2, 16, True), (4, 4, 24, False), (6, 2, 8, False), (3, 1, 32, True)],
    ids=["tied", "wide-heads", "narrow-heads", "one-kv-head"],
)
def test_random_configs_match_transformers(heads, kv_heads, head_dim, tied):
    torch.manual_seed(heads)
    reference_config = ReferenceConfig(
        vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=head_dim, max_position_embeddings=64, tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0}, initializer_range=0.2,
    )  # fmt: skip
    reference = Qwen3ForCausalLM(reference_config).eval()
    ours = Qwen3(Qwen3Config.from_json(reference_config.to_dict()))
    weights = strip_prefix(dict(reference.state_dict()), "model.")
    load_into(ours, weights, source="transformers", skip=("lm_head.weight",) if tied else ())
    ids = torch.randint(0, 97, (2, 33))
    with torch.no_grad():
        hidden, _ = ours(ids, torch.arange(33).expand(2, 33), dense_causal)
        torch.testing.assert_close(ours.logits(hidden), reference(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def case(request, tmp_path_factory):
    """A checkpoint folder and transformers' model of it."""
    reference = Qwen3ForCausalLM(
        ReferenceConfig(
            vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, head_dim=20, max_position_embeddings=256, tie_word_embeddings=request.param,
        )
    )  # fmt: skip
    return save_random(tmp_path_factory.mktemp("qwen3"), reference), reference


@pytest.mark.parametrize("numerics", Numerics)
def test_every_layers_output_matches_transformers_over_pages_too(case, numerics):
    folder, reference = case
    target = load_target(folder, torch.float32, numerics)
    assert_same_function(target, reference)
    assert_same_over_pages(target, reference)


def test_batch_invariant_rows_are_the_same_bits_in_any_company(case):
    assert_same_bits_in_any_company(case[0])


def test_the_engine_writes_the_greedy_texts_of_transformers(case):
    folder, reference = case
    assert_same_greedy_texts(load_target(folder, torch.float32), reference)


@torch.inference_mode()
def test_a_sharded_bfloat16_checkpoint_is_the_same_network(case, tmp_path):
    folder, reference = case
    copy.deepcopy(reference).to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    ids = torch.arange(20)
    rounded, widened, whole = (
        load_target(path, dtype)(ids, ids, dense_causal)[0]
        for path, dtype in ((tmp_path, torch.bfloat16), (tmp_path, torch.float32), (folder, torch.bfloat16))
    )
    assert torch.equal(rounded, whole)
    torch.testing.assert_close(widened, rounded.float(), atol=0.1, rtol=0.1)


def test_splitting_fused_matrices_gives_back_the_file():
    tensors = strip_prefix(load_file(FOLDER / "model.safetensors"), "model.")
    split = split_fused(load_target(FOLDER, torch.float32))
    assert split.keys() == tensors.keys()
    assert all(torch.equal(split[name], tensors[name]) for name in tensors)
