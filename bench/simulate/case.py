"""One case of a simulation: a policy, a load and so many workers, played from the beginning."""

import itertools
import time
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from bench.modes import BASELINE, mode_settings
from bench.simulate.drafts import Texts, read_texts
from bench.simulate.engine import SimulatedEngine
from bench.simulate.fleet import FleetRun
from bench.simulate.machine import Machine, Pricing, make_pricing
from bench.simulate.measure import Measures, Outcome, percentiles
from bench.simulate.settings import Simulation
from bench.simulate.span import span_of
from bench.simulate.traffic import Arrivals
from bench.simulate.virtual_time import VirtualTime
from core.config import EngineSettings
from core.errors import ConfigError
from core.planning import Policy
from engine.build import make_policy

# A drafter that every policy goes with; it is not loaded.
ANY_DRAFTER = "dspark"


class Case(Struct, frozen=True):
    """What to play: a policy by name, as `specd bench` has it (fixed:3), and one of the traffic's loads."""

    simulation: Simulation
    policy: str
    load: float
    workers: int

    def varied(self, *, costs: float = 1.0, acceptance: float = 1.0, load: float = 1.0) -> "Case":
        """Return the case with so many times the load, where steps take so many times as long and drafts are so many
        times as likely to pass.
        """
        wanted = self.simulation
        return replace(
            self,
            load=self.load * load,
            simulation=replace(
                wanted,
                costs=replace(wanted.costs, scale=wanted.costs.scale * costs),
                acceptance=replace(wanted.acceptance, scale=wanted.acceptance.scale * acceptance),
            ),
        )


def named_policy(simulation: Simulation, name: str) -> Policy:
    """Return a new policy by its name; raises ConfigError if it is none."""
    settings = simulation.named.get(name) or mode_settings(name, ANY_DRAFTER, EngineSettings()).policy
    return make_policy(settings)


def prepare(case: Case, *, texts: Texts | None = None) -> FleetRun:
    """Return the fleet of a case, ready to run; raises ConfigError for what cannot be simulated."""
    wanted = case.simulation
    texts = texts or read_texts(wanted.acceptance, wanted.seed)
    pricing, virtual = make_pricing(wanted.costs), VirtualTime()
    make = partial(_make_engine, case, texts, pricing, virtual)
    fleet = replace(wanted.fleet, workers=case.workers)
    return FleetRun(fleet, Arrivals(wanted.traffic, case.load, texts, wanted.seed), make, virtual, wanted.seed)


def _make_engine(case: Case, texts: Texts, pricing: Pricing, virtual: VirtualTime, number: int) -> SimulatedEngine:
    wanted = case.simulation
    policy = named_policy(wanted, case.policy)
    machine = Machine(pricing, wanted.costs, wanted.seed * 100_003 + number)
    drafts = None if case.policy == BASELINE else texts
    return SimulatedEngine(wanted.engine, policy, drafts, machine, virtual)


def play(case: Case, *, texts: Texts | None = None) -> Outcome:
    """Play a case to its end and say what came of it; raises ConfigError if all was over before anything counted."""
    started = time.process_time()
    run = prepare(case, texts=texts)
    span = span_of(case.simulation, run.arrivals.trace_s)
    measures = Measures(span.warm_up_s)
    run.run(measures, span.ends_s)
    seconds = run.time.now_s - span.warm_up_s
    if seconds <= 0:
        raise ConfigError(
            f"all requests of the trace had ended after {run.time.now_s:g} s, and nothing counts before "
            f"{span.warm_up_s:g} s: give it a shorter --warm-up"
        )
    window = measures.window
    rounds = max(1, window.rounds)
    return Outcome(
        policy=case.policy,
        load=case.load,
        workers=case.workers,
        seconds=seconds,
        tokens_per_s=window.tokens / seconds,
        tokens_per_s_per_user=window.tokens_per_s_per_user if window.gaps_s else None,
        first_token_s=percentiles(window.first_token_s),
        token_s=percentiles(measures.token_s),
        gap_s=percentiles(window.gaps_s),
        longest_s=max(itertools.chain(window.first_token_s, window.gaps_s), default=0.0),
        verify_length=window.verified / rounds,
        accepted_length=1 + window.accepted / rounds,
        utilisation=measures.busy_s / seconds / case.workers,
        arrived=run.num_arrived - run.before[0],
        ended=measures.num_ended,
        refused=run.num_refused,
        inside_before=run.before[1],
        inside=run.num_inside,
        deaths=run.num_deaths,
        taken_over=run.num_taken_over,
        steps=measures.num_steps,
        cpu_s=time.process_time() - started,
    )
