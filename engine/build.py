"""From settings to a running engine: checkpoint, drafter, policy, sizes. The one place that knows the kinds."""

from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog
import torch

from core.config import (
    BatchTableSettings,
    CheckpointSettings,
    ConfidenceSettings,
    DrafterSettings,
    DraftModelSettings,
    EngineSettings,
    FixedSettings,
    NgramSettings,
    OffSettings,
    PluginSettings,
    PolicySettings,
    Settings,
    SuffixSettings,
    all_drafters,
    all_policies,
    checkpoint_kind,
    kind_of,
    policy_drafters,
)
from core.errors import ConfigError, EngineError
from core.planning import Policy
from core.plugins import make_plugin
from core.registry import DRAFTERS, POLICIES
from core.types import Numerics
from drafters.base import Drafter
from drafters.draft_model import DraftModel
from drafters.ngram import NGram
from drafters.suffix import Suffix
from engine.cost_cache import load_or_measure, read_table
from engine.device import CPU
from engine.engine import Engine
from engine.graph_sizes import pick_graph_sizes
from engine.graphed_drafts import usual_laws
from engine.profile import profile
from engine.proofs import trusts_law
from engine.replica import Follower, Leader, join_ranks, local_device
from engine.shape import EngineShape
from engine.warm_up import capture_drafts, capture_graphs
from kernels.heap import keep_freed_memory
from kernels.linear import can_pack
from models.calibration_file import read_calibration
from models.folders import drafter_folder, is_unpinned, target_folder
from models.load_draft_model import load_draft_model
from models.load_drafter import make_network, read_drafter
from models.load_target import eos_token_ids, load_target
from models.target import Target
from models.tensor_parallel import Share
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
    log_unpinned(settings)
    folder = target_folder(wanted.target, wanted.target_revision)
    target, share = load_share(wanted, folder)
    tokenizer = Tokenizer(folder)
    drafters = {name: make_drafter(drafter, target, tokenizer) for name, drafter in all_drafters(settings).items()}
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
        graph_sizes=pick_graph_sizes(wanted.graphs, target.device, wanted.max_num_seqs),
    )
    untrusted = [name for name, told in all_drafters(settings).items() if not is_trusted(told, drafters[name], wanted)]
    engine = Engine(
        target,
        drafters,
        policies,
        shape,
        eos_token_ids(folder),
        tokenizer,
        untrusted=untrusted,
        policy_drafters=policy_drafters(settings),
        leader=Leader() if share else None,
    )
    log.info(
        "engine_built",
        target=str(folder),
        drafters=list(drafters),
        policies=list(policies),
        dtype=str(target.dtype).removeprefix("torch."),
        numerics=wanted.numerics,
        max_model_len=engine.max_model_len,
        kv_bytes=engine.memory.kv_bytes,
    )
    if shape.graph_sizes:
        capture_graphs(engine, needs_all=wanted.graphs == "on", verifier=wanted.verifier)
    engine.costs.are_refined = wanted.refine_costs
    if wanted.profile and any(not isinstance(each, COSTLESS) for each in chosen_policies(settings)):
        measure_costs(engine, wanted)
    return engine


def load_share(wanted: EngineSettings, folder: Path) -> tuple[Target, Share | None]:
    """Load what this process has of the target, all of it where one process is the whole replica.

    Raises ConfigError for what cannot be combined, CheckpointError for files that cannot be read.
    """
    device, numerics = pick_device(wanted.device), Numerics(wanted.numerics)
    torch.set_num_threads(wanted.num_threads)
    keep_freed_memory()
    share = join_ranks(wanted, device)
    return load_target(folder, pick_dtype(wanted.dtype, numerics, device), numerics, share, device), share


def load_follower(settings: Settings) -> Follower:
    """Load one of the processes of a replica that do not lead it; waits for the one that does.

    Raises ConfigError and CheckpointError as `build_engine` does.
    """
    wanted = settings.engine
    target, share = load_share(wanted, target_folder(wanted.target, wanted.target_revision))
    assert share is not None
    log.info("follower_ready", rank=share.rank, num_ranks=share.num_ranks)
    return Follower(target)


def is_trusted(told: DrafterSettings, drafter: Drafter | None, settings: EngineSettings) -> bool:
    """Tell whether a drafter's word is taken for the law that it draws from."""
    return trusts_law(kind_of(told), drafter, Path(settings.proof_dir) if settings.proof_dir else None)


def load_into(engine: Engine, name: str, told: DrafterSettings, drafter: Drafter, settings: EngineSettings) -> None:
    """Let a running engine have a drafter that `make_drafter` made, in place of a namesake.

    What its steps cost is read from disk; else it is measured if the engine is idle, and unknown if not: then nothing
    of its drafts is trimmed. Raises ConfigError if no room was kept for it.
    """
    engine.load_drafter(name, drafter, trusts_law=is_trusted(told, drafter, settings), replaces=True)
    capture_drafts(engine.memory.speculators[name], usual_laws(settings.verifier))
    folder = Path(settings.cost_table_dir) if settings.cost_table_dir else None
    known = read_table(engine, name, folder, settings.verifier) if folder else None
    if known is not None:
        engine.costs[name] = known
    elif settings.profile and not engine.has_work:
        measure_one(engine, name, settings)
    else:
        log.warning("drafter_costs_unknown", drafter=name)


