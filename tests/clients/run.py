"""Run the checks of clients against a real server with the demo pair: run.py PYTHON..., one of each environment.

Client libraries stay out of specd's own environment: they pin each other, and none is needed to serve.
"""

import os
import subprocess
import sys
from pathlib import Path

from cli.local_server import local_server

FOLDER = Path(__file__).parent
TIMEOUT_S = 1800


def main() -> int:
    """Return 0 if every environment's checks passed."""
    statuses = []
    # Whole and streamed answers are compared, and fast numerics may part at a near-tie, as the load has it.
    with local_server("--numerics", "batch_invariant") as server:
        server.wait_until_ready()
        for python in sys.argv[1:]:
            # The rest of the tests, and their settings, need what these environments have not.
            command = [python, "-m", "pytest", "-c", "/dev/null", "--rootdir", str(FOLDER), "--confcutdir", str(FOLDER)]
            command += ["-p", "no:cacheprovider", "--import-mode=importlib", "--disable-warnings"]
            command += ["-o", "python_files=check_*.py", str(FOLDER)]
            environ = os.environ | {"SPECD_URL": server.url, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
            statuses.append(subprocess.run(command, env=environ, timeout=TIMEOUT_S, check=False).returncode)
    return int(any(statuses))


if __name__ == "__main__":
    sys.exit(main())
