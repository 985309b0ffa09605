"""`specd doctor`: look at a deployment, one line per thing, and say how to mend what is wrong."""

import argparse
import asyncio
import os

import msgspec
from rich.console import Console
from rich.markup import escape

from cli.configuration import effective_settings, with_state_dirs
from core.config import Settings
from core.errors import ConfigError
from service.doctor.check import Check, Status, failed
from service.doctor.door import check_door
from service.doctor.machine import check_machine
from service.doctor.recording import check_recording
from service.doctor.store import check_store

COLOURS = {Status.OK: "green", Status.UNSURE: "yellow", Status.FAILED: "red"}


def run(arguments: argparse.Namespace) -> int:
    """Print what is found; 1 if anything is broken."""
    try:
        settings, _ = effective_settings(arguments)
    except ConfigError as error:
        checks = [failed("settings", str(error), "mend the settings; `specd config show` says who decided each")]
    else:
        checks = asyncio.run(examine(with_state_dirs(settings, os.environ)))
    if arguments.json:
        for check in checks:
            print(msgspec.json.encode(check).decode())
    else:
        show(Console(highlight=False, soft_wrap=True), checks)
    return int(any(check.status is Status.FAILED for check in checks))


async def examine(settings: Settings) -> list[Check]:
    """Return what is found of a deployment with these settings; a worker has no door."""
    # It asks a server that may live in this very process.
    checks = [] if settings.server.role == "worker" else await asyncio.to_thread(lambda: list(check_door(settings)))
    checks += [check async for check in check_store(settings)]
    return [*checks, *check_machine(settings), *check_recording(settings)]


def show(console: Console, checks: list[Check]) -> None:
    """Print one line per check."""
    for check in checks:
        cure = f" -> {check.cure}" if check.cure else ""
        status = f"[{COLOURS[check.status]}]{check.status:<6}[/]"
        console.print(f"{status} {escape(check.name)}: {escape(check.found)}{escape(cure)}")
