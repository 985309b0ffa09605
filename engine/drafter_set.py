"""The drafters of one engine, each with its part of the KV memory; they can come and go while it runs.

What they may take is reserved when the engine is built: what the drafters it begins with need, and a spare. A drafter
that is unloaded gives its part back to the reserve.
"""

from collections.abc import Collection, Mapping

from msgspec import Struct

from core.config import nearest
from core.errors import ConfigError
from drafters.base import Drafter, DrafterSpec
from engine.blocks import BlockPool
from engine.graphed_drafts import DraftGraphs
from engine.kv_cache import KVGroup, kv_bytes
from engine.speculator import NO_DRAFTER, Place, Speculator
from engine.stats import EngineStats
from models.target import Target

# What the target's KV is reported as, beside the drafters'.
TARGET = "target"


class Room(Struct, frozen=True):
    """What there is room for: blocks of KV, drafts per step beyond every anchor, bytes of all drafters' KV."""

    num_blocks: int
    width: int
    num_bytes: int


class DrafterSet(dict[str, Speculator]):
    """Speculators by name, in the order in which they came; "none" is always among them.

    default   the name that a request without one means: that of the first drafter, for as long as it is loaded
    absent    names that requests may have been let in for although no such drafter is loaded: these decode plainly
    """

    def __init__(
        self,
        drafters: Mapping[str, Drafter | None],
        target: Target,
        pool: BlockPool,
        room: Room,
        stats: EngineStats,
        untrusted: Collection[str] = (),
        graphs: DraftGraphs | None = None,
    ) -> None:
        super().__init__()
        self.room, self.absent, self._graphs = room, set[str](), graphs
        self._target, self._pool, self._stats, self._next_bit = target, pool, stats, 0
        self._first = next(iter(drafters), NO_DRAFTER)
        for name, drafter in ({**drafters} | {NO_DRAFTER: None}).items():
            self._add(name, drafter, trusts_law=name not in untrusted)

    @property
    def default(self) -> str:
        """The drafter of a request that names none."""
        return self._first if self._first in self else NO_DRAFTER

    @property
    def kv_bytes(self) -> dict[str, int]:
        """KV memory by drafter; those that keep none have 0."""
        return {name: each.kv.num_bytes if each.kv else 0 for name, each in self.items() if each.drafter}

    def check(self, name: str, drafter: Drafter, *, replaces: bool) -> None:
        """Raise ConfigError if a drafter cannot be loaded; with `replaces` it takes the room of its namesake."""
        if name in self and not replaces:
            raise ConfigError(f"there is a drafter {name!r} already; unload it first")
        taken = self.kv_bytes
        if replaces:
            taken.pop(name, None)
        check_room(name, drafter.spec, self._bytes_of(drafter.spec), self.room, sum(taken.values()))

    def load(self, name: str, drafter: Drafter, *, trusts_law: bool = True) -> None:
        """Take a drafter in, at once and whole; raises ConfigError, changing nothing, if there is no room for it."""
        self.check(name, drafter, replaces=False)
        self._add(name, drafter, trusts_law=trusts_law)
        self.absent.discard(name)

    def unload(self, name: str) -> Speculator:
        """Let a drafter go, with its KV; nobody may draft with it any more. Raises ConfigError for an unknown name."""
        if name == NO_DRAFTER or name not in self:
            loaded = [each for each in self if each != NO_DRAFTER]
            raise ConfigError(f"no drafter {name!r} is loaded; {nearest(name, loaded)}")
        gone = self.pop(name)
        self._pool.forget(gone.bit)
        self.absent.add(name)
        return gone

    def _add(self, name: str, drafter: Drafter | None, *, trusts_law: bool) -> None:
        if name == NO_DRAFTER and drafter:
            raise ConfigError(f"no drafter can be called {NO_DRAFTER!r}: that is the name of having none")
        if name == TARGET:
            raise ConfigError(f"no drafter can be called {TARGET!r}: memory is reported under that name")
        layers = drafter.spec.kv_layers if drafter else ()
        size = self._pool.block_size
        kv = KVGroup(layers, self.room.num_blocks, size, self._target.dtype, self._target.device) if layers else None
        place = Place(name, self._next_bit)
        vocab_size = self._target.shape.vocab_size
        graphed = self._graphs.over(drafter, kv) if self._graphs and drafter else None
        self[name] = Speculator(
            place, drafter, kv, self._pool, self._stats, vocab_size, trusts_law=trusts_law, graphed=graphed
        )
        # A bit is never given twice, so that nothing written by one drafter is taken for another's.
        self._next_bit += 1

    def _bytes_of(self, spec: DrafterSpec) -> int:
        return kv_bytes(spec.kv_layers, self.room.num_blocks, self._pool.block_size, self._target.dtype)


def check_room(name: str, spec: DrafterSpec, num_bytes: int, room: Room, num_taken: int) -> None:
    """Raise ConfigError, saying what would be enough, if a drafter wants more than there is room for."""
    if spec.max_drafts > room.width:
        raise ConfigError(
            f"drafter {name!r} makes {spec.max_drafts} drafts, this engine keeps room for {room.width}; "
            f"restart it with engine.most_drafts = {spec.max_drafts} or more"
        )
    free = room.num_bytes - num_taken
    if num_bytes > free:
        missing = -(-(num_bytes - free) >> 20)
        raise ConfigError(
            f"drafter {name!r} needs {_mib(num_bytes)} of KV memory, {_mib(free)} are left of what was reserved; "
            f"unload another, or restart with engine.spare_kv_mib larger by {max(1, missing)}"
        )


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 20):.1f} MiB"
