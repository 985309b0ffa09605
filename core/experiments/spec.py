"""The settings of one experiment, a TOML file: arms, how they are told apart, what is compared, when it ends.

What is written here is all there is to know: whoever holds the file can tell which arm had which slot, and check it.
"""

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import msgspec
from msgspec import Meta, Struct, field

from core.config import PolicySettings, Settings, all_drafters, all_policies, nearest
from core.config_file import NAME, read_entry
from core.errors import ConfigError
from core.experiments.metrics import COVARIATES, DRIFT, METRICS
from core.known_keys import find_unknown_key
from core.setting_types import Count, Name, Seconds
from core.toml_file import read_toml
from core.types import Sampling, Speculation

Unit = Literal["switchback", "worker", "mirror", "request"]
Weight = Annotated[int, Meta(ge=1, le=8)]
Ratio = Annotated[float, Meta(gt=0.0, le=100.0)]
INTERFERENCE = (
    "unit 'request' puts arms side by side in one batch, where they share the time of every step and bid against each "
    "other for rows: what it measures is a transfer between them, not what either would do alone, and its sign may be "
    "wrong; take 'switchback' or 'worker', or say `unsafe = true` for a change that cannot move a step's time"
)
# Two of its cycles: what a shorter comparison shows need not hold at other hours of the day.
SOUND_HOURS = 48.0
# What a request-level split can tell at all: what its own answers were like.
OF_ANSWERS = ("first_s_p50", "first_s_p95", "token_s_p50", "token_s_p95", "error_rate")


class ArmSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One arm. policy is a configured policy or a kind; parameters are fields of the kind, as in [policies.NAME].

    drafter is a configured one (None: the policy's, else the default), max_drafts caps drafts per step, weight is the
    number of its slots in a block.
    """

    policy: Name
    parameters: dict[str, Any] = field(default_factory=dict)
    drafter: Name | None = None
    max_drafts: Annotated[int, Meta(ge=0, le=64)] | None = None
    weight: Weight = 1


class SlotSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """How long an arm has its turn, and how much of its beginning is not counted: what the arm before left running."""

    seconds: Seconds = 120.0
    burn_in_s: Annotated[float, Meta(ge=0.0)] = 30.0

    @property
    def middle_s(self) -> float:
        """Seconds from its beginning to the middle of what is counted of it."""
        return (self.burn_in_s + self.seconds) / 2


class Asked(Protocol):
    """What of a request says whether it takes part."""

    @property
    def speculation(self) -> Speculation:
        """What it asks for itself."""
        ...

    @property
    def sampling(self) -> Sampling:
        """How it is to be answered."""
        ...

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """Its prompt."""
        ...


class EligibleSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Which requests take part; one that names its own speculation never does."""

    min_max_tokens: Count = 1
    max_prompt_tokens: Count | None = None

    def admits(self, asked: Asked) -> bool:
        """Tell whether a request, or its job, is served by whatever arm has its turn."""
        if asked.speculation != Speculation() or asked.sampling.max_tokens < self.min_max_tokens:
            return False
        return self.max_prompt_tokens is None or len(asked.prompt_ids) <= self.max_prompt_tokens


class LevelSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Service levels, for `goodput`: an answer counts if its first token and its mean token came within these."""

    first_s: Seconds = 10.0
    token_s: Seconds = 0.2


class StopSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """When to stop looking.

    alpha           how often, at most, an experiment without any effect may find one, however often it is looked at
    min_blocks      before that, nothing is shipped; max_blocks ends it, whatever it has found
    min_hours       of comparison, before which nothing is shipped: SOUND_HOURS on traffic that follows the day
    pre_blocks      blocks before the comparison in which every arm is served as the control: they must show no effect,
                    and say how blocks vary and what covariates explain
    smallest_effect an effect that matters, as a share; an interval within it ends the experiment as "no difference"
    trip, trip_blocks
                    a guardrail's metric that is worse by this factor in so many blocks running stops it at once;
                    and by twice what the blocks before the comparison deviate, lest a p95 of ten answers trip
    """

    alpha: Annotated[float, Meta(gt=0.0, lt=0.5)] = 0.05
    min_blocks: Annotated[int, Meta(ge=2, le=100_000)] = 24
    max_blocks: Annotated[int, Meta(ge=2, le=100_000)] = 400
    min_hours: Annotated[float, Meta(ge=0.0, le=10_000.0)] = 0.0
    pre_blocks: Annotated[int, Meta(ge=0, le=10_000)] = 8
    smallest_effect: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.02
    trip: Ratio = 1.3
    trip_blocks: Annotated[int, Meta(ge=1, le=100)] = 3


class Experiment(Struct, frozen=True, forbid_unknown_fields=True):
    """One experiment; control is the first arm unless named.

    primary      the metric that decides
    guardrails   metric -> by which factor it may be worse than the control's
    null_checks  metrics that no arm can change: if they differ, something else does
    cuped        covariates whose part in the primary metric is taken out, by what the blocks before each showed
    """

    id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    arms: dict[str, ArmSpec]
    unit: Unit = "switchback"
    salt: Name = "1"
    control: Name | None = None
    primary: Name = "tokens_per_s"
    unsafe: bool = False
    slot: SlotSpec = SlotSpec()
    eligible: EligibleSpec = EligibleSpec()
    levels: LevelSpec = LevelSpec()
    guardrails: dict[str, Ratio] = field(default_factory=lambda: {"error_rate": 1.5})
    null_checks: tuple[str, ...] = ("stop_share",)
    cuped: tuple[str, ...] = (DRIFT,)
    stop: StopSpec = StopSpec()

    @property
    def weights(self) -> dict[str, int]:
        """The arms' weights, in the order of the file."""
        return {name: arm.weight for name, arm in self.arms.items()}

    @property
    def control_arm(self) -> str:
        """The arm that others are held against."""
        return self.control or next(iter(self.arms))

    @property
    def treatments(self) -> list[str]:
        """The other arms."""
        return [name for name in self.arms if name != self.control_arm]

    @property
    def block_len(self) -> int:
        """Slots of a block."""
        return sum(self.weights.values())

    @property
    def block_s(self) -> float:
        """Seconds of a block; where requests are split, every slot is one."""
        return self.slot.seconds * (1 if self.unit == "request" else self.block_len)

    @property
    def digest(self) -> str:
        """What tells these settings from all others."""
        return hashlib.sha256(encode_experiment(self)).hexdigest()[:16]


def read_experiment(path: Path) -> Experiment:
    """Return the experiment of a file; raises ConfigError for what it cannot mean."""
    return make_experiment(read_toml(path, "the experiment"), str(path))


def parse_experiment(text: str, where: str) -> Experiment:
    """Return the experiment that TOML text describes; raises ConfigError."""
    try:
        return make_experiment(tomllib.loads(text), where)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not valid TOML: {error}") from error


def make_experiment(values: dict[str, Any], where: str) -> Experiment:
    """Return the experiment that plain data describe; raises ConfigError that names what is wrong and what is near."""
    if unknown := find_unknown_key(values, Experiment):
        raise ConfigError(f"{where}: unknown setting {unknown.path}; {unknown.hint}")
    try:
        experiment = msgspec.convert(values, Experiment)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from error
    _check(experiment, where)
    return experiment


def encode_experiment(experiment: Experiment) -> bytes:
    """Return an experiment as it is kept in Redis."""
    return msgspec.json.encode(experiment)


def decode_experiment(data: bytes) -> Experiment:
    """Read what Redis keeps; raises ConfigError if it is no experiment."""
    try:
        values = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ConfigError(f"the stored experiment cannot be read: {error}") from error
    return make_experiment(values, "the stored experiment")


def arm_policies(experiment: Experiment, settings: Settings) -> dict[str, PolicySettings]:
    """Return the policy of every arm, as a server with these settings makes it; raises ConfigError."""
    drafters, policies = all_drafters(settings), all_policies(settings)
    made: dict[str, PolicySettings] = {}
    for name, arm in experiment.arms.items():
        if arm.drafter is not None and arm.drafter not in drafters:
            raise ConfigError(f"unknown arms.{name}.drafter {arm.drafter!r}; {nearest(arm.drafter, list(drafters))}")
        if arm.policy in policies and not arm.parameters:
            made[name] = policies[arm.policy]
            continue
        if arm.policy in settings.policies:
            raise ConfigError(
                f"arms.{name}.parameters go with a kind of policy, and {arm.policy!r} is a configured one; change its "
                f"table [policies.{arm.policy}], or name the kind"
            )
        made[name] = read_entry("policies", name, {"kind": arm.policy, **arm.parameters}, f"arms.{name}")  # type: ignore[assignment]
    return made


def _check(experiment: Experiment, where: str) -> None:
    if len(experiment.arms) < 2:
        raise ConfigError(f"{where}: an experiment has two arms or more, got {list(experiment.arms)}")
    for name in experiment.arms:
        if not NAME.fullmatch(name):
            raise ConfigError(f"{where}: an arm's name is 1 to 64 of A-Z a-z 0-9 _ -, got {name!r}")
    if experiment.control_arm not in experiment.arms:
        hint = nearest(experiment.control_arm, list(experiment.arms))
        raise ConfigError(f"{where}: unknown control {experiment.control_arm!r}; {hint}")
    metrics = [("primary", experiment.primary)]
    metrics += [(f"guardrails.{name}", name) for name in experiment.guardrails]
    metrics += [("null_checks", name) for name in experiment.null_checks]
    for path, name in metrics:
        if name not in METRICS:
            raise ConfigError(f"{where}: unknown metric {name!r} ({path}); {nearest(name, list(METRICS))}")
    for name in experiment.cuped:
        if name not in (known := [*COVARIATES, DRIFT]):
            raise ConfigError(f"{where}: unknown covariate {name!r} (cuped); {nearest(name, known)}")
    if experiment.slot.burn_in_s >= experiment.slot.seconds:
        raise ConfigError(
            f"{where}: slot.burn_in_s must be less than slot.seconds {experiment.slot.seconds:g}, "
            f"got {experiment.slot.burn_in_s:g}"
        )
    if experiment.stop.max_blocks < experiment.stop.min_blocks:
        raise ConfigError(f"{where}: stop.max_blocks must be at least stop.min_blocks {experiment.stop.min_blocks}")
    most_hours = experiment.stop.max_blocks * experiment.block_s / 3600
    if most_hours < experiment.stop.min_hours:
        raise ConfigError(
            f"{where}: stop.min_hours must be no more than the {most_hours:.1f} hours of stop.max_blocks, got "
            f"{experiment.stop.min_hours:g}: nothing could ever be shipped; take more blocks or longer slots"
        )
    _check_unit(experiment, where)


def _check_unit(experiment: Experiment, where: str) -> None:
    if experiment.unit == "mirror":
        raise ConfigError(
            f"{where}: unit 'mirror' needs a second server that gets a copy of the traffic, which specd does not make; "
            "record answers ([recording]) and compare policies on them with `specd experiment replay`"
        )
    if experiment.unit != "request":
        return
    if not experiment.unsafe:
        raise ConfigError(f"{where}: {INTERFERENCE}")
    if experiment.primary not in OF_ANSWERS:
        raise ConfigError(
            f"{where}: primary {experiment.primary!r} is one of the whole batch, which the arms of unit 'request' "
            f"share; take one of {', '.join(OF_ANSWERS)}"
        )
