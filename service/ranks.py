"""A worker of several processes: torchrun, and under it one process per rank of the same command line.

torchrun watches them: when one dies, or cannot start, it ends the others, and this process ends with an error, so that
whoever watches it sees a worker that died. Ranks on several machines are started by torchrun itself, on each of them.
"""

import os
import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from core.config import Settings
from core.errors import EngineError
from service.logs import configure_logs


def run(settings: Settings) -> int:
    """Run this command once per rank until all have ended, 0 after a signal; raises EngineError if one fails."""
    configure_logs(settings.log, role="ranks")
    # For the ranks, which would otherwise have to guess; what somebody has said stands.
    os.environ.setdefault("OMP_NUM_THREADS", str(settings.engine.num_threads))
    if sys.platform == "linux":
        # Else gloo asks which address the machine's name has, which need not be one that reaches it.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        torchrun(torchrun_arguments(settings.engine.tensor_parallel, sys.argv[1:]))
    except SignalException:
        return 0
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise EngineError(f"rank {rank} of the worker ended first, with status {failure.exitcode}") from error
    return 0


def torchrun_arguments(num_ranks: int, arguments: list[str]) -> list[str]:
    """Return what torchrun is told, to run `specd` with these arguments once per rank, on this machine."""
    return [
        # A store of their own on a free port of this machine, that no other machine is told of.
        *("--standalone", "--local-addr", "127.0.0.1"),
        *("--nproc-per-node", str(num_ranks), "--max-restarts", "0"),
        *("-m", "cli.main", *arguments),
    ]
