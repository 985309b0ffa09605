"""The flags of `specd data`. Imports no torch."""

import argparse
from pathlib import Path

from cli.api_key import add_api_key_flag

SHAPES_HELP = "JSONL files, or folders of them: conversations, messages, turns, prompt or text"


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add the steps of `specd data` and their flags to its parser."""
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")

    generate = steps.add_parser(
        "generate", help="let the target of a running server answer every user turn anew", allow_abbrev=False
    )
    _add_sources(generate)
    generate.add_argument("--output", type=Path, required=True, metavar="DIR", help="a run that was stopped goes on")
    generate.add_argument("--url", default="http://127.0.0.1:8000", help="the server (default %(default)s)")
    generate.add_argument("--model", help="model name (default: the one the server serves)")
    add_api_key_flag(generate)
    generate.add_argument("--worker", default="1/1", metavar="I/N", help="this process is number I of N at one folder")
    generate.add_argument("--concurrency", type=int, default=16, help="records at once (default %(default)s)")
    generate.add_argument("--samples", type=int, default=1, help="answers to every record (default %(default)s)")
    generate.add_argument("--max-tokens", type=int, default=4096, help="of one answer (default %(default)s)")
    generate.add_argument("--temperature", type=float, default=1.0, help="(default %(default)s)")
    generate.add_argument("--top-p", type=float, help="(default: the model's)")
    generate.add_argument("--top-k", type=int, help="(default: the model's)")
    generate.add_argument("--seed", type=int, help="makes every answer reproducible (default: none)")
    generate.add_argument("--limit", type=int, metavar="N", help="only the first N different records")
    generate.add_argument(
        "--patience", type=float, default=300.0, help="seconds without any answer until it gives up (default 300)"
    )

    prepare = steps.add_parser(
        "prepare", help="render, mask, split and deduplicate: shards for training, and a data card", allow_abbrev=False
    )
    _add_sources(prepare)
    prepare.add_argument("--output", type=Path, required=True, metavar="DIR", help="a run that was stopped goes on")
    prepare.add_argument("--target", default="demo", help='"demo", a checkpoint folder or a Hub id: whose tokens')
    prepare.add_argument("--target-revision", metavar="REVISION", help="of a Hub id: commit, tag or branch")
    prepare.add_argument("--held-out", type=float, default=0.05, help="share to hold out (default %(default)s)")
    prepare.add_argument(
        "--near-duplicates",
        type=float,
        default=0.8,
        metavar="SIMILARITY",
        help="Jaccard similarity from which on a record is left out; above 1 keeps all (default %(default)s)",
    )
    prepare.add_argument("--max-len", type=int, default=4096, help="tokens of a document (default %(default)s)")
    prepare.add_argument("--min-answer-tokens", type=int, default=2, help="to be learnt from (default %(default)s)")


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", type=Path, metavar="FILE|DIR", help=SHAPES_HELP)
    parser.add_argument(
        "--bad-lines", choices=["skip", "fatal"], default="skip", help="tell and leave out, or stop (default skip)"
    )
    parser.add_argument("--max-line-mib", type=float, default=16.0, help="longest line (default %(default)s)")
