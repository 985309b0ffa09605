"""Which steps are looked at to learn what steps cost: a look takes some 20 to 50 microseconds."""

# Seven, because policies think longer in every fourth or sixteenth step: a multiple of that would see nothing else. By
# the step's number, so that those in which a policy was asked are not seen more often than those in which none was.
EVERY = 7


def is_looked_at(step: int) -> bool:
    """Tell whether the engine's `step`-th step is."""
    return step % EVERY == 0
