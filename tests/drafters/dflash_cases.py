"""Drafters of the DFlash family beside the fixture target, and what an engine would hand them."""

from functools import cache

import torch
from safetensors.torch import load_file

from core.tensors import Commit, DraftAsk, PagedKV, Processing
from core.types import Numerics
from drafters.dflash import DFlash
from drafters.dspark import DSpark
from models.checkpoint import read_tensors
from models.config_json import read_config
from models.load_drafter import make_network
from models.load_target import load_target
from paths import FIXTURES

BLOCK_SIZE = 4
FIXTURE_NAMES = ("dspark_vanilla", "dspark_gated", "dspark_rnn", "dspark_plain", "dflash")


@cache
def fixture_target(numerics=Numerics.FAST):
    return load_target(FIXTURES / "target_qwen3", torch.float32, numerics)


@cache
def expected_of(name):
    return load_file(FIXTURES / name / "expected.safetensors")


@cache
def fixture_checkpoint(name):
    """Config and tensors of a fixture."""
    return read_config(FIXTURES / name), read_tensors(FIXTURES / name)


def make_drafter(config, tensors, numerics=Numerics.FAST):
    """The drafter of a canonical checkpoint."""
    target = fixture_target(numerics)
    network = make_network("dflash", config, tensors, target, "here")
    kind = DSpark if network.markov_head or network.config.enable_confidence_head else DFlash
    return kind("drafter", network, target)


def fixture_drafter(name, numerics=Numerics.FAST, **changes):
    config, tensors = fixture_checkpoint(name)
    return make_drafter(config | changes, tensors, numerics)


def random_checkpoint(seed=0, *, own_ends=False, **changes):
    """A canonical config and random tensors for it; with own_ends an embedding and a head of its own.

    It is the config of the dflash fixture, but for `changes`.
    """
    config = {**fixture_checkpoint("dflash")[0], **changes}
    hidden, heads, kv_heads = (config[n] for n in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    size, inner, vocab = config["head_dim"], config["intermediate_size"], config["vocab_size"]
    draftable, rank = config.get("draft_vocab_size", vocab), config["markov_rank"]
    fused = len(config["target_layer_ids"]) * config.get("target_hidden_size", hidden)
    shapes = {"fc.weight": (hidden, fused), "hidden_norm.weight": (hidden,), "norm.weight": (hidden,)}
    for layer in range(config["num_hidden_layers"]):
        own = {
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (heads * size, hidden),
            "self_attn.k_proj.weight": (kv_heads * size, hidden),
            "self_attn.v_proj.weight": (kv_heads * size, hidden),
            "self_attn.o_proj.weight": (hidden, heads * size),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
        }
        has_bias = {"self_attn": config["attention_bias"], "mlp": config.get("mlp_bias")}
        own |= {
            f"{name.removesuffix('weight')}bias": shape[:1]
            for name, shape in own.items()
            if has_bias.get(name.partition(".")[0])
        }
        if config["model_type"] == "qwen3":
            own |= {"self_attn.q_norm.weight": (size,), "self_attn.k_norm.weight": (size,)}
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in own.items()}
    if rank:
        shapes |= {"markov_head.markov_w1.weight": (vocab, rank), "markov_head.markov_w2.weight": (draftable, rank)}
    if rank and config["markov_head_type"] == "gated":
        shapes |= {"markov_head.gate_proj.weight": (rank, hidden + rank), "markov_head.gate_proj.bias": (rank,)}
    if rank and config["markov_head_type"] == "rnn":
        shapes |= {
            "markov_head.joint_proj.weight": (3 * rank, 2 * rank + hidden),
            "markov_head.joint_proj.bias": (3 * rank,),
        }
    if config["enable_confidence_head"]:
        known = hidden + rank * config["confidence_head_with_markov"]
        shapes |= {"confidence_head.proj.weight": (1, known), "confidence_head.proj.bias": (1,)}
    if own_ends:
        shapes |= {"embed_tokens.weight": (vocab, hidden), "lm_head.weight": (draftable, hidden)}
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        draws = torch.randn(shape, generator=generator)
        tensors[name] = 1 + 0.2 * draws if len(shape) == 1 else draws * 1.5 / shape[-1] ** 0.5
    if draftable < vocab:
        ids = torch.randperm(vocab, generator=generator)[:draftable].sort().values
        tensors["d2t"] = ids - torch.arange(draftable)
    return config, tensors


def empty_kv(drafter, sequences=1, blocks=12):
    # Poisoned: a row that is read before it was written spoils the result.
    caches = [
        tuple(torch.full((sequences * blocks + 1, BLOCK_SIZE, *layer), torch.nan) for layer in drafter.spec.kv_layers)
        for _ in range(2)
    ]
    tables = torch.randperm(sequences * blocks).view(sequences, blocks) + 1
    return PagedKV(*caches, tables, BLOCK_SIZE)


def commit(features, kv, start, stop):
    """Rows start..stop - 1 of one sequence became final; the drafters here read positions and features alone."""
    rows, nothing = torch.arange(start, stop), torch.zeros(stop - start, dtype=torch.int64)
    return Commit(torch.tensor([0]), torch.tensor([0, stop - start]), rows, nothing, nothing, features[rows], kv)


def ask(kv, anchors, positions, width=7, temperature=0.0, noise=None):
    batch = len(anchors)
    off = torch.zeros(batch, dtype=torch.int64)
    temperatures, is_plain = torch.full((batch,), temperature), temperature == 1.0
    processing = Processing(temperatures, off, torch.ones(batch), torch.zeros(batch), is_plain, truncates=False)
    noise = torch.rand(batch, width) if noise is None else noise
    lengths = torch.full((batch,), width, dtype=torch.int32)
    slots = torch.arange(batch)
    return DraftAsk(slots, torch.tensor(anchors), torch.tensor(positions), lengths, processing, noise, kv)


def noise_that_draws(logits, tokens):
    """The noise [1, G] at which drawing from laws of logits [G, Vd] gives the tokens at places `tokens` [G]."""
    laws, index = logits.double().softmax(-1), torch.as_tensor(tokens)[:, None]
    return (laws.cumsum(-1).gather(1, index) - laws.gather(1, index) / 2).squeeze(1)[None].float()


def features_by_target(drafter, ids):
    """What the target's forward gives the drafter to read of a text, [len(ids), F]."""

    def attend(layer, q, k, v):
        heads_first = [x.transpose(-3, -2) for x in (q, k, v)]
        mixed = torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=True, enable_gqa=True)
        return mixed.transpose(-3, -2)

    return drafter.target(ids, torch.arange(len(ids)), attend, drafter.spec.feature_layers)[1]
