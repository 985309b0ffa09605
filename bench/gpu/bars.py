"""What the GPU path has to reach, and what measurements say of it: met, missed or not run, never anything in between.

A bar over several measurements is met when all of them are there and reach it. Dry runs reach and miss nothing.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from bench.gpu.results import StageResults
from bench.gpu.step_times import SHORT, StepCase, step_key
from bench.summary import Row

Verdict = Literal["met", "missed", "not run"]
Results = Mapping[str, StageResults]
DECODE_BATCHES = (32, 64, 128, 256)
FEW_AT_ONCE, MOST_AT_ONCE = (1, 2, 4, 8), 256


class Bar(Struct, frozen=True):
    """One thing to reach; `found` is what was measured, or why nothing was."""

    what: str
    verdict: Verdict
    found: str


def all_bars(results: Results) -> list[Bar]:
    """Return every bar with its verdict, from the results of the stages that have been run."""
    measured = {stage: one for stage, one in results.items() if not one.circumstances.is_dry_run}
    return [
        _numerics(measured),
        _reached(
            "decode attention at 4096 tokens of context and 32 or more sequences: at least 75 % of copy bandwidth",
            [
                _value(measured, "kernels", f"attention/decode/B{n}-C4096", "share_of_copy_bandwidth", n)
                for n in DECODE_BATCHES
            ],
            least=0.75,
        ),
        _step(measured, "4B", 1.6),
        _step(measured, "8B", 1.4),
        _reached(
            "the sequential head: at most 1.5 % of a round of 128 sequences",
            [_value(measured, "round", "B128", "head_share")],
            most=0.015,
        ),
        _reached(
            "all that is beside verify and backbone: at most 4 % of a round of 128 sequences",
            [_value(measured, "round", "B128", "beside_share")],
            most=0.04,
        ),
        _reached(
            "trained pair, load_adaptive at 1 to 8 requests: at least 1.6 times the speed per user of off",
            [_ratio(measured, at_once, "ratio_per_user") for at_once in FEW_AT_ONCE],
            least=1.6,
        ),
        _reached(
            "trained pair, load_adaptive at 256 requests: at least the throughput of off",
            [_ratio(measured, MOST_AT_ONCE, "ratio")],
            least=1.0,
        ),
    ]


class Found(Struct, frozen=True):
    """One measured number of a bar, None with the reason where there is none; `label` says which it is."""

    label: str
    value: float | None
    reason: str = ""


def _numerics(results: Results) -> Bar:
    what = "numerics: every kernel on the device agrees with its twin in float64"
    stage = results.get("numerics")
    if stage is None:
        return Bar(what, "not run", "the stage has no results")
    wrong = [key for key, entry in stage.entries.items() if entry.status == "failed"]
    if wrong:
        return Bar(what, "missed", f"{len(wrong)} of {len(stage.entries)} cases failed: {', '.join(wrong)}")
    if not stage.is_complete:
        return Bar(what, "not run", f"{len(stage.left)} cases are left")
    unchecked = (stage.done("modules without a case") or {}).get("modules", [])
    if unchecked:
        return Bar(what, "not run", f"all cases pass, but these modules have none: {', '.join(unchecked)}")
    return Bar(what, "met", f"{len(stage.entries) - 1} cases pass")


def _step(results: Results, model: str, most: float) -> Bar:
    key = step_key(model, StepCase(1, None, SHORT), graphs=True)
    return _reached(
        f"a step of Qwen3-{model} at batch 1 with graphs: at most {most} times what reading the weights takes",
        [_value(results, "step", key, "ratio_to_weights")],
        most=most,
    )


def _value(results: Results, stage: str, key: str, name: str, at: int | None = None) -> Found:
    label = key if at is None else str(at)
    entry = results[stage].entries.get(key) if stage in results else None
    if entry is None:
        return Found(label, None, "not measured")
    return Found(label, entry.values[name]) if entry.status == "done" else Found(label, None, entry.reason)


def _ratio(results: Results, at_once: int, name: str) -> Found:
    label = f"{at_once} at once"
    rows = curve_rows(results.get("curve"))
    row = next((row for row in rows if row.mode == "load_adaptive" and row.concurrency == at_once), None)
    interval: Any = None if row is None else getattr(row, name)
    return Found(label, None, "not measured") if interval is None else Found(label, interval.estimate)


def curve_rows(stage: StageResults | None) -> list[Row]:
    """Return the rows of every load that was measured, by load."""
    if stage is None:
        return []
    found = [row for entry in stage.entries.values() if entry.status == "done" for row in entry.values["rows"]]
    return sorted(msgspec.convert(found, list[Row]), key=lambda row: row.concurrency)


def _reached(what: str, found: list[Found], *, least: float | None = None, most: float | None = None) -> Bar:
    told = "; ".join(
        f"{one.label}: {one.reason}" if one.value is None else f"{one.label}: {one.value:.3g}" for one in found
    )
    values = [one.value for one in found if one.value is not None]
    fails = any((least is not None and value < least) or (most is not None and value > most) for value in values)
    if fails:
        return Bar(what, "missed", told)
    return Bar(what, "met" if len(values) == len(found) else "not run", told)
