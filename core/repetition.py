"""Where a text begins to repeat itself: what comes after flatters every drafter and measures none."""

from collections.abc import Sequence

# Shorter repetitions are ordinary; of this length they are a loop.
LOOP_LEN = 12


def loop_start(token_ids: Sequence[int]) -> int:
    """Return where the first 12-gram that occurred before begins; the length of the text if none does."""
    seen = set()
    for start in range(len(token_ids) - LOOP_LEN + 1):
        gram = tuple(token_ids[start : start + LOOP_LEN])
        if gram in seen:
            return start
        seen.add(gram)
    return len(token_ids)
