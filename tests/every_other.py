"""Products of choices of which every run takes half; the other cells are `slow`."""

from itertools import product

import pytest


def every_other(*axes):
    """Return the product as parameters, every other cell marked slow; of three axes the rest meets each pair."""
    return [
        pytest.param(*cell, marks=pytest.mark.slow) if sum(map(list.index, axes, cell)) % 2 else pytest.param(*cell)
        for cell in product(*axes)
    ]
