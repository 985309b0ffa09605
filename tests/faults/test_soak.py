"""`make soak` runs: a storm of a few jobs is told of in JSON and in a figure."""

import json
import sys

from tests.faults.soak import main


def test_a_small_storm_is_written_down(tmp_path, monkeypatch, redis_binary):
    scale = {"jobs": 4, "kills": 1, "redis-kills": 1, "freezes": 0, "workers": 2, "at-once": 4}
    flags = ["--only", "storm", *(f"--{name}={value}" for name, value in scale.items())]
    monkeypatch.setattr(sys, "argv", ["soak", *flags, "--redis-server", redis_binary, "--output", str(tmp_path)])
    assert main() == 0
    report = json.loads((tmp_path / "storm.json").read_text())
    assert report["scale"]["num_jobs"] == 4
    assert report["violations"] == []
    assert (tmp_path / "storm.png").stat().st_size > 0
