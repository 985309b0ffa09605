"""Tiny worlds that can be computed by hand: every number of a step is given."""

import numpy as np

from bench.simulate.case import Case
from bench.simulate.drafts import Texts
from bench.simulate.engine import SimulatedEngine
from bench.simulate.machine import Machine, TablePricing
from bench.simulate.settings import Costs, Domain, Fleet, Lengths, Shape, Simulation, Traffic
from bench.simulate.virtual_time import VirtualTime
from core.cost import CostTable

WIDTH = 3
ONE_WORKER = Fleet()
# A plain step takes 10 ms whatever is in it, a draft row 1 ms, following a sequence 2 ms, a row of prefill 0.1 ms.
PLAIN_S, ROW_S, FOLLOW_S, PREFILL_S = 0.010, 0.001, 0.002, 0.0001
TABLE = CostTable(
    sequences=(1, 2),
    lengths=(0, 3),
    contexts=(64,),
    plain_s=((PLAIN_S, PLAIN_S),),
    verify_s=(((PLAIN_S, PLAIN_S + 3 * ROW_S), (PLAIN_S, PLAIN_S + 6 * ROW_S)),),
    draft_s=((FOLLOW_S, 2 * FOLLOW_S),),
    prefill_row_s=PREFILL_S,
    catch_up_row_s=PREFILL_S,
)


def texts(accepted, length=64, num_texts=4):
    """Every anchor of every text has that many drafts accepted; the drafter is sure of the right ones."""
    shown = np.where(np.arange(WIDTH) < accepted, 4.0, -4.0).astype(np.float32)
    return Texts(
        accepted=np.full((num_texts, length), accepted, np.int32),
        evidence=np.broadcast_to(shown, (num_texts, length, WIDTH)).copy(),
        lengths=np.full(num_texts, length, np.int32),
        prompt_len=np.zeros(num_texts, np.int32),
        domains={"any": np.arange(num_texts)},
    )


def engine(policy, drafts, *, seed=0, **shape):
    """An engine on the table above, with its clock."""
    time = VirtualTime()
    machine = Machine(TablePricing(TABLE), Costs(), seed)
    return SimulatedEngine(Shape(**shape), policy, drafts, machine, time), time


def exactly(tokens):
    """A law of lengths that gives one length."""
    return Lengths(mean=float(tokens), variation=0.0)


def simulation(*, prompt=100, output=50, loads=(4.0,), kind="closed", fleet=ONE_WORKER, seconds=5.0, **fields):
    """Requests of one length on a modelled GPU."""
    domains = {name: Domain(prompt=exactly(prompt), output=exactly(output)) for name in ("math", "chat")}
    traffic = Traffic(kind=kind, loads=loads, domains=domains)
    return Simulation(traffic=traffic, fleet=fleet, seconds=seconds, **{"warm_up_s": 0.0} | fields)


def case(policy="load_adaptive", load=4.0, workers=1, **fields):
    """One case of the simulation above."""
    return Case(simulation(loads=(load,), **fields), policy, load, workers)
