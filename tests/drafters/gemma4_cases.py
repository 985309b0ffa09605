"""A tiny Gemma 4 and drafters of its own kind, as DeepSpec's files hold them."""

import torch

from bench.prove.tiny import scramble
from core.types import Numerics
from models.formats.translate import translate
from models.gemma4 import Gemma4
from models.gemma4_config import Gemma4Config
from models.network import for_inference

SLIDING, FULL = "sliding_attention", "full_attention"
ROPE = {
    SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
    FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0},
}
VOCAB_SIZE, HIDDEN_SIZE = 64, 32
TARGET = {
    "model_type": "gemma4_text",
    "vocab_size": VOCAB_SIZE,
    "vocab_size_per_layer_input": VOCAB_SIZE,
    "hidden_size": HIDDEN_SIZE,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 1,
    "head_dim": 8,
    "global_head_dim": 24,
    "attention_k_eq_v": True,
    "final_logit_softcapping": 6.0,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size_per_layer_input": 0,
    "layer_types": [SLIDING, FULL, SLIDING, FULL],
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "rope_parameters": ROPE,
    "sliding_window": 7,
    "tie_word_embeddings": False,
}
DRAFTER = TARGET | {
    "architectures": ["Gemma4DSparkModel"],
    "block_size": 5,
    "confidence_head_with_markov": True,
    "enable_confidence_head": True,
    "layer_types": [FULL, FULL],
    "markov_head_type": "vanilla",
    "markov_rank": 8,
    "mask_token_id": 4,
    "num_hidden_layers": 2,
    "num_target_layers": 4,
    "target_layer_ids": [-1, 0, 2],
    "target_model_type": "gemma4",
    "target_text_model_type": "gemma4_text",
}


def gemma4_target(numerics=Numerics.FAST, seed=0, sharpness=1.5):
    """A Gemma 4 that prefers a fixed successor of each token, bent by what came before it."""
    target = Gemma4(Gemma4Config.from_json(TARGET), numerics)
    scramble(target, seed, 1.2)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(VOCAB_SIZE, HIDDEN_SIZE, generator=generator), dim=-1)
    with torch.no_grad():
        for layer in target.layers:
            layer.layer_scalar.fill_(0.9)
            # Norms behind the layers make all of them as long as the stream; these leave the token the upper hand.
            for norm in (layer.post_attention_layernorm, layer.post_feedforward_layernorm):
                norm.weight.fill_(0.35)
        target.embed_tokens.weight.copy_(rows)
        target.lm_head.weight[torch.randperm(VOCAB_SIZE, generator=generator)] = rows * sharpness
    return for_inference(target, torch.float32)


def canonical(**changes):
    """The canonical config of DeepSpec's, but for `changes`."""
    config = {name: value for name, value in (DRAFTER | changes).items() if value is not None}
    return translate(config, "here", 4).config


def random_checkpoint(seed=1, *, own_ends=False, **changes):
    """A canonical config and random tensors for it, every norm and scalar uneven."""
    config = canonical(**changes)
    size, wide, rank = HIDDEN_SIZE, len(config["target_layer_ids"]) * HIDDEN_SIZE, config["markov_rank"]
    is_k_eq_v, dim = config.get("attention_k_eq_v", False), config["global_head_dim"]
    kv_heads = config["num_global_key_value_heads" if is_k_eq_v else "num_key_value_heads"]
    heads, inner = config["num_attention_heads"], config["intermediate_size"]
    shapes = {"fc.weight": (size, wide), "hidden_norm.weight": (size,), "norm.weight": (size,)}
    norms = ("input", "post_attention", "pre_feedforward", "post_feedforward")
    for layer in range(config["num_hidden_layers"]):
        own = {f"{name}_layernorm.weight": (size,) for name in norms}
        own |= {
            "layer_scalar": (1,),
            "self_attn.q_proj.weight": (heads * dim, size),
            "self_attn.k_proj.weight": (kv_heads * dim, size),
            "self_attn.o_proj.weight": (size, heads * dim),
            "self_attn.q_norm.weight": (dim,),
            "self_attn.k_norm.weight": (dim,),
            "mlp.gate_proj.weight": (inner, size),
            "mlp.up_proj.weight": (inner, size),
            "mlp.down_proj.weight": (size, inner),
        }
        if not is_k_eq_v:
            own["self_attn.v_proj.weight"] = (kv_heads * dim, size)
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in own.items()}
    if rank:
        shapes |= {f"markov_head.markov_{name}.weight": (VOCAB_SIZE, rank) for name in ("w1", "w2")}
    if rank and config["markov_head_type"] == "rnn":
        shapes["markov_head.joint_proj.weight"] = (3 * rank, 2 * rank + size)
        shapes["markov_head.joint_proj.bias"] = (3 * rank,)
    if config["enable_confidence_head"]:
        shapes |= {"confidence_head.proj.weight": (1, size + rank), "confidence_head.proj.bias": (1,)}
    if own_ends:
        shapes |= {"embed_tokens.weight": (VOCAB_SIZE, size), "lm_head.weight": (VOCAB_SIZE, size)}
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, shape in shapes.items():
        draws = torch.randn(shape, generator=generator)
        tensors[name] = 1 + 0.2 * draws if len(shape) == 1 else draws * 1.5 / shape[-1] ** 0.5
    return config, tensors
