"""Targets and drafters of published shapes with random weights: what a step costs does not depend on what they say."""

from dataclasses import dataclass

import msgspec
import torch
from torch import nn

from bench.gpu.device import let_go
from core.types import Numerics
from models.dflash_config import DFlashConfig
from models.dflash_net import DFlashNet
from models.draft_fit import fitted
from models.network import for_inference
from models.qwen3 import Qwen3, Qwen3Config

QWEN3_4B = Qwen3Config(
    vocab_size=151_936,
    hidden_size=2560,
    intermediate_size=9728,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    tie_word_embeddings=True,
)
QWEN3_8B = msgspec.structs.replace(QWEN3_4B, hidden_size=4096, intermediate_size=12_288, tie_word_embeddings=False)
# The smallest that has everything the large ones have; for dry runs.
TINY = Qwen3Config(
    vocab_size=256,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=512,
    tie_word_embeddings=True,
)
# DeepSpec's DSpark checkpoints for Qwen3-4B and 8B (config.json).
DRAFT_LAYERS, LAYER_IDS, NUM_DRAFTS, MASK_ID, MARKOV_RANK = 5, (1, 9, 17, 25, 33), 7, 151_669, 256
INIT_STD = 0.02


@dataclass(frozen=True, slots=True)
class RandomTarget:
    """A target that is ready to run, with the bytes of weights that every step reads: all but an embedding's rows."""

    network: Qwen3
    config: Qwen3Config
    weight_bytes: int

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token, all layers."""
        heads, size = self.config.num_key_value_heads, self.config.head_dim
        return 2 * self.config.num_hidden_layers * heads * size * self.network.dtype.itemsize


def random_target(config: Qwen3Config, device: torch.device) -> RandomTarget:
    """Build a target that is ready to run."""
    network, dtype = random_network(config, device), dtype_on(device)
    num_read = sum(parameter.numel() for parameter in network.parameters())
    if not config.tie_word_embeddings:
        num_read -= network.embed_tokens.weight.numel()
    return RandomTarget(for_inference(network, dtype), config, num_read * dtype.itemsize)


def random_network(config: Qwen3Config, device: torch.device) -> Qwen3:
    """Build a network in float32, not laid out for inference yet; of one config, the same weights every time."""
    # The one before may fill the device.
    let_go(device)
    with device:
        network = Qwen3(config, Numerics.FAST)
    fill_at_random(network)
    return network


def dtype_on(device: torch.device) -> torch.dtype:
    """Return what is computed in: bfloat16 on a GPU, float32 on the CPU of a dry run."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def random_drafter(target: RandomTarget, device: torch.device) -> DFlashNet:
    """Build a DSpark drafter beside a target: five layers, features of five, drafts of seven, a head of rank 256."""
    is_published = target.config.num_hidden_layers > max(LAYER_IDS)
    config = DFlashConfig(
        backbone=msgspec.structs.replace(
            target.config, num_hidden_layers=DRAFT_LAYERS if is_published else 1, tie_word_embeddings=False
        ),
        target_layer_ids=LAYER_IDS if is_published else (0, 1),
        block_size=NUM_DRAFTS,
        mask_token_id=MASK_ID if is_published else 3,
        num_target_layers=target.config.num_hidden_layers,
        markov_rank=MARKOV_RANK if is_published else 8,
        enable_confidence_head=True,
    )
    with device:
        network = DFlashNet(fitted(config, target.network), Numerics.FAST)
    fill_at_random(network)
    return for_inference(network, target.network.dtype)


@torch.no_grad()
def fill_at_random(network: nn.Module, std: float = INIT_STD) -> None:
    """Draw every matrix anew, from one seed."""
    generator: torch.Generator | None = None
    for parameter in network.parameters():
        if generator is None:
            generator = torch.Generator(parameter.device).manual_seed(0)
        if parameter.ndim > 1:
            parameter.normal_(std=std, generator=generator)
