"""`calibration.json` beside a drafter's checkpoint: what its evidence is known to mean. Written by `specd calibrate`.

Two formats are read. Ours names the law that the numbers hold for; SGLang's (and TensorRT-LLM's scripts') is one
temperature per position: {"temperatures": [G floats above 0], "dataset", "num_samples", "ece_before", "ece_after"}.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from core.errors import CheckpointError
from core.planning import Calibration
from core.whole_file import write_whole

CALIBRATION_FILE = "calibration.json"

Temperature = Annotated[float, Meta(gt=0.0, le=1000.0)]
Slope = Annotated[float, Meta(ge=0.0, le=1000.0)]
Intercept = Annotated[float, Meta(ge=-1000.0, le=1000.0)]


class CalibrationFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Our format, version 1.

    drafter, target   what was measured, by name
    verifier          whose acceptance it is: that of `coupled` is a few points lower
    temperatures      of the requests it was fitted on
    fit               "logistic" or "temperature" (policies/calibration_fit.py)
    slope, intercept  per position: sigmoid(slope * evidence + intercept)
    rounds            that it was fitted on
    ece_before, ece_after   of survivals by position, on other requests
    """

    format: Literal["specd-calibration"] = "specd-calibration"
    version: Literal[1] = 1
    drafter: str
    target: str
    verifier: Literal["rejection", "coupled"]
    temperatures: tuple[Annotated[float, Meta(ge=0.0, le=2.0)], ...]
    fit: Literal["logistic", "temperature"]
    slope: tuple[Slope, ...]
    intercept: tuple[Intercept, ...]
    rounds: Annotated[int, Meta(ge=0)]
    ece_before: tuple[float, ...]
    ece_after: tuple[float, ...]


class SGLangFile(Struct, frozen=True):
    """SGLang's format; of its fields only the temperatures matter here."""

    temperatures: tuple[Temperature, ...]


def read_calibration(folder: Path, width: int) -> Calibration | None:
    """Return the calibration beside a checkpoint for G = width drafts, None if there is none.

    Raises CheckpointError for a file that is neither format, or of another number of positions.
    """
    path = folder / CALIBRATION_FILE
    if not path.is_file():
        return None
    calibration = _decode(path)
    if not len(calibration.slope) == len(calibration.intercept) == width:
        raise CheckpointError(
            f"{path} has {len(calibration.slope)} positions, this drafter drafts {width}; run `specd calibrate` for it"
        )
    return calibration


def write_calibration(path: Path, calibration: CalibrationFile) -> None:
    """Write our format."""
    write_whole(path, msgspec.json.format(msgspec.json.encode(calibration)) + b"\n")


def _decode(path: Path) -> Calibration:
    data = path.read_bytes()
    try:
        fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        if "temperatures" in fields and "format" not in fields:
            foreign = msgspec.json.decode(data, type=SGLangFile)
            slope = tuple(1.0 / temperature for temperature in foreign.temperatures)
            return Calibration(slope, (0.0,) * len(slope))
        own = msgspec.json.decode(data, type=CalibrationFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} is neither a calibration of specd's nor one of SGLang's: {error}; "
            "make one with `specd calibrate` or delete it"
        ) from error
    return Calibration(own.slope, own.intercept)
