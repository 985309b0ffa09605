"""Which texts are near-duplicates of earlier ones: MinHash signatures, bands that bring candidates together, one check.

A text is its set of overlapping runs of 8 bytes, blanks and case evened out. 64 hashes of it estimate the Jaccard
similarity of two texts with a standard deviation of at most 1/16; 16 bands of 4 bring together two texts of similarity
0.8 but for one case in 5000 (Broder 1997; Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4).
Signatures, 256 bytes a text, lie in a file; memory holds a few numbers for each text.
"""

import re
from array import array
from pathlib import Path
from typing import BinaryIO

import numpy as np

RUN_BYTES = 8
NUM_HASHES = 64
NUM_BANDS = 16
RUNS_PER_STEP = 1024
MAX_TEXT_BYTES = 1 << 16
ROWS_PER_CHECK = 1 << 14
BLANKS = re.compile(r"\s+")

_rng = np.random.Generator(np.random.PCG64(980406))
# Odd multipliers: multiply-shift, Dietzfelbinger et al. 1997.
_MULTIPLIERS = _rng.integers(0, 2**63, NUM_HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_ADDENDS = _rng.integers(0, 2**63, NUM_HASHES, dtype=np.uint64)


def normalised(text: str) -> str:
    """Return a text as it is compared: lower case, every run of blanks one blank."""
    return BLANKS.sub(" ", text).strip().casefold()


def signature(text: str) -> np.ndarray:
    """Return the MinHash u32 [64] of a text; of very long ones, of their first 64 KiB."""
    data = normalised(text).encode()[:MAX_TEXT_BYTES].ljust(RUN_BYTES, b"\0")
    window = np.lib.stride_tricks.sliding_window_view(np.frombuffer(data, dtype=np.uint8), RUN_BYTES)
    runs = np.unique(np.ascontiguousarray(window).view(np.uint64).ravel())
    least = np.full(NUM_HASHES, 2**64 - 1, dtype=np.uint64)
    # Small enough for the cache, and used again: 20 times as fast as an array for each step.
    hashed = np.empty((NUM_HASHES, RUNS_PER_STEP), dtype=np.uint64)
    for start in range(0, len(runs), RUNS_PER_STEP):
        part = runs[start : start + RUNS_PER_STEP]
        np.multiply(part[None], _MULTIPLIERS[:, None], out=hashed[:, : len(part)])
        hashed[:, : len(part)] += _ADDENDS[:, None]
        np.minimum(least, hashed[:, : len(part)].min(1), out=least)
    return (least >> np.uint64(32)).astype(np.uint32)


class NearDuplicates:
    """Signatures of texts in a file of their own, removed in the end; mutable."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._file = path, _open(path)
        self._kin = array("Q")

    @property
    def num_texts(self) -> int:
        """Texts so far."""
        return len(self._kin)

    def add(self, text: str, kin: int = 0) -> None:
        """Add the next text; those of one kin, 0..2^64 - 1, are never duplicates of each other, but 0 is none."""
        self._file.write(signature(text).tobytes())
        self._kin.append(kin)

    def found(self, threshold: float) -> np.ndarray:
        """Return bool [N]: is the text a near-duplicate of an earlier one that is none itself? Ends the work."""
        self._file.close()
        dropped = np.zeros(self.num_texts, dtype=bool)
        if self.num_texts > 1:
            signatures = np.memmap(self._path, dtype=np.uint32, mode="r", shape=(self.num_texts, NUM_HASHES))
            for earlier, later in _similar(signatures, threshold).tolist():
                is_kin = self._kin[later] and self._kin[earlier] == self._kin[later]
                if not dropped[earlier] and not is_kin:
                    dropped[later] = True
        self.close()
        return dropped

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def _open(path: Path) -> BinaryIO:
    return path.open("wb")


def _similar(signatures: np.ndarray, threshold: float) -> np.ndarray:
    """Return pairs (earlier, later) that are alike, by the later one, then by the earlier one."""
    pairs = [np.empty((0, 2), dtype=np.int64)]
    width = NUM_HASHES // NUM_BANDS
    for band in range(NUM_BANDS):
        rows = np.ascontiguousarray(signatures[:, band * width : (band + 1) * width])
        keys = rows.view([("", np.uint32)] * width).ravel()
        order = np.argsort(keys, kind="stable")
        equal = keys[order[1:]] == keys[order[:-1]]
        starts = np.flatnonzero(np.concatenate([[True], ~equal]))
        first = order[np.repeat(starts, np.diff(np.append(starts, len(order))))]
        # Each with the first of its run and with the one before it.
        pairs += [np.stack([first, order], 1)[1:][equal], np.stack([order[:-1], order[1:]], 1)[equal]]
    candidates = np.unique(np.concatenate(pairs), axis=0)
    alike = [
        part[(signatures[part[:, 0]] == signatures[part[:, 1]]).mean(1) >= threshold]
        for part in np.array_split(candidates, len(candidates) // ROWS_PER_CHECK + 1)
    ]
    found = np.concatenate(alike)
    return found[np.lexsort((found[:, 0], found[:, 1]))]
