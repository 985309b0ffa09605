"""The exact part: every admission rule, both verifiers, floors and weights, by enumeration through kernels.admit.

A check returns the total variation between what came out and the target's law; it must be 0, not small.
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

from bench.prove.coupled_enumeration import coupled_output_law
from bench.prove.enumeration import (
    HONEST,
    Admit,
    Choose,
    Model,
    PaperModel,
    Parts,
    RandomModel,
    Round,
    Shape,
    Word,
    ask_admit,
    distance,
    output_law,
    point_mass,
    target_law,
)
from core.planning import EarlyStop, FixedLength, Rule, Threshold, TopK
from kernels.admit import admit

RULES: dict[str, Rule] = {
    "none": FixedLength(length=0),
    "fixed": FixedLength(length=2),
    "conditional": Threshold(value=0.6),
    "cumulative": Threshold(value=0.45, cumulative=True),
    "top_k": TopK(budget=1),
    "top_k_two": TopK(budget=2),
    "early_stop": EarlyStop(step_s=(1.0, 1.3, 1.55, 1.9, 2.4)),
    "early_stop_flat": EarlyStop(step_s=(1.0, 1.0, 2.0, 2.0, 3.0)),
    "early_stop_tops": EarlyStop(step_s=(1.0, 1.3, 1.55, 1.9, 2.4), tops=(2, 4)),
}


class Bed(NamedTuple):
    """A batch to enumerate, its vocabulary, and what Plan says beside the rule: one floor and weight per sequence."""

    shape: Shape
    vocab: int
    floors: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()


BEDS = {
    "R1-G2-N4-V2": Bed(Shape(1, 2, 4), 2),
    "R1-G2-N3-V3": Bed(Shape(1, 2, 3), 3),
    "R2-G2-N2-V2": Bed(Shape(2, 2, 2), 2),
    "R2-G2-N3-V2": Bed(Shape(2, 2, 3), 2),
    "R1-G2-N3-V2-floor": Bed(Shape(1, 2, 3), 2, floors=(1,)),
    "R2-G2-N2-V2-floor-weight": Bed(Shape(2, 2, 2), 2, floors=(0, 1), weights=(1.0, 0.6)),
    "R2-G2-N2-V2-weight": Bed(Shape(2, 2, 2), 2, weights=(0.7, 1.3)),
}
# The beds of the coupled verifier have two tokens, and the noise of every position to enumerate.
COUPLED_BEDS = {
    "R1-G2-N3-V2": Bed(Shape(1, 2, 3), 2),
    "R2-G2-N2-V2-floor-weight": Bed(Shape(2, 2, 2), 2, floors=(0, 1), weights=(1.0, 0.6)),
}
NUM_ADVERSARIES = 10


class ExactCheck(NamedTuple):
    """A check by name; `variation` computes the total variation between output and target law."""

    name: str
    variation: Callable[[], Fraction]


def exact_checks() -> Iterator[ExactCheck]:
    """Yield all checks of the honest rules."""
    for bed_name, bed in BEDS.items():
        for rule_name, rule in RULES.items():
            choose = ask_admit(rule, floors=bed.floors, weights=bed.weights)
            yield _check(f"rejection {rule_name} {bed_name}", RandomModel(bed.vocab, 1), bed.shape, choose)
    for bed_name, bed in COUPLED_BEDS.items():
        for rule_name, rule in RULES.items():
            choose = ask_admit(rule, floors=bed.floors, weights=bed.weights)
            name = f"coupled {rule_name} {bed_name}"
            yield ExactCheck(name, partial(coupled_variation, RandomModel(2, 1), bed.shape, choose))
    for one, other in combinations(RULES, 2):
        choose = ask_admit(RULES[one], RULES[other])
        yield _check(f"rejection {one} beside {other}", RandomModel(2, 3), Shape(2, 2, 2), choose)
    for shape in (Shape(1, 2, 3), Shape(2, 2, 2)):
        yield _check(f"rejection lagged budget R{shape.num_sequences}", RandomModel(2, 2), shape, lagged_budget)
    yield _check("rejection lagged safety", PaperModel(), Shape(1, 3, 3), verify_if_second_draft_looked_safe)
    for seed in range(NUM_ADVERSARIES):
        model = RandomModel(2, seed)
        choose = ask_admit(EarlyStop(step_s=tempting_table(model)))
        yield _check(f"rejection early_stop adversary {seed}", model, Shape(1, 2, 2), choose)
    # What a policy cannot do, and what does no harm where drafts are point masses or coupled.
    harmless = best_in_hindsight(tempting_table(PaperModel()))
    yield _check("point mass hindsight", PaperModel(), Shape(1, 2, 2), harmless, Parts(verify=point_mass))
    yield ExactCheck("coupled hindsight", partial(coupled_variation, PaperModel(), Shape(1, 2, 3), harmless))


def variation(model: Model, shape: Shape, choose: Choose, parts: Parts = HONEST) -> Fraction:
    """Return the total variation between the output law of `rejection` and the target's law, exactly."""
    return distance(output_law(model, shape, choose, parts), target_law(model, shape))


def coupled_variation(model: Model, shape: Shape, choose: Choose) -> Fraction:
    """Return the total variation between the output law of `coupled` and the target's law, exactly."""
    return distance(coupled_output_law(model, shape, choose), target_law(model, shape))


def tempting_table(model: Model) -> tuple[float, ...]:
    """Return step seconds for which one draft never pays and two pay just when the first token was a lucky one.

    The constructed adversary: random tables find the bias of a choice in hindsight almost never.
    """
    a1 = model.c(())
    expected = sum(float(q) * model.c((x,)) for x, q in enumerate(model.q(())))
    return 1.0, (1 + a1) / 0.9, 1 + a1 + a1 * expected


def ask_early_stop(table: Sequence[float], admission: Admit = admit) -> Choose:
    """Return early stop on a table of step seconds, by the engine's admission or another one."""
    return ask_admit(EarlyStop(step_s=tuple(table)), admission=admission)


def best_in_hindsight(step_s: Sequence[float]) -> Choose:
    """Return the anticipating search: the most profitable number of drafts, after seeing all of their survivals."""

    def choose(view: Round) -> tuple[Word, None]:
        rates = [(1 + sum(view.survival[0][:k])) / step_s[k] for k in range(len(view.drafts[0]) + 1)]
        return (rates.index(max(rates)),), None

    return choose


def lagged_budget(view: Round) -> tuple[Word, Any]:
    """Take a budget from the survivals of the round before, and allocate it by live ones."""
    seen = view.memory or ()
    budget = sum(1 for row in seen for a in row if a > 0.45)
    return ask_admit(TopK(budget=budget))(view)[0], view.survival


def verify_if_second_draft_looked_safe(view: Round) -> tuple[Word, Any]:
    """Verify one draft if the last round's third survival hardly fell."""
    seen = view.memory
    is_safe = seen is not None and seen[0][2] >= 0.7 * seen[0][1]
    return (1 if is_safe and view.drafts[0] else 0,), view.survival


def _check(name: str, model: Model, shape: Shape, choose: Choose, parts: Parts = HONEST) -> ExactCheck:
    return ExactCheck(name, partial(variation, model, shape, choose, parts))
