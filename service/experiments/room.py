"""Whether there is room for an experiment's units: so many are kept of each, and it ends there."""

import math

from core.errors import ConfigError
from core.experiments.spec import Experiment
from service.experiments.store import MAX_RECORDS


def num_units(experiment: Experiment, num_blocks: int, num_workers: int) -> int:
    """Return how many units so many workers write for the blocks before the comparison and num_blocks of it."""
    # Where each worker has blocks of its own, they share those of the comparison.
    own = math.ceil(num_blocks / num_workers) if experiment.unit == "worker" else num_blocks
    per_block = len(experiment.arms) if experiment.unit == "request" else experiment.block_len
    return (experiment.stop.pre_blocks + own) * per_block * num_workers


def check_room(experiment: Experiment, num_workers: int) -> str | None:
    """Return a warning if there is no room for stop.max_blocks; raises ConfigError if there is none for min_blocks."""
    stop, of = experiment.stop, f"{num_workers} worker{'' if num_workers == 1 else 's'}"
    if (least := num_units(experiment, stop.min_blocks, num_workers)) > MAX_RECORDS:
        raise ConfigError(
            f"with {of} its stop.pre_blocks and stop.min_blocks are {least} units, of which {MAX_RECORDS} have room; "
            "take fewer blocks of longer slots"
        )
    if (most := num_units(experiment, stop.max_blocks, num_workers)) > MAX_RECORDS:
        return f"with {of} stop.max_blocks are {most} units, of which {MAX_RECORDS} have room: it ends there"
    return None
