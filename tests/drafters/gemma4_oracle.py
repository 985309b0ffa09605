"""Gemma 4's draft layers by hand: one block of one sequence in dense float64, from a canonical config and its tensors.

What is common to all drafters of the family, the walk along the slots and plain sums, is dflash_oracle.py's.
"""

import math

import torch

from tests.drafters.dflash_oracle import linear, norm, walk


def draft_by_hand(config, tensors, embedding, head, features, anchor):
    """Draft greedily after an anchor at position len(features); embedding and head serve where the file has none."""
    w = {name: tensor.double() for name, tensor in tensors.items()}
    embedding, head = w.get("embed_tokens.weight", embedding.double()), w.get("lm_head.weight", head.double())
    ids = torch.tensor([anchor] + [config["mask_token_id"]] * (config["block_size"] - 1))
    hidden = embedding[ids] * math.sqrt(config["hidden_size"])
    context = norm(features.double() @ w["fc.weight"].T, w["hidden_norm.weight"])
    for layer in range(config["num_hidden_layers"]):
        prefix = f"layers.{layer}."
        part = {name.removeprefix(prefix): tensor for name, tensor in w.items() if name.startswith(prefix)}
        mixed = attend(config, part, norm(hidden, part["input_layernorm.weight"]), context)
        hidden = hidden + norm(mixed, part["post_attention_layernorm.weight"])
        inner = norm(hidden, part["pre_feedforward_layernorm.weight"])
        inner = gelu(linear(part, "mlp.gate_proj", inner)) * linear(part, "mlp.up_proj", inner)
        hidden = hidden + norm(linear(part, "mlp.down_proj", inner), part["post_feedforward_layernorm.weight"])
        hidden = hidden * part["layer_scalar"]
    hidden = norm(hidden, w["norm.weight"])
    logits, cap = hidden @ head.T, config.get("final_logit_softcapping")
    return walk(config, w, hidden, logits if cap is None else cap * (logits / cap).tanh(), anchor)


def attend(config, part, normed, context):
    """Attend from each slot to the whole context and the whole block; scores are not scaled."""
    heads, size, is_k_eq_v = config["num_attention_heads"], config["global_head_dim"], config["attention_k_eq_v"]
    kv_heads = config["num_global_key_value_heads" if is_k_eq_v else "num_key_value_heads"]
    rows = torch.cat((context, normed))
    q = linear(part, "self_attn.q_proj", normed).view(-1, heads, size)
    k = linear(part, "self_attn.k_proj", rows).view(-1, kv_heads, size)
    v = k if is_k_eq_v else linear(part, "self_attn.v_proj", rows).view(-1, kv_heads, size)
    rope = config["rope_parameters"]["full_attention"]
    places = torch.arange(len(rows))
    q = turn(norm(q, part["self_attn.q_norm.weight"]), places[len(context) :], rope)
    k = turn(norm(k, part["self_attn.k_norm.weight"]), places, rope)
    v = norm(v, 1.0)
    out = []
    for head in range(heads):
        source = head // (heads // kv_heads)
        out.append((q[:, head] @ k[:, source].T).softmax(-1) @ v[:, source])
    return linear(part, "self_attn.o_proj", torch.cat(out, -1))


def turn(x, positions, rope):
    """Rotate the first quarter, or whatever part, of the pairs (i, i + D / 2) of x [n, heads, D]; the rest stand."""
    half = x.shape[-1] // 2
    turned = x.clone()
    for pair in range(int(rope["partial_rotary_factor"] * half)):
        angle = positions.double()[:, None] * rope["rope_theta"] ** (-pair / half)
        first, second = x[..., pair], x[..., pair + half]
        turned[..., pair] = first * angle.cos() - second * angle.sin()
        turned[..., pair + half] = second * angle.cos() + first * angle.sin()
    return turned


def gelu(x):
    """The tanh form."""
    return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())
