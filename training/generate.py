"""Sample many continuations at once from a frozen target: dense batch, one KV cache, rows leave when they end.

Offline text only; serving has its own engine. Prompts are padded on the left, so that all rows decode in one column.
"""

import copy
from collections.abc import Sequence

import msgspec
import torch
from torch import Tensor

from models.layers import Attend
from models.network import for_inference
from models.qwen3 import Qwen3
from training.attention import attend_dense

COMPACT_SHARE = 0.75  # drop ended rows once fewer than this share is left


class Prompt(msgspec.Struct, frozen=True):
    """Where a text starts, how far it may go and at which temperature (0 is greedy)."""

    ids: list[int]
    max_tokens: int
    temperature: float


class DenseCache:
    """Keys and values [layers, B, T, Hkv, D] of a batch, with the columns each row may see; mutable."""

    def __init__(self, network: Qwen3, num_rows: int, num_columns: int) -> None:
        shape = network.config
        size = (shape.num_hidden_layers, num_rows, num_columns, shape.num_key_value_heads, shape.head_dim)
        dtype = network.embed_tokens.weight.dtype
        device = network.embedding.device
        self.keys, self.values = (torch.zeros(size, dtype=dtype, device=device) for _ in range(2))

    def attend(self, column: int, mask: Tensor) -> Attend:
        """Store new rows from `column` on and attend to everything up to them, under mask [B, 1, S, columns]."""

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            end = column + k.shape[1]
            self.keys[layer, :, column:end], self.values[layer, :, column:end] = k, v
            return attend_dense(q, self.keys[layer, :, :end], self.values[layer, :, :end], mask)

        return attend

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]


def frozen_copy(network: Qwen3, dtype: torch.dtype = torch.bfloat16) -> Qwen3:
    """Return a copy for inference only."""
    return for_inference(copy.deepcopy(network), dtype)


@torch.inference_mode()
def generate(network: Qwen3, prompts: Sequence[Prompt], end_id: int, seed: int) -> list[list[int]]:
    """Return the new tokens of every prompt, the end token included where it was reached."""
    generator, device = torch.Generator().manual_seed(seed), network.embedding.device
    prompt_len = max(len(prompt.ids) for prompt in prompts)
    num_columns = prompt_len + max(prompt.max_tokens for prompt in prompts)
    padded = [[0] * (prompt_len - len(prompt.ids)) + prompt.ids for prompt in prompts]
    starts = torch.tensor([prompt_len - len(prompt.ids) for prompt in prompts], device=device)
    temperatures = torch.tensor([prompt.temperature for prompt in prompts], device=device)
    limits = torch.tensor([prompt.max_tokens for prompt in prompts], device=device)
    cache = DenseCache(network, len(prompts), num_columns)
    columns = torch.arange(num_columns, device=device)
    seen = columns >= starts[:, None]  # [B, T]
    # A padding row sees itself, else its softmax has nothing to sum.
    earlier = columns[:prompt_len, None] >= columns[:prompt_len]
    square = (seen[:, None, :prompt_len] & earlier) | torch.eye(prompt_len, dtype=torch.bool, device=device)
    positions = (columns[:prompt_len] - starts[:, None]).clamp(min=0)
    hidden, _ = network(torch.tensor(padded, device=device), positions, cache.attend(0, square.unsqueeze(1)))
    last = hidden[:, -1]
    outputs: list[list[int]] = [[] for _ in prompts]
    alive = torch.arange(len(prompts), device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for column in range(prompt_len, num_columns + 1):
        tokens = sample(network.logits(last), temperatures, generator)
        for row, token, is_ended in zip(alive.tolist(), tokens.tolist(), ended.tolist(), strict=True):
            if not is_ended:
                outputs[row].append(token)
        ended |= (tokens == end_id) | (limits <= column - prompt_len + 1)
        if bool(ended.all()):
            break
        if (~ended).float().mean() < COMPACT_SHARE:
            rows = (~ended).nonzero().squeeze(1)
            cache.keep(rows)
            alive, ended, tokens, starts = alive[rows], ended[rows], tokens[rows], starts[rows]
            temperatures, limits, seen = temperatures[rows], limits[rows], seen[rows]
        mask = seen[:, None, None, : column + 1]
        hidden, _ = network(tokens[:, None], (column - starts)[:, None], cache.attend(column, mask))
        last = hidden[:, -1]
    return outputs


def sample(logits: Tensor, temperatures: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one token per row of logits f32 [B, V] at its own temperature [B]; 0 takes the largest logit."""
    cumulative = (logits / temperatures.clamp(min=1e-3)[:, None]).softmax(-1).cumsum(-1)
    # Drawn on the CPU whatever the device, so that a seed gives the same text where the arithmetic is the same.
    uniform = torch.rand(len(logits), 1, generator=generator).to(logits.device) * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, uniform, right=True).squeeze(1).clamp(max=logits.shape[-1] - 1)
    return torch.where(temperatures > 0, drawn, logits.argmax(-1))
