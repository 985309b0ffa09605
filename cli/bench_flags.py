"""The flags of `specd bench`. Imports neither torch nor the benchmark, so that --help is quick."""

import argparse
from pathlib import Path

from bench.modes import DEFAULT_MODES
from cli.api_key import add_api_key_flag

CONCURRENCY = [1, 4, 16, 64]
DOMAINS = ["math", "code", "chat"]


def add_bench_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `specd bench` to its parser."""
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--in-process", action="store_true", help="engines in this process, by turns (the default)")
    place.add_argument("--server", action="store_true", help="one server per mode, started and stopped here")
    place.add_argument("--url", help="a specd server that runs; modes are what its requests may ask for")
    add_api_key_flag(parser)
    parser.add_argument(
        "--modes",
        nargs="+",
        default=list(DEFAULT_MODES),
        metavar="MODE",
        help=f"POLICY[:VALUE][@DRAFTER]; off loads no drafter (default {' '.join(DEFAULT_MODES)})",
    )
    parser.add_argument("--drafter", default="dspark", help="a kind or a checkpoint (default %(default)s)")
    parser.add_argument("--concurrency", nargs="+", type=int, default=CONCURRENCY, metavar="N", help="requests at once")
    parser.add_argument("--temperatures", nargs="+", type=float, default=[1.0], metavar="T", help="(default 1)")
    parser.add_argument("--domains", nargs="+", default=DOMAINS, help="math, code, chat or library, asked by turns")
    parser.add_argument("--minutes", type=float, default=8.0, help="time to measure for (default %(default)s)")
    parser.add_argument("--window", type=float, default=1.5, help="seconds of one window (default %(default)s)")
    parser.add_argument("--target", default="demo", help='"demo" or a checkpoint folder')
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each engine (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="order of prompts and windows (default %(default)s)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("bench-results") / "load",
        help="report without its ending; the figures lie beside it (default %(default)s)",
    )
