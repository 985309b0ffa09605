"""Tiny random models: real networks, small enough to enumerate, with laws uneven enough to be told apart."""

from typing import Any

import torch
from torch import Tensor, nn

from core.types import Numerics
from drafters.dflash import DFlash
from drafters.dspark import DSpark
from drafters.eagle3 import Eagle3
from models.dflash_config import DFlashConfig, MarkovHeadType
from models.dflash_net import DFlashNet
from models.draft_config import Backbone
from models.draft_vocabulary import DraftVocabulary
from models.eagle3_config import Eagle3Config
from models.eagle3_net import Eagle3Net, PairLayer
from models.layers import Attention
from models.markov_heads import RecurrentMarkovHead
from models.network import for_inference
from models.qwen3 import Qwen3, Qwen3Config
from models.target import Target


def tiny_config(vocab_size: int = 32, layers: int = 3, *, hidden_size: int = 32, tied: bool = True) -> Qwen3Config:
    """Return the shape of a network of a few thousand weights."""
    return Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        max_position_embeddings=512,
        rope_theta=10000.0,
        tie_word_embeddings=tied,
    )


def scramble(network: nn.Module, seed: int, scale: float) -> None:
    """Draw every weight anew; `scale` is how far a layer moves the residual stream."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            else:
                fan_in = parameter.shape[-1] if parameter.dim() > 1 else 1
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale / fan_in**0.5)


def tiny_target(
    vocab_size: int = 32,
    *,
    seed: int = 0,
    scale: float = 1.2,
    sharpness: float = 1.0,
    numerics: Numerics = Numerics.FAST,
) -> Qwen3:
    """A target that prefers a fixed successor of each token, bent by what came before it."""
    target = Qwen3(tiny_config(vocab_size, tied=False), numerics)
    scramble(target, seed, scale)
    generator = torch.Generator().manual_seed(seed)
    embed = torch.nn.functional.normalize(torch.randn(vocab_size, 32, generator=generator), dim=-1)
    successor = torch.randperm(vocab_size, generator=generator)
    with torch.no_grad():
        # As long as a normed state, so that the token itself outweighs what the layers add to it.
        target.embed_tokens.weight.copy_(embed * 32**0.5)
        target.lm_head.weight[successor] = embed * sharpness
    return for_inference(target, torch.float32)


def beside(target: Target, layers: int) -> Qwen3Config:
    """Return the shape of a tiny drafter's own layers, as wide as the target's."""
    return tiny_config(target.shape.vocab_size, layers, hidden_size=target.shape.hidden_size)


def embedded(target: Target) -> Tensor:
    """Return the states [V, H] that the target's tokens enter its first layer with."""
    return target.embed(torch.arange(target.shape.vocab_size))


def tiny_dspark(
    target: Target,
    *,
    seed: int = 1,
    block_size: int = 4,
    agreement: float = 4.0,
    head: MarkovHeadType = "vanilla",
    backbone: Backbone | None = None,
    **variant: Any,
) -> DSpark:
    """A drafter whose Markov head knows the target's successors and nothing of what bends them.

    backbone is what its layers are, two of Qwen3's by default; variant holds further fields of the DFlashConfig, such
    as sample_from_anchor or layer_types.
    """
    size = target.shape.hidden_size
    config = DFlashConfig(
        backbone=backbone or beside(target, layers=2),
        target_layer_ids=(0, 1),
        block_size=block_size,
        mask_token_id=0,
        num_target_layers=len(target.shape.layers),
        markov_rank=size,
        markov_head_type=head,
        enable_confidence_head=True,
        **variant,
    )
    network = DFlashNet(config, target.numerics)
    scramble(network, seed, 0.5)
    markov_head = network.markov_head
    assert markov_head is not None
    with torch.no_grad():
        markov_head.markov_w1.weight.copy_(embedded(target) / size**0.5)
        network.confidence_head.proj.weight.mul_(3)
        network.confidence_head.proj.bias.fill_(1.0)
        markov_head.markov_w2.weight.copy_(target.head * agreement)
        if isinstance(markov_head, RecurrentMarkovHead):
            # What comes out is the token's embedding, bent by the state and the slot.
            markov_head.joint_proj.weight[2 * size :, size : 2 * size] = torch.eye(size)
    return DSpark("dspark", for_inference(network, target.dtype), target)


