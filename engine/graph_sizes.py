"""For how many sequences graphs are captured: what a setting comes to on one device."""

from typing import Literal

import torch

from core.errors import ConfigError

Choice = Literal["auto", "on", "off"]


def pick_graph_sizes(choice: Choice, device: torch.device, max_num_seqs: int) -> tuple[int, ...]:
    """Return the numbers of sequences to capture for, ascending; none is no graphs, which is all that a CPU has.

    Raises ConfigError if they are asked for in vain.
    """
    if choice == "on" and device.type != "cuda":
        raise ConfigError(f"engine.graphs is 'on', and this engine computes on the {device.type}; use 'auto' or 'off'")
    return () if choice == "off" or device.type != "cuda" else graph_sizes(max_num_seqs)


def graph_sizes(most: int) -> tuple[int, ...]:
    """Return two sizes for every octave up to `most`, and this: a batch is padded by half of itself at most.

    As the forwards of few rows cost what reading the weights costs, rows that pad them are all but free.
    """
    powers = [1 << power for power in range(most.bit_length())]
    return tuple(sorted({size for power in powers for size in (power, power + power // 2) if size <= most} | {most}))
