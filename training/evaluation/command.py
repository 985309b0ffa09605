"""`specd eval`: from what was asked on the command line to files: report.json, report.md, figures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from rich.console import Console
from tokenizers import Tokenizer

from core.config import DrafterSettings, EngineSettings, NoDrafterSettings, Settings
from core.errors import ConfigError, SpecdError
from engine.build import build_engine
from engine.engine import Engine
from models.folders import target_folder
from policies.calibration_fit import identity
from training.evaluation.conversation import Conversation
from training.evaluation.demo_tasks import DEMO, TRANSCRIPTS, demo_tasks, transcripts
from training.evaluation.evaluate import Evaluation, Options
from training.evaluation.figures import draw_figures
from training.evaluation.prompts import Prompts
from training.evaluation.report import Report
from training.evaluation.tables import markdown_table, rich_table, tables
from training.evaluation.task_files import Reading, read_tasks
from training.record import write_json
from training.reliability_diagram import VerifiedRounds, draw_reliability

# Rows of the demo's own tasks where no limit is given: they have no end.
DEMO_COUNT = 100


class Asked(Struct, frozen=True):
    """What to evaluate and where results go.

    drafters  by the name that the report gives them; origins is what was said of each
    tasks     files and folders, or "demo" and "demo-transcripts" for held-out tasks of the demo's curriculum
    describe  tells facts about this run for the report: machine, versions, command, time
    """

    engine: EngineSettings
    drafters: dict[str, DrafterSettings]
    origins: dict[str, str]
    tasks: tuple[str, ...]
    reading: Reading
    options: Options
    output: Path
    describe: Callable[[], Mapping[str, Any]]


def evaluate(asked: Asked, console: Console) -> Report:
    """Measure, print tables and write the files. Raises ConfigError, and CheckpointError for a drafter that cannot be.

    What was measured is written after every stage, so an interruption loses the stage it falls into.
    """
    try:
        asked.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {asked.output} cannot be a folder: {error}") from error
    engine = open_engine(asked)
    assert engine.tokenizer is not None
    conversations, bad_lines = read_conversations(asked)
    kept, left_out = fitting(engine, conversations, skips=asked.reading.skips_bad_lines)
    if bad_lines:
        left_out["bad lines"] = bad_lines
    for reason, places in left_out.items():
        console.print(f"left out, {reason}: {len(places)}, such as {places[0]}", style="yellow", markup=False)
    if not kept:
        raise ConfigError("nothing is left to ask")
    evaluation = Evaluation(engine, list(asked.drafters), kept, asked.options, console.print)
    stages = [evaluation.answer]
    stages += [evaluation.vary_threshold] if asked.options.thresholds else []
    stages += [evaluation.vary_context]
    stages += [evaluation.time] if asked.options.speed else []
    for stage in stages:
        stage()
        report = write(asked, evaluation, left_out)
    for table in tables(report):
        console.print(rich_table(table))
    drawn = [*draw_figures(report, asked.output), *draw_confidence(asked, evaluation)]
    console.print(f"wrote {asked.output}/report.json, report.md, {', '.join(path.name for path in drawn)}")
    return report


def open_engine(asked: Asked) -> Engine:
    """Build one engine with the target once and every drafter beside it; errors name the drafter's checkpoint."""
    settings = Settings(engine=asked.engine, drafter=NoDrafterSettings(), drafters=asked.drafters)
    return build_engine(settings)


def read_conversations(asked: Asked) -> tuple[list[Conversation], tuple[str, ...]]:
    """Return what to ask, and what could not be read."""
    found: list[Conversation] = []
    files = [Path(task) for task in asked.tasks if task not in (DEMO, TRANSCRIPTS)]
    if DEMO in asked.tasks:
        tokenizer = Tokenizer.from_file(str(target_folder(asked.engine.target) / "tokenizer.json"))
        found += demo_tasks(tokenizer, asked.reading.limit or DEMO_COUNT)
    if TRANSCRIPTS in asked.tasks:
        found += transcripts(asked.reading.limit or DEMO_COUNT)
    read = read_tasks(files, asked.reading)
    more = read.num_bad - len(read.bad_lines)
    return [*found, *read.conversations], (*read.bad_lines, *["not told of"] * more)


def fitting(
    engine: Engine, conversations: list[Conversation], *, skips: bool
) -> tuple[list[Conversation], dict[str, tuple[str, ...]]]:
    """Return the conversations whose first prompts leave room for an answer, and by reason the places of the others.

    What the chat template or the tokenizer refuses is an error, or with `skips` a reason.
    """
    assert engine.tokenizer is not None
    prompts = Prompts(engine.tokenizer, engine.max_model_len)
    kept: list[Conversation] = []
    too_long: list[str] = []
    refused: list[str] = []
    for conversation in conversations:
        try:
            prompt = prompts.make(conversation, (), 1)
        except SpecdError as error:
            if not skips:
                raise
            refused.append(str(error))
            continue
        if prompt is None:
            too_long.append(conversation.place)
        else:
            kept.append(conversation)
    reasons = {
        "longer than the context": tuple(too_long),
        "refused by the chat template or the tokenizer": tuple(refused),
    }
    return kept, {reason: places for reason, places in reasons.items() if places}


def write(asked: Asked, evaluation: Evaluation, left_out: Mapping[str, tuple[str, ...]]) -> Report:
    """Write what was measured so far; returns it."""
    engine = evaluation.engine
    turns = {"turns longer than the context": tuple(evaluation.too_long)} if evaluation.too_long else {}
    report = Report(
        dict(asked.describe()),
        asked.engine.target,
        str(engine.target.dtype).removeprefix("torch."),
        engine.max_model_len,
        asked.origins,
        {name: evaluation.width(name) for name in evaluation.drafters},
        {**left_out, **turns},
        tuple(evaluation.cells),
        evaluation.differences(),
        tuple(evaluation.contexts),
        tuple(evaluation.sweep),
        tuple(evaluation.speed),
    )
    write_json(asked.output / "report.json", msgspec.json.decode(msgspec.json.encode(report)))
    (asked.output / "report.md").write_text(markdown(report), encoding="utf-8")
    return report


def markdown(report: Report) -> str:
    """Return the whole report as text."""
    drafters = ", ".join(f"{name} ({origin})" for name, origin in report.drafters.items())
    lines = [
        f"# Evaluation of {report.target}",
        "",
        f"Target {report.target} in {report.dtype}, context {report.max_model_len}; drafters: {drafters}.",
        "",
        *(f"- {name}: {value}" for name, value in report.run.items() if isinstance(value, str)),
        *(f"- left out, {reason}: {len(places)}" for reason, places in report.left_out.items()),
        "",
    ]
    return "\n".join([*lines, *(markdown_table(table) for table in tables(report))])


def draw_confidence(asked: Asked, evaluation: Evaluation) -> list[Path]:
    """Draw the reliability of every drafter's confidence over all tasks; returns the paths."""
    drawn = []
    for (drafter, temperature), answered in evaluation.answered.items():
        rounds = answered.rounds
        if not rounds.judged.any():
            continue
        path = asked.output / f"reliability_{drafter}_t{temperature:g}.png"
        draw_reliability(
            VerifiedRounds(rounds.evidence, rounds.judged, rounds.accepted),
            identity(rounds.width),
            evaluation.calibration(drafter),
            path,
            f"{asked.engine.target}, {drafter}, temperature {temperature:g}: {len(rounds)} rounds of "
            f"{len(set(rounds.prompt.tolist()))} prompts ({', '.join(evaluation.tasks)})",
        )
        drawn.append(path)
    return drawn
