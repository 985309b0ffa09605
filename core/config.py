"""The one tree of settings: typed and bounded, with its defaults. How they are told stands in core/config_file.py.

A section has one shape, or one per kind: then its field `kind` says which, and no field applies to only some kinds.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from core.batch_lengths import BatchLengths
from core.observing import LogSettings, RecordingSettings, TracingSettings
from core.queue_settings import QueueSettings
from core.server_settings import ServerSettings
from core.setting_types import Count, Name, Seconds

ENV_PREFIX = "SPECD_"
DEMO = "demo"

Drafts = Annotated[int, Meta(ge=1, le=64)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
# Drafters that are networks, by the names that settings and checkpoints have for them.
CheckpointKind = Literal["dspark", "dflash", "eagle3"]


class EngineSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """One model replica. target is "demo", a checkpoint folder or an id of the Hugging Face Hub, "owner/name", at
    target_revision (a commit, tag or branch; None is the main branch); max_model_len None takes the checkpoint's.

    max_num_batched_tokens bounds the prefill rows of a step; kv_cache_tokens is the room of the KV cache, for
    all sequences; num_threads are torch's on the CPU, where more threads than idle cores slow every step.
    verifier is that of requests without a seed, those with one are always `coupled`; batch_invariant numerics make an
    answer independent of the batch around it, bit for bit. With profile, what steps cost is measured at start-up where
    a policy asks for it, and kept in cost_table_dir (None: nowhere); with refine_costs, the steps that are run correct
    it. spare_kv_mib and most_drafts keep room for drafters that are loaded while it runs: MiB for their KV, beside what
    unloaded ones give back, and drafts per step, if the configured drafters make fewer. proof_dir keeps the proofs of
    drafters that specd does not ship (`specd prove --drafter NAME`); one without a proof there runs as if it were
    deterministic. tensor_parallel is the number of processes that share the target's weights, keys and values. graphs
    are CUDA graphs of batches of up to max_num_seqs: `auto` captures what can be where there is a GPU, `on` or fails.
    """

    target: Name = DEMO
    target_revision: Name | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    max_num_seqs: Annotated[int, Meta(ge=1, le=4096)] = 64
    max_num_batched_tokens: Count = 512
    max_model_len: Annotated[int, Meta(ge=2, le=1 << 24)] | None = None
    kv_cache_tokens: Count = 65536
    block_size: Annotated[int, Meta(ge=1, le=1024)] = 16
    num_threads: Annotated[int, Meta(ge=1, le=1024)] = 1
    numerics: Literal["fast", "batch_invariant"] = "fast"
    verifier: Literal["rejection", "coupled"] = "rejection"
    prefix_cache: bool = True
    profile: bool = True
    cost_table_dir: Name | None = None
    refine_costs: bool = True
    spare_kv_mib: Annotated[int, Meta(ge=0, le=1 << 24)] = 0
    most_drafts: Annotated[int, Meta(ge=0, le=64)] = 0
    proof_dir: Name | None = None
    tensor_parallel: Annotated[int, Meta(ge=1, le=64)] = 1
    graphs: Literal["auto", "on", "off"] = "auto"


class CheckpointSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What all drafters have in common that are networks; each checkpoint says itself how many tokens it drafts.

    path      "demo", a folder, or an id of the Hugging Face Hub, "owner/name"
    revision  of a Hub id: a commit, tag or branch; None is the main branch
    """

    path: Name = DEMO
    revision: Name | None = None


class DSparkSettings(CheckpointSettings, frozen=True, tag_field="kind", tag="dspark"):
    """A DSpark checkpoint: a block in one pass, a sequential head, a confidence head."""


class DFlashSettings(CheckpointSettings, frozen=True, tag_field="kind", tag="dflash"):
    """A DFlash checkpoint: a block in one pass."""


class Eagle3Settings(CheckpointSettings, frozen=True, tag_field="kind", tag="eagle3"):
    """An EAGLE-3 checkpoint: a chain of one layer's steps."""


class NgramSettings(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="ngram"):
    """Prompt lookup: the tokens that followed the longest earlier match of min_ngram..max_ngram tokens."""

    max_drafts: Drafts = 7
    max_ngram: Annotated[int, Meta(ge=1, le=16)] = 3
    min_ngram: Annotated[int, Meta(ge=1, le=16)] = 1


