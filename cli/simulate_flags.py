"""The flags of `specd simulate`. Imports neither torch nor the simulator, so that --help is quick."""

import argparse
from pathlib import Path


def add_simulate_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `specd simulate` to its parser."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML (docs/simulator.md); flags win")
    parser.add_argument(
        "--policies", nargs="+", metavar="POLICY", help="POLICY[:VALUE], as `specd bench` has them; off has no drafter"
    )
    parser.add_argument("--traffic", choices=["closed", "poisson", "trace"], help="(default closed)")
    parser.add_argument(
        "--loads", nargs="+", type=float, metavar="N", help="clients, requests a second, or a trace's speed"
    )
    parser.add_argument("--trace", metavar="FILE", help="requests, a JSON object a line")
    parser.add_argument("--workers", type=int, metavar="N", help="engines (default 1)")
    parser.add_argument("--router", choices=["queue", "round_robin", "least_loaded"], help="(default queue)")
    parser.add_argument("--costs", metavar="FILE|NAME", help="a cost table, smooth or staircase (default smooth)")
    parser.add_argument("--acceptance", metavar="FILE|modelled", help="a recording (default modelled)")
    parser.add_argument("--seconds", type=float, help="virtual seconds that count (default 60, or all of a trace)")
    parser.add_argument(
        "--warm-up", type=float, metavar="SECONDS", help="those before (default 10, or a tenth of a trace)"
    )
    parser.add_argument("--seed", type=int, help="(default 0)")
    parser.add_argument("--search", action="store_true", help="find the fewest workers that meet the objectives")
    parser.add_argument("--most-workers", type=int, default=64, metavar="N", help="to try (default %(default)s)")
    parser.add_argument("--first-token-p95", type=float, metavar="SECONDS", help="objective of --search (default 2)")
    parser.add_argument("--token-p95", type=float, metavar="SECONDS", help="the same per token (default 0.05)")
    parser.add_argument("--processes", type=int, metavar="N", help="cases side by side (default: a core each)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("bench-results") / "simulation",
        help="report without its ending (default %(default)s)",
    )
