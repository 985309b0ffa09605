"""Graphs of a device that is not there (tests/engine/pretend_device.py): what was done once is done again, and no more.

Work is captured by noting every operation on the device's numbers. A replay does the same to the same tensors, and
writes what comes out where it came out before: whatever the host decided while it was captured, a branch, a number, a
shape, stays decided, as in a CUDA graph. Captured work may not wait for the device, nor copy from the host. What the
other graphs of a pool have returned is spoiled by each replay: their memory may be what this one computes in.
"""

import torch

from tests.engine.pretend_device import CURRENT, Elsewhere, _deep


class Pool:
    """Captures work (`engine.graphs.Capture`); what it has captured shares memory."""

    def __init__(self):
        self.graphs = []

    def __call__(self, work):
        work()
        device = CURRENT[-1]
        waits, device.tape = device.waits.copy(), []
        try:
            outcome = work()
        finally:
            tape, device.tape = device.tape, None
        if device.waits != waits:
            device.waits = waits
            raise RuntimeError("operation not permitted when stream is capturing")
        self.graphs.append(Graph(self, tape, outcome))
        return self.graphs[-1]


class Graph:
    """What was done, and what came of it."""

    def __init__(self, pool, tape, outcome):
        self.pool, self.tape, self.outcome = pool, tape, outcome
        self.num_runs = 0

    def __call__(self):
        self.num_runs += 1
        own = {place(each) for each in tensors(self.outcome, Elsewhere)}
        for other in self.pool.graphs:
            for each in tensors(other.outcome, Elsewhere):
                # What several return is meant to be shared.
                if place(each) not in own:
                    spoil(each.here)
        for operation, outputs in self.tape:
            for new, old in zip(tensors(operation(), torch.Tensor), tensors(outputs, torch.Tensor), strict=True):
                if new is not old:
                    assert new.shape == old.shape, "a shape depends on values"
                    old.copy_(new)
        return self.outcome


def tensors(tree, kind):
    """Return the tensors of a kind wherever they are, in our frozen nouns too."""
    found = []
    _deep(tree, kind, lambda each: found.append(each) or each)
    return found


def place(tensor):
    return tensor.here.untyped_storage().data_ptr()


def spoil(tensor):
    """Write what nobody can compute with unnoticed."""
    tensor.fill_(torch.nan if tensor.is_floating_point() else True if tensor.dtype == torch.bool else 2**31 - 1)
