import pytest
import torch

from core.errors import CheckpointError
from models.load_drafter import make_network
from tests.drafters.dflash_cases import fixture_checkpoint, fixture_target, random_checkpoint

EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"


def load(config, tensors):
    return make_network("dflash", config, tensors, fixture_target(), "here")


def test_copies_of_the_targets_embedding_and_head_are_not_kept():
    config, tensors = fixture_checkpoint("dspark_vanilla")
    assert torch.equal(tensors[EMBEDDING], fixture_target().embedding)
    vocabulary = load(config, tensors).vocabulary
    assert vocabulary.embed_tokens is vocabulary.lm_head is None
    assert not list(vocabulary.parameters())


def test_a_file_without_embedding_and_head_takes_the_targets():
    config, tensors = fixture_checkpoint("dflash")
    rest = {name: tensor for name, tensor in tensors.items() if name not in (EMBEDDING, HEAD)}
    assert not list(load(config, rest).vocabulary.parameters())


@pytest.mark.parametrize("name", [EMBEDDING, HEAD])
def test_an_embedding_or_head_that_differs_is_the_drafters_own(name):
    config, tensors = fixture_checkpoint("dspark_vanilla")
    changed = tensors[name].clone()
    changed[5] += 1
    vocabulary = load(config, tensors | {name: changed}).vocabulary
    own = vocabulary.embed_tokens if name == EMBEDDING else vocabulary.lm_head
    other = vocabulary.lm_head if name == EMBEDDING else vocabulary.embed_tokens
    assert torch.equal(own.weight, changed)
    assert other is None


def test_the_tensors_given_are_left_as_they_were():
    config, tensors = random_checkpoint(own_ends=True, draft_vocab_size=100)
    before = set(tensors)
    load(config, tensors)
    assert set(tensors) == before


def test_a_draft_token_is_the_target_token_so_much_further():
    config, tensors = random_checkpoint(own_ends=True, draft_vocab_size=100)
    ids = load(config, tensors).vocabulary.target_ids
    assert ids.tolist() == [i + difference for i, difference in enumerate(tensors["d2t"].tolist())]


def test_blocks_may_stand_wherever_the_target_goes():
    config, tensors = random_checkpoint(max_position_embeddings=16)
    table = load(config, tensors).rotation.cos
    assert len(table) == fixture_target().shape.max_positions + 7


def test_the_keys_of_a_head_that_is_not_there_are_ignored():
    network = load(*random_checkpoint(markov_rank=0, markov_head_type="of another kind"))
    assert network.markov_head is None


BROKEN_CONFIGS = [
    ({"model_type": "mamba"}, "draft layers of model_type 'mamba' are not supported"),
    ({"markov_rank": 8, "markov_head_type": "gru"}, "markov_head_type"),
    ({"layer_types": ["full_attention", "chunked_attention"]}, "layer_types"),
    ({"layer_types": ["full_attention"]}, "layer_types must name 2 layers, it names 1"),
    ({"layer_types": ["sliding_attention"] * 2}, "sliding_attention needs a sliding_window"),
    ({"use_sliding_window": True, "layer_types": None}, "use_sliding_window"),
    ({"target_layer_ids": [1, 3, 7]}, r"target_layer_ids must lie within -1..6"),
    ({"target_layer_ids": [3, 1, 5]}, "target_layer_ids must ascend"),
    ({"target_layer_ids": [-2, 1, 5]}, "target_layer_ids must ascend"),
    ({"target_layer_ids": []}, "target_layer_ids must ascend"),
    (
        {"num_target_layers": 7, "target_layer_ids": [1, 3, 5]},
        "a target of 7 layers .num_target_layers.; this",
    ),
    ({"num_target_layers": None, "target_layer_ids": [1, 3, 7]}, r"target_layer_ids must lie within -1..6"),
    ({"target_hidden_size": 32}, "a target of hidden_size 32"),
    ({"vocab_size": 128, "mask_token_id": 5}, "vocab_size 128"),
    ({"mask_token_id": 256}, r"mask_token_id must lie in 0..255, got 256"),
    ({"block_size": 0}, "block_size must be at least 1"),
    ({"block_size": 1, "sample_from_anchor": False}, "block_size must be at least 2"),
    ({"block_size": "seven"}, "block_size"),
    ({"draft_vocab_size": 1}, "draft_vocab_size must lie in 2..256"),
    ({"draft_vocab_size": 100}, "tensor 'd2t' is missing"),
    ({"markov_rank": -1}, "markov_rank must be 0 or more"),
    ({"attention_bias": True}, "attention_bias"),
    ({"enable_confidence_head": True}, "confidence_head.proj.weight' is missing"),
    ({"markov_rank": 8}, "markov_head.markov_w1.weight' is missing"),
    ({"target_hidden_size": 64, "hidden_size": 48}, "tensor 'embed_tokens.weight' is missing"),
]


@pytest.mark.parametrize(("changes", "message"), BROKEN_CONFIGS)
def test_a_config_that_cannot_be_served_is_refused_by_name(changes, message):
    config, tensors = random_checkpoint()
    with pytest.raises(CheckpointError, match=f"^here: .*{message}"):
        load(config | changes, tensors)


def without(name):
    return lambda tensors: tensors.pop(name)


def with_one(name, tensor):
    return lambda tensors: tensors.update({name: tensor})


BROKEN_TENSORS = [
    (without("fc.weight"), "'fc.weight' is missing"),
    (without(HEAD), "tensor 'lm_head.weight' is missing"),
    (without("d2t"), "tensor 'd2t' is missing"),
    (with_one("t2d", torch.ones(256)), "'t2d' is not understood"),
    (with_one("fc.weight", torch.ones(64, 64)), "fc.weight makes"),
    (with_one(HEAD, torch.ones(256, 64)), r"lm_head.weight is \[256, 64\], config.json asks for \[100, 64\]"),
    (with_one("d2t", torch.zeros(99, dtype=torch.int64)), "d2t must hold 100 integers"),
    (with_one("d2t", torch.zeros(100)), "d2t must hold 100 integers"),
    (with_one("d2t", torch.full((100,), 157)), r"different tokens within 0..255, got 157..256"),
    (with_one("d2t", -torch.arange(100)), "different tokens"),
    (with_one("d2t", torch.full((100,), -1)), r"different tokens within 0..255, got -1..98"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN_TENSORS)
def test_tensors_that_do_not_fit_are_refused_by_name(change, message):
    config, tensors = random_checkpoint(own_ends=True, draft_vocab_size=100)
    change(tensors)
    with pytest.raises(CheckpointError, match=f"^here: .*{message}"):
        load(config, tensors)
