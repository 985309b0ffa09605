"""The clock of a modelled GPU: seconds of a step by what it was asked to do, instead of by how long it took here."""

import json
from pathlib import Path

import numpy as np

from core.cost import CostTable

DATA = Path(__file__).parent / "data"
CLOCKS = ("smooth", "staircase")
# Tokens of context that every sequence is taken to have.
CONTEXT = 1024
# What a profile of the machine would measure: sequences, and drafts verified for each.
SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LENGTHS = tuple(range(8))


class ModelledMachine:
    """What steps cost by one of the recorded curves (bench/replay/data/NOTES.md)."""

    def __init__(self, name: str) -> None:
        recorded = json.loads((DATA / f"cost_{name}.json").read_text(encoding="utf-8"))
        self.name = name
        self._rows, self._seconds = (np.array(recorded[key], dtype=np.float64) for key in ("rows", "seconds"))
        self._pads = recorded["read"].startswith("pad")
        self._context_s = recorded["seconds_per_context_token"]
        drafts = recorded["draft"]
        self._sequences, self._draft_s = (np.array(drafts[key], dtype=np.float64) for key in ("sequences", "seconds"))

    def verify_s(self, num_sequences: float, num_rows: float) -> float:
        """Return the seconds of the target's forward; padded up to the next listed shape where the curve says so."""
        if self._pads:
            index = min(int(np.searchsorted(self._rows, num_rows)), len(self._rows) - 1)
            num_rows = max(num_rows, self._rows[index])
        return float(np.interp(num_rows, self._rows, self._seconds)) + self._context_s * CONTEXT * num_sequences

    def draft_s(self, num_sequences: float) -> float:
        """Return the seconds of drafting for that many sequences."""
        return float(np.interp(num_sequences, self._sequences, self._draft_s)) if num_sequences else 0.0

    def table(self) -> CostTable:
        """Return what a profile of this machine would write down."""
        row_s = (self.verify_s(0, 1024) - self.verify_s(0, 1)) / 1023
        return CostTable(
            sequences=SEQUENCES,
            lengths=LENGTHS,
            contexts=(CONTEXT,),
            plain_s=(tuple(self.verify_s(n, n) for n in SEQUENCES),),
            verify_s=(tuple(tuple(self.verify_s(n, n * (1 + k)) for k in LENGTHS) for n in SEQUENCES),),
            draft_s=(tuple(self.draft_s(n) for n in SEQUENCES),),
            prefill_row_s=row_s,
            catch_up_row_s=row_s,
            row_shapes=tuple(self._rows.astype(int).tolist()) if self._pads else (),
        )


class ReplayClock:
    """Virtual time, moved on by the replayed target and drafter; one reading per machine, so that a run whose plans do
    not depend on the clock serves all of them at once.

    num_sequences  of the step that is being made; told by whoever drives the engine
    """

    def __init__(self, machines: tuple[ModelledMachine, ...]) -> None:
        self.machines = machines
        self.now_s = [0.0] * len(machines)
        self.num_sequences = 0

    def __call__(self) -> float:
        """Return the first machine's time, which is the engine's."""
        return self.now_s[0]

    def verify(self, num_rows: int) -> None:
        """Let the target's forward of so many rows take place."""
        for index, machine in enumerate(self.machines):
            self.now_s[index] += machine.verify_s(self.num_sequences, num_rows)

    def draft(self, num_sequences: int) -> None:
        """Let drafting for so many sequences take place."""
        for index, machine in enumerate(self.machines):
            self.now_s[index] += machine.draft_s(num_sequences)
