import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.errors import CheckpointError
from models.load_target import eos_token_ids, load_target
from paths import FIXTURES


@pytest.fixture
def folder(tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(FIXTURES / "target_qwen3" / name, tmp_path / name)
    return tmp_path


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["ElmanForCausalLM"]},
            r"ElmanForCausalLM is none that specd computes itself \(.*Qwen3ForCausalLM",
        ),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised checkpoints .*'gptq'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope type"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act must be 'silu'"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"intermediate_size": 100}, r"gate_proj.weight makes \[256, 64\], config.json asks for \[200, 64\]"),
    ],
)
def test_what_the_network_does_not_compute_is_refused_by_name(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_target(folder, torch.float32)


def test_a_missing_tensor_is_named(folder):
    edit_tensors(folder, lambda tensors: tensors.pop("model.layers.3.self_attn.k_proj.weight"))
    with pytest.raises(CheckpointError, match=r"'layers.3.self_attn.k_proj.weight' is missing"):
        load_target(folder, torch.float32)


def test_a_tensor_nobody_understands_is_named(folder):
    edit_tensors(folder, lambda tensors: tensors.update({"model.layers.0.adapter": torch.ones(1)}))
    with pytest.raises(CheckpointError, match=r"'layers.0.adapter' is not understood"):
        load_target(folder, torch.float32)


def test_missing_and_broken_files_are_named(folder, tmp_path_factory):
    with pytest.raises(CheckpointError, match=r"config.json is missing"):
        load_target(tmp_path_factory.mktemp("empty"), torch.float32)
    (folder / "model.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(CheckpointError, match=r"model.safetensors is not a readable safetensors file"):
        load_target(folder, torch.float32)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_target(folder, torch.float32)


def test_a_shard_index_cannot_reach_outside_its_folder(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}')
    with pytest.raises(CheckpointError, match="outside its folder"):
        load_target(folder, torch.float32)


def test_eos_ids_come_from_the_generation_config_first(folder):
    edit_config(folder, eos_token_id=5)
    assert eos_token_ids(folder) == (5,)
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    assert eos_token_ids(folder) == (2, 7)
