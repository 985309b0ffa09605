"""What settings must not be together, though each is fine by itself."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from core.batch_lengths import check_batch_lengths
from core.config import (
    DEMO,
    TABLES,
    BatchTableSettings,
    CheckpointSettings,
    DrafterSettings,
    DraftModelSettings,
    FixedSettings,
    NgramSettings,
    NoDrafterSettings,
    PolicySettings,
    Settings,
    SuffixSettings,
    all_drafters,
    all_policies,
    kind_of,
    nearest,
)
from core.errors import ConfigError
from core.masking import shown

REDIS_SCHEMES = ("redis://", "rediss://", "unix://")
# A gateway and a worker that are separate processes meet in Redis and nowhere else.
ROLES_THAT_MEET_IN_REDIS = ("gateway", "worker")


def check_settings(settings: Settings) -> None:
    """Raise ConfigError for settings that are each fine but impossible together."""
    _check_door(settings)
    _check_queue(settings)
    _check_engine(settings)
    _check_names(settings)
    _check_policies(settings)
    _check_arms(settings)
    _check_recording(settings)
    for name, drafter in all_drafters(settings).items():
        _check_drafter(name, drafter)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address; a name counts only if it is localhost."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_door(settings: Settings) -> None:
    server = settings.server
    if server.role == "worker" or server.api_keys_file or server.allow_no_keys or is_loopback(server.host):
        return
    raise ConfigError(
        f"server.host {server.host!r} is open to other machines, and nobody is asked for a key: name a file of API "
        "keys with --api-keys (made by `specd keys create`), or, if something else guards the port, say --allow-no-keys"
    )


def _check_queue(settings: Settings) -> None:
    url = settings.queue.redis_url
    if url is not None and not url.startswith(REDIS_SCHEMES):
        raise ConfigError(f"queue.redis_url must begin with one of {', '.join(REDIS_SCHEMES)}, got {shown(url)!r}")
    if settings.queue.redis_ca_file is not None and not (url or "").startswith("rediss://"):
        raise ConfigError("queue.redis_ca_file is set, but queue.redis_url does not begin with rediss://")
    if settings.queue.redis_password_file is not None and url is None:
        raise ConfigError(
            "queue.redis_password_file is set, but the private Redis, which has no queue.redis_url, has none"
        )
    if settings.queue.redis_cluster:
        _check_cluster(url)
    if settings.server.role in ROLES_THAT_MEET_IN_REDIS and url is None:
        raise ConfigError(
            f"server.role {settings.server.role!r} needs queue.redis_url: the gateway and its workers meet "
            "in Redis; give --redis-url, or take role 'all'"
        )


def _check_cluster(url: str | None) -> None:
    if url is None or url.startswith("unix://"):
        raise ConfigError(
            "queue.redis_cluster needs a queue.redis_url of one of the Cluster's nodes, redis:// or rediss://"
        )
    if urlsplit(url).path not in ("", "/", "/0"):
        raise ConfigError(f"a Redis Cluster has database 0 only, and queue.redis_url names another: {shown(url)!r}")


def _check_engine(settings: Settings) -> None:
    engine = settings.engine
    if engine.target == DEMO and engine.target_revision is not None:
        raise ConfigError(f"engine.target_revision is {engine.target_revision!r}, but the demo has no revisions")
    if engine.tensor_parallel > 1 and engine.numerics != "fast":
        raise ConfigError(
            f"engine.tensor_parallel {engine.tensor_parallel} adds up what several processes computed, in which order "
            f"depends on their number: engine.numerics {engine.numerics!r} is not possible with it; use 'fast'"
        )
    if engine.kv_cache_tokens < max(engine.max_model_len or 0, engine.block_size):
        raise ConfigError(
            f"engine.kv_cache_tokens must hold a sequence (engine.max_model_len {engine.max_model_len}) "
            f"and one block (engine.block_size {engine.block_size}), got {engine.kv_cache_tokens}"
        )


def _check_names(settings: Settings) -> None:
    """Hold names apart: the default has its kind's name, and a kind's name means that kind to everybody."""
    for section, table, default, named in (
        ("drafter", "drafters", settings.drafter, settings.drafters),
        ("policy", "policies", settings.policy, settings.policies),
    ):
        for name, one in named.items():
            if name == kind_of(default):
                raise ConfigError(f"{table}.{name} has the name of the default, [{section}]; call it otherwise")
            if name in TABLES[table] and name != kind_of(one):
                raise ConfigError(f"{table}.{name} is of kind {kind_of(one)!r} under another kind's name; rename it")
            if isinstance(one, NoDrafterSettings):
                raise ConfigError(f"{table}.{name} cannot be of kind 'none'; to draft nothing, take policy 'off'")


def _check_policies(settings: Settings) -> None:
    drafters, default = all_drafters(settings), kind_of(settings.policy)
    for name, policy in all_policies(settings).items():
        where = "policy" if name == default else f"policies.{name}"
        if policy.drafter is not None and policy.drafter not in drafters:
            raise ConfigError(f"unknown {where}.drafter {policy.drafter!r}; {nearest(policy.drafter, list(drafters))}")
        if isinstance(policy, BatchTableSettings):
            check_batch_lengths(policy.lengths, f"lengths of policy {name!r}")
        if name == default or policy.drafter is not None:
            _check_pair(f"{where}.length", _drafter_of(settings, policy), policy)


def _drafter_of(settings: Settings, policy: PolicySettings) -> DrafterSettings:
    """Return what a policy drafts with where no drafter is named beside it."""
    return all_drafters(settings)[policy.drafter] if policy.drafter else settings.drafter


def _check_arms(settings: Settings) -> None:
    drafters, policies = all_drafters(settings), all_policies(settings)
    for name, arm in settings.arms.items():
        if arm.drafter is not None and arm.drafter not in drafters:
            raise ConfigError(f"unknown arms.{name}.drafter {arm.drafter!r}; {nearest(arm.drafter, list(drafters))}")
        if arm.policy is not None and arm.policy not in policies:
            raise ConfigError(f"unknown arms.{name}.policy {arm.policy!r}; {nearest(arm.policy, list(policies))}")
        policy = policies[arm.policy] if arm.policy else settings.policy
        drafter = drafters[arm.drafter] if arm.drafter else _drafter_of(settings, policy)
        _check_pair(f"the length of policy {arm.policy!r} in arms.{name}", drafter, policy)


def _check_recording(settings: Settings) -> None:
    recording = settings.recording
    if recording.max_total_mib < 2 * recording.max_file_mib:
        raise ConfigError(
            f"recording.max_total_mib must hold two files of recording.max_file_mib {recording.max_file_mib}, "
            f"got {recording.max_total_mib}"
        )


def _check_drafter(name: str, drafter: DrafterSettings) -> None:
    if isinstance(drafter, CheckpointSettings) and drafter.path == DEMO and drafter.revision is not None:
        raise ConfigError(f"drafter {name!r}: revision is {drafter.revision!r}, but the demo has no revisions")
    if isinstance(drafter, NgramSettings) and drafter.min_ngram > drafter.max_ngram:
        raise ConfigError(
            f"drafter {name!r}: min_ngram must be at most max_ngram {drafter.max_ngram}, got {drafter.min_ngram}"
        )


def _check_pair(where: str, drafter: DrafterSettings, policy: PolicySettings) -> None:
    if not isinstance(drafter, NgramSettings | SuffixSettings | DraftModelSettings):
        return
    if isinstance(policy, FixedSettings) and policy.length > drafter.max_drafts:
        raise ConfigError(f"{where} must be at most the drafter's max_drafts {drafter.max_drafts}, got {policy.length}")
