"""A file is written in one move, or not at all."""

import pytest

from core.whole_file import write_whole


def test_the_folder_is_made_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "file.json"
    for data in (b"first", b"second"):
        write_whole(path, data)
        assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


def test_what_was_there_stays_until_the_new_is_whole(tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(b"old")
    (tmp_path / "file.part").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