class SuffixSettings(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="suffix"):
    """Suffix decoding: what most often followed the longest suffix of the text that occurred before.

    max_spec_factor  drafts per matched token, at most
    min_token_prob   a draft ends before its tokens' joint frequency falls below this
    recent_answers   finished answers, at least, that are looked through as well; up to twice as many are held. 0 keeps
                     none. The answers of one tenant then change how fast those of another come, which tells something
                     of them: leave it off where tenants must not learn of each other
    """

    max_drafts: Drafts = 16
    max_spec_factor: Annotated[float, Meta(gt=0.0, le=64.0)] = 1.0
    min_token_prob: Probability = 0.1
    recent_answers: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class DraftModelSettings(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="draft_model"):
    """A small model with the target's vocabulary, a folder or a Hub id at a revision; it drafts token by token."""

    path: Name
    max_drafts: Drafts = 5
    revision: Name | None = None


class NoDrafterSettings(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="none"):
    """No drafter is loaded: the plainest decoding there is."""


class PolicyChoice(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all policies have in common: they may bring their drafter.

    drafter  a configured drafter: who asks for the policy, or is in an arm with it, drafts with this one unless a
             drafter is named beside the policy. None takes the default, [drafter]
    """

    drafter: Name | None = None


class OffSettings(PolicyChoice, frozen=True, tag_field="kind", tag="off"):
    """A drafter may be loaded, but nothing is drafted."""


class FixedSettings(PolicyChoice, frozen=True, tag_field="kind", tag="fixed"):
    """Verify the first `length` drafts of every sequence; the drafter may make fewer."""

    length: Drafts = 7


class ConfidenceSettings(PolicyChoice, frozen=True, tag_field="kind", tag="confidence"):
    """Verify drafts while the drafter believes in them.

    With `cumulative`, up to the first draft whose whole prefix survives with probability below `threshold`;
    without it, up to the first whose own conditional acceptance is below. A draft is worth a row where its
    survival exceeds the row's share of a step: 0.3 suits rows that are cheap but not free; 0 verifies all.
    """

    threshold: Probability = 0.3
    cumulative: bool = True


class BatchTableSettings(PolicyChoice, frozen=True, tag_field="kind", tag="batch_table"):
    """Verify as many drafts as a table says for the number of sequences in the step.

    lengths  rows of [first, last, drafts], such as [[1, 8, 7], [9, 32, 3], [33, 4096, 0]]; beyond the last row, and
             between two, the row before holds
    """

    lengths: BatchLengths


class AdaptiveSettings(PolicyChoice, frozen=True):
    """What all policies have in common that decide by measured costs who drafts.

    hysteresis   share of its plain decoding time that a sequence must gain in order to start drafting
    probe_after  steps without drafting after which a sequence drafts once to see
    horizon      steps over which catching a drafter up must pay
    """

    hysteresis: Probability = 0.02
    probe_after: Annotated[int, Meta(ge=1, le=1_000_000)] = 32
    horizon: Annotated[int, Meta(ge=1, le=1_000_000)] = 32


class LoadAdaptiveSettings(AdaptiveSettings, frozen=True, tag_field="kind", tag="load_adaptive"):
    """Draft and verify as much as pays at the present load, by measured costs and recent acceptance."""


class GoodputSettings(AdaptiveSettings, frozen=True, tag_field="kind", tag="goodput"):
    """The same from what was accepted alone, for drafters whose confidence says nothing.

    half_life  rounds after which what a sequence has shown counts half
    """

    half_life: Annotated[float, Meta(gt=0.0, le=1e6)] = 14.0


class GreedySettings(AdaptiveSettings, frozen=True, tag_field="kind", tag="greedy"):
    """Verify drafts in order of survival while expected tokens per second rise (DSpark, Algorithm 1).

    literal  as the paper has it, for comparison: on costs that rise by stairs it verifies next to nothing
    """

    literal: bool = False


class SloSettings(AdaptiveSettings, frozen=True, tag_field="kind", tag="slo"):
    """Load-adaptive, but deadlines first and by priority.

    priority_weight  how much more a draft counts for each step of priority
    patience_s       when the oldest request in the queue has waited so long, deadlines get no drafts beyond the
                     number that is best for all
    """

    priority_weight: Annotated[float, Meta(ge=1.0, le=16.0)] = 2.0
    patience_s: Seconds = 2.0


class PluginSettings(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="plugin"):
    """A drafter or policy of an installed package: its registered name, and all else that its table says."""

    name: Name
    options: dict[str, Any] = field(default_factory=dict)


class PolicyPluginSettings(PluginSettings, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="plugin"):
    """A policy of an installed package; `drafter` is no option of its class but what it is for every policy."""

    drafter: Name | None = None


class ArmSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """One arm of an experiment: its share of the users, by weight, and what speculation they get.

    drafter and policy are configured names; None takes the default policy, and the drafter that the policy brings or
    the default one. max_drafts caps the drafts per step, 0 is off.
    """

    weight: Annotated[float, Meta(gt=0.0, le=1e6)] = 1.0
    drafter: Name | None = None
    policy: Name | None = None
    max_drafts: Annotated[int, Meta(ge=0, le=64)] | None = None


DrafterSettings = (
    DSparkSettings
    | DFlashSettings
    | Eagle3Settings
    | DraftModelSettings
    | NgramSettings
    | SuffixSettings
    | NoDrafterSettings
    | PluginSettings
)
PolicySettings = (
    LoadAdaptiveSettings
    | OffSettings
    | FixedSettings
    | ConfidenceSettings
    | BatchTableSettings
    | GoodputSettings
    | GreedySettings
    | SloSettings
    | PolicyPluginSettings
)


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of a process. drafter and policy are the defaults; the named ones stand beside them."""

    server: ServerSettings = field(default_factory=ServerSettings)
    queue: QueueSettings = field(default_factory=QueueSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    drafter: DrafterSettings = field(default_factory=DSparkSettings)
    policy: PolicySettings = field(default_factory=LoadAdaptiveSettings)
    log: LogSettings = field(default_factory=LogSettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)
    recording: RecordingSettings = field(default_factory=RecordingSettings)
    drafters: dict[str, DrafterSettings] = field(default_factory=dict)
    policies: dict[str, PolicySettings] = field(default_factory=dict)
    arms: dict[str, ArmSettings] = field(default_factory=dict)


# Per section either its one kind, under "", or its kinds by tag; the first is the default.
SECTIONS: dict[str, dict[str, type[Struct]]] = {
    "server": {"": ServerSettings},
    "queue": {"": QueueSettings},
    "engine": {"": EngineSettings},
    "drafter": {
        "dspark": DSparkSettings,
        "dflash": DFlashSettings,
        "eagle3": Eagle3Settings,
        "ngram": NgramSettings,
        "suffix": SuffixSettings,
        "draft_model": DraftModelSettings,
        "none": NoDrafterSettings,
    },
    "policy": {
        "load_adaptive": LoadAdaptiveSettings,
        "off": OffSettings,
        "fixed": FixedSettings,
        "confidence": ConfidenceSettings,
        "batch_table": BatchTableSettings,
        "goodput": GoodputSettings,
        "greedy": GreedySettings,
        "slo": SloSettings,
    },
    "log": {"": LogSettings},
    "tracing": {"": TracingSettings},
    "recording": {"": RecordingSettings},
}
# Tables of named sections, such as [drafters.small], and the kinds that their entries have.
TABLES: dict[str, dict[str, type[Struct]]] = {
    "drafters": SECTIONS["drafter"],
    "policies": SECTIONS["policy"],
    "arms": {"": ArmSettings},
}


def kind_of(settings: DrafterSettings | PolicySettings) -> str:
    """Return the kind of a drafter's or policy's settings."""
    if isinstance(settings, PluginSettings):
        return settings.name
    return str(settings.__struct_config__.tag)


def checkpoint_kind(settings: CheckpointSettings) -> CheckpointKind:
    """Return the kind of a drafter's settings that name a checkpoint."""
    return msgspec.convert(settings.__struct_config__.tag, CheckpointKind)


def all_drafters(settings: Settings) -> dict[str, DrafterSettings]:
    """Return every drafter by name: the default under its kind's name, then the named ones in their order."""
    return {kind_of(settings.drafter): settings.drafter, **settings.drafters}


def all_policies(settings: Settings) -> dict[str, PolicySettings]:
    """Return every policy by name: the default under its kind's name, then the named ones in their order.

    After them comes each other kind that no name shadows, under its own name and with its defaults, if it has any.
    """
    named: dict[str, PolicySettings] = {kind_of(settings.policy): settings.policy, **settings.policies}
    kinds: tuple[PolicySettings, ...] = (
        OffSettings(),
        FixedSettings(),
        ConfidenceSettings(),
        LoadAdaptiveSettings(),
        GoodputSettings(),
        GreedySettings(),
        SloSettings(),
    )
    return named | {kind_of(each): each for each in kinds if kind_of(each) not in named}


def policy_drafters(settings: Settings) -> dict[str, str]:
    """Return the drafters that policies bring, by the policy's name."""
    return {name: policy.drafter for name, policy in all_policies(settings).items() if policy.drafter is not None}


def model_name(settings: Settings) -> str:
    """Return the model's public name: the configured one, "demo" for the demo, else the folder's name."""
    return settings.server.model_name or Path(settings.engine.target).name or settings.engine.target


def nearest(name: str, known: list[str]) -> str:
    """Return a phrase that helps after an unknown name: the nearest known one, and all of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(sorted(known))}"
