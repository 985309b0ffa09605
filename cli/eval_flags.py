"""The flags of `specd eval`. Imports neither torch nor the evaluation, so that --help is quick."""

import argparse
from pathlib import Path


def add_eval_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `specd eval` to its parser."""
    parser.add_argument(
        "tasks",
        nargs="+",
        metavar="FILE|FOLDER|demo|demo-transcripts",
        help="JSONL of turns, messages, conversations, prompts or texts, or folders of such files (DeepSpec's "
        "eval_datasets); demo, demo-transcripts: held-out tasks of the demo's curriculum, alone or in sessions",
    )
    parser.add_argument("--target", default="demo", help='"demo", a checkpoint folder or a Hub id (default demo)')
    parser.add_argument("--target-revision", metavar="REVISION", help="of a Hub id: commit, tag or branch")
    parser.add_argument(
        "--drafter",
        action="append",
        metavar="[NAME=]KIND|PATH|HUB_ID",
        help="as often as there are drafters to compare: dspark=models/demo/dspark, ngram (default dspark)",
    )
    parser.add_argument(
        "--temperature", nargs="+", type=float, default=[1.0, 0.0], metavar="T", help="(default 1 and 0)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="rows per file, in DeepSpec's shuffled order")
    parser.add_argument("--max-tokens", type=int, default=2048, help="of an answer (default %(default)s)")
    parser.add_argument("--every-turn", action="store_true", help="answer all turns, not the first or the last only")
    parser.add_argument(
        "--bad-lines", choices=["fatal", "skip"], default="fatal", help="lines that cannot be asked (default fatal)"
    )
    parser.add_argument(
        "--thresholds", nargs="*", type=float, default=[], metavar="P", help="sweep the confidence threshold over these"
    )
    parser.add_argument(
        "--contexts", nargs="*", type=int, default=[], metavar="N", help="also ask with prompts of so many tokens"
    )
    parser.add_argument("--speed", type=int, default=0, metavar="N", help="time N prompts per task against off")
    parser.add_argument("--policy", default="load_adaptive", help="of the speed comparison (default %(default)s)")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--max-model-len", type=int, metavar="N", help="(default: the checkpoint's)")
    parser.add_argument("--concurrency", type=int, default=16, help="answers at once, speed apart (default 16)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default %(default)s)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("eval-results"),
        metavar="FOLDER",
        help="report.json, report.md and figures go there (default %(default)s)",
    )
