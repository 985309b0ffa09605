"""`specd calibrate`: fit what a drafter's evidence means, judge the fit on other requests, write calibration.json.

The law is that of the `rejection` verifier with sampled drafts at the temperatures asked. Two fits are made and judged
beside the raw evidence (policies/calibration_fit.py); the file gets the one asked for.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from core.config import CheckpointSettings, Settings, checkpoint_kind, kind_of
from core.errors import ConfigError
from core.planning import Calibration
from core.reliability import Reliability, measure
from core.statistics import Interval, bootstrap_interval
from engine.build import build_engine
from models.calibration_file import CALIBRATION_FILE, CalibrationFile, write_calibration
from models.folders import drafter_folder
from policies.calibration_fit import (
    fit_logistic,
    fit_temperatures,
    hazards,
    identity,
    risk_set,
    survivals,
)
from training.full_rounds import Question, RecordedRounds, read_questions, record
from training.record import write_json
from training.reliability_diagram import VerifiedRounds, draw_reliability

Fit = Literal["temperature", "logistic"]
RAW = "raw"


class Judged(Struct, frozen=True):
    """One calibration on rounds it was not fitted on.

    survival      by position: all drafts up to it accepted
    conditional   by position: accepted, given that all before it were
    ratio         predicted over observed accepted length, bonus included, with limits over requests
    by_source, by_temperature   the same ratio, of a part of the requests
    error_by_source             calibration error of survival, its mean over positions, of a part of the requests
    """

    calibration: Calibration
    survival: tuple[Reliability, ...]
    conditional: tuple[Reliability, ...]
    predicted_length: float
    observed_length: float
    ratio: Interval
    by_source: dict[str, float]
    by_temperature: dict[str, float]
    error_by_source: dict[str, float]


class Findings(Struct, frozen=True):
    """Everything measured; `judged` is by fit, and "raw" is the evidence as it came."""

    target: str
    drafter: str
    verifier: str
    temperatures: tuple[float, ...]
    rounds_fitted: int
    rounds_judged: int
    requests_fitted: int
    requests_judged: int
    judged: dict[str, Judged]


class Task(Struct, frozen=True):
    """What to calibrate and where results go.

    prompts  files and folders (training/evaluation/task_files.py); max_tokens is for those without a limit of their own
    output   None writes beside the drafter's checkpoint, and nowhere for a drafter that has none
    plot     the diagram of all sources; those of each source lie beside it under its name
    """

    settings: Settings
    num_rounds: int
    prompts: tuple[Path, ...]
    fit: Fit
    output: Path | None = None
    report: Path | None = None
    plot: Path | None = None
    max_tokens: int = 512
    skips_bad_lines: bool = False


def calibrate(task: Task, console: Console) -> Findings:
    """Record, fit, judge, show and write. Raises ConfigError and CheckpointError."""
    engine = build_engine(task.settings)
    name = kind_of(task.settings.drafter)
    questions = read_questions(task.prompts, task.max_tokens, skips_bad_lines=task.skips_bad_lines)
    rounds = record(engine, name, questions, task.num_rounds)
    is_fitted = np.array([question.is_fitted for question in questions])[rounds.question]
    fitted, other = rounds.of(is_fitted), rounds.of(~is_fitted)
    fits = fit_all(fitted)
    report = Findings(
        task.settings.engine.target,
        name,
        "rejection",
        tuple(sorted({question.sampling.temperature for question in questions})),
        len(fitted.accepted),
        len(other.accepted),
        len(np.unique(fitted.question)),
        len(np.unique(other.question)),
        {fit: judge(calibration, other, questions) for fit, calibration in fits.items()},
    )
    show(report, console)
    write(task, report, console)
    if task.plot:
        draw(task.plot, other, questions, (fits[RAW], fits[task.fit]), law(report), console)
    return report


def fit_all(rounds: RecordedRounds) -> dict[str, Calibration]:
    """Return every calibration by name: the raw evidence and both fits."""
    width = rounds.evidence.shape[1]
    risk = risk_set(rounds.judged, rounds.accepted, width)
    return {
        RAW: identity(width),
        "temperature": fit_temperatures(rounds.evidence, rounds.accepted, rounds.judged),
        "logistic": fit_logistic(rounds.evidence, risk, rounds.labels, identity(width)),
    }


def draw(
    path: Path,
    rounds: RecordedRounds,
    questions: Sequence[Question],
    fits: tuple[Calibration, Calibration],
    words: str,
    console: Console,
) -> None:
    """Draw the diagram of all rounds to `path`, and that of each source beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = sources_of(rounds, questions)
    parts = {path: ("", np.ones(len(source), dtype=np.bool_))}
    for name in np.unique(source) if len(np.unique(source)) > 1 else ():
        parts[path.with_stem(f"{path.stem}_{name}")] = (f"{name}: ", source == name)
    for place, (name, chosen) in parts.items():
        own = rounds.of(chosen)
        text = f"{name}{words}; {len(own.accepted)} rounds of {len(np.unique(own.question))} requests not fitted on"
        draw_reliability(VerifiedRounds(own.evidence, own.judged, own.accepted), *fits, place, text)
        console.print(f"wrote {place}")


