"""Lines of `specd inspect` that drafters and targets share: sizes, parameters, types."""

import math
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from models.checkpoint import Header

BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "U8": 8, "BOOL": 8}
NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def shape_rows(config: dict[str, Any], vocabulary: str = "") -> list[tuple[str, str]]:
    """Return (what, value) lines of a config's sizes; `vocabulary` is added to the vocabulary's."""
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", heads)
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    return [
        ("layers", f"{config['num_hidden_layers']} ({config.get('model_type', 'of an unnamed family')})"),
        ("hidden size", f"{config['hidden_size']} (mlp {config['intermediate_size']})"),
        ("attention", f"{heads} heads, {kv_heads} kv heads of {head_dim}"),
        ("vocabulary", f"{config['vocab_size']}{vocabulary}"),
        ("positions", str(config.get("max_position_embeddings", "not said"))),
    ]


def tensor_rows(headers: Mapping[str, Header], shared: Collection[str] = ()) -> list[tuple[str, str]]:
    """Return (what, value) lines of a file's tensors; `shared` names those that are not a drafter's own."""
    counts = {name: math.prod(header.shape) for name, header in headers.items()}
    size = sum(counts[name] * BITS[header.dtype] // 8 for name, header in headers.items())
    dtypes = Counter(NAMES.get(header.dtype, header.dtype) for header in headers.values())
    total = sum(counts.values())
    own = total - sum(counts[name] for name in shared)
    return [
        ("parameters", f"{total:,} in {len(headers)} tensors{f', {own:,} without shared ones' if shared else ''}"),
        ("stored as", ", ".join(f"{dtype} ({count})" for dtype, count in dtypes.most_common())),
        ("size", f"{size / 1e6:.1f} MB"),
    ]
