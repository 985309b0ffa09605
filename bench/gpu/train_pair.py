"""The stage that trains a pair worth measuring: a target of about 100M parameters and its DSpark drafter.

The toolkit's trainer does it, in a process of its own, on the demo's curriculum and the standard library. It goes on
where it was stopped, so a pair may take several runs of this stage.
"""

import json
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from bench.gpu.stage import Bench, Stopped, run_stage
from core.errors import SpecdError

STAGE = "train"
PAIR = "pair"
FOLDER = "trained_pair"
TARGET_MINUTES, DRAFTER_MINUTES = 7.0, 6.0
# 104M parameters, all but 3M of them in the layers.
SCALE: dict[str, Any] = {
    "shape": {
        "vocab_size": 4096,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "rope_theta": 10_000.0,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
    "draft_layers": 2,
    "target_layer_ids": [1, 4, 8, 11, 14],
    "markov_rank": 128,
    "num_rows": 48,
    "num_anchors": 128,
    "device": "cuda",
    # A bare machine need not have a C compiler.
    "compile": False,
    "save_s": 45.0,
}
DRY_SCALE: dict[str, Any] = {
    "shape": SCALE["shape"]
    | {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    | {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16},
    "draft_layers": 1,
    "target_layer_ids": [0, 1],
    "markov_rank": 8,
    "num_rows": 2,
    "num_anchors": 8,
    "compile": False,
    "rows_at_once": 2,
    "tokenizer_tasks": 20,
    "held_out_tokens": 40,
}
# A dry run reads these; by their names, functools and graphlib are held out.
DRY_LIBRARY = ("functools.py", "graphlib.py", "heapq.py", "queue.py", "string.py")
POLL_S, GRACE_S = 0.2, 20.0


def measure(bench: Bench) -> None:
    """Train until the pair is there or the time is over."""
    bench.take(PAIR, lambda: train(bench))


def train(bench: Bench) -> dict[str, Any]:
    """Run the trainer; returns where the pair is and what it came to. Raises SpecdError if it is not ready yet."""
    folder = bench.output / FOLDER
    plan = write_plan(folder, is_dry_run=bench.is_dry_run)
    log = folder / "log.txt"
    with log.open("a", encoding="utf-8") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "training.planned", str(plan), "--threads", "1"],
            cwd=Path(__file__).parents[2],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait(child, bench)
        finally:
            _end(child)
    if child.returncode:
        told = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise SpecdError(f"the trainer ended with status {child.returncode}: {told[-1] if told else 'no word'}")
    return {"target": str(folder / PAIR / "target"), "drafter": str(folder / PAIR / "dspark")} | _told(folder / "run")


def pair_folder(output: Path) -> Path:
    """Return where the trained pair is, or will be: it holds target/ and dspark/."""
    return output / FOLDER / PAIR


def write_plan(folder: Path, *, is_dry_run: bool) -> Path:
    """Write what the trainer is to do, if nobody has: a run that goes on must have the plan that it began with."""
    path = folder / "plan.json"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    plan: dict[str, Any] = {
        "run": str(folder / "run"),
        "output": str(folder / PAIR),
        "target_minutes": TARGET_MINUTES,
        "drafter_minutes": DRAFTER_MINUTES,
        "scale": SCALE,
    }
    if is_dry_run:
        library, source = folder / "library", Path(sysconfig.get_paths()["stdlib"])
        library.mkdir(exist_ok=True)
        for name in DRY_LIBRARY:
            shutil.copy(source / name, library / name)
        plan |= {"target_minutes": 0.01, "drafter_minutes": 0.01, "text_tokens": 40}
        plan["scale"] = DRY_SCALE | {"python_files": str(library)}
    path.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    return path


def _wait(child: "subprocess.Popen[bytes]", bench: Bench) -> None:
    while child.poll() is None:
        if bench.seconds_left <= 0:
            raise SpecdError("the time is over; run the stage again to go on from the last checkpoint")
        time.sleep(POLL_S)


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End the trainer if it still runs; its last checkpoint stays."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(GRACE_S)
    except (subprocess.TimeoutExpired, Stopped):
        child.kill()
        child.wait()


def _told(run: Path) -> dict[str, Any]:
    """Return what the trainer measured of what it made: held-out nats per token, survival of drafts by position."""
    files = {"held_out_nats": run / "target" / "held_out.json", "survival": run / "dspark" / "survival.json"}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items() if path.is_file()}


if __name__ == "__main__":
    raise SystemExit(run_stage(STAGE, measure))
