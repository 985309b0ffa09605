"""Any OpenAI-compatible servers side by side: specd, vLLM, SGLang; same prompts, same closed loop, windows by turns.

    python -m bench.against_servers specd=http://127.0.0.1:8000 vllm=http://127.0.0.1:8001 --model Qwen/Qwen3-4B

The servers must run already, each with the same weights; the first named is the baseline of the ratios. On one GPU, run
one server per GPU or one after the other: two that share a device disturb each other, by turns or not. Prompts go
through each server's own chat template. A server has to tell its usage in every chunk (vLLM and SGLang do), and for
temperature 0 the token ids too (vLLM does). The project's own results hold no run of this: it needs a GPU and those
servers, and neither was at hand.
"""

import argparse
from functools import partial
from pathlib import Path

import msgspec
from rich.console import Console

from bench.figures import draw_figures
from bench.interleave import fit_schedule, measure
from bench.load import Load
from bench.openai_stream import Connection, served_model
from bench.over_http import RAMP_SHARE, ServerTarget
from bench.prompt_pool import PromptPool
from bench.report import describe_run, load_tables, write_json
from bench.summary import summarise
from core.errors import ConfigError, SpecdError

NOT_RUN_HERE = "The project's own results hold no run of this: it needs a GPU and servers of vLLM or SGLang."


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(
        description="Compare running OpenAI-compatible servers under the same closed loop.", epilog=NOT_RUN_HERE
    )
    parser.add_argument("servers", nargs="+", metavar="NAME=URL", help="the first is the baseline of the ratios")
    parser.add_argument("--model", help="name to ask for (default: the first that each server lists)")
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 4, 16, 64], metavar="N")
    parser.add_argument("--temperatures", nargs="+", type=float, default=[1.0], metavar="T")
    parser.add_argument("--domains", nargs="+", default=["math", "code", "chat"])
    parser.add_argument("--minutes", type=float, default=10.0, help="time to measure for (default %(default)s)")
    parser.add_argument("--window", type=float, default=5.0, help="seconds of one window (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("bench-results") / "servers")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    targets = [server_target(text, arguments.model) for text in arguments.servers]
    loads = [Load(at_once, heat) for heat in arguments.temperatures for at_once in arguments.concurrency]
    pool = PromptPool(arguments.domains, arguments.seed)
    schedule = fit_schedule(arguments.minutes, arguments.window, len(targets), len(loads), 1 + RAMP_SHARE)
    rows = summarise(measure(targets, loads, pool, schedule, arguments.seed, console.print), targets[0].name)
    for table in load_tables(rows):
        console.print(table)
    caption = f"{', '.join(arguments.servers)}; {' + '.join(arguments.domains)}"
    report = describe_run() | {
        "caption": caption,
        "baseline": targets[0].name,
        "schedule": msgspec.to_builtins(schedule),
        "rows": msgspec.to_builtins(rows),
    }
    write_json(arguments.output.with_suffix(".json"), report)
    draw_figures(rows, arguments.output, caption)
    console.print(f"wrote {arguments.output.with_suffix('.json')} and its figures")


def server_target(text: str, model: str | None) -> ServerTarget:
    """Return the server that NAME=URL names, ready for load; raises ConfigError and QueueError."""
    name, separator, url = text.partition("=")
    if not (name and separator and url.startswith(("http://", "https://"))):
        raise ConfigError(f"a server is given as NAME=URL with http:// or https://, got {text!r}")
    fields = {"model": model or served_model(url)}
    return ServerTarget(name, partial(Connection, url, fields, chat=True), has_cache_salt=False)


if __name__ == "__main__":
    try:
        main()
    except SpecdError as error:
        raise SystemExit(f"bench: {error}") from error
