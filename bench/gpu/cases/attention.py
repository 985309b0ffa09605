"""Cases of paged attention: decode and verify rows, prefill chunks, drafters' blocks, windows; Qwen3-8B's heads."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.gpu.contract import Call, Case, Outputs, close_to, generator
from core.tensors import PagedKV
from kernels.attention import paged_attention, plan_attention

BLOCK_SIZE = 16
# bfloat16 results are rounded once, by up to 2^-9; what float32 loses is a sum's rounding.
TOLERANCES = {torch.bfloat16: 1e-2, torch.float32: 1e-4}
ODD_CONTEXTS = (1, 15, 16, 17, 63, 100, 257, 1000)
LONG_CONTEXT = 4096
DECODE_BATCHES = (1, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Rows:
    """Sequences with so many cached tokens before each one's `num_rows` new ones; `kind` says what rows see.

    causal: each row what is before it and itself; block: each row the whole context and all rows of its own
    """

    contexts: tuple[int, ...]
    num_rows: int
    kind: str = "causal"
    window: int | None = None
    num_heads: int = 32
    num_kv_heads: int = 8
    head_dim: int = 128
    dtype: torch.dtype = torch.bfloat16


def cases(is_dry_run: bool) -> list[Case]:
    """Return the cases of attention."""
    found = [Case("attention", f"{name}/odd", partial(build, rows)) for name, rows in _checked(is_dry_run).items()]
    for name, rows in _timed(is_dry_run).items():
        found.append(Case("attention", name, partial(build, rows), is_checked=False, is_timed=True))
    return found


def _checked(is_dry_run: bool) -> dict[str, Rows]:
    contexts = ODD_CONTEXTS[:5] if is_dry_run else ODD_CONTEXTS
    small: dict[str, Any] = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 32} if is_dry_run else {}
    found: dict[str, Rows] = {}
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        found |= {
            f"decode-{name}": Rows(contexts, 1, dtype=dtype, **small),
            f"verify-{name}": Rows(contexts, 8, dtype=dtype, **small),
            f"prefill-{name}": Rows((0, 33), 70, dtype=dtype, **small),
            f"block-{name}": Rows(contexts, 7, "block", dtype=dtype, **small),
            f"window-{name}": Rows(contexts, 8, window=24, dtype=dtype, **small),
        }
    return found


def _timed(is_dry_run: bool) -> dict[str, Rows]:
    if is_dry_run:
        return {"decode/B2-C40": Rows((40, 40), 1, num_heads=4, num_kv_heads=2, head_dim=32)}
    decode = {f"decode/B{batch}-C{LONG_CONTEXT}": Rows((LONG_CONTEXT,) * batch, 1) for batch in DECODE_BATCHES}
    verify = {f"verify/B{batch}-C{LONG_CONTEXT}": Rows((LONG_CONTEXT,) * batch, 8) for batch in (1, 32, 128)}
    block = {f"block/B{batch}-C{LONG_CONTEXT}": Rows((LONG_CONTEXT,) * batch, 7, "block") for batch in (1, 32, 128)}
    return decode | verify | block | {"prefill/B1-C0": Rows((0,), 4096), "prefill/B1-C4096": Rows((4096,), 1024)}


def build(rows: Rows, device: torch.device) -> Call:
    """Make a cache whose blocks lie in no order, and the rows of one layer over it."""
    rng, batch = generator(device, 0), len(rows.contexts)
    lengths = torch.tensor([context + rows.num_rows for context in rows.contexts])
    num_blocks = [int(-(-length // BLOCK_SIZE)) for length in lengths.tolist()]
    order = torch.randperm(sum(num_blocks), generator=torch.Generator().manual_seed(0)) + 1
    tables = torch.nn.utils.rnn.pad_sequence(list(order.split(num_blocks)), batch_first=True).to(device)
    shape = (sum(num_blocks) + 1, BLOCK_SIZE, rows.num_kv_heads, rows.head_dim)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=rng, device=device, dtype=rows.dtype)

    keys, values = draw(*shape), draw(*shape)
    q = draw(batch * rows.num_rows, rows.num_heads, rows.head_dim)
    k, v = (draw(batch * rows.num_rows, rows.num_kv_heads, rows.head_dim) for _ in range(2))
    kv = PagedKV((keys,), (values,), tables, BLOCK_SIZE)
    positions = torch.cat([torch.arange(length - rows.num_rows, length) for length in lengths.tolist()]).to(device)
    visible = positions + 1
    if rows.kind == "block":
        visible = lengths.to(device).repeat_interleave(rows.num_rows)
    cu_rows = torch.arange(batch + 1, device=device) * rows.num_rows
    layout = plan_attention(kv, cu_rows, positions, visible, rows.num_heads // rows.num_kv_heads, rows.window)

    def run() -> Outputs:
        return {"out": paged_attention(q, k, v, keys, values, layout)}

    def twin() -> Outputs:
        return {"out": dense_attention(rows, q, kv, (positions, visible))}

    # By the work of the mask, not of the padding: a row reads nothing that it does not see.
    seen = visible if rows.window is None else visible.clamp(max=rows.window)
    cached = seen.view(batch, -1).amax(1).sum().item()
    item = rows.dtype.itemsize
    read = 2 * cached * rows.num_kv_heads * rows.head_dim * item + 2 * q.nbytes + 2 * (k.nbytes + v.nbytes)
    operations = 4.0 * seen.sum().item() * rows.num_heads * rows.head_dim
    return Call(run, close_to(twin, TOLERANCES[rows.dtype]), read, operations)


def dense_attention(rows: Rows, q: Tensor, kv: PagedKV, seen: tuple[Tensor, Tensor]) -> Tensor:
    """Attend in float64, sequence by sequence, with the keys and values that the cache holds after the call."""
    positions, visible = seen
    out, group = torch.empty_like(q, dtype=torch.float64), rows.num_heads // rows.num_kv_heads
    for b in range(len(rows.contexts)):
        own = slice(b * rows.num_rows, (b + 1) * rows.num_rows)
        length = int(visible[own].max())
        places = torch.arange(length, device=q.device)
        at = kv.block_tables[b, places // kv.block_size], places % kv.block_size
        keys, values = (cache[at].double().repeat_interleave(group, 1) for cache in (kv.keys[0], kv.values[0]))
        scores = torch.einsum("rhd,chd->hrc", q[own].double(), keys) * rows.head_dim**-0.5
        hidden = places >= visible[own, None]
        if rows.window is not None:
            hidden |= places < positions[own, None] + 1 - rows.window
        out[own] = torch.einsum("hrc,chd->rhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), values)
    return out
