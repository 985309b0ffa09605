"""One replica on several processes: rank 0 leads, the others run the target's forwards that it tells them of.

The leader has the engine. It schedules, plans, drafts, decides every length and draws every token, so these are decided
once; a follower has its share of the weights and of the keys and values, and knows rows, positions and block tables. A
rollback is only a length, which the rows of the next step tell: a follower never hears of a verdict. Drafters, and the
output head, run on the leader alone: on every rank they would take as long, and more memory, and each would have to
draw the same.

A collective that fails, or a forward that raises between two of them, leaves the ranks at different places. Nothing can
be told of them any more, so that is the end of the replica: `ReplicaLost`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import structlog
import torch
import torch.distributed as dist
from torch import Tensor

from core.config import EngineSettings
from core.errors import ConfigError, ReplicaLost
from core.tensors import PagedKV, VerifyRows
from engine.kv_cache import KVGroup
from engine.target import TargetForward
from models.target import Target
from models.tensor_parallel import Share

log = structlog.get_logger()

LEADER = 0
# What a message can be, and how long its head is: kind, rows, sequences, columns of block tables, whether rows store.
OPEN, FORWARD, CLOSE = range(3)
HEAD_LEN = 5
# A rank that is not there within this, in the middle of a step, is lost; a closed connection is noticed sooner.
COLLECTIVE_TIMEOUT = timedelta(seconds=120)
# How long a follower may have nothing to do: as long as nobody asks for anything.
IDLE_TIMEOUT = timedelta(days=365)


def join_ranks(settings: EngineSettings, device: torch.device) -> Share | None:
    """Meet the other processes of the replica; returns this one's share, None where one process is all.

    Raises ConfigError unless torchrun has started as many processes as the settings say.
    """
    wanted = settings.tensor_parallel
    if not (dist.is_initialized() or dist.is_torchelastic_launched()):
        if wanted == 1:
            return None
        raise ConfigError(
            f"engine.tensor_parallel {wanted} needs {wanted} processes: start this one with "
            f"`torchrun --nproc-per-node {wanted}` (`specd serve` does so by itself)"
        )
    if not dist.is_initialized():
        backend = "gloo"
        if device.type == "cuda":
            backend = "cpu:gloo,cuda:nccl"
            torch.cuda.set_device(device)
        dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    if dist.get_world_size() != wanted:
        raise ConfigError(
            f"engine.tensor_parallel is {wanted}, but torchrun has started {dist.get_world_size()} processes; "
            "make them equal"
        )
    return Share(dist.get_rank(), wanted) if wanted > 1 else None


def local_device(name: str) -> torch.device:
    """Return this process's own device of a kind: on a machine with several GPUs that of its rank there."""
    return torch.device(name, int(os.environ.get("LOCAL_RANK", "0"))) if name == "cuda" else torch.device(name)


class Leader:
    """Tells the followers what the target runs; only the engine's thread calls it. Raises ReplicaLost."""

    def __init__(self) -> None:
        self._idle = dist.new_group(backend="gloo", timeout=IDLE_TIMEOUT)
        self._is_lost, self._block_size = False, 1

    def open(self, num_blocks: int, block_size: int) -> None:
        """Let every follower keep so many blocks of keys and values."""
        self._block_size = block_size
        with self.together():
            self._tell(OPEN, num_blocks, block_size)

    def announce(self, rows: VerifyRows) -> None:
        """Tell of the rows of a forward that the leader begins at once."""
        tables = rows.block_tables
        if not rows.positions.is_cuda:
            # Columns beyond the last position are read by nobody; on a GPU a look at it would wait for the device.
            tables = tables[:, : int(rows.positions.max()) // self._block_size + 1]
        self._tell(FORWARD, len(rows.tokens), *tables.shape, rows.stores is not None)
        parts = [rows.tokens, rows.positions, rows.cu_rows, tables.flatten()]
        if rows.stores is not None:
            parts.append(rows.stores.to(torch.int64))
        dist.broadcast(torch.cat(parts), LEADER)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let all ranks do what is inside; whatever is raised there is the end of the replica."""
        try:
            yield
        except Exception as error:
            self._is_lost = True
            raise ReplicaLost(f"a rank of engine.tensor_parallel is lost, or failed within a step: {error}") from error

    def close(self) -> None:
        """Let the followers end; to be called once, last."""
        if self._is_lost:
            return
        try:
            self._tell(CLOSE)
        except RuntimeError as error:
            log.warning("follower_lost", error=str(error))

    def _tell(self, kind: int, *numbers: int) -> None:
        head = torch.zeros(HEAD_LEN, dtype=torch.int64)
        head[: 1 + len(numbers)] = torch.tensor((kind, *numbers))
        dist.broadcast(head, LEADER, group=self._idle)


class LedForward(TargetForward):
    """The leader's forward, which all followers run with it."""

    def __init__(self, network: Target, leader: Leader) -> None:
        super().__init__(network)
        self._leader = leader

    def __call__(self, rows: VerifyRows, kv: PagedKV, feature_layers: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """Run N ragged rows (`TargetForward`); raises ReplicaLost."""
        with self._leader.together():
            self._leader.announce(rows)
            return super().__call__(rows, kv, feature_layers)


class Follower:
    """A rank that does not lead: it runs the forwards it is told of over its own share of weights and cache."""

    def __init__(self, network: Target) -> None:
        self._network, self._device = network, network.device
        self._forward = TargetForward(network)
        self._idle = dist.new_group(backend="gloo", timeout=IDLE_TIMEOUT)

    @torch.inference_mode()
    def run(self) -> int:
        """Follow until the leader says that there is no more; returns how many forwards that were.

        Raises ReplicaLost when the leader is gone.
        """
        num_forwards = 0
        kv: KVGroup | None = None
        try:
            while True:
                head = torch.zeros(HEAD_LEN, dtype=torch.int64)
                dist.broadcast(head, LEADER, group=self._idle)
                kind, *numbers = head.tolist()
                if kind == CLOSE:
                    return num_forwards
                if kind == OPEN:
                    shape = self._network.shape
                    kv = KVGroup(shape.kv_layers, numbers[0], numbers[1], self._network.dtype, self._device)
                    continue
                assert kv is not None
                rows = _receive(numbers, self._device)
                self._forward(rows, kv.view(rows.block_tables), ())
                num_forwards += 1
        except RuntimeError as error:
            raise ReplicaLost(f"the leader of this rank is lost, or a forward failed: {error}") from error


def _receive(head: list[int], device: torch.device) -> VerifyRows:
    """Take in the rows that a head tells of."""
    num_rows, num_sequences, num_columns, stores = head
    sizes = [num_rows, num_rows, num_sequences + 1, num_sequences * num_columns, num_rows * stores]
    body = torch.empty(sum(sizes), dtype=torch.int64, device=device)
    dist.broadcast(body, LEADER)
    tokens, positions, cu_rows, tables, stored = body.split(sizes)
    return VerifyRows(
        tokens, positions, cu_rows, tables.view(num_sequences, num_columns), stored.bool() if stores else None
    )