def log_unpinned(settings: Settings) -> None:
    """Warn of models of the Hub that are not named by a commit: what is served may change with the next start."""
    named = [("target", settings.engine.target, settings.engine.target_revision)]
    named += [
        (name, drafter.path, drafter.revision)
        for name, drafter in all_drafters(settings).items()
        if isinstance(drafter, CheckpointSettings | DraftModelSettings)
    ]
    for role, name, revision in named:
        if is_unpinned(name, revision):
            log.warning("revision_unpinned", role=role, model=name, revision=revision or "main")


def chosen_policies(settings: Settings) -> tuple[PolicySettings, ...]:
    """Return the policies that somebody named: the default and those of the file."""
    return settings.policy, *settings.policies.values()


def measure_costs(engine: Engine, settings: EngineSettings) -> None:
    """Let policies know what steps cost here, with every drafter; tables are kept where the settings say.

    A drafter whose steps cannot be measured goes without a table, and then nothing of its drafts is trimmed.
    """
    for name, speculator in engine.memory.speculators.items():
        if speculator.drafter is not None:
            measure_one(engine, name, settings)


def measure_one(engine: Engine, name: str, settings: EngineSettings) -> None:
    """Let policies know what steps with one drafter cost; a failure is logged."""
    folder, verifier = settings.cost_table_dir, settings.verifier
    try:
        engine.costs[name] = (
            load_or_measure(engine, name, Path(folder), verifier) if folder else profile(engine, name, verifier)
        )
    except EngineError as error:
        log.warning("profile_failed", drafter=name, error=str(error))


def make_drafter(settings: DrafterSettings, target: Target, tokenizer: Tokenizer | None = None) -> Drafter | None:
    """Return the drafter that `settings` describe, loaded beside `target` and its tokenizer; None for none."""
    if isinstance(settings, PluginSettings):
        drafter: Drafter = make_plugin(settings, DRAFTERS, {"target": target})
        return checked(drafter, DRAFTER_NAMES, f"drafter {settings.name!r}")
    if isinstance(settings, CheckpointSettings):
        kind = checkpoint_kind(settings)
        folder = drafter_folder(kind, settings.path, settings.revision)
        checkpoint = read_drafter(folder, target, kind)
        network = make_network(kind, checkpoint.config, checkpoint.tensors, target, str(folder))
        made: Drafter = DRAFTERS.load(kind)(kind, network, target, read_calibration(folder, checkpoint.num_drafts))
        return made
    if isinstance(settings, NgramSettings):
        return NGram(max_drafts=settings.max_drafts, max_ngram=settings.max_ngram, min_ngram=settings.min_ngram)
    if isinstance(settings, SuffixSettings):
        return Suffix(**msgspec.structs.asdict(settings))
    if isinstance(settings, DraftModelSettings):
        model = load_draft_model(target_folder(settings.path, settings.revision), target, tokenizer)
        return DraftModel("draft_model", model, target.shape.vocab_size, settings.max_drafts)
    return None


def make_policy(settings: PolicySettings) -> Policy:
    """Return the policy that `settings` describe."""
    if isinstance(settings, PluginSettings):
        policy: Policy = make_plugin(settings, POLICIES, {})
        return checked(policy, POLICY_NAMES, f"policy {settings.name!r}")
    # Each class takes by keyword what its settings have; which drafter it brings is the engine's business.
    options = msgspec.structs.asdict(settings)
    del options["drafter"]
    made: Policy = POLICIES.load(kind_of(settings))(**options)
    return made


def checked(plugin: Plugin, names: tuple[str, ...], what: str) -> Plugin:
    """Return the plug-in; raises ConfigError if it lacks one of `names`."""
    if missing := [name for name in names if not hasattr(plugin, name)]:
        raise ConfigError(f"{what} must have {', '.join(names)}; it has no {' and no '.join(missing)}")
    return plugin


def pick_device(name: str) -> torch.device:
    """Return the device to compute on; "auto" is a GPU if there is one. Raises ConfigError if one is asked in vain."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("engine.device is 'cuda', and torch finds none here; use 'cpu' or 'auto'")
    return local_device("cuda" if name == "auto" and torch.cuda.is_available() else name.replace("auto", "cpu"))


def pick_dtype(name: str, numerics: Numerics = Numerics.FAST, device: torch.device = CPU) -> torch.dtype:
    """Return the dtype to compute in; "auto" is bfloat16 where that is faster and numerics allow it."""
    if name == "auto":
        has_units = device.type != "cpu" or can_pack(device, torch.bfloat16)
        return torch.bfloat16 if has_units and numerics is Numerics.FAST else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32
