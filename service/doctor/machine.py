"""Has the machine what the engine wants: files of the models, cores, memory. No torch: it is not asked for anything."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.config import (
    DEMO,
    CheckpointSettings,
    DrafterSettings,
    DraftModelSettings,
    EngineSettings,
    Settings,
    all_drafters,
    kind_of,
)
from core.errors import SpecdError
from models.config_json import read_config
from models.folders import DEMO_FOLDER
from models.hub import is_hub_id
from service.doctor.check import Check, failed, ok, unsure

# Keys and values.
TENSORS = 2
BYTES = {"float32": 4, "bfloat16": 2}
# Of the memory that is free: the rest is for weights and activations.
KV_SHARE = 0.5
MIB = 1 << 20
MEMINFO = Path("/proc/meminfo")


def check_machine(settings: Settings) -> Iterator[Check]:
    """Look at what a worker needs; a gateway needs the target's tokenizer only."""
    engine = settings.engine
    is_gateway = settings.server.role == "gateway"
    yield _model("target", engine.target, "target", wants_weights=not is_gateway, wants_tokenizer=True)
    if is_gateway:
        return
    for name, drafter in all_drafters(settings).items():
        if (path := _path(drafter)) is not None:
            yield _model(f"drafter {name}", path, kind_of(drafter), wants_weights=True, wants_tokenizer=False)
    yield _threads(engine)
    if (check := _kv_memory(engine)) is not None:
        yield check


def _path(drafter: DrafterSettings) -> str | None:
    return drafter.path if isinstance(drafter, CheckpointSettings | DraftModelSettings) else None


def _model(what: str, name: str, demo: str, *, wants_weights: bool, wants_tokenizer: bool) -> Check:
    folder = _folder(name, demo)
    if folder is None:
        return unsure(what, f"{name} is of the Hub: it is fetched, if it is not cached, when the server starts", "wait")
    try:
        read_config(folder)
        if wants_tokenizer and not os.access(folder / "tokenizer.json", os.R_OK):
            return failed(what, f"{folder} has no tokenizer.json that can be read", "fetch the whole checkpoint")
        weights = sorted(folder.glob("*.safetensors"))
        if wants_weights and not weights:
            return failed(
                what, f"{folder} has no *.safetensors", "fetch the whole checkpoint; other formats are not read"
            )
        if unread := [path.name for path in weights if not os.access(path, os.R_OK)]:
            return failed(
                what, f"{folder / unread[0]} cannot be read", "make it readable for the user that specd runs as"
            )
    except (SpecdError, OSError) as error:
        return failed(what, str(error), "name the folder of a checkpoint, or an id of the Hub")
    return ok(what, str(folder))


def _folder(name: str, demo: str) -> Path | None:
    """Return where a model lies; None for one of the Hub."""
    if name == DEMO:
        return DEMO_FOLDER / demo
    return None if is_hub_id(name) and not Path(name).is_dir() else Path(name)


def _threads(engine: EngineSettings) -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = f"engine.num_threads is {engine.num_threads}, of {cores} cores"
    if engine.num_threads > cores:
        return failed("threads", found, f"set engine.num_threads to {cores} or less: more wait for one another")
    if engine.num_threads == cores > 1:
        return unsure("threads", found, "leave a core to the gateway and Redis, if they are on this machine")
    return ok("threads", found)


def _kv_memory(engine: EngineSettings) -> Check | None:
    """Hold the target's KV cache against the memory that is free; None where neither is known."""
    folder = _folder(engine.target, "target")
    available = _available_bytes()
    if folder is None or available is None:
        return None
    try:
        config = read_config(folder)
        config = config.get("text_config", config)
        row = TENSORS * config["num_hidden_layers"] * _kv_width(config)
    except (SpecdError, KeyError, TypeError):
        return None
    default = "float32" if engine.numerics == "batch_invariant" else str(config.get("torch_dtype", "float32"))
    dtype = default if engine.dtype == "auto" else engine.dtype
    wanted = engine.kv_cache_tokens * row * BYTES.get(dtype, 4)
    found = f"the target's cache takes about {wanted // MIB} MiB of {available // MIB} MiB free"
    if wanted > available:
        return failed("KV memory", found, "lower engine.kv_cache_tokens")
    if wanted > KV_SHARE * available:
        return unsure("KV memory", found, "lower engine.kv_cache_tokens, or see that the weights fit beside it")
    return ok("KV memory", found)


def _kv_width(config: dict[str, Any]) -> int:
    heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
    return int(config.get("num_key_value_heads", heads)) * head_dim


def _available_bytes() -> int | None:
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
