"""Capture at start-up what usual batches will ask for, so that no request waits for it; and see what memory is left."""

import time

import structlog
import torch
from msgspec import Struct

from core.errors import ConfigError
from engine.engine import Engine
from engine.graphed_drafts import Laws, usual_laws
from engine.memory import EngineMemory
from engine.speculator import Speculator

log = structlog.get_logger()

# Logits f32 [rows, V] that a step holds at once: the target's, their laws, the drafts' laws.
LAWS_AT_ONCE = 3


class Left(Struct, frozen=True):
    """Bytes of a device: what its graphs took, what is free now, what a full step without graphs takes."""

    graphs: int
    free: int
    step: int


@torch.inference_mode()
def capture_graphs(engine: Engine, *, needs_all: bool, verifier: str = "rejection") -> None:
    """Capture the target's forward and every drafter's proposals, largest first: smaller ones compute in their memory.

    Others, such as those of rarer laws, are captured when a batch first asks. verifier is that of most requests. Raises
    ConfigError if too little memory is left, and with `needs_all` if something is not captured that could be asked for.
    """
    device = engine.target.device
    started, before = time.perf_counter(), free_bytes(device)
    names = [] if engine.graphed else ["target"]
    if engine.graphed:
        for bucket in reversed(engine.graphed.buckets):
            is_plain = bucket.num_rows == bucket.num_sequences
            for layers in feature_layers(engine, is_plain=is_plain):
                engine.graphed.warm(bucket, layers)
        names += ["target"] * engine.graphed.graphs.is_broken
    for name, speculator in engine.memory.speculators.items():
        capture_drafts(speculator, usual_laws(verifier))
        if speculator.drafter and (speculator.graphed is None or speculator.graphed.graphs.is_broken):
            names.append(name)
    if needs_all and names:
        raise ConfigError(
            f"engine.graphs is 'on', and {', '.join(names)} cannot be captured; with 'auto' they run without graphs"
        )
    free = free_bytes(device)
    left = Left(before - free, free, step_bytes(engine.memory, engine.target.shape.vocab_size))
    log.info(
        "graphs_captured",
        target=len(engine.graphed.graphs) if engine.graphed else 0,
        drafts=sum(len(each.graphed.graphs) for each in engine.memory.speculators.values() if each.graphed),
        eager=names,
        seconds=round(time.perf_counter() - started, 2),
        mib=left.graphs >> 20,
        free_mib=left.free >> 20,
    )
    if device.type == "cuda":
        check_left(left, sum(engine.memory.kv_bytes.values()), engine.memory.num_blocks * engine.memory.pool.block_size)


@torch.inference_mode()
def capture_drafts(speculator: Speculator, usual: tuple[Laws, ...]) -> None:
    """Capture one drafter's proposals for usual laws; nothing is done for one that is not to be captured."""
    if speculator.graphed:
        for size in reversed(speculator.graphed.sizes):
            for laws in usual:
                speculator.graphed.warm(size, laws)


def feature_layers(engine: Engine, *, is_plain: bool) -> list[tuple[int, ...]]:
    """Return the layers whose features steps ask for: those of each drafter, and in plain steps none as well."""
    drafters = [each.spec for each in engine.memory.speculators.values() if each.drafter]
    return sorted({spec.feature_layers for spec in drafters} | ({()} if is_plain or not drafters else set()))


def step_bytes(memory: EngineMemory, vocab_size: int) -> int:
    """Return what the logits of a full step take in which everybody drafts."""
    num_rows = memory.scheduler.limits.max_num_seqs * (1 + memory.width)
    return LAWS_AT_ONCE * num_rows * vocab_size * torch.float32.itemsize


def free_bytes(device: torch.device) -> int:
    """Return the memory that a GPU has free, what torch keeps for later included; 0 for a CPU."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def check_left(left: Left, kv_bytes: int, num_tokens: int) -> None:
    """Raise ConfigError, saying what to give up, if a full step does not fit beside graphs and the KV of num_tokens."""
    missing = left.step - left.free
    if missing > 0:
        raise ConfigError(
            f"{left.free >> 20} MiB are free beside models, KV cache and {left.graphs >> 20} MiB of graphs, and a full "
            f"step takes {left.step >> 20}; lower engine.kv_cache_tokens by {-(-missing * num_tokens // kv_bytes)}, or "
            "engine.max_num_seqs, or set engine.graphs = 'off'"
        )
