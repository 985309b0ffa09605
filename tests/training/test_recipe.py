"""Recipes: every shipped one is read, checked and describes the drafter it says; what is wrong is told by key."""

import tomllib

import pytest
import torch

from core.errors import ConfigError
from core.types import Numerics
from models.folders import drafter_folder, target_folder
from models.formats.translate import translate
from models.load_drafter import KINDS, load_drafter
from models.load_target import load_frozen
from training.drafter_files import drafter_json
from training.dspark_loss import DFLASH_WEIGHTS, LossWeights
from training.objective import BlockObjective, ChainObjective
from training.recipe import RECIPES, read_recipe, shipped_recipes
from training.train_drafter import first_drafter, objective_of

QWEN = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 151936,
    "head_dim": 128,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "max_position_embeddings": 40960,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
GEMMA = {
    "architectures": ["Gemma4ForConditionalGeneration"],
    "model_type": "gemma4",
    "text_config": {
        "model_type": "gemma4_text",
        "vocab_size": 262144,
        "hidden_size": 3840,
        "intermediate_size": 15360,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "num_global_key_value_heads": 1,
        "head_dim": 256,
        "global_head_dim": 512,
        "attention_k_eq_v": True,
        "sliding_window": 1024,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 8,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 131072,
        "final_logit_softcapping": 30.0,
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_parameters": {
            "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    },
}
DEMO = {**QWEN, "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 10}
TARGETS = {
    "demo": DEMO | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64},
    "Qwen/Qwen3-4B": QWEN | {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36},
    "Qwen/Qwen3-8B": QWEN | {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36},
    "Qwen/Qwen3-14B": QWEN
    | {"hidden_size": 5120, "intermediate_size": 17408, "num_hidden_layers": 40, "num_attention_heads": 40},
    "google/gemma-4-12B-it": GEMMA,
}
# Parameters without embedding and head, in millions, as the published checkpoints have them.
MILLIONS = {
    "qwen3-4b-dspark": 615,
    "qwen3-8b-dspark": 1126,
    "qwen3-14b-dspark": 1860,
    "qwen3-4b-dflash": 537,
    "qwen3-8b-dflash": 1049,
    "qwen3-14b-dflash": 1783,
    "qwen3-4b-eagle3": 149,
    "qwen3-8b-eagle3": 302,
    "qwen3-14b-eagle3": 498,
}


def network_of(recipe):
    """The recipe's drafter without its weights."""
    config = drafter_json(TARGETS[recipe.target], recipe.drafter, recipe.run.num_anchors)
    read, build = KINDS[recipe.drafter.kind]
    translated = translate(config, "recipe")
    assert translated.kind == recipe.drafter.kind
    with torch.device("meta"):
        return build(read(translated.config), Numerics.FAST)


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_describes_a_drafter(name):
    recipe = read_recipe(name)
    network = network_of(recipe)
    assert network.config.target_layer_ids == recipe.drafter.target_layer_ids
    if name in MILLIONS:
        assert round(sum(one.numel() for one in network.parameters()) / 1e6) == MILLIONS[name]
    assert len((RECIPES / f"{name}.toml").read_text(encoding="utf-8").splitlines()) < 60


def test_every_published_pair_has_a_recipe():
    published = {
        f"{target}-{kind}"
        for target in ("qwen3-4b", "qwen3-8b", "qwen3-14b", "gemma4-12b")
        for kind in ("dspark", "dflash", "eagle3")
    }
    assert published | {"demo", "demo-dflash", "demo-eagle3", "demo-sessions", "fine-tune"} == set(shipped_recipes())


def test_the_recipe_of_sessions_goes_on_from_the_shipped_drafter():
    folder = target_folder("demo")
    target = load_frozen(folder, torch.float32)
    network, config = first_drafter(read_recipe("demo-sessions"), target, folder)
    shipped = load_drafter(drafter_folder("dspark", "demo"), target)
    assert network.get_parameter("fc.weight").equal(shipped.get_parameter("fc.weight"))
    assert config["block_size"] == 7


@pytest.mark.parametrize("name", ["demo", "demo-dflash", "demo-eagle3", "demo-sessions"])
def test_a_recipe_goes_on_from_the_shipped_drafter_of_its_kind(name):
    folder = target_folder("demo")
    target = load_frozen(folder, torch.float32)
    network, _ = first_drafter(read_recipe(name, ["drafter.start=demo"]), target, folder)
    assert network.config.target_layer_ids == (1, 5, 8)


def test_the_kind_alone_chooses_another_drafter_to_go_on_from():
    folder = target_folder("demo")
    target = load_frozen(folder, torch.float32)
    for kind in ("dflash", "eagle3"):
        recipe = read_recipe("demo-sessions", [f"drafter.kind={kind}", "drafter.start=demo"])
        assert objective_of(recipe) != objective_of(read_recipe("demo-sessions"))
        first_drafter(recipe, target, folder)


def test_kinds_are_trained_by_their_losses():
    weights = LossWeights(0.1, 0.9, 1.0, decay=4.0)
    assert objective_of(read_recipe("qwen3-4b-dspark")) == BlockObjective(weights)
    assert objective_of(read_recipe("qwen3-4b-dflash")) == BlockObjective(DFLASH_WEIGHTS)
    assert objective_of(read_recipe("qwen3-4b-eagle3")) == ChainObjective(0.8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("run.stepz=1", r"unknown key run\.stepz; did you mean 'steps'\?"),
        ("drafter.markov_rnk=1", r"unknown key drafter\.markov_rnk; did you mean 'markov_rank'\?"),
        ("optimizer.kind=adamw", r"unknown key optimizer; did you mean 'optimiser'\?"),
        ("run.steps=many", r"Expected `int`, got `str` - at `\$\.run\.steps`"),
        ("run.num_rows=0", r"Expected `int` >= 1 - at `\$\.run\.num_rows`"),
        ("drafter.kind=medusa", r"medusa"),
        ("target=other", r'data\.source "demo" is text of the demo target'),
        ("data.source=shards", r"data\.folder is missing"),
        ("run", r"--set takes key=value"),
        ("target.x=1", r"'target' is no section"),
    ],
)
def test_what_is_wrong_is_told_by_key(change, message):
    with pytest.raises(ConfigError, match=message):
        read_recipe("demo", [change])


def test_a_recipe_by_an_unknown_name_is_told_the_nearest():
    with pytest.raises(ConfigError, match=r"no recipe 'qwen3-4b-dspak'; did you mean 'qwen3-4b-dspark'\?"):
        read_recipe("qwen3-4b-dspak")


def test_a_change_is_read_as_toml_and_bare_words_as_text():
    changed = read_recipe("demo", ["run.steps=7", "drafter.target_layer_ids=[0, 2]", "output=some/where", "run.seed=3"])
    assert (changed.run.steps, changed.drafter.target_layer_ids, changed.output) == (7, (0, 2), "some/where")
    assert tomllib.loads((RECIPES / "demo.toml").read_text(encoding="utf-8"))["run"]["seed"] == 0
