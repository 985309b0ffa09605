"""Checkpoints, caches and questions for Eagle3, and what its drafts should be, computed by hand in float64."""

import json
import math

import torch
from safetensors.torch import load_file

from core.tensors import Commit, DraftAsk, PagedKV, Processing
from core.types import Numerics
from drafters.eagle3 import Eagle3
from models.load_drafter import make_network
from models.load_target import load_target
from paths import FIXTURES

BLOCK_SIZE = 4
WIDTH = 7


def fixture_target(numerics=Numerics.FAST):
    return load_target(FIXTURES / "target_qwen3", torch.float32, numerics)


def fixture_config(**changes):
    return json.loads((FIXTURES / "eagle3" / "config.json").read_text()) | changes


def fixture_tensors():
    return load_file(FIXTURES / "eagle3" / "model.safetensors")


def make_drafter(target, config=None, tensors=None, kind=Eagle3):
    network = make_network("eagle3", config or fixture_config(), tensors or fixture_tensors(), target, "here")
    return kind("eagle3", network, target)


def random_checkpoint(target, seed=0, *, own_embedding=False, **changes):
    """A canonical checkpoint with every norm and bias uneven; `changes` go to its config."""
    config = fixture_config(num_drafts=WIDTH, hidden_size=64, head_dim=24) | changes
    generator = torch.Generator().manual_seed(seed)
    size, dim, count = config["hidden_size"], config["head_dim"], len(config["target_layer_ids"])
    wide, middle = config.get("target_hidden_size", size), config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    vocab, drafted = config["vocab_size"], config.get("draft_vocab_size", config["vocab_size"])
    layer, attention = "layers.0.", "layers.0.self_attn."
    shapes = {
        "fc.weight": (size, count * wide),
        "norm.weight": (size,),
        **{f"{layer}{name}.weight": (size,) for name in ("hidden_norm", "input_layernorm", "post_attention_layernorm")},
        f"{attention}q_proj.weight": (heads, 2 * size),
        f"{attention}k_proj.weight": (kv_heads, 2 * size),
        f"{attention}v_proj.weight": (kv_heads, 2 * size),
        f"{attention}o_proj.weight": (size, heads),
        f"{layer}mlp.gate_proj.weight": (middle, size),
        f"{layer}mlp.up_proj.weight": (middle, size),
        f"{layer}mlp.down_proj.weight": (size, middle),
    }
    if config.get("qk_norm", config.get("model_type") != "llama"):
        shapes |= {f"{attention}{name}.weight": (dim,) for name in ("q_norm", "k_norm")}
    if config.get("attention_bias"):
        sizes = {"q_proj": heads, "k_proj": kv_heads, "v_proj": kv_heads, "o_proj": size}
        shapes |= {f"{attention}{name}.bias": (length,) for name, length in sizes.items()}
    if config.get("norm_before_fc"):
        shapes["input_norm.weight"] = (count * wide,)
    if config.get("fc_norm"):
        shapes |= {f"fc_norm.{i}.weight": (wide,) for i in range(count)}
    if own_embedding or wide != size:
        shapes["embed_tokens.weight"] = (vocab, size)
    if drafted < vocab or wide != size:
        shapes["lm_head.weight"] = (drafted, size)
    tensors = {}
    for name, shape in shapes.items():
        draws = torch.randn(shape, generator=generator)
        tensors[name] = draws / shape[-1] ** 0.5 * 2 if len(shape) > 1 else 1 + 0.3 * draws
    if drafted < vocab:
        kept = torch.randperm(vocab, generator=generator)[:drafted].sort().values
        tensors["d2t"] = kept - torch.arange(drafted)
    return config, tensors


def empty_kv(sequences=1, blocks=12, kv_heads=2, head_dim=24):
    """Poisoned: a row that is read before it was written spoils the result."""
    shape = (sequences * blocks + 1, BLOCK_SIZE, kv_heads, head_dim)
    keys, values = torch.full(shape, torch.nan), torch.full(shape, torch.nan)
    tables = torch.randperm(sequences * blocks).view(sequences, blocks) + 1
    return PagedKV((keys,), (values,), tables, BLOCK_SIZE)


def commit(ids, features, kv, start, stop, slot=0):
    """Rows start..stop - 1 of one sequence."""
    rows = torch.arange(start, stop)
    cu_rows = torch.tensor([0, stop - start])
    return Commit(torch.tensor([slot]), cu_rows, rows, ids[rows], ids[rows + 1], features[rows], kv)


def ask(kv, anchors, positions, temperature=0.0, noise=None, slots=None, lengths=None):
    batch = len(anchors)
    off = torch.zeros(batch, dtype=torch.int64)
    temperatures = torch.full((batch,), temperature)
    processing = Processing(
        temperatures, off, torch.ones(batch), torch.zeros(batch), is_plain=temperature == 1.0, truncates=False
    )
    noise = torch.rand(batch, WIDTH, generator=torch.Generator().manual_seed(1)) if noise is None else noise
    lengths = torch.tensor(lengths or [WIDTH] * batch, dtype=torch.int32)
    slots = torch.arange(batch) if slots is None else torch.tensor(slots)
    return DraftAsk(slots, torch.tensor(anchors), torch.tensor(positions), lengths, processing, noise, kv)


