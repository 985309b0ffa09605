"""Experiments on a modelled machine: the real engine, recorded acceptance, arms that take turns on a virtual clock.

The truth is known here, or can be measured by long runs of one arm alone, so that it shows what a design finds of it.
Everything is modelled, nothing is the speed of this machine.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from msgspec.structs import replace

from bench.replay.clock import ModelledMachine
from bench.replay.recording import DOMAINS, read_recording
from bench.replay.run import DRAFTER, ReplayRun, Tally
from core.config import Settings
from core.experiments.assignment import arm_of_slot, block_of
from core.experiments.spec import Experiment
from core.experiments.unit_sums import UnitRecord, UnitSums
from core.planning import Policy
from core.types import Request
from engine.arms import make_arms, serve_arms
from engine.groups import Arm
from policies.fixed import Off

MACHINE = "staircase"
# How much of the log of the load a slot keeps from the one before, and how much is new.
KEPT, NEW = 0.8, 0.25


def start_run(load: int, most: int = 0, first_request: int = 0, policy: Callable[[], Policy] = Off) -> ReplayRun:
    """Return a run at a load, all of whose requests are the default policy's until arms are served."""
    machine = ModelledMachine(MACHINE)
    return ReplayRun(read_recording(DOMAINS), (machine,), policy, load, most=most, first_request=first_request)


def drifting_loads(load: int, num_slots: int, seed: int) -> Iterator[int]:
    """Yield a load per slot, from a quarter of `load` to four times of it, each near the one before."""
    rng, place = np.random.default_rng(seed), 0.0
    for _ in range(num_slots):
        place = KEPT * place + NEW * rng.normal()
        yield max(1, round(load * math.exp(min(max(place, -1.38), 1.38))))


def slots_of(run: ReplayRun, num_slots: int, slot_s: float, serve: Callable[[int], None]) -> Iterator[UnitSums]:
    """Yield what slots of so many seconds of the machine come to; `serve` is told of each before it begins.

    The first quarter of a slot is its burn-in.
    """
    for slot in range(num_slots):
        serve(slot)
        _run_for(run, slot_s / 4)
        tally, steps = _run_for(run, 3 * slot_s / 4)
        yield UnitSums(
            seconds=tally.seconds[0],
            busy_s=tally.seconds[0],
            steps=steps,
            tokens=tally.tokens,
            rounds=tally.rounds,
            verified=tally.verified,
            accepted=tally.tokens - tally.rounds,
        )


def _run_for(run: ReplayRun, seconds: float) -> tuple[Tally, int]:
    tally = Tally([0.0])
    while tally.seconds[0] < seconds:
        run.step(tally)
    return tally, tally.steps


def switchback(experiment: Experiment, load: int, num_slots: int, slot_s: float, seed: int = 0) -> list[UnitRecord]:
    """Return the units of an experiment whose arms take turns at a drifting load."""
    run = start_run(load, most=4 * load + 1, first_request=seed * 41)
    arms, loads = make_arms(experiment, Settings()), drifting_loads(load, num_slots, seed)

    def serve(slot: int) -> None:
        run.load = next(loads)
        arm = experiment.control_arm if is_pre(experiment, slot) else arm_at(experiment, slot)
        _alone(run, arms[arm])

    return records_of(experiment, list(slots_of(run, num_slots, slot_s, serve)))


def alone(experiment: Experiment, arm: str, load: int, num_slots: int, slot_s: float, seed: int = 0) -> list[UnitSums]:
    """Return the slots of one arm that has the machine to itself, at the same drifting load."""
    run = start_run(load, most=4 * load + 1, first_request=seed * 41)
    arms, loads = make_arms(experiment, Settings()), drifting_loads(load, num_slots, seed)

    def serve(slot: int) -> None:  # noqa: ARG001
        run.load = next(loads)
        _alone(run, arms[arm])

    return list(slots_of(run, num_slots, slot_s, serve))


def split_by_requests(experiment: Experiment, load: int, num_rounds: int) -> float:
    """Return what a split by requests shows: the treatment's tokens per round and sequence over the control's.

    Both share every step, so this is the ratio of the speeds that their users see side by side.
    """
    run, arms = start_run(load), make_arms(experiment, Settings())
    control, treatment = arms[experiment.control_arm], arms[experiment.treatments[0]]
    serve_arms(run.engine, lambda request: (control, treatment)[int(request.id) % 2])
    run.measure(num_rounds // 10)
    groups, names = run.engine.stats.groups, (treatment.name, control.name)
    before = {name: (groups[DRAFTER, name].accepted, groups[DRAFTER, name].rounds) for name in names}
    run.measure(num_rounds)

    def speed(name: str) -> float:
        accepted, rounds = (
            now - then
            for now, then in zip(
                (groups[DRAFTER, name].accepted, groups[DRAFTER, name].rounds), before[name], strict=True
            )
        )
        return 1 + accepted / rounds

    return speed(treatment.name) / speed(control.name)


def throughput_alone(experiment: Experiment, arm: str, load: int, num_rounds: int) -> float:
    """Return tokens per second of one arm that serves every request."""
    run = start_run(load)
    _alone(run, make_arms(experiment, Settings())[arm])
    run.measure(num_rounds // 10)
    return run.measure(num_rounds).rate()


def records_of(experiment: Experiment, slots: list[UnitSums], effect: float = 1.0) -> list[UnitRecord]:
    """Return slots as the units of an experiment; the treatments' are made faster by a planted `effect`."""
    records = []
    for slot, sums in enumerate(slots):
        arm, before = arm_at(experiment, slot), is_pre(experiment, slot)
        planted = 1.0 if arm == experiment.control_arm or before else effect
        own = replace(sums, seconds=sums.seconds / planted, busy_s=sums.busy_s / planted)
        records.append(UnitRecord(experiment.id, experiment.digest, "modelled", slot, arm, own, before))
    return records


def arm_at(experiment: Experiment, slot: int) -> str:
    """Return whose a slot is."""
    return arm_of_slot(experiment.salt, experiment.weights, slot)


def is_pre(experiment: Experiment, slot: int) -> bool:
    """Tell whether a slot comes before the comparison."""
    return block_of(slot, experiment.weights) < experiment.stop.pre_blocks


def _alone(run: ReplayRun, arm: Arm) -> None:
    serve_arms(run.engine, partial(_always, arm))


def _always(arm: Arm, request: Request) -> Arm:  # noqa: ARG001
    return arm
