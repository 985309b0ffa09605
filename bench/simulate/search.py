"""Which policy, which length, how many workers: the fewest workers that meet the objectives, and how sure that is.

For every policy the number of workers is doubled until the objectives are met, then halved in. The answer is the policy
with the fewest workers; of those alike, the one that answers fastest. Then the same is asked of slower and faster
machines and of worse and better drafts, how far the answer moves with what nobody knows exactly, and of a burst that
lasts: twice the load.
"""

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from bench.simulate.case import Case
from bench.simulate.measure import Outcome
from bench.simulate.settings import Objectives, Simulation

# What the answer is tried with: seconds of steps, chances of drafts, and load, times these.
BURST, MOST_LOAD = "load x2", 2.0
VARIED = {
    "costs -10%": (0.9, 1.0, 1.0),
    "costs +10%": (1.1, 1.0, 1.0),
    "acceptance -10%": (1.0, 0.9, 1.0),
    "acceptance +10%": (1.0, 1.1, 1.0),
    BURST: (1.0, 1.0, MOST_LOAD),
}
# A queue grows if more jobs are in the fleet at the end than were when counting began, by so many standard deviations
# of what a Poisson number of them varies, and by this share of those that came.
DEVIATIONS, SHARE_LEFT = 3.0, 0.02

Play = Callable[[Iterable[Case]], Iterable[Outcome]]


class Answer(Struct, frozen=True):
    """What one policy needs: the fewest workers that meet the objectives (None: not even the most), and how they do."""

    policy: str
    load: float
    workers: int | None
    outcome: Outcome


class Recommendation(Struct, frozen=True):
    """The answer for one load.

    best       the recommended policy; None if none meets the objectives
    answers    what each policy needs
    varied     by what was varied: what the best policy needs then, and which policy would have been best
    """

    load: float
    best: Answer | None
    answers: tuple[Answer, ...]
    varied: dict[str, tuple[int | None, str | None]]

    @property
    def band(self) -> tuple[int | None, int | None]:
        """Fewest and most workers that the best policy needs under this load, whatever else is varied.

        None for more than were tried.
        """
        assert self.best is not None
        needs = [self.best.workers, *(need for name, (need, _) in self.varied.items() if name != BURST)]
        known = [need for need in needs if need is not None]
        return min(known, default=None), None if None in needs else max(known)


def meets(outcome: Outcome, wanted: Objectives) -> bool:
    """Tell whether a case meets the objectives, with a queue that does not grow."""
    if outcome.first_token_s is None or outcome.token_s is None or outcome.refused:
        return False
    return (
        outcome.first_token_s[1] <= wanted.first_token_p95_s
        and outcome.token_s[1] <= wanted.token_p95_s
        and not is_growing(outcome)
    )


def is_growing(outcome: Outcome) -> bool:
    """Tell whether more jobs stay in the fleet than chance explains: it cannot keep up."""
    spread = DEVIATIONS * (outcome.inside_before + 1) ** 0.5
    return outcome.inside - outcome.inside_before > spread + SHARE_LEFT * outcome.arrived


def fewest(case: Case, most: int, play: Play) -> Answer:
    """Return the fewest workers, up to `most`, with which one policy meets the objectives."""
    wanted, tried = case.simulation.objectives, dict[int, Outcome]()

    def holds(workers: int) -> bool:
        if workers not in tried:
            (tried[workers],) = play([Case(case.simulation, case.policy, case.load, workers)])
        return meets(tried[workers], wanted)

    low, high = 0, 1
    while not holds(high):
        if high == most:
            return Answer(case.policy, case.load, None, tried[high])
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return Answer(case.policy, case.load, high, tried[high])


def better(answers: Sequence[Answer]) -> Answer | None:
    """Return the answer with the fewest workers, of those alike the one that answers fastest; None if none is able."""
    able = [answer for answer in answers if answer.workers is not None]
    return min(
        able, key=lambda answer: (answer.workers or 0, -(answer.outcome.tokens_per_s_per_user or 0.0)), default=None
    )


def recommend(simulation: Simulation, most: int, play: Play, report: Callable[[str], None]) -> list[Recommendation]:
    """Return a recommendation for each load of the traffic."""
    return [_recommend(simulation, load, most, play, report) for load in simulation.traffic.loads]


def _recommend(
    simulation: Simulation, load: float, most: int, play: Play, report: Callable[[str], None]
) -> Recommendation:
    def ask(costs: float, acceptance: float, times: float) -> tuple[Answer, ...]:
        cases = [Case(simulation, policy, load, 1) for policy in simulation.policies]
        varied = [case.varied(costs=costs, acceptance=acceptance, load=times) for case in cases]
        return tuple(fewest(case, most, play) for case in varied)

    report(f"load {load:g}")
    answers = ask(1.0, 1.0, 1.0)
    best = better(answers)
    varied: dict[str, tuple[int | None, str | None]] = {}
    for name, factors in VARIED.items() if best else ():
        report(f"load {load:g}, {name}")
        others = ask(*factors)
        theirs = better(others)
        own = next(answer for answer in others if best and answer.policy == best.policy)
        varied[name] = own.workers, theirs.policy if theirs else None
    return Recommendation(load, best, answers, varied)
