"""`specd inspect` says how a checkpoint is read, whichever format it has, and why one is not."""

import json

import pytest
import torch

from cli.inspect import attention_rows
from cli.main import main
from models.load_target import read_target_config
from paths import FIXTURES
from tests.models.formats import foreign

TARGET = str(FIXTURES / "target_qwen3")


def inspect(capsys, *arguments):
    status = main(["inspect", *map(str, arguments)])
    said = capsys.readouterr()
    rows = dict(line.split("  ", 1) for line in said.out.splitlines())
    return status, {name: value.strip() for name, value in rows.items()}, said.err


def test_a_dspark_is_described_as_it_is_read(capsys):
    status, rows, _ = inspect(capsys, FIXTURES / "dspark_gated")
    assert status == 0
    assert rows["role"] == "drafter (DSpark)"
    assert (rows["format"], rows["kind"], rows["mask token"]) == ("DeepSpec", "dspark", "255")
    assert rows["drafts per step"] == "7 (block of 7; slot j predicts the token after its own)"
    assert rows["reads target layers"].startswith("1, 3, 5 of 8")
    assert rows["sequential head"] == "Markov (gated), rank 8"
    assert rows["confidence head"] == "yes, from the state and the previous token"
    assert (rows["embedding"], rows["head"], rows["windows"]) == ("in the file", "in the file", "none")
    assert rows["parameters"] == "136,305 in 33 tensors, 103,537 without shared ones"
    assert rows["stored as"] == "float32 (33)"


def test_a_borrowing_dflash_says_whose_its_embedding_is_and_how_slots_are_filled(tmp_path, capsys):
    config, tensors = foreign.zlab(*foreign.deepspec("dflash"))
    slides = {"layer_types": ["sliding_attention", "full_attention"], "use_sliding_window": True, "sliding_window": 4}
    _, rows, _ = inspect(capsys, foreign.write(tmp_path, config | slides, tensors))
    assert (rows["format"], rows["embedding"], rows["head"]) == ("z-lab DFlash", "the target's", "the target's")
    assert rows["drafts per step"] == "6 (block of 7; slots are filled in: slot j predicts its own token, slot 0 none)"
    assert rows["windows"] == "1 of 2 layers see 4 positions, causal in the block"
    assert rows["tensors not used"] == "layers.0.self_attn.rotary_emb.inv_freq"


def test_an_eagle3_says_what_its_layers_and_vocabulary_are(tmp_path, capsys):
    folder = foreign.write(tmp_path, *foreign.eagle(*foreign.plain_eagle()))
    _, rows, _ = inspect(capsys, folder)
    assert rows["reads target layers"].startswith("the format's default, found from the target's depth")
    assert rows["vocabulary"] == "256 (100 of them are drafted)"
    assert rows["norm options"] == "none"
    _, rows, _ = inspect(capsys, folder, "--target", TARGET)
    assert rows["reads target layers"].startswith("1, 3, 4")
    assert rows["fits the target"] == "yes; embed_tokens.weight equals the target's"


def test_layers_that_no_network_has_are_refused_as_they_are_when_it_is_loaded(tmp_path, capsys):
    config = json.loads((FIXTURES / "published" / "deepspec_dspark_gemma4.json").read_text())
    config["layer_types"] = ["sliding_attention", *config["layer_types"][1:]]
    status, _, said = inspect(capsys, foreign.write(tmp_path, config, foreign.deepspec("dspark_vanilla")[1]))
    assert status == 1
    assert "layer_types of Gemma 4 draft layers must all be 'full_attention'" in said


def test_copies_that_are_another_targets_are_told(tmp_path, capsys):
    config, tensors = foreign.deepspec("dspark_vanilla")
    folder = foreign.write(tmp_path, config, tensors | {"lm_head.weight": tensors["lm_head.weight"] + 1})
    _, rows, _ = inspect(capsys, folder, "--target", TARGET)
    assert rows["fits the target"].endswith("lm_head.weight differs from the target's")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_target_layers": 36}, "num_hidden_layers 36"),
        ({"target_hidden_size": 128}, "hidden_size 128"),
        ({"num_target_layers": None, "target_layer_ids": [1, 3, 7]}, "reads layer 7"),
    ],
)
def test_a_drafter_of_another_target_does_not_fit(tmp_path, capsys, changes, words):
    config, tensors = foreign.deepspec("dspark_vanilla")
    status, _, error = inspect(capsys, foreign.write(tmp_path, config | changes, tensors), "--target", TARGET)
    assert status == 1
    assert words in error


def test_a_target_is_described(capsys):
    status, rows, _ = inspect(capsys, TARGET)
    assert (status, rows["role"], rows["layers"]) == (0, "target", "8")
    assert rows["attention"] == "4 heads, 2 kv heads of 24"
    assert inspect(capsys, TARGET, "--target", TARGET)[0] == 1


def test_layers_of_different_kinds_are_told_apart(tmp_path, capsys):
    config = {
        "architectures": ["Gemma4ForCausalLM"],
        "model_type": "gemma4_text",
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "sliding_window": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "global_head_dim": 16,
        "num_global_key_value_heads": 1,
        "hidden_size_per_layer_input": 0,
        "num_kv_shared_layers": 0,
    }
    described = read_target_config(foreign.write(tmp_path, config, {"unread": torch.ones(1)}))
    told = [value for name, value in attention_rows(described.shape) if name == "attention"]
    assert told == ["4 heads, 2 kv heads of 8, window 5 (2 layers)", "4 heads, 2 kv heads of 16 (1 layers)"]


def test_an_architecture_that_transformers_may_compute_is_told_as_such(tmp_path, capsys):
    folder = foreign.write(tmp_path, {"architectures": ["MistralForCausalLM"]}, {"model.x": torch.ones(2)})
    status, rows, _ = inspect(capsys, folder)
    assert status == 0
    assert "by transformers" in rows["computed"]


@pytest.mark.parametrize(
    ("changes", "extra", "words"),
    [
        ({"new_gate": True}, {}, "'new_gate' is not understood"),
        ({}, {"layers.0.g_proj.weight": torch.ones(1)}, "'layers.0.g_proj.weight' is not understood"),
        ({}, {"fc.weight": torch.ones(2, dtype=torch.int8)}, "'fc.weight' is stored as I8"),
        ({"architectures": ["DominoDraftModel"]}, {}, "Domino"),
        ({"architectures": ["BertModel"]}, {}, "architecture 'BertModel'"),
    ],
)
def test_what_is_not_understood_is_status_1_and_named(tmp_path, capsys, changes, extra, words):
    config, tensors = foreign.deepspec("dspark_vanilla")
    status, rows, error = inspect(capsys, foreign.write(tmp_path, config | changes, tensors | extra))
    assert (status, rows) == (1, {})
    assert words in error
