"""A step of full size keeps to the memory that docs/training/trainer.md states, however large the vocabulary."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-W", "ignore", "-m", "training.measure_memory"]
# The whole logits of 512 blocks alone would be 2.2 GB, and a loss holds about six tensors of that size.
STATED_GIB = {"dspark": 1.6, "dflash": 1.6, "eagle3": 2.5}


@pytest.mark.slow
@pytest.mark.parametrize("kind", STATED_GIB)
def test_a_row_of_4096_tokens_with_512_anchors_and_151936_words_fits(kind):
    done = subprocess.run(
        [*COMMAND, "--kind", kind], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    told = re.fullmatch(rf"{kind}: peak ([\d.]+) GiB \(([\d.]+) before the first step\), (\d+) tokens/s\n", done.stdout)
    assert told is not None, done.stdout
    peak, before, tokens_per_s = (float(one) for one in told.groups())
    assert before < peak < STATED_GIB[kind]
    assert tokens_per_s > 0
