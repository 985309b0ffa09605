"""A tiny target of every family, all of 32 tokens and 32 channels, so that the tiny drafters fit beside each.

All prefer the same successor of each token (bench/prove/tiny.py), bent by what their layers make of the text before it:
texts neither run in short circles nor are noise.
"""

import torch
from transformers import MistralConfig, MistralForCausalLM

from bench.prove.tiny import scramble, tiny_config, tiny_target
from core.types import Numerics
from models.gemma4 import Gemma4
from models.gemma4_config import Gemma4Config
from models.llama import Llama, LlamaConfig
from models.load_target import load_target
from models.network import for_inference
from models.qwen3 import Qwen3
from models.qwen3_moe import Qwen3Moe, Qwen3MoeConfig
from models.rope import Llama3Scaling

SLIDING, FULL = "sliding_attention", "full_attention"
VOCAB_SIZE = 32
SIZES = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 512,
}  # fmt: skip
# Some pairs of channels are kept, some stretched within the first 32 positions.
STRETCHED = Llama3Scaling(factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
# Layers of two shapes of heads, keys as values in the full ones, the last two layers on keys of earlier ones.
GEMMA4 = SIZES | {
    "num_hidden_layers": 4, "layer_types": [SLIDING, FULL, SLIDING, FULL], "sliding_window": 7,
    "global_head_dim": 16, "num_global_key_value_heads": 1, "attention_k_eq_v": True, "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB_SIZE, "tie_word_embeddings": False,
}  # fmt: skip


def draw(network, embedding, head, seed, scale=1.2):
    """Draw a network's weights, and give it the successors that all have."""
    like = tiny_target(VOCAB_SIZE)
    scramble(network, seed, scale)
    with torch.no_grad():
        embedding.copy_(like.embedding)
        head.copy_(like.head)


def invariant(network, seed, scale=1.2):
    draw(network, network.embedding, network.head, seed, scale)
    return for_inference(network, torch.float32)


def make_qwen3(seed, _):
    return invariant(Qwen3(tiny_config(VOCAB_SIZE, tied=False), Numerics.BATCH_INVARIANT), seed)


def make_llama(seed, _):
    config = LlamaConfig(**SIZES, num_hidden_layers=3, rope_scaling=STRETCHED)
    return invariant(Llama(config, Numerics.BATCH_INVARIANT), seed)


def make_qwen3_moe(seed, _):
    config = Qwen3MoeConfig(
        **SIZES,
        num_hidden_layers=3,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        mlp_only_layers=(1,),
    )
    return invariant(Qwen3Moe(config, Numerics.BATCH_INVARIANT), seed)


def make_gemma4(seed, _):
    network = Gemma4(Gemma4Config.from_json(GEMMA4), Numerics.BATCH_INVARIANT)
    draw(network, network.embedding, network.head, seed)
    with torch.no_grad():
        for layer in network.layers:
            layer.layer_scalar.fill_(0.9)
            # What a layer adds is normed, and the embedding enters sqrt(32) times as long: else nothing would bend it.
            for norm in (layer.post_attention_layernorm, layer.post_feedforward_layernorm):
                norm.weight.fill_(3.0)
    return for_inference(network, torch.float32)


def make_mistral(seed, folder):
    """Computed by transformers, in fast numerics: it has no others."""
    config = MistralConfig(**SIZES, num_hidden_layers=3, sliding_window=7, bos_token_id=None, eos_token_id=None)
    reference = MistralForCausalLM(config)
    draw(reference, reference.model.embed_tokens.weight, reference.lm_head.weight, seed)
    reference.save_pretrained(folder / str(seed))
    return load_target(folder / str(seed), torch.float32)


FAMILIES = {
    "qwen3": make_qwen3,
    "llama": make_llama,
    "qwen3_moe": make_qwen3_moe,
    "gemma4": make_gemma4,
    "transformers": make_mistral,
}
