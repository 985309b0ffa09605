"""The flags of `specd experiment`."""

import argparse
from pathlib import Path


def add_experiment_flags(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.add_argument("action", choices=["validate", "start", "status", "report", "stop", "replay"])
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help="the experiment's TOML (validate, start, report, replay)"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the server's TOML settings")
    parser.add_argument("--model", help="the served model's name (default: as the settings have it)")
    parser.add_argument("--redis-url", help="the server's Redis (default: queue.redis_url)")
    parser.add_argument("--redis-password-file", metavar="FILE", help="of the user that the URL of Redis names")
    parser.add_argument("--redis-ca-file", metavar="FILE", help="authorities that may sign a rediss:// certificate")
    parser.add_argument("--redis-cluster", action="store_true", default=None, help="the URL names a node of a Cluster")
    parser.add_argument(
        "--without-workers", action="store_true", help="start: although no worker of the model is there yet"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="report: write Markdown, JSON and a picture there")
    parser.add_argument("--why", default="stopped by hand", help="stop: what `status` will say (default %(default)r)")
    parser.add_argument(
        "--concurrency",
        type=int,
        metavar="N",
        help="replay: requests at once (default: engine.max_num_seqs, every slot full)",
    )
    parser.add_argument(
        "--recorded", nargs="+", type=Path, metavar="JSONL", help="replay: what [recording] wrote, with token ids"
    )
