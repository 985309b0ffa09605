import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from core.errors import CheckpointError
from models.layers import RMSNorm
from models.load_drafter import make_network
from tests.drafters.eagle3_cases import fixture_config, fixture_target, fixture_tensors, random_checkpoint


@pytest.fixture(scope="module")
def target():
    return fixture_target()


def test_the_targets_embedding_and_head_serve_where_the_file_holds_copies_or_nothing(target):
    copies = make_network("eagle3", fixture_config(), fixture_tensors(), target, "here")
    assert {"embed_tokens.weight", "lm_head.weight"} <= fixture_tensors().keys()
    bare = fixture_tensors()
    del bare["embed_tokens.weight"], bare["lm_head.weight"]
    for network in (copies, make_network("eagle3", fixture_config(), bare, target, "here")):
        assert network.vocabulary.embed_tokens is network.vocabulary.lm_head is None


def test_an_embedding_or_head_of_its_own_is_kept(target):
    tensors = fixture_tensors()
    tensors["embed_tokens.weight"] += 1
    tensors["lm_head.weight"] += 1
    vocabulary = make_network("eagle3", fixture_config(), tensors, target, "here").vocabulary
    assert torch.equal(vocabulary.embed_tokens.weight, tensors["embed_tokens.weight"])
    assert torch.equal(vocabulary.lm_head.weight, tensors["lm_head.weight"])


def test_differences_of_a_full_vocabulary_are_read_too(target):
    tensors = fixture_tensors() | {"d2t": torch.zeros(256, dtype=torch.int64)}
    assert make_network("eagle3", fixture_config(), tensors, target, "here").vocabulary.target_ids is None
    tensors["d2t"][:2] = torch.tensor([1, -1])
    with pytest.raises(CheckpointError, match="d2t renames the tokens of the target's own head"):
        make_network("eagle3", fixture_config(), tensors, target, "here")
    tensors["lm_head.weight"] += 1
    network = make_network("eagle3", fixture_config(), tensors, target, "here")
    assert network.vocabulary.target_ids.tolist() == [1, 0, *range(2, 256)]


def test_the_trained_steps_are_the_drafts_unless_the_config_says_otherwise(target):
    made = make_network("eagle3", fixture_config(ttt_length=5), fixture_tensors(), target, "here")
    assert made.config.num_drafts == 5
    made = make_network("eagle3", fixture_config(ttt_length=5, num_drafts=3), fixture_tensors(), target, "here")
    assert made.config.num_drafts == 3


def test_a_llama_layer_norms_no_heads_and_has_llamas_rotation_where_nothing_is_said(target):
    config, tensors = random_checkpoint(target, model_type="llama")
    assert config.pop("rope_parameters")
    network = make_network("eagle3", config, tensors, target, "here")
    assert network.config.backbone.rope_theta == 10_000.0
    assert not any(isinstance(module, RMSNorm) and module.weight.shape == (24,) for module in network.modules())


