"""The neighbour of an engine: as busy as it is told, and at rest else."""

import time

from bench.footprints import processor_s
from bench.neighbour import neighbour


def spent_s(process, share, seconds=0.4):
    process.stdin.write(f"{share}\n".encode())
    process.stdin.flush()
    before = processor_s(process.pid)
    time.sleep(seconds)
    return processor_s(process.pid) - before


def test_it_works_when_it_is_told_to_and_rests_when_it_is_told_to():
    with neighbour() as process:
        spent_s(process, 0.0)
        resting, working = spent_s(process, 0.0), spent_s(process, 0.9)
        spent_s(process, 0.0)
        again = spent_s(process, 0.0)
    assert max(resting, again) <= 0.03
    assert working > 3 * max(resting, again, 0.01)
    assert process.returncode is not None
