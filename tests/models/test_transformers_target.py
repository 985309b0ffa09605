"""Targets that transformers computes, with attention over specd's pages, against transformers by itself."""

import json
import shutil

import pytest
import torch
import transformers
from transformers.models.mistral import modeling_mistral

from core.errors import CheckpointError, ConfigError
from core.types import Numerics
from models.load_target import load_target
from models.transformers_target import TransformersTarget
from parity import assert_same_function, assert_same_greedy_texts, assert_same_over_pages, dense, save_random

SHAPE = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0,
}  # fmt: skip
WINDOWED = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 7}

SERVED = {
    "Mistral": {"sliding_window": 7, "head_dim": 20},
    "Qwen2": WINDOWED | {"use_sliding_window": True, "tie_word_embeddings": True},
    "Phi3": {"sliding_window": None},
    "Olmo2": {},
    "Gemma3": WINDOWED | {"head_dim": 16, "query_pre_attn_scalar": 16},
    "Granite": {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "attention_multiplier": 0.4},
}
GPT_OSS = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 7, "head_dim": 16}
REFUSED = {
    "Mamba": ({}, "it keeps a recurrent state"),
    "Qwen3Next": ({"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
                   "shared_expert_intermediate_size": 16}, "it keeps a recurrent state"),
    "DeepseekV3": ({}, r"multi-head latent attention \(kv_lora_rank\)"),
    "Gemma2": ({"head_dim": 16}, "its attention needs softcap"),
    "GptOss": (GPT_OSS, "its attention needs s_aux"),
    "Bloom": ({}, "does not go through transformers' attention interface"),
    "OPT": ({"ffn_dim": 64, "word_embed_proj_dim": 48}, "something is added to its embeddings"),
}  # fmt: skip


def reference_of(family, keys):
    name = "Gemma3Text" if family == "Gemma3" else family
    known = dict.fromkeys(("bos_token_id", "eos_token_id"))
    config = getattr(transformers, f"{name}Config")(**SHAPE | known | keys)
    return getattr(transformers, f"{family}ForCausalLM")(config)


@pytest.fixture(scope="module", params=SERVED)
def case(request, tmp_path_factory):
    """A checkpoint folder and transformers' model of it."""
    reference = reference_of(request.param, SERVED[request.param])
    return save_random(tmp_path_factory.mktemp(request.param), reference), reference


def test_logits_and_every_layers_output_match_transformers(case):
    folder, reference = case
    target = load_target(folder, torch.float32)
    assert isinstance(target, TransformersTarget)
    assert_same_function(target, reference)


def test_so_do_ragged_rows_over_pages(case):
    folder, reference = case
    assert_same_over_pages(load_target(folder, torch.float32), reference)


def test_the_engine_writes_the_greedy_texts_of_transformers(case):
    folder, reference = case
    assert_same_greedy_texts(load_target(folder, torch.float32), reference)


@torch.inference_mode()
def test_embedded_tokens_are_what_enters_the_first_layer(case):
    folder, reference = case
    ids = torch.arange(20)
    entering = reference(ids[None], output_hidden_states=True).hidden_states[0][0]
    torch.testing.assert_close(load_target(folder, torch.float32).embed(ids), entering, atol=1e-4, rtol=1e-4)


