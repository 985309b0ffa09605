"""What is kept of a text that is too long: the tokens before the last that is learnt, and that one.

In recorded traffic the answer stands last, behind a prompt of any length: the text's beginning may hold none of it.
"""

import numpy as np


def learnt_window(mask: np.ndarray, longest: int) -> slice:
    """Return which tokens of a text to keep, at most `longest`, given mask bool [S], true where one is to be learnt.

    A text that fits is kept whole. The window of another ends at the last token to be learnt, so that the last answer
    is in it whole where it fits, with as much of what comes before as there is room for; where nothing is to be learnt,
    it is the beginning.
    """
    if len(mask) <= longest:
        return slice(0, len(mask))
    learnt = np.flatnonzero(mask)
    end = max(longest, int(learnt[-1]) + 1 if len(learnt) else 0)
    return slice(end - longest, end)


def has_draft(mask: np.ndarray) -> bool:
    """Tell whether a drafter can learn anything of a text: a token after another, neither being the text's first."""
    return bool((mask[1:-1] & mask[2:]).any())
