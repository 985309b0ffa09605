"""From settings to a running engine: checkpoint, drafter, policy, sizes. The one place that knows the kinds."""

import structlog
import torch

from core.config import (
    ConfidenceSettings,
    DrafterSettings,
    DSparkSettings,
    FixedSettings,
    NgramSettings,
    PolicySettings,
    Settings,
)
from core.errors import ConfigError
from core.types import Policy
from drafters.base import Drafter
from drafters.dspark import DSpark
from drafters.ngram import NGram
from engine.engine import Engine
from engine.shape import EngineShape
from kernels.linear import can_pack
from models.folders import dspark_folder, target_folder
from models.load import eos_token_ids, load_dspark, load_target
from models.qwen3 import Qwen3
from models.tokenizer import Tokenizer
from policies.confidence import Confidence
from policies.fixed import Fixed, Off

log = structlog.get_logger()


def build_engine(settings: Settings) -> Engine:
    """Load what the settings name and return an engine that can step.

    Raises ConfigError for what cannot be combined, CheckpointError for files that cannot be read.
    """
    wanted = settings.engine
    if wanted.device == "cuda":
        raise ConfigError("engine.device 'cuda' is not built yet; use 'cpu' or 'auto'")
    torch.set_num_threads(wanted.num_threads)
    folder = target_folder(wanted.target)
    target = load_target(folder, pick_dtype(wanted.dtype))
    drafter = make_drafter(settings.drafter, target)
    shape = EngineShape(
        max_num_seqs=wanted.max_num_seqs,
        max_num_batched_tokens=wanted.max_num_batched_tokens,
        max_model_len=wanted.max_model_len,
        kv_cache_tokens=wanted.kv_cache_tokens,
        block_size=wanted.block_size,
    )
    engine = Engine(target, drafter, make_policy(settings.policy), shape, eos_token_ids(folder), Tokenizer(folder))
    log.info(
        "engine_built",
        target=str(folder),
        drafter=engine.speculator.spec.name,
        policy=engine.speculator.policy.name,
        dtype=str(engine.dtype).removeprefix("torch."),
        max_model_len=engine.max_model_len,
        target_kv_mib=engine.kv.num_bytes >> 20,
        drafter_kv_mib=engine.speculator.kv.num_bytes >> 20 if engine.speculator.kv else 0,
    )
    return engine


def make_drafter(settings: DrafterSettings, target: Qwen3) -> Drafter | None:
    """Return the drafter that `settings` describe, loaded beside `target`; None for none."""
    if isinstance(settings, DSparkSettings):
        folder = dspark_folder(settings.path)
        return DSpark("dspark", load_dspark(folder, target), target)
    if isinstance(settings, NgramSettings):
        return NGram(max_drafts=settings.max_drafts, max_ngram=settings.max_ngram, min_ngram=settings.min_ngram)
    return None


def make_policy(settings: PolicySettings) -> Policy:
    """Return the policy that `settings` describe."""
    if isinstance(settings, FixedSettings):
        return Fixed(settings.length)
    if isinstance(settings, ConfidenceSettings):
        return Confidence(settings.threshold, cumulative=settings.cumulative)
    return Off()


def pick_dtype(name: str) -> torch.dtype:
    """Return the dtype to compute in; "auto" is bfloat16 where the processor has units for it."""
    if name == "auto":
        return torch.bfloat16 if can_pack(torch.device("cpu"), torch.bfloat16) else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32
