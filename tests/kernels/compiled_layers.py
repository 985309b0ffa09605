"""The layer kernels in the configurations that are used, for compile_offline.py."""

import torch

from kernels import activations, norms, rope_store
from kernels.attention_layout import LARGEST_SHARED_TILE_ROWS
from kernels.flash_decoding import add_up_kernel, attend_kernel
from kernels.ragged_attention import ANY_NUMBER, SPLIT_ROWS, tile_sizes
from tests.kernels.compile_case import CompileCase

TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
# Query heads of a KV head: 4 is Qwen3-8B's.
GROUP, BLOCK_SIZE = 4, 16
STRIDES = ("q_stride", "q_head_stride", "key_stride", "key_head_stride", "value_stride", "value_head_stride")
ATTENTION = {
    **dict.fromkeys(("tables", "cu_rows", "visible", "first", "sequence"), "*i64"),
    **dict.fromkeys(("norms", "mixed"), "*fp32"),
    **dict.fromkeys(("num_rows", "num_sequences", "num_parts", "num_part_heads", "num_heads", "num_out_heads"), "i32"),
    **dict.fromkeys(("head_base", "least_rows", "most_rows", "table_stride"), "i32"),
    **dict.fromkeys(STRIDES, "i32"),
    "scale": "fp32",
}


def attend(dtype, dim, rows, way):
    """Return a launch for tiles of `rows` rows: in even shares, in fixed splits or whole; with a window or without."""
    has_first, is_shared, is_whole = "window" in way, way in SHARED_WAYS, way.startswith(("whole", "one_share"))
    sizes = tile_sizes(dim, dtype, min(rows, 999) * GROUP, has_first=has_first, is_shared=is_shared)
    constants = {
        "GROUP": GROUP,
        "DIM": dim,
        "DIM_PADDED": dim,
        "BLOCK_SIZE": BLOCK_SIZE,
        "HAS_FIRST": has_first,
        "IS_WHOLE": is_whole,
        "SPLIT": SPLIT_ROWS if "split" in way else 0,
        "QUERIES": sizes.queries,
        "PLACES": sizes.places,
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
    }
    arguments = ATTENTION | dict.fromkeys(("q", "keys", "values"), TYPES[dtype])
    arguments |= {"out": TYPES[dtype] if is_whole else "*fp32"}
    options = {"num_warps": sizes.num_warps, "num_stages": sizes.num_stages}
    name = f"attend_{way}_{NAMES[dtype]}_{dim}_{sizes.queries}"
    is_quick = (dtype, dim) == QUICK and (rows, way) in QUICK_WAYS
    return CompileCase(name, attend_kernel, constants, arguments, options, STRIDES, is_quick, multiplies=True)


def add_up(dtype, dim):
    constants = {"GROUP": GROUP, "GROUP_PADDED": GROUP, "DIM": dim, "DIM_PADDED": dim, "HAS_FIRST": True, "SPLIT": 256}
    arguments = ATTENTION | {"out": TYPES[dtype]}
    name = f"add_up_{NAMES[dtype]}_{dim}"
    return CompileCase(name, add_up_kernel, constants, arguments, {}, (), (dtype, dim) == QUICK)


def norm(dtype, size, has_delta):
    constants = norms.norm_sizes(size)
    options = {"num_warps": constants.pop("num_warps")}
    constants["HAS_DELTA"] = has_delta
    arguments = dict.fromkeys(("x", "delta", "weight", "total", "out"), TYPES[dtype])
    arguments |= {"num_weights": "i32", "eps": "fp32"}
    name = f"{'add_norm' if has_delta else 'norm'}_{NAMES[dtype]}_{size}"
    return CompileCase(name, norms._norm_kernel, constants, arguments, options, (), (dtype, size) == (QUICK[0], 4096))


def gated(dtype, kind):
    constants = {"KIND": kind, "TILE": activations.TILE}
    arguments = {**dict.fromkeys(("gate_up", "out"), TYPES[dtype]), "width": "i32"}
    name = f"gated_{kind}_{NAMES[dtype]}"
    return CompileCase(name, activations._gated_kernel, constants, arguments, {}, ("width",), dtype == QUICK[0])


ROPE = {
    **dict.fromkeys(("num_rows", "num_heads", "num_kv_heads", "row_stride", "head_stride"), "i32"),
    **dict.fromkeys(STRIDES[2:], "i32"),
    "write": "*i64",
    "eps": "fp32",
}


def rope(dtype, dim, has_norm):
    constants = {"HAS_NORM": has_norm, "HALF": dim // 2, "HALF_PADDED": dim // 2, "ROWS": rope_store.ROWS}
    names = ("heads", "q_weight", "k_weight", "cos", "sin", "q", "keys", "values")
    arguments = ROPE | dict.fromkeys(names, TYPES[dtype])
    name = f"{'norm_rope' if has_norm else 'rope'}_store_{NAMES[dtype]}_{dim}"
    aligned = ("row_stride", "head_stride", *STRIDES[2:])
    is_quick = has_norm and (dtype, dim) == QUICK
    return CompileCase(name, rope_store._rope_store_kernel, constants, arguments, {}, aligned, is_quick)


MANY = LARGEST_SHARED_TILE_ROWS
# A single share is written like a whole.
SHARED_WAYS = ("shared", "window", "one_share")
WAYS = (
    *((rows, way) for rows in (1, MANY) for way in SHARED_WAYS),
    (MANY // 2, "shared"),
    *((rows, f"{way}{window}") for rows, way in ((MANY, "split"), (ANY_NUMBER, "whole")) for window in ("", "_window")),
)
QUICK = (torch.bfloat16, 128)
QUICK_WAYS = ((1, "shared"), (MANY, "window"), (MANY, "split"), (ANY_NUMBER, "whole"))
CASES = [
    # Large heads and float32 have one size where others have two.
    *{
        case.name: case
        for case in (attend(dtype, dim, rows, way) for dtype in TYPES for dim in (64, 128, 256) for rows, way in WAYS)
    }.values(),
    *(add_up(dtype, dim) for dtype in TYPES for dim in (64, 128, 256)),
    *(norm(dtype, size, has) for dtype in TYPES for size in (128, 1024, 2560, 4096, 8192) for has in (False, True)),
    *(gated(dtype, kind) for dtype in TYPES for kind in ("silu", "gelu_tanh")),
    *(rope(dtype, dim, has_norm) for dtype in TYPES for dim in (64, 128, 256) for has_norm in (False, True)),
]
