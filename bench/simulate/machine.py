"""What a step takes on a simulated machine, and what policies are told of that: a cost table."""

from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from bench.replay.clock import CLOCKS, ModelledMachine
from bench.simulate.settings import Costs
from core.cost import CostTable, StepPrices
from core.errors import ConfigError, ShapeError
from engine.cost_cache import SavedTable

# Tokens of context over which prices are taken to be the same, as policies do (policies/prices.py).
CONTEXT_STEP = 64


class StepWork(Struct, frozen=True):
    """What a step was asked to do.

    num_sequences  in the step, of which num_sampling get a token each and what was accepted
    num_followed   sampling sequences whose drafter is kept up; num_drafting of them have drafts proposed
    num_verified   drafts that the target verifies, of all sequences together
    prefill_rows, catch_up_rows   other target rows
    context        mean tokens of context per sequence
    """

    num_sequences: int
    num_sampling: int
    num_followed: int
    num_drafting: int
    num_verified: int
    prefill_rows: int
    catch_up_rows: int
    context: float


class Pricing(Protocol):
    """Seconds of steps, and the table that policies see of them."""

    table: CostTable

    def step_s(self, work: StepWork) -> float:
        """Return the seconds of a step."""
        ...


class TablePricing:
    """Seconds by a table, which policies see as well.

    Rows of prefill and of catching up have their price each, also where drafts are padded to row shapes.
    """

    def __init__(self, table: CostTable) -> None:
        self.table = table
        self._prices: dict[int, StepPrices] = {}

    def step_s(self, work: StepWork) -> float:
        """Return the seconds of a step."""
        at = int(work.context) // CONTEXT_STEP
        prices = self._prices.get(at)
        if prices is None:
            prices = self._prices[at] = self.table.at(at * CONTEXT_STEP + CONTEXT_STEP // 2)
        seconds = prices.plain_s(work.num_sampling) + float(prices.speculation_curve(work.num_followed)[-1])
        if work.num_verified:
            seconds += float(prices.verification_curve(work.num_sampling, work.num_verified)[-1])
        return seconds + work.prefill_rows * prices.prefill_row_s + work.catch_up_rows * prices.catch_up_row_s


class ModelledPricing:
    """Seconds of a modelled GPU, by its rows; its table is what a profile of it would write down."""

    def __init__(self, machine: ModelledMachine, scale: float) -> None:
        self.table = scaled(machine.table(), scale)
        self._machine, self._scale = machine, scale

    def step_s(self, work: StepWork) -> float:
        """Return the seconds of a step."""
        rows = work.num_sampling + work.num_verified + work.prefill_rows + work.catch_up_rows
        seconds = self._machine.verify_s(work.num_sequences, rows) + self._machine.draft_s(work.num_drafting)
        return seconds * self._scale


class BelievedPricing:
    """Seconds of one pricing, while policies see another table: they know a machine no better than that tells."""

    def __init__(self, pricing: Pricing, shown: CostTable) -> None:
        self.table, self._pricing = shown, pricing

    def step_s(self, work: StepWork) -> float:
        """Return the seconds of a step."""
        return self._pricing.step_s(work)


class Machine:
    """One worker's machine: priced steps, and by how much they depart from their price, by a coin of its own."""

    def __init__(self, pricing: Pricing, costs: Costs, seed: int) -> None:
        self.table, self._pricing, self._overhead_s = pricing.table, pricing, costs.overhead_s
        self._deviations = np.array(costs.deviations)
        self._random = np.random.default_rng(seed)

    def step_s(self, work: StepWork) -> float:
        """Return the seconds that the step takes this time."""
        seconds = self._pricing.step_s(work)
        if len(self._deviations):
            seconds *= float(self._deviations[self._random.integers(len(self._deviations))])
        return seconds + self._overhead_s


def make_pricing(costs: Costs) -> Pricing:
    """Return the pricing that the settings name; raises ConfigError if a table of it cannot be read."""
    pricing: Pricing
    if costs.table in CLOCKS:
        pricing = ModelledPricing(ModelledMachine(costs.table), costs.scale)
    elif Path(costs.table).is_file():
        pricing = TablePricing(scaled(_read_table(Path(costs.table)), costs.scale))
    else:
        raise ConfigError(f"costs.table must be {', '.join(CLOCKS)} or a cost table's file, got {costs.table!r}")
    if costs.shown is None:
        return pricing
    if not Path(costs.shown).is_file():
        raise ConfigError(f"costs.shown must be a cost table's file, got {costs.shown!r}")
    return BelievedPricing(pricing, scaled(_read_table(Path(costs.shown)), costs.scale))


def _read_table(path: Path) -> CostTable:
    try:
        return msgspec.json.decode(path.read_bytes(), type=SavedTable).table
    except (msgspec.DecodeError, ShapeError, OSError) as error:
        raise ConfigError(f"{path} holds no cost table of this version: {error}") from error


def scaled(table: CostTable, scale: float) -> CostTable:
    """Return the table of a machine that takes `scale` times as long for everything."""
    if scale == 1.0:
        return table
    plain, verify, draft = (np.array(part) * scale for part in (table.plain_s, table.verify_s, table.draft_s))
    return replace(
        table,
        plain_s=tuple(map(tuple, plain.tolist())),
        verify_s=tuple(tuple(map(tuple, rows)) for rows in verify.tolist()),
        draft_s=tuple(map(tuple, draft.tolist())),
        prefill_row_s=table.prefill_row_s * scale,
        catch_up_row_s=table.catch_up_row_s * scale,
    )
