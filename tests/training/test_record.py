"""The record of a run's losses: what the disk has no room for is not lost, and no half row is left."""

import pytest

from disks import files_up_to
from training.record import LossRecord


def test_rows_for_which_there_was_no_room_are_written_with_the_next(tmp_path):
    path = tmp_path / "losses.csv"
    record = LossRecord(path, ("step", "loss"))
    record.add({"step": 1, "loss": 0.5})
    before = path.read_text()
    with files_up_to(len(before) + 3):
        for step in (2, 3):
            with pytest.raises(OSError, match=r"losses\.csv cannot be written: .*too large"):
                record.add({"step": step, "loss": 0.25})
    assert path.read_text() == before
    record.add({"step": 4})
    assert path.read_text().split() == ["step,loss", "1,0.5", "2,0.25", "3,0.25", "4,"]
