"""How well survivals were calibrated lately, as other processes are told. No numpy, so that gateways can read it."""

from msgspec import Struct


class CalibrationReport(Struct, frozen=True):
    """Survival up to each position against what was accepted; () where too few rounds were verified in full.

    ece, auc, brier   by position (core/reliability.py); an auc is None while only one outcome was seen
    predicted_length, observed_length   accepted length, bonus included
    bins              (mean survival, share accepted, count) over all positions, in tenths of survival
    """

    rounds: int = 0
    ece: tuple[float, ...] = ()
    auc: tuple[float | None, ...] = ()
    brier: tuple[float, ...] = ()
    predicted_length: float | None = None
    observed_length: float | None = None
    bins: tuple[tuple[float, float, int], ...] = ()
