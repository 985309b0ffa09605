"""What a benchmark starts is gone with it, however it ends."""

import signal
import subprocess
import sys
import time
from pathlib import Path

BENCHMARK = """
import sys, time
from pathlib import Path
from bench.child_process import child_process
with child_process([sys.executable, "-c", "import time; time.sleep(600)"], Path(sys.argv[1])) as process:
    print(process.pid, flush=True)
    time.sleep(600)
"""


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_benchmark_that_is_killed_leaves_nothing_behind(tmp_path):
    command = [sys.executable, "-c", BENCHMARK, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as benchmark:
        child = int(benchmark.stdout.readline())
        assert is_alive(child)
        benchmark.send_signal(signal.SIGKILL)
        benchmark.wait()
        deadline = time.monotonic() + 20.0
        while is_alive(child) and time.monotonic() < deadline:
            time.sleep(0.02)
    assert not is_alive(child)
