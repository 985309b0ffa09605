"""`specd experiment`: check, start, watch, judge and stop an experiment on live traffic, or replay one beforehand."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console

from core.config import Settings
from core.config_file import load_settings
from core.errors import ConfigError
from core.experiments.analysis import Analysis, analyse
from core.experiments.assignment import arm_of_slot, slot_at
from core.experiments.differences import differences
from core.experiments.report import to_markdown
from core.experiments.spec import INTERFERENCE, SOUND_HOURS, Experiment, arm_policies, read_experiment
from core.experiments.unit_sums import UnitRecord
from core.registry import OPTIONAL
from service.experiments.room import check_room
from service.experiments.store import ExperimentStore, Standing
from service.experiments.visit import visit_store
from service.presence import models_served
from service.queue import JobQueue

MINUTES_UP_TO_S = 7200.0
NOBODY = (
    "no request has taken part: those that name their own `speculation` do not, nor do those outside of [eligible]; "
    "`specd bench --url` names it, `python -m bench.experiments.busy URL` does not"
)


def run(arguments: argparse.Namespace) -> int:
    """Do what is asked; raises SpecdError."""
    console = Console(highlight=False, soft_wrap=True)
    settings = _settings(arguments)
    actions: dict[str, Callable[[argparse.Namespace, Settings, Console], int]] = {
        "validate": validate,
        "start": start,
        "status": status,
        "report": report,
        "stop": stop,
        "replay": replay,
    }
    return actions[arguments.action](arguments, settings, console)


def validate(arguments: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Check an experiment's file against the server's settings, and say what it will do."""
    experiment = checked(arguments, settings)
    spec, stop_rule = experiment.slot, experiment.stop
    console.print(f"experiment {experiment.id} is valid (settings {experiment.digest})")
    if experiment.unit == "request":
        console.print(f"warning: {INTERFERENCE}")
    if room := check_room(experiment, 1):
        console.print(f"warning: {room}")
    if stop_rule.min_hours < SOUND_HOURS:
        console.print(
            f"warning: it may be shipped after {stop_rule.min_hours:g} hours of comparison; what other hours of the "
            f"day would say is not known then: on traffic that follows the day take stop.min_hours = {SOUND_HOURS:g}"
        )
    length = 1 if experiment.unit == "request" else experiment.block_len
    before_s, block_s = stop_rule.pre_blocks * experiment.block_s, experiment.block_s
    least_s = before_s + max(stop_rule.min_blocks * block_s, stop_rule.min_hours * 3600)
    most_s = before_s + stop_rule.max_blocks * block_s
    console.print(
        f"unit {experiment.unit}, control {experiment.control_arm!r}, primary {experiment.primary}; a block is "
        f"{length} slots of {spec.seconds:g} s; it takes {duration(least_s)} to {duration(most_s)}"
    )
    return 0


