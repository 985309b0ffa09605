"""The layer kernels in the configurations that are used, for compile_offline.py."""

import torch

from kernels import ragged_attention
from kernels.attention_layout import LARGEST_SHARED_TILE_ROWS
from kernels.ragged_attention import ANY_NUMBER, SPLIT_ROWS, tile_sizes
from tests.kernels.compile_case import CompileCase

TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
# Query heads of a KV head: 4 is Qwen3-8B's.
GROUP, BLOCK_SIZE = 4, 16
ATTENTION = {
    **dict.fromkeys(("tables", "cu_rows", "visible", "first", "sequence"), "*i64"),
    **dict.fromkeys(("norms", "mixed"), "*fp32"),
    **dict.fromkeys(("num_rows", "num_sequences", "num_parts", "num_part_heads", "num_heads", "num_out_heads"), "i32"),
    **dict.fromkeys(("head_base", "least_rows", "most_rows", "table_stride", "q_stride", "q_head_stride"), "i32"),
    **dict.fromkeys(("key_stride", "key_head_stride", "value_stride", "value_head_stride"), "i32"),
    "scale": "fp32",
}


def attend(dtype, dim, rows, way):
    sizes = tile_sizes(dim, dtype, rows if rows == ANY_NUMBER else rows * GROUP)
    constants = {
        "GROUP": GROUP,
        "DIM": dim,
        "DIM_PADDED": dim,
        "BLOCK_SIZE": BLOCK_SIZE,
        "HAS_FIRST": way == "window",
        "IS_WHOLE": way == "whole",
        "SPLIT": SPLIT_ROWS if way == "split" else 0,
        "QUERIES": sizes.queries,
        "PLACES": sizes.places,
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
    }
    arguments = ATTENTION | dict.fromkeys(("q", "keys", "values"), TYPES[dtype])
    arguments |= {"out": TYPES[dtype] if way == "whole" else "*fp32"}
    options = {"num_warps": sizes.num_warps, "num_stages": sizes.num_stages}
    name = f"attend_{way}_{NAMES[dtype]}_{dim}_{sizes.queries}"
    is_quick = dtype == torch.bfloat16 and dim == 128 and rows != 1
    return CompileCase(name, ragged_attention._attend_kernel, constants, arguments, options, is_quick)


def add_up(dtype, dim):
    constants = {"GROUP": GROUP, "GROUP_PADDED": GROUP, "DIM": dim, "DIM_PADDED": dim, "HAS_FIRST": True, "SPLIT": 256}
    arguments = ATTENTION | {"out": TYPES[dtype]}
    name = f"add_up_{NAMES[dtype]}_{dim}"
    return CompileCase(name, ragged_attention._add_up_kernel, constants, arguments, {}, (dtype, dim) == QUICK)


QUICK = (torch.bfloat16, 128)
CASES = [
    *(
        attend(dtype, dim, rows, way)
        for dtype in TYPES
        for dim in (64, 128, 256)
        for rows, way in (
            (1, "shared"),
            (LARGEST_SHARED_TILE_ROWS, "window"),
            (LARGEST_SHARED_TILE_ROWS, "split"),
            (ANY_NUMBER, "whole"),
        )
    ),
    *(add_up(dtype, dim) for dtype in TYPES for dim in (64, 128, 256)),
]
