"""Keys whose default, place or meaning differs from format to format."""

import pytest
import torch

from core.errors import CheckpointError
from models.formats.checkpoint import read_checkpoint
from models.formats.layer_ids import low_middle_high, spread_over_target
from models.formats.translate import translate
from tests.models.formats import foreign
from tests.models.formats.test_refusals import (
    dspark,
    eagle,
    specforge,
    specforge_eagle3,
    speculators,
    speculators_eagle3,
    zlab,
)

SLIDING, FULL = "sliding_attention", "full_attention"


def canonical(config, depth=8):
    return translate(config, "folder", depth).config


# --- Layers of the target -----------------------------------------------------------------------------------------


def test_each_format_counts_the_targets_layers_in_its_own_way():
    assert canonical(dspark(target_layer_ids=[-1, 2]))["target_layer_ids"] == [-1, 2]
    assert canonical(zlab({"target_layer_ids": [0, 5]}))["target_layer_ids"] == [0, 5]
    assert canonical(speculators(aux_hidden_state_layer_ids=[0, 3]))["target_layer_ids"] == [-1, 2]
    assert canonical(speculators_eagle3(eagle_aux_hidden_state_layer_ids=[2, 4]))["target_layer_ids"] == [1, 3]


@pytest.mark.parametrize(
    ("config", "ids"),
    [
        (eagle(), [1, 17, 32]),
        (specforge_eagle3(eagle_config=None), [1, 17, 32]),
        (speculators_eagle3(eagle_aux_hidden_state_layer_ids=None), [1, 17, 32]),
        (speculators(aux_hidden_state_layer_ids=None), [1, 17, 32]),
        (zlab({"target_layer_ids": None}, num_target_layers=None), [1, 33]),
        (specforge({"target_layer_ids": None}, num_target_layers=None), [1, 33]),
    ],
    ids=["EAGLE", "SpecForge's EAGLE-3", "speculators' EAGLE-3", "speculators' DSpark", "z-lab", "SpecForge's DSpark"],
)
def test_layers_that_are_not_named_are_the_formats_default_for_the_targets_depth(config, ids):
    assert canonical(config, depth=36)["target_layer_ids"] == ids
    assert "target_layer_ids" not in canonical(config, depth=None)


def test_default_layers_of_published_checkpoints():
    # Qwen3-4B and 8B have 36 layers; EAGLE's states enter layers 2, L/2 and L-3.
    assert spread_over_target(5, 36) == [1, 9, 17, 25, 33]
    assert spread_over_target(1, 36) == [18]
    assert low_middle_high(36) == [1, 17, 32]


def test_a_target_too_shallow_for_the_default_is_refused():
    with pytest.raises(CheckpointError, match="must ascend"):
        translate(eagle(), "folder", 4)


def test_the_files_own_depth_wins_over_the_targets():
    assert canonical(eagle(num_target_layers=36), depth=8)["target_layer_ids"] == [1, 17, 32]


# --- Slots --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "from_anchor", "drafts"),
    [
        (dspark(), True, 7),
        (dspark(markov_rank=0, enable_confidence_head=False), True, 7),
        (zlab(), False, 6),
        (zlab({"block_size": None}), False, 15),
        (specforge(), True, 7),
        (speculators(), True, 7),
        (speculators(sample_from_anchor=False), False, 6),
        (speculators("dflash", sample_from_anchor=True), True, 7),
        (speculators("dflash", sample_from_anchor=None), False, 6),
    ],
)
def test_slots_are_shifted_or_filled_in_as_the_format_has_it(config, from_anchor, drafts):
    made = translate(config, "folder", 8)
    assert (made.config["sample_from_anchor"], made.num_drafts) == (from_anchor, drafts)


@pytest.mark.parametrize(("tokens", "from_anchor"), [(6, False), (7, True)])
def test_a_dspark_of_speculators_without_the_flag_is_what_its_number_of_tokens_says(tokens, from_anchor):
    config = speculators(sample_from_anchor=None, speculators_config=foreign.speculators_config("dspark", tokens))
    assert canonical(config)["sample_from_anchor"] is from_anchor


# --- Norms and chains ---------------------------------------------------------------------------------------------


def test_norm_output_feeds_the_normed_state_back_in_speculators_only():
    assert canonical(speculators_eagle3(norm_output=True))["feeds_normed"] is True
    assert canonical(speculators_eagle3())["feeds_normed"] is False
    assert canonical(specforge_eagle3(norm_output=True))["feeds_normed"] is False


@pytest.mark.parametrize("norm", ["norm_before_residual", "norm_before_fc", "fc_norm"])
def test_a_norm_option_is_kept(norm):
    assert canonical(speculators_eagle3(**{norm: True}))[norm] is True
    assert canonical(speculators_eagle3())[norm] is False


def test_the_norms_of_heads_go_with_the_layer_family():
    assert canonical(eagle())["qk_norm"] is False
    assert canonical(speculators_eagle3())["qk_norm"] is True


def test_the_chain_is_as_long_as_the_file_says():
    config = speculators_eagle3(speculators_config=foreign.speculators_config("eagle3", 3))
    assert translate(config, "folder").num_drafts == 3
    assert translate(eagle(), "folder", 8).num_drafts == 7


# --- Windows ------------------------------------------------------------------------------------------------------


