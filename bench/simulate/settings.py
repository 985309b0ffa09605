"""What is simulated, as one tree of settings read from TOML; docs/simulator.md tells what each table is for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from core.config import SECTIONS, PolicySettings, nearest
from core.errors import ConfigError
from core.known_keys import find_unknown_key
from core.toml_file import read_toml

Positive = Annotated[float, Meta(gt=0.0, le=1e9)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Tokens = Annotated[int, Meta(ge=1, le=131_072)]
Count = Annotated[int, Meta(ge=1, le=1 << 30)]
Router = Literal["queue", "round_robin", "least_loaded"]


class Shape(Struct, frozen=True, forbid_unknown_fields=True):
    """One engine: slots, prefill rows per step, KV cache in tokens and blocks of block_size."""

    max_num_seqs: Annotated[int, Meta(ge=1, le=4096)] = 256
    max_num_batched_tokens: Count = 8192
    kv_cache_tokens: Count = 1_048_576
    block_size: Annotated[int, Meta(ge=1, le=1024)] = 16


class Costs(Struct, frozen=True, forbid_unknown_fields=True):
    """What steps take: a table that `specd serve` keeps in engine.cost_table_dir, or a modelled GPU's.

    table       a file, or "smooth" or "staircase" (bench/replay/data/NOTES.md)
    scale       all seconds times this
    overhead_s  what a step takes beyond the table: the service around the engine
    deviations  steps take as much longer than the table says as one of these ratios, drawn by chance; () takes none
    shown       the table that policies see, a file as well: what an engine believes; None shows them the very prices
    """

    table: str = "smooth"
    scale: Positive = 1.0
    overhead_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.0
    deviations: tuple[Positive, ...] = ()
    shown: str | None = None


class Drafting(Struct, frozen=True, forbid_unknown_fields=True):
    """How drafts of one domain fare, where nothing is recorded.

    accept       chance that a draft is accepted whose predecessors were, by position: G numbers
    spread       how far texts and their stretches differ, as a standard deviation of logits; 0 makes drafts alike
    persistence  how much of a stretch's difficulty its next token has
    confidence   standard deviation of what the drafter's confidence misses, in logits
    """

    accept: Annotated[tuple[Annotated[float, Meta(gt=0.0, lt=1.0)], ...], Meta(min_length=1, max_length=64)]
    spread: Annotated[float, Meta(ge=0.0, le=8.0)] = 1.0
    persistence: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.8
    confidence: Annotated[float, Meta(ge=0.0, le=8.0)] = 0.5


class Acceptance(Struct, frozen=True, forbid_unknown_fields=True):
    """How drafts fare: recorded (a file of bench.simulate.record, or "modelled"), or by a table for each domain.

    scale  chance that a draft is accepted whose predecessors were, times this; beyond what a recording has, drafts
           turn to accepted or rejected by chance
    """

    recording: str = "modelled"
    domains: dict[str, Drafting] = field(default_factory=dict)
    scale: Annotated[float, Meta(gt=0.0, le=2.0)] = 1.0


class Lengths(Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens, log-normal: their mean and its coefficient of variation, cut to least..most."""

    mean: Positive = 256.0
    variation: Annotated[float, Meta(ge=0.0, le=8.0)] = 0.6
    least: Tokens = 1
    most: Tokens = 4096


