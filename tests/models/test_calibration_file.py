"""calibration.json: our format and SGLang's, and what is refused."""

import json

import pytest

from core.errors import CheckpointError
from core.planning import Calibration
from models.calibration_file import CalibrationFile, read_calibration, write_calibration
from models.folders import DEMO_FOLDER

OURS = CalibrationFile(
    drafter="dspark",
    target="demo",
    verifier="rejection",
    temperatures=(0.7, 1.0),
    fit="temperature",
    slope=(0.5, 1.25),
    intercept=(0.1, -0.2),
    rounds=1000,
    ece_before=(0.05, 0.06),
    ece_after=(0.01, 0.02),
)


def written(folder, **changes):
    path = folder / "calibration.json"
    write_calibration(path, OURS)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_what_is_written_is_read(tmp_path):
    assert read_calibration(written(tmp_path), 2) == Calibration((0.5, 1.25), (0.1, -0.2))


def test_a_checkpoint_without_one_has_none(tmp_path):
    assert read_calibration(tmp_path, 2) is None


def test_sglangs_temperatures_are_read(tmp_path):
    foreign = {"temperatures": [2.0, 0.8], "dataset": "d", "num_samples": 5, "ece_before": [0.1], "ece_after": [0.0]}
    (tmp_path / "calibration.json").write_text(json.dumps(foreign))
    assert read_calibration(tmp_path, 2) == Calibration((0.5, 1.25), (0.0, 0.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version"),
        ({"format": "another"}, "format"),
        ({"slopes": [1.0]}, "slopes"),
        ({"slope": [1.0, -1.0]}, "slope"),
        ({"intercept": "none"}, "intercept"),
        ({"verifier": "typical"}, "verifier"),
        ({"slope": [1.0, 1.0, 1.0]}, "positions"),
        ({"slope": [1.0, 1.0, 1.0], "intercept": [0.0, 0.0, 0.0]}, "has 3 positions, this drafter drafts 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_a_wrong_file_is_refused_by_what_is_wrong(tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        read_calibration(written(tmp_path, **changes), 2)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "\xff", '{"temperatures": [1.0, 0.0]}', '{"temperatures": 1.0}', '{"temperatures": [1.0]}'],
    ids=["empty", "list", "nothing", "bytes", "zero", "number", "short"],
)
def test_a_broken_file_is_refused(tmp_path, text):
    (tmp_path / "calibration.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"calibration.json"):
        read_calibration(tmp_path, 2)


def test_the_demo_ships_one_that_was_worth_it():
    calibration = read_calibration(DEMO_FOLDER / "dspark", 7)
    assert calibration is not None
    shipped = json.loads((DEMO_FOLDER / "dspark" / "calibration.json").read_text())
    assert shipped["rounds"] >= 15_000
    assert sum(shipped["ece_after"]) < sum(shipped["ece_before"])
