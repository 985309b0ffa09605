"""`make soak` runs: a storm of a few jobs is told of in JSON and in a figure."""

import json
import sys

from tests.faults.soak import main


def test_a_small_storm_is_written_down(tmp_path, monkeypatch, redis_binary):
    scale = {"jobs": 4, "kills": 1, "redis-kills": 1, "freezes": 0, "workers": 2, "at-once": 4}
    flags = ["--only", "storm", *(f"--{name}={value}" for name, value in scale.items())]
    monkeypatch.setattr(sys, "argv", ["soak", *flags, "--redis-server", redis_binary, "--output", str(tmp_path)])
    status = main()
    report = json.loads((tmp_path / "storm.json").read_text())
    assert report["scale"]["num_jobs"] == 4
    assert report["violations"] == []
    # A kill of a worker that had nothing to do shows no recovery, and then nothing is said to have held.
    assert status == (0 if report["has_held"] else 1)
    assert (tmp_path / "storm.png").stat().st_size > 0
