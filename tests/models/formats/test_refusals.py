"""What a format says and no network computes is refused, and the error names the key or the tensor."""

import json

import pytest
import torch
from safetensors.torch import save_file

from core.errors import CheckpointError
from models.formats.checkpoint import read_checkpoint
from models.formats.translate import is_drafter, translate
from paths import FIXTURES
from tests.models.formats import foreign


def dspark(**changes):
    return foreign.deepspec("dspark_vanilla")[0] | changes


def zlab(inside=None, **changes):
    config, _ = foreign.zlab(*foreign.deepspec("dflash"))
    return {**config, "dflash_config": {**config["dflash_config"], **(inside or {})}, **changes}


def specforge(inside=None, **changes):
    config, _ = foreign.specforge_dspark(*foreign.deepspec("dspark_vanilla"))
    return {**config, "dflash_config": {**config["dflash_config"], **(inside or {})}, **changes}


GEMMA_LAYER = {"model_type": "gemma4_text", "global_head_dim": 48}


def specforge_eagle3(**changes):
    return foreign.specforge_eagle3(*foreign.plain_eagle())[0] | changes


def eagle(**changes):
    return foreign.eagle(*foreign.plain_eagle())[0] | changes


def speculators(kind="dspark", layer=None, **changes):
    config, _ = foreign.speculators_block(*foreign.deepspec("dspark_vanilla"), kind)
    return {**config, "transformer_layer_config": {**config["transformer_layer_config"], **(layer or {})}, **changes}


