"""Can a worker record what it is told to: is the folder there, may it write, does what it may keep fit the disk."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from core.config import Settings
from service.doctor.check import Check, failed, ok, unsure
from service.recording.recording_files import PREFIX

NAME = "recording"
MIB = 1 << 20
OTHERS = 0o077


def check_recording(settings: Settings) -> Iterator[Check]:
    """Look at the folder of recorded answers; nothing where none is named, and a gateway writes none."""
    recording = settings.recording
    if recording.folder is None or settings.server.role == "gateway":
        return
    folder = Path(recording.folder).absolute()
    # What is missing a worker makes, in the nearest folder that is there.
    place = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
        kept = sum(path.stat().st_size for path in folder.glob(f"{PREFIX}*.jsonl"))
        free = shutil.disk_usage(place).free
    except OSError as error:
        found = f"{place} cannot be written ({error.strerror}): answers would be served and not recorded"
        yield failed(NAME, found, "name a folder as recording.folder that the user whom specd runs as may write")
        return
    found = f"{folder} holds {kept // MIB} of at most {recording.max_total_mib} MiB, {free // MIB} MiB are free"
    if recording.max_total_mib * MIB > kept + free:
        cure = "lower recording.max_total_mib: the disk is full before the oldest files give way"
        yield unsure(NAME, found, cure)
    elif folder.exists() and folder.stat().st_mode & OTHERS:
        yield unsure(NAME, f"{found}; others may look into it", f"chmod 700 {folder}")
    else:
        yield ok(NAME, found)
