"""Cases of a whole target: prefill, then verify rows over its paged cache, beside a dense forward in float64.

Each kernel may be right and their use wrong; here all that a layer is made of runs as the engine runs it.
"""

from functools import partial

import torch
from torch import Tensor

from bench.gpu.contract import Call, Case, Outputs, close_to, num_bytes
from bench.gpu.random_pair import TINY, random_network
from core.tensors import PagedKV, VerifyRows
from core.types import Numerics
from engine.target import TargetForward
from models.network import for_inference
from models.qwen3 import Qwen3, Qwen3Config

MIDDLE = Qwen3Config(
    vocab_size=2000,
    hidden_size=1024,
    intermediate_size=2816,
    num_hidden_layers=4,
    num_attention_heads=16,
    num_key_value_heads=4,
    head_dim=128,
    max_position_embeddings=1024,
)
# What layers lose by rounding every result to bfloat16; float32 only loses what sums do.
TOLERANCES = {torch.bfloat16: 6e-2, torch.float32: 1e-3}
CONTEXTS, NUM_ROWS, BLOCK_SIZE = (1, 17, 60, 300), 8, 16
TAPS = (0, 2)


def cases(is_dry_run: bool) -> list[Case]:
    """Return a forward in either dtype."""
    config, contexts = (TINY, CONTEXTS[:2]) if is_dry_run else (MIDDLE, CONTEXTS)
    # Not every CPU multiplies bfloat16 at a speed worth waiting for.
    dtypes = (torch.float32,) if is_dry_run else (torch.float32, torch.bfloat16)
    return [
        Case("network", f"qwen3-{str(dtype).removeprefix('torch.')}", partial(_forward, config, contexts, dtype))
        for dtype in dtypes
    ]


def _forward(config: Qwen3Config, contexts: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Call:
    raw = random_network(config, device).to(dtype)
    # Norms of random networks would otherwise all weigh one.
    with torch.no_grad():
        for index, parameter in enumerate(raw.parameters()):
            if parameter.ndim == 1:
                parameter.mul_(1 + 0.1 * (index % 5))
    twin = Qwen3(config, Numerics.FAST).double()
    twin.load_state_dict({name: weight.double().cpu() for name, weight in raw.state_dict().items()})
    network = for_inference(raw, dtype)
    generator = torch.Generator().manual_seed(1)
    texts = [torch.randint(config.vocab_size, (context + NUM_ROWS,), generator=generator) for context in contexts]
    forward, kv = TargetForward(network), _cache(config, contexts, dtype, device)

    def run() -> Outputs:
        forward(_rows([text[:-NUM_ROWS] for text in texts], (0,) * len(texts), kv), kv, TAPS)
        hidden, features = forward(_rows([text[-NUM_ROWS:] for text in texts], contexts, kv), kv, TAPS)
        assert features is not None
        return {"logits": network.logits(hidden), "features": features}

    @torch.no_grad()
    def dense() -> Outputs:
        parts = [twin(text, torch.arange(len(text)), _causal, TAPS) for text in texts]
        hidden = torch.cat([part[0][-NUM_ROWS:] for part in parts])
        features = torch.cat([part[1][-NUM_ROWS:] for part in parts if part[1] is not None])
        return {"logits": twin.lm_head(hidden), "features": features}

    return Call(run, close_to(dense, TOLERANCES[dtype]), num_bytes(*kv.keys, *kv.values))


def _cache(config: Qwen3Config, contexts: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> PagedKV:
    """Return a cache whose blocks lie in no order; nan wherever nothing was written."""
    counts = [-(-(context + NUM_ROWS) // BLOCK_SIZE) for context in contexts]
    order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(2)) + 1
    tables = torch.nn.utils.rnn.pad_sequence(list(order.split(counts)), batch_first=True).to(device)
    shape = (sum(counts) + 1, BLOCK_SIZE, config.num_key_value_heads, config.head_dim)

    def nothing() -> tuple[Tensor, ...]:
        layers = range(config.num_hidden_layers)
        return tuple(torch.full(shape, torch.nan, dtype=dtype, device=device) for _ in layers)

    return PagedKV(nothing(), nothing(), tables, BLOCK_SIZE)


def _rows(parts: list[Tensor], starts: tuple[int, ...], kv: PagedKV) -> VerifyRows:
    device = kv.block_tables.device
    counts = torch.tensor([0, *map(len, parts)])
    positions = torch.cat([torch.arange(len(part)) + start for part, start in zip(parts, starts, strict=True)])
    return VerifyRows(torch.cat(parts).to(device), positions.to(device), counts.cumsum(0).to(device), kv.block_tables)


def _causal(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG001, the protocol has it
    """Attend over one whole sequence, [S, heads, D], in float64."""
    group = q.shape[1] // k.shape[1]
    keys, values = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = torch.einsum("rhd,chd->hrc", q, keys) * q.shape[-1] ** -0.5
    hidden = torch.ones(len(q), len(q), dtype=torch.bool).triu(1)
    return torch.einsum("hrc,chd->rhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), values)
