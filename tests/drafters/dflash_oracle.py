"""DFlash and DSpark by hand: one block of one sequence in dense float64, from a canonical config and its tensors."""

from typing import NamedTuple

import torch


class Block(NamedTuple):
    """hidden [G, H], base_logits and logits along them [G, Vd], greedy tokens [G] (target ids), confidence [G]."""

    hidden: torch.Tensor
    base_logits: torch.Tensor
    logits: torch.Tensor
    tokens: list[int]
    confidence: list[float]


def draft_by_hand(config, tensors, embedding, head, features, anchor):
    """Draft greedily after an anchor at position len(features); embedding and head serve where the file has none."""
    w = {name: tensor.double() for name, tensor in tensors.items()}
    embedding, head = w.get("embed_tokens.weight", embedding.double()), w.get("lm_head.weight", head.double())
    size, length = config["block_size"], len(features)
    ids = torch.tensor([anchor] + [config["mask_token_id"]] * (size - 1))
    context = norm(features.double() @ w["fc.weight"].T, w["hidden_norm.weight"])
    hidden, places = embedding[ids], torch.arange(length, length + size)
    for layer in range(config["num_hidden_layers"]):
        part = {n.removeprefix(f"layers.{layer}."): t for n, t in w.items() if n.startswith(f"layers.{layer}.")}
        normed = norm(hidden, part["input_layernorm.weight"])
        hidden = hidden + attend(config, part, layer, normed, context, places)
        normed = norm(hidden, part["post_attention_layernorm.weight"])
        gate, up = linear(part, "mlp.gate_proj", normed), linear(part, "mlp.up_proj", normed)
        hidden = hidden + linear(part, "mlp.down_proj", gate * gate.sigmoid() * up)
    hidden = norm(hidden, w["norm.weight"])
    if not config.get("sample_from_anchor", True):
        hidden = hidden[1:]
    return walk(config, w, hidden, hidden @ head.T, anchor)


def walk(config, w, hidden, base, anchor):
    """Choose the greedy tokens slot by slot."""
    rank, kind = config.get("markov_rank", 0), config.get("markov_head_type", "vanilla")
    previous, state, logits, tokens, confidence = anchor, torch.zeros(rank).double(), [], [], []
    for h, row in zip(hidden, base, strict=True):
        known = h
        if rank:
            e = w["markov_head.markov_w1.weight"][previous]
            told = e
            if kind == "gated":
                told = e * linear(w, "markov_head.gate_proj", torch.cat((h, e))).sigmoid()
            if kind == "rnn":
                gate, candidate, output = linear(w, "markov_head.joint_proj", torch.cat((state, e, h))).chunk(3)
                state = gate.sigmoid() * state + (1 - gate.sigmoid()) * candidate.tanh()
                told = output.tanh()
            row = row + w["markov_head.markov_w2.weight"] @ told
            if config.get("confidence_head_with_markov", True):
                known = torch.cat((h, e))
        if config.get("enable_confidence_head"):
            confidence.append(float(linear(w, "confidence_head.proj", known)))
        best = int(row.argmax())
        previous = best + int(w["d2t"][best]) if "d2t" in w else best
        logits.append(row)
        tokens.append(previous)
    return Block(hidden, base, torch.stack(logits), tokens, confidence)


def attend(config, part, layer, normed, context, places):
    """Attend from a block's slots to context and block, under the layer's own mask."""
    heads, kv_heads, size = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    rows, keys_at = torch.cat((context, normed)), torch.arange(len(context) + len(normed))
    q = linear(part, "self_attn.q_proj", normed).view(-1, heads, size)
    k = linear(part, "self_attn.k_proj", rows).view(-1, kv_heads, size)
    v = linear(part, "self_attn.v_proj", rows).view(-1, kv_heads, size)
    if "self_attn.q_norm.weight" in part:
        q, k = norm(q, part["self_attn.q_norm.weight"]), norm(k, part["self_attn.k_norm.weight"])
    theta, stretch = config["rope_parameters"]["rope_theta"], config["rope_parameters"].get("factor", 1.0)
    q, k = rope(q, places / stretch, theta), rope(k, keys_at / stretch, theta)
    behind = places[:, None] - keys_at
    seen = torch.ones_like(behind, dtype=torch.bool)
    slides = config.get("layer_types", ["full_attention"] * 9)[layer] == "sliding_attention"
    if slides:
        seen &= behind < config["sliding_window"]
    if config.get("sliding_is_causal", True) if slides else config.get("is_causal", False):
        seen &= behind >= 0
    k, v = (x.repeat_interleave(heads // kv_heads, 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) / size**0.5
    mixed = torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)
    return linear(part, "self_attn.o_proj", mixed.flatten(1))


def rope(x, positions, theta):
    """Rotate x [n, heads, D], the two halves of a head against each other."""
    half = x.shape[-1] // 2
    angles = positions[:, None].double() / theta ** (torch.arange(half).double() / half)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def norm(x, weight):
    """RMSNorm over the last axis."""
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def linear(w, name, x):
    """A projection, with a bias where there is one."""
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)