def speculators_eagle3(**changes):
    return foreign.speculators_eagle3(*foreign.deepspec("eagle3"))[0] | changes


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (dspark(new_gate=True), ["'new_gate' is not understood", "DeepSpec"]),
        (dspark(markov_head_type="cubic"), ["markov_head_type", "'cubic'"]),
        (dspark(mask_token_id=256), ["mask_token_id must be in 0..255"]),
        (dspark(mask_token_id=None), ["mask_token_id is missing"]),
        (dspark(block_size=1), ["block_size must be at least 2"]),
        (dspark(markov_rank=0), ["confidence_head_with_markov is true, but markov_rank is 0"]),
        (dspark(target_layer_ids=[5, 3, 1]), ["target_layer_ids must ascend"]),
        (dspark(target_layer_ids=[-2, 1]), ["target_layer_ids must ascend from -1"]),
        (dspark(target_layer_ids=None), ["target_layer_ids is missing"]),
        (dspark(model_type="qwen9"), ["model_type 'qwen9'"]),
        (dspark(hidden_act="gelu"), ["hidden_act is 'gelu'"]),
        (dspark(rope_parameters=None), ["rope_theta is missing"]),
        (dspark(quantization_config={"bits": 4}), ["quantised", "quantization_config"]),
        (dspark(sample_from_anchor="yes"), ["sample_from_anchor must be true or false"]),
        (dspark(layer_types=["linear_attention", "full_attention"]), ["layer_types holds 'linear_attention'"]),
        (dspark(draft_vocab_size=300), ["draft_vocab_size must be in 1..256"]),
        (dspark(num_attention_heads=0), ["num_attention_heads must be at least 1"]),
        (dspark(hidden_size="wide"), ["hidden_size must be a whole number", "'wide'"]),
        (speculators(layer=GEMMA_LAYER), ["'gemma4_text' in transformer_layer_config", "DeepSpec's format alone"]),
        (zlab({"causal_head": True}), ["dflash_config: key 'causal_head' is not understood"]),
        (zlab({"attention_sink_bias": True}), ["attention_sink_bias is True"]),
        (zlab({"is_neox_style": False}), ["is_neox_style is False"]),
        (zlab(is_neox_style=False), ["is_neox_style is False"]),
        (zlab({"output_multiplier": 0.2}), ["output_multiplier is 0.2"]),
        (zlab(final_logit_softcapping=30.0), ["final_logit_softcapping is 30.0"]),
        (zlab({"block_size": 16}, block_size=8), ["block_size is 16 in dflash_config and 8 in config.json"]),
        (zlab({"mask_token_id": None}), ["mask_token_id is missing"]),
        (
            zlab(layer_types=["sliding_attention"] * 2, sliding_window=4),
            ["use_sliding_window is false"],
        ),
        (zlab(layer_types=["sliding_attention"] * 2, use_sliding_window=True), ["sliding_window is missing"]),
        (zlab({"causal": True}, is_causal=False), ["is_causal and causal disagree"]),
        (zlab({"use_swa": True, "swa_window_size": 8}, sliding_window=4), ["sliding_window is 4", "swa_window_size 8"]),
        (zlab(dflash_config=[1]), ["dflash_config must hold a JSON object"]),
        (specforge({"attention_mode": "mla"}), ["attention mode 'mla'"]),
        (specforge({"attention_modes": ["gqa", "kda"]}), ["attention mode 'kda'"]),
        (specforge({"shift_label": False}), ["shift_label is False"]),
        (specforge({"markov_rank": None}), ["markov_rank is missing"]),
        (specforge_eagle3(norm_output=False), ["norm_output is false"]),
        (specforge_eagle3(num_aux_hidden_states=5), ["num_aux_hidden_states is 5, but 3 layers"]),
        (specforge_eagle3(target_layer_ids=[1, 2, 3]), ["name different layers"]),
        (specforge_eagle3(model_type="qwen3_moe"), ["model_type", "'qwen3_moe'"]),
        (specforge_eagle3(num_hidden_layers=2), ["num_hidden_layers is 2"]),
        (specforge_eagle3(norm_before_fc=True, fc_norm=True), ["norm_before_fc and fc_norm are both true"]),
        (eagle(eagle_aux_hidden_state_layer_ids=[1, 2, 3]), ["eagle_aux_hidden_state_layer_ids has no meaning"]),
        (eagle(bias=True), ["bias is True"]),
        (eagle(truncated_vocab_size=100), ["'truncated_vocab_size' is not understood"]),
        (speculators(layer={"mlp_bias": True}), ["mlp_bias is True"]),
        (speculators(layer={"num_experts": 8}), ["transformer_layer_config: key 'num_experts'"]),
        (speculators(layer={"model_type": "mixtral"}), ["model_type 'mixtral'"]),
        (speculators(transformer_layer_config=None), ["transformer_layer_config is missing"]),
        (speculators(aux_hidden_state_layer_ids=[-1, 2]), ["aux_hidden_state_layer_ids must ascend from 0"]),
        (
            speculators(sample_from_anchor=None, speculators_config=None),
            ["sample_from_anchor is missing", "write false"],
        ),
        (speculators("dflash", shift_label=True), ["shift_label is True"]),
        (speculators(use_aux_hidden_state=False, new_key=3), ["'new_key' is not understood"]),
        (speculators_eagle3(aux_hidden_state_layer_ids=[1]), ["'aux_hidden_state_layer_ids' is not understood"]),
    ],
    ids=lambda value: "; ".join(value) if isinstance(value, list) else "",
)
def test_a_key_that_is_not_served_is_refused_by_name(config, words):
    with pytest.raises(CheckpointError) as caught:
        translate(config, "some/folder", 8)
    for word in ("some/folder", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architectures": ["DominoDraftModel"]}, ["Domino"]),
        (zlab({"projector_type": "domino"}), ["dflash_config.projector_type 'domino'"]),
        (speculators("dflash", projector_type="domino"), ["projector_type 'domino'"]),
        ({"architectures": ["LagunaDFlashForCausalLM"]}, ["Laguna"]),
        (zlab(model_type="laguna"), ["Laguna"]),
        ({"architectures": ["DeepseekV4ForCausalLM"], "dspark_block_size": 5}, ["DeepSeek V4"]),
        ({"architectures": ["Another"], "dspark_target_layer_ids": [40]}, ["dspark_target_layer_ids", "DeepSeek V4"]),
        ({"architectures": ["DFlash2DraftModel"]}, ["DFlash 2"]),
        ({"architectures": ["PeagleLlamaForCausalLM"]}, ["parallel drafting"]),
        ({"speculators_model_type": "peagle"}, ["speculators_model_type 'peagle'", "parallel drafting"]),
        ({"speculators_model_type": "mtp"}, ["MTP"]),
        (eagle(parallel_drafting=True), ["parallel_drafting"]),
        (eagle(speculative_token_tree="[(0,)]"), ["speculative_token_tree", "tree"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_family_that_is_not_run_is_known_for_a_drafter_and_refused_by_its_name(config, words):
    assert is_drafter(config)
    with pytest.raises(CheckpointError, match="is not supported") as caught:
        translate(config, "some/folder")
    for word in ("some/folder", *words):
        assert word in str(caught.value)


def test_a_model_that_is_none_is_told_how_such_a_one_drafts():
    with pytest.raises(CheckpointError, match=r'by itself drafts with kind = "draft_model"'):
        translate({"architectures": ["Qwen3ForCausalLM"]}, "some/folder")


@pytest.mark.parametrize("config", [{}, {"architectures": None}, {"architectures": ["LlamaForCausalLM"]}])
def test_what_is_no_drafter_of_a_known_format_is_refused_with_those_that_are(config):
    assert not is_drafter(config)
    with pytest.raises(CheckpointError, match="DeepSpec, SpecForge, z-lab DFlash, EAGLE"):
        translate(config, "some/folder")


@pytest.mark.parametrize(
    ("fixture", "name"),
    [
        ("dspark_vanilla", "layers.0.self_attn.g_proj.weight"),
        ("dspark_vanilla", "mask_embedding"),
        ("dspark_vanilla", "mtp.0.norm.weight"),
        ("dflash", "layers.0.self_attn.qkv_proj.weight"),
        ("eagle3", "markov_head.markov_w1.weight"),
        ("eagle3", "layers.1.hidden_norm.weight"),
    ],
)
def test_a_tensor_that_no_drafter_of_the_kind_has_is_named(tmp_path, fixture, name):
    config, tensors = foreign.deepspec(fixture)
    foreign.write(tmp_path, config, tensors | {name: torch.ones(2)})
    with pytest.raises(CheckpointError, match=f"tensor '{name}' is not understood"):
        read_checkpoint(tmp_path)


def test_two_names_of_one_tensor_are_refused(tmp_path):
    config, tensors = foreign.specforge_dspark(*foreign.deepspec("dspark_vanilla"))
    foreign.write(tmp_path, config, tensors | {"markov_head.markov_w1.weight": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"'logit_head.markov_head.markov_w1.weight' and 'markov_head"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "said"), [(torch.int8, "I8"), (torch.float8_e4m3fn, "F8_E4M3"), (torch.int32, "I32"), (torch.uint8, "U8")]
)
def test_a_quantised_tensor_is_named_with_its_type(tmp_path, dtype, said):
    config, tensors = foreign.deepspec("dspark_vanilla")
    foreign.write(tmp_path, config, tensors | {"fc.weight": tensors["fc.weight"].to(dtype)})
    with pytest.raises(CheckpointError, match=f"tensor 'fc.weight' is stored as {said}; quantised"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_floats_are_read(tmp_path, dtype):
    config, tensors = foreign.deepspec("dspark_vanilla")
    foreign.write(tmp_path, config, {name: tensor.to(dtype) for name, tensor in tensors.items()})
    assert {tensor.dtype for tensor in read_checkpoint(tmp_path).tensors.values()} == {dtype}


def test_a_folder_of_pickles_is_refused_saying_what_is_read(tmp_path):
    foreign.write(tmp_path, *foreign.deepspec("dflash"))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin is not read: only safetensors are.*save_file"):
        read_checkpoint(tmp_path)


def test_shards_are_read_as_one_file_is(tmp_path):
    config, tensors = foreign.deepspec("dspark_vanilla")
    (tmp_path / "config.json").write_text(json.dumps(config))
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    whole = read_checkpoint(FIXTURES / "dspark_vanilla")
    assert read_checkpoint(tmp_path).tensors.keys() == whole.tensors.keys()
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-2.safetensors is missing"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_a_broken_shard_index_is_named(tmp_path, index):
    foreign.write(tmp_path, *foreign.deepspec("dflash"))
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"model.safetensors.index.json"):
        read_checkpoint(tmp_path)
