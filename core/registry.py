"""Names to classes and functions: our own table, plus entry points of installed packages.

This is the one place that imports late: a name is imported when it is asked for, so that a command that needs
no torch never loads it. An entry point is "name = module:attribute" in the group of its registry.
"""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points, version
from typing import Any

from core.config import nearest
from core.errors import ConfigError

# What an installation without the extra `worker`, such as a gateway's, does not have.
WORKER_LIBRARIES = ("torch", "triton", "safetensors")


class Registry:
    """One kind of thing by name. `group` names the entry points that may add to it; None closes the table."""

    def __init__(self, kind: str, table: Mapping[str, str], group: str | None = None) -> None:
        self.kind = kind
        self.group = group
        self._table = dict(table)

    def targets(self) -> dict[str, str]:
        """Return name -> "module:attribute"; raises ConfigError if two packages claim one name."""
        targets = dict(self._table)
        for entry in entry_points(group=self.group) if self.group else ():
            if targets.setdefault(entry.name, entry.value) != entry.value:
                raise ConfigError(
                    f"{self.kind} {entry.name!r} is claimed twice, by {targets[entry.name]} and {entry.value}; "
                    "uninstall or rename one"
                )
        return targets

    def plugins(self) -> list[str]:
        """Return the names that installed packages add, sorted."""
        return sorted(self.targets().keys() - self._table.keys())

    def is_shipped(self, name: str) -> bool:
        """Tell whether specd itself brings what `name` stands for."""
        return name in self._table

    def version(self, name: str) -> str:
        """Return the version of the installed package that brings `name`; specd's own for all else."""
        for entry in () if self.group is None or self.is_shipped(name) else entry_points(group=self.group):
            if entry.name == name and entry.dist is not None:
                return entry.dist.version
        return version("specd")

    def names(self) -> list[str]:
        """Return the known names, sorted."""
        return sorted(self.targets())

    def load(self, name: str) -> Any:
        """Import and return what `name` stands for; raises ConfigError if it is unknown or not importable."""
        targets = self.targets()
        if name not in targets:
            raise ConfigError(f"unknown {self.kind} {name!r}; {nearest(name, list(targets))}")
        module_name, separator, attribute = targets[name].partition(":")
        if not (module_name and separator and attribute):
            raise ConfigError(f"{self.kind} {name!r} must be 'module:attribute', got {targets[name]!r}")
        try:
            return getattr(import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            hint = ": pip install 'specd[worker]'" if getattr(error, "name", None) in WORKER_LIBRARIES else ""
            raise ConfigError(f"{self.kind} {name!r} ({targets[name]}) cannot be loaded: {error}{hint}") from error


DRAFTERS = Registry(
    "drafter",
    {
        "dspark": "drafters.dspark:DSpark",
        "dflash": "drafters.dflash:DFlash",
        "eagle3": "drafters.eagle3:Eagle3",
        "ngram": "drafters.ngram:NGram",
        "suffix": "drafters.suffix:Suffix",
        "draft_model": "drafters.draft_model:DraftModel",
    },
    "specd.drafters",
)

POLICIES = Registry(
    "policy",
    {
        "off": "policies.fixed:Off",
        "fixed": "policies.fixed:Fixed",
        "confidence": "policies.confidence:Confidence",
        "batch_table": "policies.batch_table:BatchTable",
        "goodput": "policies.goodput:Goodput",
        "greedy": "policies.greedy:Greedy",
        "slo": "policies.slo:Slo",
        "load_adaptive": "policies.load_adaptive:LoadAdaptive",
    },
    "specd.policies",
)

# Functions from text to text, of what is recorded.
REDACTORS = Registry("redactor", {"contacts": "service.recording.redaction:redact_contacts"}, "specd.redactors")

# The `architectures` of a checkpoint's config.json to the network of ours (a models.target.Target) that computes it.
TARGETS = Registry(
    "target architecture",
    {
        "Qwen3ForCausalLM": "models.qwen3:Qwen3",
        "Qwen3MoeForCausalLM": "models.qwen3_moe:Qwen3Moe",
        "LlamaForCausalLM": "models.llama:Llama",
        "Gemma4ForCausalLM": "models.gemma4:Gemma4",
        # Its text part.
        "Gemma4ForConditionalGeneration": "models.gemma4:Gemma4",
    },
)

# What computes checkpoints of other architectures; each is imported only for them, being an optional dependency.
TARGET_LIBRARIES = Registry("target library", {"transformers": "models.transformers_target:load_with_transformers"})

# Functions of libraries that specd runs without, until they are asked for.
OPTIONAL = Registry(
    "library function",
    {
        "snapshot_download": "huggingface_hub:snapshot_download",
        "hf_hub_download": "huggingface_hub:hf_hub_download",
        "SummaryWriter": "torch.utils.tensorboard:SummaryWriter",
        # Ours, over OpenTelemetry's.
        "tracing": "service.telemetry.otel:send_traces",
        # Ours, over matplotlib and over a model.
        "experiment_figure": "bench.experiments.figure:draw_experiment",
        "experiment_replay": "bench.experiments.replay:replay_experiment",
    },
)

# Each takes the settings, runs until it is told to stop, and returns the exit status. A worker of several processes
# (engine.tensor_parallel) is started by "ranks", and all but the first of them are followers.
ROLES = Registry(
    "role",
    {
        "all": "service.main:run",
        "gateway": "service.gateway:run",
        "worker": "service.worker:run",
        "ranks": "service.ranks:run",
        "follower": "service.follower:run",
    },
)

# Each takes the parsed command line and returns the exit status.
COMMANDS = Registry(
    "command",
    {
        "serve": "cli.serve:run",
        "submit": "cli.submit:run",
        "complete": "cli.complete:run",
        "train": "cli.train:run",
        "calibrate": "cli.calibrate:run",
        "eval": "cli.eval:run",
        "data": "cli.data:run",
        "explain": "cli.explain:run",
        "inspect": "cli.inspect:run",
        "drafters": "cli.drafters:run",
        "keys": "cli.keys:run",
        "experiment": "cli.experiment:run",
        "redis-acl": "cli.redis_acl:run",
        "doctor": "cli.doctor:run",
        "config": "cli.configuration:run",
        "demo": "cli.demo:run",
        "bench": "cli.bench:run",
        "simulate": "cli.simulate:run",
        "prove": "cli.prove:run",
    },
)