def tiny_dflash(target: Target, *, seed: int = 1, block_size: int = 4, **variant: Any) -> DFlash:
    """A drafter whose slots all see the anchor, and draft the target's successor of it: right in one slot of a block.

    The first layer tells the anchor from masks and context rows by one direction of their embeddings; the context
    comes in by the rest of the layers, and bends the drafts. variant holds further fields of the DFlashConfig.
    """
    config = DFlashConfig(
        backbone=beside(target, layers=2),
        target_layer_ids=(-1, 1),
        block_size=block_size,
        mask_token_id=0,
        num_target_layers=len(target.shape.layers),
        **variant,
    )
    network = DFlashNet(config, target.numerics)
    scramble(network, seed, 0.5)
    attention = next(module for module in network.modules() if isinstance(module, Attention))
    num_heads, num_kv_heads, size = attention.num_heads, attention.num_kv_heads, attention.head_dim
    generator = torch.Generator().manual_seed(seed)
    width = target.shape.hidden_size
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q[: num_kv_heads * size]
    embedding = embedded(target)
    is_mask = torch.full((len(embedding), 1), -1.0)
    is_mask[config.mask_token_id] = 1.0
    told = torch.linalg.pinv(embedding) @ is_mask  # [H, 1]; embedding @ told is 1 for the mask, -1 for other tokens
    # Turned least by position: the rotation's slowest pair.
    slowest = torch.zeros(size, 1)
    slowest[size // 2 - 1] = 1.0
    with torch.no_grad():
        network.fc.weight[:, :width] = -torch.eye(width)
        sizes = [count * size for count in (num_heads, num_kv_heads, num_kv_heads)]
        queries, keys, values = attention.qkv_proj.weight.split(sizes)
        queries.copy_((slowest @ told.T).repeat(num_heads, 1))
        keys.copy_((slowest @ -told.T).repeat(num_kv_heads, 1))
        values.copy_(basis)
        groups = basis.view(num_kv_heads, size, width).repeat_interleave(num_heads // num_kv_heads, 0)
        attention.o_proj.weight.copy_(groups.flatten(0, 1).T * 2)
    return DFlash("dflash", for_inference(network, target.dtype), target)


def tiny_eagle3(target: Target, *, seed: int = 1, num_drafts: int = 4, num_never: int = 0) -> Eagle3:
    """A drafter whose layer passes its token on to the target's head, which knows the token's successor.

    Rows attend to rows of the same token, their own before all; features and the rest of the layer bend what comes of
    it in other ways than the target does. num_never tokens, the last, are not in the drafter's vocabulary.
    """
    num_drafted = target.shape.vocab_size - num_never
    config = Eagle3Config(
        backbone=beside(target, layers=1),
        target_layer_ids=(0, 1),
        num_target_layers=len(target.shape.layers),
        draft_vocab_size=num_drafted,
        num_drafts=num_drafts,
    )
    network = Eagle3Net(config, target.numerics)
    scramble(network, seed, 0.3)
    layer = network.layers[0]
    assert isinstance(layer, PairLayer)
    attention, generator = layer.self_attn, torch.Generator().manual_seed(seed)
    num_heads, num_kv_heads, size = attention.num_heads, attention.num_kv_heads, attention.head_dim
    hidden_size = config.backbone.hidden_size
    # What of a token keys and values see: a part of an orthogonal basis, the other way round for the output.
    basis = torch.linalg.qr(torch.randn(hidden_size, hidden_size, generator=generator)).Q
    parts = basis[: num_kv_heads * size].view(num_kv_heads, size, hidden_size)
    shared = num_heads // num_kv_heads
    with torch.no_grad():
        token = attention.qkv_proj.weight[:, :hidden_size]
        queries, keys, values = token.split([count * size for count in (num_heads, num_kv_heads, num_kv_heads)])
        queries.copy_(parts.repeat_interleave(shared, 0).flatten(0, 1))
        keys.copy_(parts.flatten(0, 1))
        values.copy_(parts.flatten(0, 1))
        attention.o_proj.weight.copy_(parts.repeat_interleave(shared, 0).flatten(0, 1).T * 2 / shared)
        for norm in (attention.q_norm, attention.k_norm):
            assert norm is not None
            norm.weight.fill_(2.0)
    if num_never:
        network.vocabulary = DraftVocabulary(None, target.head[:num_drafted].clone(), torch.arange(num_drafted))
    return Eagle3("eagle3", for_inference(network, target.dtype), target)
