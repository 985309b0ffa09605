"""What a check of the certificate found."""

from collections.abc import Sequence
from fractions import Fraction

from msgspec import Struct

from bench.prove.loop import Fit


class Outcome(Struct, frozen=True):
    """Whether a check passed, the numbers that say so in words, and how many chi-square tests at ALPHA it took."""

    passes: bool
    detail: str
    num_tests: int = 0


def of_variation(variation: Fraction) -> Outcome:
    """Judge an enumerated law: anything but 0 fails."""
    return Outcome(variation == 0, "TV 0 exactly" if variation == 0 else f"TV {variation} = {float(variation):.3g}")


def of_measured(variation: float, tolerance: float) -> Outcome:
    """Judge a law that was measured to a tolerance."""
    return Outcome(variation < tolerance, f"TV {variation:.1e}, tolerance {tolerance:.0e}")


def of_fits(fits: Sequence[Fit], *, must_draft: bool = True) -> Outcome:
    """Judge the sampled texts of one engine; if in none of its rounds a draft was kept and one lost, nothing is proved.

    fits  one per law, all with the counts of the whole engine
    """
    worst, verified, accepted = min(fit.p_value for fit in fits), fits[0].verified, fits[0].accepted
    detail = f"p {worst:.1e}, {sum(fit.num_draws for fit in fits)} draws; drafts verified {verified}, kept {accepted}"
    if must_draft and not 0 < accepted < verified:
        return Outcome(False, f"{detail}: too few to prove anything", len(fits))
    return Outcome(all(fit.fits for fit in fits), detail, len(fits))
