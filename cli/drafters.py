"""`specd drafters`: which drafters the workers of a running server have; load one, or let one go."""

import argparse
import asyncio
import os
import time
import tomllib
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cli.configuration import with_state_dirs
from client.drafters import WorkerDrafters, fetch_drafters, load_drafter, unload_drafter
from core.config_file import load_settings
from core.errors import ConfigError, QueueError
from service.http.admin_socket import admin_path

POLL_S = 0.5


def run(arguments: argparse.Namespace) -> int:
    """Do what is asked, wait until every worker has done it, and list all drafters; 1 if some worker could not."""
    socket, console = admin_socket_of(arguments), Console(highlight=False)
    if arguments.action == "list":
        if arguments.name:
            raise ConfigError("`specd drafters list` takes no name")
        show(console, asyncio.run(fetch_drafters(socket)))
        return 0
    if not arguments.name:
        raise ConfigError(f"`specd drafters {arguments.action}` needs the drafter's NAME")
    if arguments.action == "load":
        asyncio.run(load_drafter(socket, arguments.name, read_settings(arguments.settings)))
    else:
        if arguments.settings:
            raise ConfigError("`specd drafters unload` takes a NAME and no settings")
        asyncio.run(unload_drafter(socket, arguments.name))
    wanted = {"load": "loaded", "unload": "unloaded"}[arguments.action]
    workers = asyncio.run(wait_for(socket, arguments.name, wanted, arguments.timeout))
    show(console, workers)
    return 0 if all(state_of(worker, arguments.name) == wanted for worker in workers) else 1


def admin_socket_of(arguments: argparse.Namespace) -> Path:
    """Return where the server's admin socket is, by the settings that it was started with; raises ConfigError."""
    flags = {"server.port": arguments.port, "server.admin": arguments.socket}
    settings = with_state_dirs(load_settings(arguments.config, os.environ, flags)[0], os.environ)
    path = admin_path(settings.server)
    if path is None:
        raise ConfigError("the server has no admin socket by these settings (server.admin); name it with --socket")
    return path


def read_settings(pairs: list[str]) -> dict[str, Any]:
    """Return settings from KEY=VALUE; a value that reads as one of TOML is that, else text. Raises ConfigError."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ConfigError(f"settings are KEY=VALUE, such as kind=ngram; got {pair!r}")
        try:
            settings[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key] = value
    return settings


async def wait_for(socket: Path, name: str, wanted: str, timeout_s: float) -> list[WorkerDrafters]:
    """Return the workers' drafters once each has `name` in the wanted state or has failed; raises QueueError."""
    deadline = time.monotonic() + timeout_s
    # What workers told before they can have heard of it says nothing.
    await asyncio.sleep(2 * POLL_S)
    while True:
        await asyncio.sleep(POLL_S)
        workers = await fetch_drafters(socket)
        if workers and all(state_of(worker, name) in (wanted, "failed") for worker in workers):
            return workers
        if time.monotonic() > deadline:
            raise QueueError(f"drafter {name!r} is not {wanted} everywhere after {timeout_s:.0f} s")


def state_of(worker: WorkerDrafters, name: str) -> str | None:
    """Return the state of a drafter in a worker, None if the worker has not heard of it."""
    return next((one.state for one in worker.drafters if one.name == name), None)


def show(console: Console, workers: list[WorkerDrafters]) -> None:
    """Print one line per worker and drafter."""
    if not workers:
        console.print("no worker is alive")
        return
    table = Table("worker", "drafter", "state", "KV memory", "", box=None)
    for worker in workers:
        for one in worker.drafters:
            memory = f"{one.kv_mib:.1f} MiB" if one.kv_mib else "none"
            state = one.state if one.serves == (one.state == "loaded") else f"{one.state}, the one before serves"
            table.add_row(worker.worker, one.name, state, memory, one.error)
    console.print(table)