class ByHand:
    """Raw logits along a chain, from the file's tensors and nothing of the network: every row anew, in float64."""

    def __init__(self, config, tensors, target):
        self.config, self.tensors = config, {name: tensor.double() for name, tensor in tensors.items()}
        self.embedding = self.tensors.get("embed_tokens.weight", target.embedding.double())
        self.head = self.tensors.get("lm_head.weight", target.head.double())

    def chain(self, ids, features, drafts):
        """Logits [len(drafts), V] before each of `drafts`, after tokens ids [n + 1] and features [n, F] of all but the
        last; tokens that cannot be drafted have -inf."""
        states = [self.fuse(row) for row in features.double()]
        tokens, logits = ids[1:].tolist(), []
        for draft in drafts:
            out = self.last_row(states, tokens)
            normed = self.norm(out, "norm")
            logits.append(self.widened(self.head @ normed))
            states.append(normed if self.config.get("feeds_normed") else out)
            tokens.append(draft)
        return torch.stack(logits)

    def fuse(self, row):
        count = len(self.config["target_layer_ids"])
        if self.config.get("norm_before_fc"):
            row = self.norm(row, "input_norm")
        if self.config.get("fc_norm"):
            row = torch.cat([self.norm(part, f"fc_norm.{i}") for i, part in enumerate(row.chunk(count))])
        return self.tensors["fc.weight"] @ row

    def last_row(self, states, tokens):
        dim, kv_heads = self.config["head_dim"], self.config["num_key_value_heads"]
        shared = self.config["num_attention_heads"] // kv_heads
        keys = [self.rotated(self.heads("k", s, t), i, "k") for i, (s, t) in enumerate(zip(states, tokens))]
        values = [self.heads("v", s, t) for s, t in zip(states, tokens)]
        state, last = states[-1], len(states) - 1
        queries = self.rotated(self.heads("q", state, tokens[-1]), last, "q")
        mixed = []
        for head, query in enumerate(queries):
            scores = torch.stack([key[head // shared] @ query for key in keys]) / dim**0.5
            weights = scores.softmax(0)
            mixed.append(sum(w * value[head // shared] for w, value in zip(weights, values)))
        x = self.norm(state, "layers.0.hidden_norm") if self.config.get("norm_before_residual") else state
        x = x + self.linear("layers.0.self_attn.o_proj", torch.cat(mixed))
        h = self.norm(x, "layers.0.post_attention_layernorm")
        gate, up = (self.linear(f"layers.0.mlp.{name}_proj", h) for name in ("gate", "up"))
        return x + self.linear("layers.0.mlp.down_proj", gate * gate.sigmoid() * up)

    def heads(self, kind, state, token):
        normed = self.norm(self.embedding[token], "layers.0.input_layernorm")
        pair = torch.cat((normed, self.norm(state, "layers.0.hidden_norm")))
        return self.linear(f"layers.0.self_attn.{kind}_proj", pair).view(-1, self.config["head_dim"])

    def rotated(self, heads, position, kind):
        if f"layers.0.self_attn.{kind}_norm.weight" in self.tensors:
            heads = torch.stack([self.norm(head, f"layers.0.self_attn.{kind}_norm") for head in heads])
        half = self.config["head_dim"] // 2
        rope = self.config["rope_parameters"]
        frequencies = [rope["rope_theta"] ** (-i / half) for i in range(half)]
        if rope["rope_type"] == "linear":
            frequencies = [frequency / rope["factor"] for frequency in frequencies]
        if rope["rope_type"] == "llama3":
            frequencies = [stretched(frequency, rope) for frequency in frequencies]
        turns = torch.polar(torch.ones(half).double(), position * torch.tensor(frequencies).double())
        turned = torch.complex(heads[:, :half], heads[:, half:]) * turns
        return torch.cat((turned.real, turned.imag), 1)

    def linear(self, name, x):
        out = self.tensors[f"{name}.weight"] @ x
        bias = self.tensors.get(f"{name}.bias")
        return out if bias is None else out + bias

    def norm(self, x, name):
        return x / (x.square().mean() + 1e-6).sqrt() * self.tensors[f"{name}.weight"]

    def widened(self, logits):
        if "d2t" not in self.tensors:
            return logits
        wide = torch.full((self.config["vocab_size"],), -torch.inf).double()
        for i, difference in enumerate(self.tensors["d2t"].long().tolist()):
            wide[i + difference] = logits[i]
        return wide


def stretched(frequency, rope):
    """Llama 3.1's frequency of one pair of channels: long waves stretched, short ones kept, a ramp between."""
    length, wave = rope["original_max_position_embeddings"], 2 * math.pi / frequency
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    if wave > length / low:
        return frequency / rope["factor"]
    if wave < length / high:
        return frequency
    ramp = (length / wave - low) / (high - low)
    return (1 - ramp) * frequency / rope["factor"] + ramp * frequency
