"""What runs on the pretended device in place of kernels: their twins, which there count for nothing."""

import torch

from drafters import draws
from engine import device_round, plan
from engine import engine as engine_module
from engine.engine import Engine
from kernels import reference
from kernels.coupled import couple, draw_coupled
from models.paged import PagedAttention
from tests.engine.pretend_device import as_kernel


def stand_in(monkeypatch):
    """Put twins where a device has kernels, for one test."""

    def num_rows(_, draft, lengths, *__):
        return int(lengths.sum()) + len(lengths)

    for name, twin in (("reject", reference.reject), ("couple", couple), ("keep_drawn", reference.keep_drawn)):
        monkeypatch.setattr(device_round, name, as_kernel(twin, num_rows))
    for where in (device_round, draws):
        monkeypatch.setattr(where, "process", as_kernel(reference.process))
    monkeypatch.setattr(draws, "draw_next", as_kernel(draws.draw_next))
    monkeypatch.setattr(draws, "draw_coupled", as_kernel(draw_coupled))
    monkeypatch.setattr(device_round, "draw_next", as_kernel(device_round.draw_next))
    monkeypatch.setattr(engine_module, "admit", as_kernel(engine_module.admit))
    monkeypatch.setattr(plan, "survival_of", as_kernel(reference.survival))
    # Inference mode knows no tensors of a kind of our own.
    monkeypatch.setattr(Engine, "step", torch.no_grad()(Engine.step.__wrapped__))
    monkeypatch.setattr(PagedAttention, "over", attend_as_kernel(PagedAttention.over))


def attend_as_kernel(over):
    """Return an attention that is laid out when it runs: the twin's layout, unlike a kernel's, has shapes by values."""

    def run(attention, rows, named, layer, q, k, v):
        return over(attention, *rows, **named)(layer, q, k, v)

    def laid_out(attention, *rows, **named):
        told = {name: each for name, each in named.items() if each is not None}
        names, values = tuple(told), tuple(told.values())
        kernel = as_kernel(lambda rows, values, *rest: run(attention, rows, dict(zip(names, values)), *rest))
        return lambda layer, q, k, v: kernel(rows, values, layer, q, k, v)

    return laid_out
