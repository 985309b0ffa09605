"""What a check of the certificate found."""

from fractions import Fraction

from msgspec import Struct

from bench.prove.loop import Fit


class Outcome(Struct, frozen=True):
    """Whether a check passed, and the number that says so, in words."""

    passes: bool
    detail: str


def of_variation(variation: Fraction) -> Outcome:
    """Judge an enumerated law: anything but 0 fails."""
    detail = "TV 0 exactly" if variation == 0 else f"TV {variation.limit_denominator(10**6)} = {float(variation):.3g}"
    return Outcome(variation == 0, detail)


def of_measured(variation: float, tolerance: float) -> Outcome:
    """Judge a law that was measured to a tolerance."""
    return Outcome(variation < tolerance, f"TV {variation:.1e}, tolerance {tolerance:.0e}")


def of_fit(fit: Fit, *, must_draft: bool = True) -> Outcome:
    """Judge sampled texts; a cell in which no draft was both kept and lost proves nothing."""
    detail = f"p {fit.p_value:.1e}, {fit.num_draws} draws; drafts verified {fit.verified}, kept {fit.accepted}"
    if must_draft and not 0 < fit.accepted < fit.verified:
        return Outcome(False, f"{detail}: too few to prove anything")
    return Outcome(fit.fits, detail)