def windows(config):
    made = canonical(config)
    return made["layer_types"], made["sliding_window"], made["is_causal"], made["sliding_is_causal"]


SLIDES = {"use_sliding_window": True, "sliding_window": 4}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (zlab(), ([FULL, FULL], None, False, True)),
        (zlab(layer_types=[SLIDING, FULL], **SLIDES), ([SLIDING, FULL], 4, False, True)),
        (zlab(layer_types=[SLIDING, FULL], is_causal=False, **SLIDES), ([SLIDING, FULL], 4, False, False)),
        (zlab({"causal": True}, layer_types=[SLIDING, FULL], **SLIDES), ([SLIDING, FULL], 4, True, True)),
        (zlab({"use_swa": True, "swa_window_size": 8}), ([SLIDING, SLIDING], 8, False, False)),
        (zlab(layer_types=None, max_window_layers=1, **SLIDES), ([FULL, SLIDING], 4, False, True)),
        (zlab(layer_types=None, **SLIDES), ([FULL, FULL], None, False, True)),
        (speculators(layer={"layer_types": [SLIDING, FULL], **SLIDES}), ([SLIDING, FULL], 4, False, True)),
        (
            speculators(layer={"layer_types": [SLIDING, FULL], **SLIDES}, sliding_window_non_causal=True),
            ([SLIDING, FULL], 4, False, False),
        ),
    ],
)
def test_windows_and_whether_they_are_causal(config, expected):
    assert windows(config) == expected


# --- Heads --------------------------------------------------------------------------------------------------------


def test_specforges_confidence_head_is_there_where_it_was_trained():
    inside = {"enable_confidence_head": None, "confidence_head_alpha": 0.0}
    assert canonical(specforge(inside))["enable_confidence_head"] is False
    assert canonical(specforge({"enable_confidence_head": None}))["enable_confidence_head"] is True


def test_a_head_that_is_off_leaves_none_of_its_keys():
    made = canonical(foreign.deepspec("dflash")[0])
    assert not {"markov_head_type", "confidence_head_with_markov"} & set(made)


def test_rotation_is_written_one_way_whatever_the_file_writes():
    plain = {"rope_type": "default", "rope_theta": 1e6}
    assert canonical(dspark(rope_parameters=None, rope_theta=1e6))["rope_parameters"] == plain
    scaled = {"type": "yarn", "factor": 4.0}
    made = canonical(dspark(rope_parameters=None, rope_theta=1e6, rope_scaling=scaled))
    assert made["rope_parameters"] == {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}


def test_a_gemma_keeps_its_own_keys_and_its_two_rotations():
    full = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6}
    rotations = {"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    gemma = {
        "architectures": ["Gemma4DSparkModel"],
        "model_type": "gemma4_text",
        "hidden_act": None,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_k_eq_v": True,
        "global_head_dim": 48,
        "final_logit_softcapping": 30.0,
        "sliding_window": 512,
        "rope_parameters": rotations,
    }
    made = canonical(dspark(**gemma))
    assert (made["model_type"], made["rope_parameters"], made["sliding_window"]) == ("gemma4_text", rotations, None)
    assert (made["attention_k_eq_v"], made["global_head_dim"], made["final_logit_softcapping"]) == (True, 48, 30.0)
    with pytest.raises(CheckpointError, match="'global_head_dim' is not understood"):
        canonical(dspark(global_head_dim=48))


# --- Vocabularies -------------------------------------------------------------------------------------------------


def reduced(folder, change):
    config, tensors = foreign.plain_eagle()
    change(tensors)
    return read_checkpoint(foreign.write(folder, config, tensors))


def test_the_table_of_a_reduced_vocabulary_is_differences(tmp_path):
    steps = reduced(tmp_path, lambda tensors: tensors.update(d2t=tensors["d2t"].int())).tensors["d2t"]
    assert steps.dtype is torch.int64
    assert torch.equal(torch.arange(100) + steps, torch.arange(100) * 2 + 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("d2t"), "tensor 'd2t' is missing"),
        (lambda tensors: tensors.pop("lm_head.weight"), "tensor 'lm_head.weight' is missing"),
        # Target ids themselves, as somebody may take it: i + d2t[i] runs past the vocabulary.
        (lambda tensors: tensors["d2t"].add_(torch.arange(100)), r"different target ids in 0..255, got 3..300"),
        (lambda tensors: tensors.update(d2t=-torch.arange(100)), "different target ids"),
        (lambda tensors: tensors.update(d2t=tensors["d2t"][:50]), "d2t must hold 100 whole numbers"),
        (lambda tensors: tensors.update(d2t=tensors["d2t"].float()), "d2t must hold 100 whole numbers"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, change, words):
    with pytest.raises(CheckpointError, match=words):
        reduced(tmp_path, change)


def test_a_full_vocabulary_needs_no_table_and_has_none_that_permutes_it(tmp_path):
    config, tensors = foreign.deepspec("dspark_vanilla")
    still = foreign.write(tmp_path / "still", config, tensors | {"d2t": torch.zeros(256, dtype=torch.int64)})
    assert "d2t" not in read_checkpoint(still).tensors
    moves = torch.zeros(256, dtype=torch.int64)
    moves[:2] = torch.tensor([1, -1])
    with pytest.raises(CheckpointError, match="permutes a full vocabulary"):
        read_checkpoint(foreign.write(tmp_path / "moved", config, tensors | {"d2t": moves}))
