"""The tiny target and the laws of its texts, made once; warnings of planted failures are not shown."""

import pytest

from bench.prove.loop import QUICK, make_bed


@pytest.fixture(scope="session")
def bed():
    return make_bed(QUICK)