def sources_of(rounds: RecordedRounds, questions: Sequence[Question]) -> NDArray[np.str_]:
    """Return the source of every round."""
    return np.array([question.source for question in questions])[rounds.question]


def judge(calibration: Calibration, rounds: RecordedRounds, questions: Sequence[Question]) -> Judged:
    """Judge a calibration on rounds verified in full. Raises ConfigError if a position was judged in none."""
    width = rounds.evidence.shape[1]
    risk = risk_set(rounds.judged, rounds.accepted, width)
    judged = rounds.judged[:, None] > np.arange(width)
    if not risk.any(0).all():
        raise ConfigError(f"{len(rounds.accepted)} rounds judge too few drafts of some position; ask for more --rounds")
    survival, hazard = survivals(rounds.evidence, calibration), hazards(rounds.evidence, calibration)
    kept = rounds.accepted[:, None] > np.arange(width)
    predicted, observed = 1.0 + np.where(judged, survival, 0.0).sum(1), 1.0 + rounds.accepted
    source = sources_of(rounds, questions)
    temperature = np.array([f"{question.sampling.temperature:g}" for question in questions])[rounds.question]

    def ratios(labels: NDArray[np.str_]) -> dict[str, float]:
        return {
            str(label): float(predicted[labels == label].sum() / observed[labels == label].sum())
            for label in np.unique(labels)
        }

    def error(chosen: NDArray[np.bool_]) -> float:
        own = [chosen & judged[:, k] for k in range(width)]
        return float(
            np.mean([measure(survival[each, k], kept[each, k]).error for k, each in enumerate(own) if each.any()])
        )

    # A request is the independent unit: its rounds are alike.
    per_request = np.stack([np.bincount(rounds.question, values) for values in (predicted, observed)], axis=1)
    return Judged(
        calibration,
        tuple(measure(survival[judged[:, k], k], kept[judged[:, k], k]) for k in range(width)),
        tuple(measure(hazard[risk[:, k], k], kept[risk[:, k], k]) for k in range(width)),
        float(predicted.mean()),
        float(observed.mean()),
        bootstrap_interval(per_request[per_request[:, 1] > 0], lambda rows: float(rows[:, 0].sum() / rows[:, 1].sum())),
        ratios(source),
        ratios(temperature),
        {str(label): error(source == label) for label in np.unique(source)},
    )


def write(task: Task, report: Findings, console: Console) -> None:
    """Write the file and the report where they were asked for."""
    output, drafter = task.output, task.settings.drafter
    if output is None and isinstance(drafter, CheckpointSettings):
        output = drafter_folder(checkpoint_kind(drafter), drafter.path, drafter.revision) / CALIBRATION_FILE
    kept = report.judged[task.fit]
    if output:
        file = CalibrationFile(
            drafter=report.drafter,
            target=report.target,
            verifier="rejection",
            temperatures=report.temperatures,
            fit=task.fit,
            slope=tuple(round(each, 6) for each in kept.calibration.slope),
            intercept=tuple(round(each, 6) for each in kept.calibration.intercept),
            rounds=report.rounds_fitted,
            ece_before=tuple(round(each.error, 6) for each in report.judged[RAW].survival),
            ece_after=tuple(round(each.error, 6) for each in kept.survival),
        )
        write_calibration(output, file)
        console.print(f"wrote {output}")
    else:
        console.print(f"the fit was not kept: {report.drafter} has no checkpoint to keep it beside; --output FILE does")
    if task.report:
        write_json(task.report, msgspec.json.decode(msgspec.json.encode(report)))
        console.print(f"wrote {task.report}")


def law(report: Findings) -> str:
    """Say what was measured, in a line."""
    temperatures = " and ".join(f"{each:g}" for each in report.temperatures)
    return f"{report.drafter} on {report.target}, {report.verifier}, temperatures {temperatures}"


def show(report: Findings, console: Console) -> None:
    """Print what was measured; calibration errors in per cent."""
    places = [str(k + 1) for k in range(len(report.judged[RAW].survival))]
    title = f"{law(report)}; {report.rounds_judged} rounds of {report.requests_judged} requests not fitted on"
    table = Table("survival of the first drafts", *places, "mean", title=title)
    for name, judged in report.judged.items():
        errors = [each.error for each in judged.survival]
        table.add_row(f"{name}: ECE", *(f"{100 * value:.2f}" for value in (*errors, float(np.mean(errors)))))
        for measured in ("auc", "brier"):
            values = [getattr(each, measured) for each in judged.survival]
            table.add_row(f"{name}: {measured}", *(f"{value:.3f}" for value in (*values, float(np.mean(values)))))
        table.add_section()
    console.print(table)
    for name, judged in report.judged.items():
        parts = ", ".join(f"{key} {value:.3f}" for key, value in (judged.by_source | judged.by_temperature).items())
        console.print(
            f"{name}: accepted length {judged.predicted_length:.3f} predicted, {judged.observed_length:.3f} observed, "
            f"ratio {judged.ratio.estimate:.4f} [{judged.ratio.low:.4f}, {judged.ratio.high:.4f}]; {parts}"
        )
    by_source = Table("ECE by source, mean over positions, %", *report.judged[RAW].error_by_source)
    for name, judged in report.judged.items():
        by_source.add_row(name, *(f"{100 * value:.2f}" for value in judged.error_by_source.values()))
    console.print(by_source)
