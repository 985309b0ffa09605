"""Config files as published drafters carry them, key by key, are understood, and by the networks too.

Sources, and what is changed in them: tests/fixtures/published/NOTES.md.
"""

import json

import pytest

from core.errors import CheckpointError
from models.dflash_config import DFlashConfig
from models.eagle3_config import Eagle3Config
from models.formats.translate import translate
from paths import FIXTURES

FOLDER = FIXTURES / "published"
EAGLE_LAYERS, SPREAD = [1, 17, 32], [1, 9, 17, 25, 33]
# What each is: kind, format, drafts in a step, layers read; the target has 36 layers where the file does not say.
PUBLISHED = {
    "zlab_dflash": ("dflash", "z-lab DFlash", 15, SPREAD),
    "zlab_dflash_windows": ("dflash", "z-lab DFlash", 15, [1, 7, 14, 20, 26, 32, 39, 45]),
    "deepspec_dspark_qwen3": ("dspark", "DeepSpec", 7, SPREAD),
    "deepspec_dspark_gemma4": ("dspark", "DeepSpec", 7, [5, 17, 29, 41, 46]),
    "deepspec_eagle3_qwen3": ("eagle3", "DeepSpec", 7, SPREAD),
    "speculators_eagle3": ("eagle3", "speculators", 3, EAGLE_LAYERS),
    "speculators_eagle3_norms": ("eagle3", "speculators", 3, [1, 45, 90]),
    "speculators_dspark_older": ("dspark", "speculators", 15, [7, 22, 38, 54, 69]),
    "speculators_dspark": ("dspark", "speculators", 7, SPREAD),
    "speculators_dflash_llama": ("dflash", "speculators", 7, [0, 16, 28, 46, 57]),
    "speculators_dflash_windows": ("dflash", "speculators", 7, [0, 5, 10, 16, 21, 26]),
    "eagle3_llama": ("eagle3", "EAGLE", 7, EAGLE_LAYERS),
    "specforge_dspark": ("dspark", "SpecForge", 7, SPREAD),
    "specforge_dspark_reduced_vocabulary": ("dspark", "SpecForge", 7, SPREAD),
    "specforge_dspark_causal": ("dspark", "SpecForge", 16, SPREAD),
    "specforge_dspark_own_table": ("dspark", "SpecForge", 16, [2, 17, 32, 47, 62]),
    "specforge_eagle3": ("eagle3", "SpecForge", 7, EAGLE_LAYERS),
    "specforge_eagle3_fc_norm": ("eagle3", "SpecForge", 7, EAGLE_LAYERS),
    "specforge_eagle3_pictures": ("eagle3", "SpecForge", 7, EAGLE_LAYERS),
    "specforge_eagle3_older_pictures": ("eagle3", "SpecForge", 7, EAGLE_LAYERS),
    "specforge_eagle3_whole_vocabulary": ("eagle3", "SpecForge", 7, [1, 29, 61]),
    "model_optimizer_eagle3": ("eagle3", "SpecForge", 7, EAGLE_LAYERS),
}


def published(name, **changes):
    return json.loads((FOLDER / f"{name}.json").read_text()) | changes


def canonical(name, **changes):
    return translate(published(name, **changes), name, 36).config


def test_every_file_is_tried():
    assert {path.stem for path in FOLDER.glob("*.json")} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_understood(name):
    said = translate(published(name), name, 36)
    assert (said.kind, said.format, said.num_drafts, said.config["target_layer_ids"]) == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_network_takes_what_a_published_config_says(name):
    made = canonical(name)
    config = (DFlashConfig if "block_size" in made else Eagle3Config).from_json(made)
    assert (config.num_drafts, list(config.target_layer_ids)) == PUBLISHED[name][2:]


# --- What they say --------------------------------------------------------------------------------------------------


def test_slots_are_shifted_or_filled_in_as_each_format_has_them():
    shifted = {name for name in PUBLISHED if canonical(name).get("sample_from_anchor")}
    assert shifted == {name for name in PUBLISHED if "dspark" in name} - {"speculators_dspark_older"}


def test_windows_stand_in_the_layers_table_or_beside_it():
    beside = canonical("speculators_dflash_windows")
    assert (beside["layer_types"].count("sliding_attention"), beside["sliding_window"]) == (4, 2048)
    table = published("speculators_dflash_windows")["transformer_layer_config"] | {"sliding_window": 8}
    with pytest.raises(CheckpointError, match="sliding_window is 8 in transformer_layer_config and 2048 in config"):
        canonical("speculators_dflash_windows", transformer_layer_config=table)


def test_the_layers_of_a_speculators_dflash_are_qwens_whatever_the_family_of_its_target():
    assert canonical("speculators_dflash_llama")["model_type"] == "qwen3"
    assert canonical("speculators_eagle3")["model_type"] == "llama"


def test_heads_of_a_table_of_their_own_are_those_of_the_common_one():
    common = published("specforge_dspark_own_table")
    heads = common.pop("dspark_config")
    common["dflash_config"] |= heads
    assert canonical("specforge_dspark_own_table") == translate(common, "common", 36).config
    with pytest.raises(CheckpointError, match="markov_rank is 4 in dflash_config and 8 in dspark_config"):
        translate({**common, "dflash_config": {**heads, "markov_rank": 4}, "dspark_config": heads}, "two", 36)
    with pytest.raises(CheckpointError, match="dspark_config: key 'temperature_head' is not understood"):
        canonical("specforge_dspark_own_table", dspark_config=heads | {"temperature_head": 1})


@pytest.mark.parametrize("name", ["specforge_eagle3_pictures", "specforge_eagle3_older_pictures"])
def test_the_rotation_of_a_target_that_sees_pictures_is_the_plain_one_in_text(name):
    config = Eagle3Config.from_json(canonical(name))
    plain = Eagle3Config.from_json(canonical(name, rope_scaling=None))
    assert config.backbone == plain.backbone


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_last_layernorm", False),
        ("use_input_layernorm_in_first_layer", False),
        ("use_mtp_layernorm", True),
        ("parallel_draft_step", 2),
    ],
)
def test_options_of_the_model_optimizer_that_are_no_eagle3_are_refused(key, value):
    inside = published("model_optimizer_eagle3")["eagle_config"] | {key: value}
    with pytest.raises(CheckpointError, match=f"eagle_config: {key} is {value}, which is not supported"):
        canonical("model_optimizer_eagle3", eagle_config=inside)


def test_an_eagle3_whose_layer_slides_is_refused_by_name():
    layer = published("speculators_eagle3_norms")["transformer_layer_config"]
    slides = layer | {"layer_types": ["sliding_attention"], "sliding_window": 2048, "use_sliding_window": True}
    with pytest.raises(CheckpointError, match=r"layer_types is \['sliding_attention'\]; full_attention is supported"):
        canonical("speculators_eagle3_norms", transformer_layer_config=slides)