def start(arguments: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Start an experiment on every worker of the model; one that nobody would follow is refused."""
    experiment = checked(arguments, settings)

    async def begin(store: ExperimentStore, queue: JobQueue) -> tuple[Standing, str | None]:
        served = await models_served(queue.client)
        if not served[queue.model] and not arguments.without_workers:
            raise ConfigError(_nobody_serves(queue.model, sorted(served)))
        room = check_room(experiment, max(1, served[queue.model]))
        return await store.start(experiment, await queue.now_ms() / 1000), room

    standing, room = visit_store(settings, begin)
    if room:
        console.print(f"warning: {room}")
    if experiment.unit == "request":
        console.print(f"warning: {INTERFERENCE}")
    console.print(f"experiment {experiment.id} starts with slot {standing.first_slot}")
    return 0


def status(arguments: argparse.Namespace, settings: Settings, console: Console) -> int:  # noqa: ARG001
    """Say what runs, whose turn it is, and what has been measured."""

    async def look(store: ExperimentStore, queue: JobQueue) -> tuple[Standing | None, list[UnitRecord], float]:
        standing = await store.read()
        records = await store.records(standing.experiment.id) if standing else []
        return standing, records, await queue.now_ms() / 1000

    standing, records, now_s = visit_store(settings, look)
    if standing is None:
        console.print("no experiment was ever started for this model")
        return 0
    experiment = standing.experiment
    console.print(
        f"experiment {experiment.id}: {'runs' if standing.stopped is None else f'stopped, {standing.stopped}'}"
    )
    if standing.stopped is None:
        console.print(_turn(experiment, standing, slot_at(now_s, experiment.slot.seconds)))
    workers, num_requests = {record.worker for record in records}, sum(record.sums.begun for record in records)
    console.print(
        f"{counted(len(records), 'unit')} from {counted(len(workers), 'worker')}, {counted(num_requests, 'request')}"
    )
    if records and not num_requests:
        console.print(NOBODY)
    return 0


def report(arguments: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Judge what was measured: print it as Markdown, and write Markdown, JSON and a picture where asked."""

    async def look(store: ExperimentStore, queue: JobQueue) -> tuple[Experiment, list[UnitRecord]]:  # noqa: ARG001
        standing = await store.read()
        if standing is None:
            raise ConfigError("no experiment was ever started for this model")
        experiment = read_experiment(Path(arguments.file)) if arguments.file else standing.experiment
        records = await store.records(experiment.id)
        if arguments.file:
            _check_measured(experiment, standing.experiment, records)
        return experiment, records

    experiment, records = visit_store(settings, look)
    analysis = analyse(experiment, records)
    console.print(to_markdown(experiment, analysis), end="", markup=False)
    if arguments.output is not None:
        write(arguments.output, experiment, analysis, records)
    return 0


def stop(arguments: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Stop the experiment that runs; workers go back to the server's own policy within about a second."""

    async def end(store: ExperimentStore, queue: JobQueue) -> Standing:  # noqa: ARG001
        standing = await store.read()
        if standing is None:
            raise ConfigError("no experiment was ever started for this model")
        if standing.stopped is None:
            await store.stop(standing.run, arguments.why)
        return standing

    standing = visit_store(settings, end)
    # A guardrail may have been faster than whoever watches.
    how = "is stopped" if standing.stopped is None else f"had stopped before: {standing.stopped}"
    console.print(f"experiment {standing.experiment.id} {how}")
    return 0


def replay(arguments: argparse.Namespace, settings: Settings, console: Console) -> int:
    """Play recorded requests under every arm, with the settings' models, and compare texts and speed in pairs."""
    if not arguments.recorded:
        raise ConfigError("`specd experiment replay` needs --recorded FILES, which [recording] has written")
    experiment = checked(arguments, settings)
    paths, concurrency = [Path(one) for one in arguments.recorded], arguments.concurrency
    replayed = OPTIONAL.load("experiment_replay")(settings, experiment, paths, concurrency)
    console.print(replayed.markdown, end="", markup=False)
    return 0 if replayed.is_identical else 1


def checked(arguments: argparse.Namespace, settings: Settings) -> Experiment:
    """Return the experiment of the file, which a server with these settings can serve; raises ConfigError."""
    if not arguments.file:
        raise ConfigError(f"`specd experiment {arguments.action}` needs the experiment's FILE")
    experiment = read_experiment(Path(arguments.file))
    arm_policies(experiment, settings)
    return experiment


def _nobody_serves(model: str, served: list[str]) -> str:
    if served:
        others = f"there are workers of {', '.join(map(repr, served))}: name one with --model"
        return f"no live worker serves model {model!r}; {others}, or the server's settings with --config"
    return f"no live worker serves model {model!r}, nor any other; start the server first, or say --without-workers"


def _check_measured(experiment: Experiment, ran: Experiment, records: list[UnitRecord]) -> None:
    """Raise ConfigError unless something was, or is to be, measured with the settings of the file."""
    if experiment.id != ran.id and not records:
        raise ConfigError(f"there are no results of an experiment {experiment.id!r}; {ran.id!r} runs, or ran last")
    digests = sorted({record.digest for record in records} or {ran.digest})
    if experiment.digest in digests:
        return
    changed = differences(experiment, ran) if ran.digest in digests and ran.id == experiment.id else []
    what = f": in the file {'; '.join(changed)}" if changed else ""
    raise ConfigError(
        f"the results of {experiment.id!r} are of settings {', '.join(digests)}, not of the file's "
        f"{experiment.digest}{what}; report with what it ran with, which without FILE is taken from Redis"
    )


def write(folder: Path, experiment: Experiment, analysis: Analysis, records: list[UnitRecord]) -> None:
    """Write report.md, report.json, units.json and report.png into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(to_markdown(experiment, analysis), encoding="utf-8")
    (folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(analysis)) + b"\n")
    (folder / "units.json").write_bytes(msgspec.json.encode(records) + b"\n")
    OPTIONAL.load("experiment_figure")(experiment, records, folder / "report.png")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a time as an operator reads it."""
    return f"{seconds / 60:.0f} minutes" if seconds < MINUTES_UP_TO_S else f"{seconds / 3600:.1f} hours"


def _turn(experiment: Experiment, standing: Standing, slot: int) -> str:
    if slot < standing.first_slot:
        return f"it begins in {(standing.first_slot - slot) * experiment.slot.seconds:.0f} s at most"
    before = ", before the comparison: served as the control" if standing.is_pre(slot) else ""
    if experiment.unit != "switchback":
        return f"slot {slot}{before}"
    return f"slot {slot} is {arm_of_slot(experiment.salt, experiment.weights, slot)!r}'s{before}"


def _settings(arguments: argparse.Namespace) -> Settings:
    flags = {
        "queue.redis_url": arguments.redis_url,
        "queue.redis_password_file": arguments.redis_password_file,
        "queue.redis_ca_file": arguments.redis_ca_file,
        "queue.redis_cluster": arguments.redis_cluster,
        "server.model_name": arguments.model,
        # Nothing listens here: an address that is open to others is the server's business.
        "server.allow_no_keys": True,
    }
    return load_settings(arguments.config, os.environ, flags)[0]