def test_drafters_find_the_embedding_and_the_head_to_share(case):
    folder, reference = case
    for dtype in (torch.float32, torch.bfloat16):
        target = load_target(folder, dtype)
        assert torch.equal(target.embedding, reference.get_input_embeddings().weight.to(dtype))
        assert torch.equal(target.head, reference.get_output_embeddings().weight.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_as_many_bits_are_no_reason_to_refuse_a_model(case, dtype):
    folder, reference = case
    target, ids = load_target(folder, dtype), torch.arange(20)
    with torch.inference_mode():
        found = target.logits(target(ids[None], ids[None], dense(target))[0])
        expected = reference(ids[None]).logits
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


def test_a_model_whose_head_transformers_does_not_name_is_refused(mistral, monkeypatch):
    monkeypatch.setattr(modeling_mistral.MistralForCausalLM, "get_output_embeddings", lambda _: None)
    with pytest.raises(CheckpointError, match="does not say which module is its output head"):
        load_target(mistral, torch.float32)


@torch.inference_mode()
def test_a_step_that_only_prefills_reads_no_logits(case):
    """Such as the first chunk of a long prompt that comes alone."""
    target = load_target(case[0], torch.float32)
    assert target.logits(torch.zeros(0, target.shape.hidden_size)).shape == (0, target.shape.vocab_size)


@pytest.mark.parametrize("family", REFUSED)
def test_what_the_pages_cannot_express_is_refused_by_name(family, tmp_path):
    keys, message = REFUSED[family]
    folder = save_random(tmp_path, reference_of(family, keys))
    with pytest.raises(
        CheckpointError, match=f"{family}.*ForCausalLM is none that specd.*, and transformers.*{message}"
    ):
        load_target(folder, torch.float32)


@pytest.fixture
def mistral(tmp_path):
    return save_random(tmp_path / "mistral", reference_of("Mistral", SERVED["Mistral"]))


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, "has no decoder-only language model"),
        ({"is_encoder_decoder": True}, "it is an encoder-decoder model"),
        ({"architectures": ["NewForCausalLM"], "model_type": "new", "auto_map": {"AutoConfig": "new.Config"}},
         r"it needs code that lies in the checkpoint \(auto_map\)"),
        ({"architectures": ["NewForCausalLM"], "model_type": "new"}, "does not know it"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "its rope type 'dynamic'"),
        ({"architectures": []}, "config.json must name its architectures"),
        ({"quantization_config": {"quant_method": "awq"}}, "method 'awq'"),
        ({"num_hidden_layers": 4}, "missing keys of the checkpoint: model.layers.3"),
        ({"num_hidden_layers": 2}, "unexpected keys of the checkpoint: model.layers.2"),
    ],
)  # fmt: skip
def test_what_config_json_tells_is_refused_before_or_while_loading(mistral, changes, message):
    edit_config(mistral, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_target(mistral, torch.float32)


def test_batch_invariant_numerics_are_refused_by_name(mistral):
    with pytest.raises(ConfigError, match=r"'batch_invariant' is not possible for MistralForCausalLM"):
        load_target(mistral, torch.float32, Numerics.BATCH_INVARIANT)


def test_a_missing_library_is_named_with_its_extra(mistral, monkeypatch):
    monkeypatch.setattr("models.load_target.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"MistralForCausalLM is none that specd computes itself.*pip install 'specd\[hf\]'"
    ):
        load_target(mistral, torch.float32)


def test_weights_come_from_safetensors_only(mistral):
    shutil.move(mistral / "model.safetensors", mistral / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="transformers cannot load it"):
        load_target(mistral, torch.float32)


def test_a_row_that_reads_another_but_by_attention_is_found_out(mistral, monkeypatch):
    plain = modeling_mistral.MistralMLP.forward
    monkeypatch.setattr(modeling_mistral.MistralMLP, "forward", lambda mlp, x: plain(mlp, x + x.roll(1, 1)))
    with pytest.raises(CheckpointError, match="a row reads others by other ways than attention"):
        load_target(mistral, torch.float32)


def test_positions_that_are_not_taken_as_given_are_found_out(mistral, monkeypatch):
    plain = modeling_mistral.MistralRotaryEmbedding.forward
    monkeypatch.setattr(
        modeling_mistral.MistralRotaryEmbedding,
        "forward",
        lambda rope, x, position_ids: plain(rope, x, position_ids.sort().values),
    )
    with pytest.raises(CheckpointError, match="the attention interface changes what it computes"):
        load_target(mistral, torch.float32)


def test_a_mask_that_is_neither_causal_nor_a_window_is_found_out(tmp_path, monkeypatch):
    folder = save_random(tmp_path, reference_of("Mistral", {"sliding_window": None}))
    plain = modeling_mistral.create_causal_mask
    sinks = {"or_mask_function": lambda b, h, q, k: k < 3}
    monkeypatch.setattr(modeling_mistral, "create_causal_mask", lambda **told: plain(**told, **sinks))
    with pytest.raises(CheckpointError, match="its rows do not see all or a window of the rows before them"):
        load_target(folder, torch.float32)