class Domain(Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of request: its share of the traffic, by weight, and its lengths.

    With is_recorded, prompts and answers are as long as those of the recording.
    """

    weight: Positive = 1.0
    prompt: Lengths = Lengths(mean=512.0)
    output: Lengths = Lengths(mean=256.0)
    is_recorded: bool = False


class Bursts(Struct, frozen=True, forbid_unknown_fields=True):
    """How unevenly requests come, beyond chance: by which factor the rate of every stretch of stretch_s differs.

    variation  standard deviation of that factor, which is gamma-distributed with mean 1; 0 is an even rate
    """

    variation: Annotated[float, Meta(ge=0.0, le=8.0)] = 0.0
    stretch_s: Positive = 10.0


class Day(Struct, frozen=True, forbid_unknown_fields=True):
    """How the rate follows the time of day: a sine about its mean, which it crosses upwards at the beginning.

    swing  share of the mean by which the busiest hour is above it and the quietest below; 0 is an even day
    """

    swing: Share = 0.0
    length_s: Positive = 86_400.0


class Traffic(Struct, frozen=True, forbid_unknown_fields=True):
    """Who asks what.

    kind       "closed": so many clients, each sends when its last answer ended and think_s passed; "poisson": so many
               requests a second, whoever waits; "trace": lines of JSON with at_s, prompt_len, output_len, domain
    loads      clients, or requests a second, of the whole fleet: each is one case; of a trace, how much faster it goes
    max_tokens what requests ask for at most; None: as many as they get
    deadline_s seconds within which a request wants to be done; None for no matter
    bursts     how unevenly a Poisson process is driven, day how its rate follows the time
    domains    by name; those of the recording share alike where none is named
    """

    kind: Literal["closed", "poisson", "trace"] = "closed"
    loads: Annotated[tuple[Positive, ...], Meta(min_length=1)] = (1, 4, 16, 64, 256)
    think_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 0.0
    trace: str | None = None
    max_tokens: Tokens | None = None
    deadline_s: Positive | None = None
    bursts: Bursts = Bursts()
    day: Day = Day()
    domains: dict[str, Domain] = field(default_factory=dict)


class Failures(Struct, frozen=True, forbid_unknown_fields=True):
    """Workers that die: on average every mean_s of a worker's life, and at_s at given times, the first worker first.

    restart_s  until another takes its place; None for never
    """

    mean_s: Positive | None = None
    at_s: tuple[Positive, ...] = ()
    restart_s: Positive | None = 60.0


class Fleet(Struct, frozen=True, forbid_unknown_fields=True):
    """Workers and how work comes to them.

    router   "queue": whoever has a free slot takes the next (as specd's workers do), or requests are dealt out when
             they come: "round_robin", or "least_loaded", to whoever has the fewest
    lease_s  until somebody notices that a worker is dead
    """

    workers: Annotated[int, Meta(ge=1, le=10_000)] = 1
    router: Router = "queue"
    lease_s: Positive = 10.0
    failures: Failures = Failures()


class Objectives(Struct, frozen=True, forbid_unknown_fields=True):
    """What `--search` must meet: seconds to the first token and per token of an answer, at their 95th percentiles."""

    first_token_p95_s: Positive = 2.0
    token_p95_s: Positive = 0.05


class Simulation(Struct, frozen=True, forbid_unknown_fields=True):
    """All of it. Seconds are virtual; what happens in the first warm_up_s of them is not counted.

    seconds   that count; None for a minute, and of a trace for all of it
    warm_up_s those before; None for ten, and of a trace for a tenth of it at most
    policies  by name, as `specd bench` has them (fixed:3), or those of `named`, which are told as a server's are
    """

    policies: Annotated[tuple[str, ...], Meta(min_length=1)] = ("off", "fixed:1", "fixed:3", "fixed:7", "load_adaptive")
    named: dict[str, PolicySettings] = field(default_factory=dict)
    seconds: Positive | None = None
    warm_up_s: Annotated[float, Meta(ge=0.0, le=1e6)] | None = None
    seed: Annotated[int, Meta(ge=0)] = 0
    engine: Shape = Shape()
    costs: Costs = Costs()
    acceptance: Acceptance = Acceptance()
    traffic: Traffic = Traffic()
    fleet: Fleet = Fleet()
    objectives: Objectives = Objectives()


def read_simulation(path: Path | None, flags: Mapping[str, Any]) -> Simulation:
    """Return what a file says, and flags ("fleet.workers" to value) over it; raises ConfigError."""
    said: dict[str, Any] = read_toml(path, "the simulation") if path else {}
    for name, value in flags.items():
        *tables, last = name.split(".")
        place = said
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{table} must be a table")
        place[last] = value
    if unknown := find_unknown_key(said, Simulation, narrow=_entry):
        raise ConfigError(f"unknown setting {unknown.path} of a simulation; {unknown.hint}")
    try:
        wanted = msgspec.convert(said, Simulation)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the simulation cannot be run so: {error}") from error
    check_simulation(wanted)
    return wanted


def check_simulation(wanted: Simulation) -> None:
    """Raise ConfigError for what contradicts itself."""
    if wanted.traffic.kind == "trace" and wanted.traffic.trace is None:
        raise ConfigError("traffic.kind 'trace' needs traffic.trace, a file")
    if wanted.traffic.kind != "poisson" and (wanted.traffic.bursts.variation or wanted.traffic.day.swing):
        raise ConfigError(
            "traffic.bursts and traffic.day are of a rate: they need traffic.kind 'poisson', "
            f"got {wanted.traffic.kind!r}"
        )
    if wanted.traffic.kind == "closed" and any(load != int(load) for load in wanted.traffic.loads):
        raise ConfigError(
            f"traffic.loads are clients, whole numbers, where traffic.kind is 'closed'; got {wanted.traffic.loads}"
        )
    if wanted.acceptance.domains and len({len(each.accept) for each in wanted.acceptance.domains.values()}) > 1:
        raise ConfigError("acceptance.domains must all have as many positions in `accept`: one drafter drafts for all")
    if len(set(wanted.policies)) != len(wanted.policies):
        raise ConfigError(f"each policy may be given once, got {' '.join(wanted.policies)}")


def _entry(said: Mapping[str, Any], shape: Any) -> tuple[Mapping[str, Any], Any]:
    """Return one entry of a table without the kind that says which shape it has, and that shape."""
    if shape != PolicySettings:
        return said, shape
    kinds = SECTIONS["policy"]
    kind = said.get("kind")
    if kind not in kinds:
        raise ConfigError(f"unknown kind {kind!r} of a policy; {nearest(str(kind), list(kinds))}")
    return {name: value for name, value in said.items() if name != "kind"}, kinds[kind]
