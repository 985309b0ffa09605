"""A simulation written down: tables to read, JSON with all that is needed to judge it or to run it again."""

from collections.abc import Sequence
from typing import Any

import msgspec
from rich.table import Table

from bench.report import describe_run
from bench.simulate.measure import Outcome, Percentiles
from bench.simulate.search import Recommendation
from bench.simulate.settings import Simulation

LOADS = {"closed": "clients", "poisson": "requests/s", "trace": "times the trace's speed"}
NONE = "-"


def outcome_tables(outcomes: Sequence[Outcome], kind: str) -> list[Table]:
    """Return one table per load."""
    return [_outcome_table([one for one in outcomes if one.load == load], load, kind) for load in loads_of(outcomes)]


def loads_of(outcomes: Sequence[Outcome]) -> list[float]:
    """Return the loads in ascending order."""
    return sorted({outcome.load for outcome in outcomes})


def _outcome_table(outcomes: Sequence[Outcome], load: float, kind: str) -> Table:
    table = Table(title=f"{load:g} {LOADS[kind]}, simulated", title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("policy", no_wrap=True)
    headings = ("tokens/s", "per user", "first token ms, p50 p95", "per token ms, p50 p95", "verified", "tau", "busy")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for one in outcomes:
        table.add_row(
            one.policy,
            f"{one.tokens_per_s:.0f}",
            NONE if one.tokens_per_s_per_user is None else f"{one.tokens_per_s_per_user:.0f}",
            shown_ms(one.first_token_s, 0),
            shown_ms(one.token_s, 2),
            f"{one.verify_length:.2f}",
            f"{one.accepted_length:.2f}",
            f"{one.utilisation:.0%}",
        )
    return table


def death_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Return in words what the deaths of workers cost, for they hit too few jobs to show in any percentile."""
    return [
        f"{one.policy} at {one.load:g}: {one.deaths} worker(s) died, {one.taken_over} job(s) went on elsewhere, "
        f"the longest wait for tokens was {one.longest_s:.1f} s"
        for one in outcomes
        if one.deaths
    ]


def shown_ms(seconds: Percentiles | None, digits: int) -> str:
    """Return the median and the 95th percentile in milliseconds."""
    return NONE if seconds is None else f"{1000 * seconds[0]:.{digits}f} {1000 * seconds[1]:.{digits}f}"


def answer_table(found: Recommendation, kind: str) -> Table:
    """Return what each policy needs for one load."""
    title = f"{found.load:g} {LOADS[kind]}: fewest workers that meet the objectives, simulated"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("policy", no_wrap=True)
    for heading in ("workers", "first token ms, p50 p95", "per token ms, p50 p95", "per user", "busy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for answer in found.answers:
        one = answer.outcome
        table.add_row(
            answer.policy,
            shown_need(answer.workers, one.workers),
            shown_ms(one.first_token_s, 0),
            shown_ms(one.token_s, 2),
            NONE if one.tokens_per_s_per_user is None else f"{one.tokens_per_s_per_user:.0f}",
            f"{one.utilisation:.0%}",
        )
    return table


def shown_need(workers: int | None, most: int | None = None) -> str:
    """Return a number of workers; None is more than were tried."""
    if workers is not None:
        return str(workers)
    return "more than were tried" if most is None else f"more than {most}"


def recommendation_lines(found: Recommendation) -> list[str]:
    """Return the recommendation in words."""
    if found.best is None:
        return [f"load {found.load:g}: no policy meets the objectives with as many workers as were tried"]
    least, most = found.band
    band = f"{least} to {shown_need(most)} if costs or acceptance are 10% off"
    lines = [f"load {found.load:g}: {found.best.policy} with {found.best.workers} worker(s); {band}"]
    for name, (need, winner) in found.varied.items():
        other = "" if winner == found.best.policy else f"; {winner or 'none'} would be best"
        lines.append(f"  {name}: {shown_need(need)}{other}")
    return lines


def describe(simulation: Simulation) -> dict[str, Any]:
    """Return how a simulation was run, as plain values."""
    return describe_run() | {"simulated": True, "simulation": msgspec.to_builtins(simulation)}