def test_a_llama_layers_rotation_may_be_stretched_as_transformers_does_it(target):
    rope = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope |= {"original_max_position_embeddings": 16}
    network = make_network(
        "eagle3", *random_checkpoint(target, model_type="llama", rope_parameters=rope), target, "here"
    )
    positions = torch.arange(60)
    # A copy: what transformers reads, it completes.
    reference = LlamaRotaryEmbedding(LlamaConfig(head_dim=24, max_position_embeddings=64, rope_parameters=dict(rope)))
    cos, sin = reference(torch.zeros(1), positions[None])
    torch.testing.assert_close(network.rotation.cos[:60], cos[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network.rotation.sin[:60, 12:], sin[0, :, 12:], atol=1e-5, rtol=1e-5)
    plain = make_network("eagle3", *random_checkpoint(target, model_type="llama"), target, "here")
    assert not torch.allclose(plain.rotation.cos[:60], cos[0], atol=1e-2)


def test_a_table_of_positions_reaches_as_far_as_the_targets_context(target):
    network = make_network("eagle3", fixture_config(max_position_embeddings=64), fixture_tensors(), target, "here")
    assert len(network.rotation.cos) == target.shape.max_positions + 7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "gemma4_text"},
            "model_type 'gemma4_text' is not supported; its layer must be of qwen3 or llama",
        ),
        ({"num_hidden_layers": 2}, "has 1 layer, num_hidden_layers is 2"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope type .*llama3.* is not supported"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu'"),
        ({"target_layer_ids": [3, 1]}, r"target_layer_ids must ascend from -1 or above, got \[3, 1\]"),
        ({"target_layer_ids": []}, "target_layer_ids must ascend"),
        ({"target_layer_ids": [0, 7]}, r"within -1..6 \(the last layer has no raw state\)"),
        ({"target_layer_ids": "all"}, "does not describe an Eagle3 drafter.*target_layer_ids"),
        ({"num_target_layers": 12}, "a target of 12 layers .num_target_layers.; this one has 8"),
        ({"vocab_size": 300}, "vocab_size 300; this target has 64 and 256"),
        ({"target_hidden_size": 128}, "hidden_size 128 and vocab_size 256; this target has 64"),
        ({"num_drafts": 0}, "num_drafts must be at least 1"),
        ({"norm_before_fc": True, "fc_norm": True}, "which norm comes first is not known"),
        ({"draft_vocab_size": 257}, "draft_vocab_size must lie in 2..256, got 257"),
        ({"draft_vocab_size": 100}, "tensor 'd2t' is missing; draft_vocab_size is below vocab_size"),
        ({"attention_bias": True}, "'layers.0.self_attn.q_proj.bias' is missing"),
        ({"qk_norm": False}, "'layers.0.self_attn.k_norm.weight' is not understood"),
        ({"intermediate_size": 100}, r"gate_proj.weight makes \[256, 64\], config.json asks for \[200, 64\]"),
    ],
    ids=str,
)
def test_what_the_network_does_not_compute_is_refused_by_name(target, changes, message):
    with pytest.raises(CheckpointError, match=f"^here: .*{message}"):
        make_network("eagle3", fixture_config(**changes), fixture_tensors(), target, "here")


def reduced(target, **tensors):
    config, made = random_checkpoint(target, draft_vocab_size=100)
    return config, {name: tensor for name, tensor in (made | tensors).items() if tensor is not None}


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        (None, "'d2t' is missing"),
        (torch.zeros(99, dtype=torch.int64), "must hold 100 integers"),
        (torch.zeros(100), "must hold 100 integers, got torch.float32"),
        (torch.full((100,), 200), r"within 0..255, got 200..299"),
        (torch.full((100,), -1), r"within 0..255, got -1..98"),
        (-torch.arange(100), "must be different tokens"),
    ],
    ids=["missing", "short", "floats", "past", "before", "twice"],
)
def test_a_map_to_tokens_that_the_target_has_not_is_refused(target, differences, message):
    config, tensors = reduced(target, d2t=differences)
    with pytest.raises(CheckpointError, match=message):
        make_network("eagle3", config, tensors, target, "here")


def test_a_reduced_vocabulary_needs_a_head_of_its_own(target):
    config, tensors = reduced(target, **{"lm_head.weight": None})
    with pytest.raises(CheckpointError, match=r"'lm_head.weight' is missing; a reduced vocabulary needs its own head"):
        make_network("eagle3", config, tensors, target, "here")


def test_a_missing_or_unknown_tensor_is_named(target):
    tensors = fixture_tensors()
    del tensors["fc.weight"]
    with pytest.raises(CheckpointError, match=r"'fc.weight' is missing"):
        make_network("eagle3", fixture_config(), tensors, target, "here")
    with pytest.raises(CheckpointError, match=r"'midlayer.bias' is not understood"):
        make_network("eagle3", fixture_config(), fixture_tensors() | {"midlayer.bias": torch.ones(1)}, target, "here")


def test_a_drafter_of_another_width_brings_its_own_embedding_and_head(target):
    config, tensors = random_checkpoint(target, hidden_size=48, target_hidden_size=64)
    make_network("eagle3", config, tensors, target, "here")
    del tensors["embed_tokens.weight"]
    with pytest.raises(CheckpointError, match="at hidden size 48 the target's, of 64, cannot take its place"):
        make_network("eagle3", config, tensors, target, "here")


def test_the_arguments_are_left_as_they_are(target):
    config, tensors = reduced(target)
    before = dict(config), {name: tensor.clone() for name, tensor in tensors.items()}
    make_network("eagle3", config, tensors, target, "here")
    assert config == before[0]
    assert tensors.keys() == before[1].keys()
    assert all(torch.equal(tensor, before[1][name]) for name, tensor in tensors.items())
