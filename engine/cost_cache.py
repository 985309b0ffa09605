"""Keep measured cost tables on disk, each under a key of all that a step's price depends on."""

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import structlog
import torch
from torch import nn

from core.cost import CostTable
from core.errors import ShapeError
from core.whole_file import write_whole
from engine.engine import Engine
from engine.profile import profile

log = structlog.get_logger()


class SavedTable(msgspec.Struct, frozen=True):
    """A table, and the key of the machine, models and sizes it was measured with."""

    key: str
    table: CostTable


def load_or_measure(engine: Engine, drafter: str, folder: Path, verifier: str = "rejection") -> CostTable:
    """Return the engine's cost table with a drafter: from `folder` if it was measured before, else measured now.

    A file that cannot be read or belongs to something else is measured anew, and so is logged; so is one that cannot
    be written. Raises what profile raises.
    """
    table = read_table(engine, drafter, folder, verifier)
    if table is None:
        table, key = profile(engine, drafter, verifier), cost_key(engine, drafter, verifier)
        _write(_path(folder, key), SavedTable(key, table))
    return table


def read_table(engine: Engine, drafter: str, folder: Path, verifier: str = "rejection") -> CostTable | None:
    """Return the table that was measured before for such an engine and drafter, None if there is none to be read."""
    key = cost_key(engine, drafter, verifier)
    return _read(_path(folder, key), key)


def cost_key(engine: Engine, drafter: str, verifier: str = "rejection") -> str:
    """Return the sha256 of what the price of a step depends on, in hexadecimal.

    Of models that is the shapes of their weights, not the values: two checkpoints of one architecture cost the same.
    """
    loaded = engine.memory.speculators[drafter].drafter
    limits = engine.scheduler.limits
    facts: dict[str, Any] = {
        "specd": version("specd"),
        "torch": str(torch.__version__),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "target": describe(engine.target),
        "numerics": engine.target.numerics,
        "verifier": verifier,
        "drafter": {"kind": type(loaded).__qualname__, **{name: describe(part) for name, part in _parts(loaded)}},
        "limits": [limits.max_num_seqs, limits.max_num_batched_tokens, limits.max_model_len],
        "blocks": [engine.memory.pool.num_usable, engine.memory.pool.block_size],
    }
    if engine.graphed:
        facts["graphs"] = engine.graphed.buckets
    return hashlib.sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()


def describe(part: Any) -> Any:
    """Return a network as the names, shapes, types and device of its weights; anything else as it reads."""
    if isinstance(part, nn.Module):
        return [(name, list(p.shape), str(p.dtype), str(p.device)) for name, p in part.state_dict().items()]
    return repr(part)


def processor_name() -> str:
    """Return what the machine calls its processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _parts(drafter: object) -> list[tuple[str, Any]]:
    """Return a drafter's networks and plain options by name."""
    kinds = (nn.Module, msgspec.Struct, bool, int, float, str, tuple)
    return sorted((name, value) for name, value in vars(drafter).items() if isinstance(value, kinds))


def _path(folder: Path, key: str) -> Path:
    return folder / f"cost-{key[:16]}.json"


def _read(path: Path, key: str) -> CostTable | None:
    if not path.is_file():
        return None
    try:
        saved = msgspec.json.decode(path.read_bytes(), type=SavedTable)
    except (msgspec.DecodeError, ShapeError, OSError) as error:
        log.warning("cost_table_unreadable", path=str(path), error=str(error))
        return None
    if saved.key != key:
        log.warning("cost_table_foreign", path=str(path))
        return None
    return saved.table


def _write(path: Path, saved: SavedTable) -> None:
    try:
        write_whole(path, msgspec.json.format(msgspec.json.encode(saved)))
    except OSError as error:
        log.warning("cost_table_not_written", path=str(path), error=str(error))
