"""The certificate: every check there is, one line each, as they are done.

Quick covers every pair of drafter, policy, verifier and sampling and finds a total variation of a tenth; full covers
every combination and finds a fiftieth. What is enumerated is the same in both, and exact.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

from msgspec import Struct

from bench.prove.cells import DRAFTERS, SAMPLINGS, VERIFIERS, MakeDrafter, all_cells, pairwise_cells
from bench.prove.exact import exact_checks
from bench.prove.loop import (
    ALPHA,
    FULL,
    POWER,
    QUICK,
    Bed,
    Effort,
    fit_cell,
    fit_mixed,
    fit_plain,
    fit_reclaimed,
    make_bed,
)
from bench.prove.outcome import Outcome, of_fits, of_measured, of_variation
from bench.prove.perturbation import try_drafter
from bench.prove.planted import PlantedBug, planted_bugs
from bench.prove.round_law import TOLERANCE, lengths_by_first_token, random_tables, round_variation

PLANTED = "planted bugs"
NUM_ROUND_TABLES = 1

# A check by name, and what does it.
Check = tuple[str, Callable[[], Outcome]]


class Line(Struct, frozen=True):
    """One check that was done."""

    section: str
    name: str
    outcome: Outcome
    seconds: float


class Scope(Struct, frozen=True):
    """What a certificate is about: all of specd, or one drafter by name; and how hard it looks."""

    effort: Effort
    is_full: bool
    drafter: str | None = None


class Summary(Struct, frozen=True):
    """A certificate in numbers. family_rate bounds the chance that honest code fails any of the tests."""

    is_full: bool
    drafter: str | None
    num_checks: int
    num_failed: int
    num_tests: int
    alpha: float
    family_rate: float
    power: float
    variation: float
    draws_per_test: int
    num_planted: int
    num_caught: int
    seconds: float

    @property
    def passes(self) -> bool:
        """Tell whether every check passed, and there were some."""
        return self.num_checks > 0 and self.num_failed == 0


def scope_of(*, is_full: bool, drafter: str | None, seed: int) -> Scope:
    """Return the quick or the full scope; seed draws other texts."""
    usual = FULL if is_full else QUICK
    return Scope(Effort(usual.length, usual.variation, usual.num_slots, seed), is_full, drafter)


def certify(scope: Scope, makers: Mapping[str, MakeDrafter] = DRAFTERS) -> Iterator[Line]:
    """Do every check of a scope and yield what it found; makers are the drafters it is about, by name."""
    for section, checks in sections(scope, makers).items():
        for name, check in checks:
            started = time.perf_counter()
            outcome = check()
            yield Line(section, name, outcome, round(time.perf_counter() - started, 3))


def sections(scope: Scope, makers: Mapping[str, MakeDrafter]) -> dict[str, Iterator[Check]]:
    """Return the checks of a scope: all there are, or those that a drafter can fail."""
    bed = make_bed(scope.effort, makers)
    of_drafters = {"drafter contract": _contracts(bed), "real loop": _cells(bed, scope)}
    if scope.drafter is not None:
        return of_drafters
    # Mistakes are large: the quick effort finds them all.
    small = make_bed(QUICK)
    return {
        "enumeration": _enumeration(),
        "law of a round": _round_laws(),
        **of_drafters,
        "off and mixed batches": _other_loops(bed, scope),
        PLANTED: ((f"{bug.name}, by {bug.path}", partial(caught, bug)) for bug in planted_bugs(small)),
    }


def caught(bug: PlantedBug) -> Outcome:
    """Pass if the honest code passes a check and the planted mistake fails the same one."""
    honest, wrong = bug.honest(), bug.wrong()
    is_caught = honest.passes and not wrong.passes
    detail = f"honest: {honest.detail}; planted: {wrong.detail}"
    return Outcome(is_caught, detail, honest.num_tests)


def summarise(scope: Scope, lines: Sequence[Line]) -> Summary:
    """Return a certificate in numbers."""
    num_tests = sum(line.outcome.num_tests for line in lines)
    planted = [line for line in lines if line.section == PLANTED]
    return Summary(
        is_full=scope.is_full,
        drafter=scope.drafter,
        num_checks=len(lines),
        num_failed=sum(not line.outcome.passes for line in lines),
        num_tests=num_tests,
        alpha=ALPHA,
        family_rate=1 - (1 - ALPHA) ** num_tests,
        power=POWER,
        variation=scope.effort.variation,
        draws_per_test=scope.effort.num_draws,
        num_planted=len(planted),
        num_caught=sum(line.outcome.passes for line in planted),
        seconds=round(sum(line.seconds for line in lines), 1),
    )


def _enumeration() -> Iterator[Check]:
    return ((check.name, partial(_exactly, check.variation)) for check in exact_checks())


def _exactly(variation: Callable[[], Any]) -> Outcome:
    return of_variation(variation())


def _round_laws() -> Iterator[Check]:
    lengths: dict[str, Any] = {f"{n} of 2 verified": n for n in range(3)}
    lengths["length by the first token"] = lengths_by_first_token
    for seed in range(NUM_ROUND_TABLES):
        for name, length in lengths.items():
            for is_point_mass in (False, True):
                kind = "point mass" if is_point_mass else "sampled q"
                yield f"{kind}, {name}, laws {seed}", partial(_measured, seed, length, is_point_mass)


def _measured(seed: int, length: Any, is_point_mass: bool) -> Outcome:
    return of_measured(round_variation(random_tables(seed=seed), length, is_point_mass=is_point_mass), TOLERANCE)


def _contracts(bed: Bed) -> Iterator[Check]:
    return ((name, partial(try_drafter, bed, name)) for name in bed.drafters)


def _cells(bed: Bed, scope: Scope) -> Iterator[Check]:
    """Yield the cells, and every drafter's jobs claimed twice."""
    names = list(bed.drafters)
    for cell in all_cells(names) if scope.is_full else pairwise_cells(names):
        # A stranger's drafter need not tell an eavesdropper anything; it must draft where it is simply asked to.
        must_draft = scope.drafter is None or cell.policy == "fixed"
        yield cell.name, partial(_fitted, partial(fit_cell, bed, cell), must_draft)
    for name in names:
        yield f"{name} x claimed twice", partial(_fitted, partial(fit_reclaimed, bed, name), scope.drafter is None)


def _other_loops(bed: Bed, scope: Scope) -> Iterator[Check]:
    cells = product(VERIFIERS, SAMPLINGS) if scope.is_full else zip(VERIFIERS, ("plain", "penalties"), strict=True)
    for verifier, sampling in cells:
        yield f"off x {verifier} x {sampling}", partial(_fitted, partial(fit_plain, bed, verifier, sampling), False)
    yield "all drafters, policies and verifiers in every batch", lambda: of_fits(fit_mixed(bed))


def _fitted(path: Callable[[], Any], must_draft: bool) -> Outcome:
    return of_fits([path()], must_draft=must_draft)
