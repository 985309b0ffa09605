"""From settings to a running engine: checkpoint, drafter, policy, sizes. The one place that knows the kinds."""

from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog
import torch

from core.config import (
    BatchTableSettings,
    ConfidenceSettings,
    DrafterSettings,
    DSparkSettings,
    FixedSettings,
    NgramSettings,
    OffSettings,
    PluginSettings,
    PolicySettings,
    Settings,
    all_drafters,
    all_policies,
    kind_of,
)
from core.errors import ConfigError, EngineError
from core.plugins import make_plugin
from core.registry import DRAFTERS, POLICIES
from core.types import Numerics, Policy
from drafters.base import Drafter
from drafters.dspark import DSpark
from drafters.ngram import NGram
from engine.cost_cache import load_or_measure
from engine.engine import Engine
from engine.profile import profile
from engine.proofs import trusts_law
from engine.shape import EngineShape
from kernels.heap import keep_freed_memory
from kernels.linear import can_pack
from models.calibration_file import read_calibration
from models.folders import dspark_folder, target_folder
from models.load_drafter import load_dspark
from models.load_target import eos_token_ids, load_target
from models.target import Target
from models.tokenizer import Tokenizer

log = structlog.get_logger()

Plugin = TypeVar("Plugin")

# Policies that do not ask what steps cost.
COSTLESS = (OffSettings, FixedSettings, ConfidenceSettings, BatchTableSettings)
# What a plug-in must have to be one; what its methods do is up to it.
DRAFTER_NAMES = ("spec", "open", "extend", "propose", "release")
POLICY_NAMES = ("plan", "observe")


def build_engine(settings: Settings) -> Engine:
    """Load what the settings name and return an engine that can step.

    Raises ConfigError for what cannot be combined, CheckpointError for files that cannot be read.
    """
    wanted = settings.engine
    if wanted.device == "cuda":
        raise ConfigError("engine.device 'cuda' is not built yet; use 'cpu' or 'auto'")
    torch.set_num_threads(wanted.num_threads)
    keep_freed_memory()
    folder, numerics = target_folder(wanted.target), Numerics(wanted.numerics)
    target = load_target(folder, pick_dtype(wanted.dtype, numerics), numerics)
    drafters = {name: make_drafter(drafter, target) for name, drafter in all_drafters(settings).items()}
    policies = {name: partial(make_policy, policy) for name, policy in all_policies(settings).items()}
    for make in policies.values():
        # One per drafter is made when it is first asked for; what cannot be made is said now.
        make()
    shape = EngineShape(
        max_num_seqs=wanted.max_num_seqs,
        max_num_batched_tokens=wanted.max_num_batched_tokens,
        max_model_len=wanted.max_model_len,
        kv_cache_tokens=wanted.kv_cache_tokens,
        block_size=wanted.block_size,
        prefix_cache=wanted.prefix_cache,
        spare_kv_bytes=wanted.spare_kv_mib << 20,
        most_drafts=wanted.most_drafts,
    )
    proofs = Path(wanted.proof_dir) if wanted.proof_dir else None
    untrusted = [
        name for name, told in all_drafters(settings).items() if not trusts_law(kind_of(told), drafters[name], proofs)
    ]
    engine = Engine(target, drafters, policies, shape, eos_token_ids(folder), Tokenizer(folder), untrusted=untrusted)
    log.info(
        "engine_built",
        target=str(folder),
        drafters=list(drafters),
        policies=list(policies),
        dtype=str(target.dtype).removeprefix("torch."),
        numerics=wanted.numerics,
        max_model_len=engine.max_model_len,
        target_kv_mib=engine.memory.kv.num_bytes >> 20,
        drafter_kv_mib=engine.memory.drafter_bytes >> 20,
    )
    engine.costs.are_refined = wanted.refine_costs
    if wanted.profile and any(not isinstance(each, COSTLESS) for each in chosen_policies(settings)):
        measure_costs(engine, Path(wanted.cost_table_dir) if wanted.cost_table_dir else None)
    return engine


def chosen_policies(settings: Settings) -> tuple[PolicySettings, ...]:
    """Return the policies that somebody named: the default and those of the file."""
    return settings.policy, *settings.policies.values()


def measure_costs(engine: Engine, folder: Path | None) -> None:
    """Let policies know what steps cost here, with every drafter; tables are kept in `folder`, None keeps none.

    A drafter whose steps cannot be measured goes without a table, and then nothing of its drafts is trimmed.
    """
    for name, speculator in engine.memory.speculators.items():
        if speculator.drafter is None:
            continue
        try:
            engine.costs[name] = load_or_measure(engine, name, folder) if folder else profile(engine, name)
        except EngineError as error:
            log.warning("profile_failed", drafter=name, error=str(error))


def make_drafter(settings: DrafterSettings, target: Target) -> Drafter | None:
    """Return the drafter that `settings` describe, loaded beside `target`; None for none."""
    if isinstance(settings, PluginSettings):
        drafter: Drafter = make_plugin(settings, DRAFTERS, {"target": target})
        return checked(drafter, DRAFTER_NAMES, f"drafter {settings.name!r}")
    if isinstance(settings, DSparkSettings):
        folder = dspark_folder(settings.path)
        network = load_dspark(folder, target)
        return DSpark("dspark", network, target, read_calibration(folder, network.config.num_drafts))
    if isinstance(settings, NgramSettings):
        return NGram(max_drafts=settings.max_drafts, max_ngram=settings.max_ngram, min_ngram=settings.min_ngram)
    return None


def make_policy(settings: PolicySettings) -> Policy:
    """Return the policy that `settings` describe."""
    if isinstance(settings, PluginSettings):
        policy: Policy = make_plugin(settings, POLICIES, {})
        return checked(policy, POLICY_NAMES, f"policy {settings.name!r}")
    # Each class takes by keyword what its settings have.
    made: Policy = POLICIES.load(kind_of(settings))(**msgspec.structs.asdict(settings))
    return made


def checked(plugin: Plugin, names: tuple[str, ...], what: str) -> Plugin:
    """Return the plug-in; raises ConfigError if it lacks one of `names`."""
    if missing := [name for name in names if not hasattr(plugin, name)]:
        raise ConfigError(f"{what} must have {', '.join(names)}; it has no {' and no '.join(missing)}")
    return plugin


def pick_dtype(name: str, numerics: Numerics = Numerics.FAST) -> torch.dtype:
    """Return the dtype to compute in; "auto" is bfloat16 where that is faster and numerics allow it."""
    if name == "auto":
        has_units = can_pack(torch.device("cpu"), torch.bfloat16)
        return torch.bfloat16 if has_units and numerics is Numerics.FAST else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32
