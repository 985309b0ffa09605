"""Packages that travel as wheels are found by the stages."""

import sys
import zipfile

from bench.gpu import __main__
from bench.gpu.wheels import missing, unpack


def make_wheel(folder, package, text):
    with zipfile.ZipFile(folder / f"{package}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{package}/__init__.py", text)


def test_a_wheel_in_the_folder_counts_as_installed(tmp_path):
    make_wheel(tmp_path, "carried_here", "")
    site = tmp_path / "site"
    assert missing({"carried_here": "carried-here"}, None) == ["carried-here"]
    assert unpack(tmp_path, site) == ["carried_here-1.0-py3-none-any.whl"]
    assert missing({"carried_here": "carried-here"}, site) == []


def test_a_stage_imports_what_a_wheel_brought(tmp_path, monkeypatch):
    make_wheel(tmp_path, "carried_here", "import pathlib, sys\npathlib.Path(sys.argv[2], 'seen').write_text('yes')\n")
    monkeypatch.setitem(__main__.STAGES, "numerics", "carried_here")
    command = ["bench.gpu", "--stage", "numerics", "--wheels", str(tmp_path), "--output", str(tmp_path)]
    (tmp_path / "carried_here").mkdir()
    monkeypatch.setattr(sys, "argv", command)
    # `python -m carried_here` runs its __init__, then finds no __main__.
    assert __main__.main() != 0
    assert (tmp_path / "seen").read_text() == "yes"
