"""The one tree of settings: typed, bounded, and told by default, file, environment and flags, in that order.

Everything is passed in: this module reads one TOML file and nothing of the process around it. An unknown key,
a wrong type and an impossible combination are ConfigError, with the name, what came and what would be right.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct, field

from core.errors import ConfigError

Origin = Literal["default", "file", "env", "flag"]

ENV_PREFIX = "SPECD_"
REDIS_SCHEMES = ("redis://", "rediss://", "unix://")
# A gateway and a worker that are separate processes meet in Redis and nowhere else.
ROLES_THAT_MEET_IN_REDIS = ("gateway", "worker")
DEMO = "demo"

Seconds = Annotated[float, Meta(gt=0.0, le=604800.0)]
Count = Annotated[int, Meta(ge=1, le=1 << 30)]
Drafts = Annotated[int, Meta(ge=1, le=64)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
Name = Annotated[str, Meta(min_length=1)]


class ServerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP side. port 0 takes a free one; model_name None takes the target's (see `model_name`)."""

    host: Name = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    role: Literal["all", "gateway", "worker"] = "all"
    model_name: Name | None = None
    max_body_bytes: Annotated[int, Meta(ge=1024, le=1 << 30)] = 1 << 20
    request_timeout_s: Seconds = 600.0
    start_timeout_s: Seconds = 120.0


class QueueSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Redis. redis_url None starts a private server, whose data live in state_dir (None: until exit only)."""

    redis_url: Name | None = None
    lease_ms: Annotated[int, Meta(ge=100, le=3_600_000)] = 10_000
    max_queued_requests: Count = 1024
    result_ttl_s: Annotated[int, Meta(ge=1, le=31_536_000)] = 3600
    command_timeout_s: Seconds = 5.0
    state_dir: Name | None = None


class EngineSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """One model replica. target is "demo" or a checkpoint folder; max_model_len None takes the checkpoint's.

    max_num_batched_tokens bounds the prefill rows of a step; kv_cache_tokens is the room of the KV cache, for
    all sequences; num_threads are torch's on the CPU, where more threads than idle cores slow every step.
    """

    target: Name = DEMO
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    max_num_seqs: Annotated[int, Meta(ge=1, le=4096)] = 64
    max_num_batched_tokens: Count = 512
    max_model_len: Annotated[int, Meta(ge=2, le=1 << 24)] | None = None
    kv_cache_tokens: Count = 65536
    block_size: Annotated[int, Meta(ge=1, le=1024)] = 16
    num_threads: Annotated[int, Meta(ge=1, le=1024)] = 1
    verifier: Literal["rejection"] = "rejection"


class DSparkSettings(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="dspark"):
    """A DSpark checkpoint: "demo" or a folder. It says itself how many tokens it drafts."""

    path: Name = DEMO


class NgramSettings(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="ngram"):
    """Prompt lookup: the tokens that followed the longest earlier match of min_ngram..max_ngram tokens."""

    max_drafts: Drafts = 7
    max_ngram: Annotated[int, Meta(ge=1, le=16)] = 3
    min_ngram: Annotated[int, Meta(ge=1, le=16)] = 1


class NoDrafterSettings(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="none"):
    """No drafter is loaded: the plainest decoding there is."""


class OffSettings(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="off"):
    """A drafter may be loaded, but nothing is drafted."""


class FixedSettings(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="fixed"):
    """Verify the first `length` drafts of every sequence; the drafter may make fewer."""

    length: Drafts = 7


class ConfidenceSettings(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="confidence"):
    """Verify drafts while the drafter believes in them.

    With `cumulative`, up to the first draft whose whole prefix survives with probability below `threshold`;
    without it, up to the first whose own conditional acceptance is below. A draft is worth a row where its
    survival exceeds the row's share of a step: 0.3 suits rows that are cheap but not free; 0 verifies all.
    """

    threshold: Probability = 0.3
    cumulative: bool = True


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Logs go to stderr: `console` for people, `json` for collectors, one object per line."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


DrafterSettings = DSparkSettings | NgramSettings | NoDrafterSettings
PolicySettings = OffSettings | FixedSettings | ConfidenceSettings


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of a process."""

    server: ServerSettings = field(default_factory=ServerSettings)
    queue: QueueSettings = field(default_factory=QueueSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    drafter: DrafterSettings = field(default_factory=DSparkSettings)
    policy: PolicySettings = field(default_factory=ConfidenceSettings)
    log: LogSettings = field(default_factory=LogSettings)


# Per section either its one kind, under "", or its kinds by tag; the first is the default.
SECTIONS: dict[str, dict[str, type[Struct]]] = {
    "server": {"": ServerSettings},
    "queue": {"": QueueSettings},
    "engine": {"": EngineSettings},
    "drafter": {"dspark": DSparkSettings, "ngram": NgramSettings, "none": NoDrafterSettings},
    "policy": {"confidence": ConfidenceSettings, "off": OffSettings, "fixed": FixedSettings},
    "log": {"": LogSettings},
}


class _Given(Struct, frozen=True):
    """One value as somebody gave it; `text` is an environment string, `where` names its source in errors."""

    value: object
    origin: Origin
    where: str
    text: str | None = None


_Tree = dict[str, dict[str, _Given]]


def load_settings(
    toml_path: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]
) -> tuple[Settings, dict[str, Origin]]:
    """Return the effective settings and, per "section.field", who decided it.

    flags are named "section.field"; a value of None was not given. An empty environment variable counts as
    unset. Raises ConfigError.
    """
    given: _Tree = {section: {} for section in SECTIONS}
    for layer in (_from_file(toml_path), _from_environ(environ), _from_flags(flags)):
        for section, values in layer.items():
            # Fields of one kind mean nothing to another: who changes the kind starts that section anew.
            if "kind" in values and values["kind"].value != _kind(section, given[section]):
                given[section] = {}
            given[section] |= values
    built: dict[str, Any] = {}
    origin: dict[str, Origin] = {}
    for section, values in given.items():
        built[section] = _build(section, values, origin)
    settings = Settings(**built)
    check_settings(settings)
    return settings, origin


def check_settings(settings: Settings) -> None:
    """Raise ConfigError for settings that are each fine but impossible together."""
    engine, queue = settings.engine, settings.queue
    if queue.redis_url is not None and not queue.redis_url.startswith(REDIS_SCHEMES):
        raise ConfigError(
            f"queue.redis_url must begin with one of {', '.join(REDIS_SCHEMES)}, got {shown(queue.redis_url)!r}"
        )
    if settings.server.role in ROLES_THAT_MEET_IN_REDIS and queue.redis_url is None:
        raise ConfigError(
            f"server.role {settings.server.role!r} needs queue.redis_url: the gateway and its workers meet "
            "in Redis; give --redis-url, or take role 'all'"
        )
    if engine.kv_cache_tokens < max(engine.max_model_len or 0, engine.block_size):
        raise ConfigError(
            f"engine.kv_cache_tokens must hold a sequence (engine.max_model_len {engine.max_model_len}) "
            f"and one block (engine.block_size {engine.block_size}), got {engine.kv_cache_tokens}"
        )
    drafter, policy = settings.drafter, settings.policy
    if isinstance(drafter, NgramSettings):
        if drafter.min_ngram > drafter.max_ngram:
            raise ConfigError(
                f"drafter.min_ngram must be at most drafter.max_ngram {drafter.max_ngram}, got {drafter.min_ngram}"
            )
        if isinstance(policy, FixedSettings) and policy.length > drafter.max_drafts:
            raise ConfigError(
                f"policy.length must be at most drafter.max_drafts {drafter.max_drafts}, got {policy.length}"
            )


def model_name(settings: Settings) -> str:
    """Return the model's public name: the configured one, "demo" for the demo, else the folder's name."""
    return settings.server.model_name or Path(settings.engine.target).name or settings.engine.target


def without_secrets(settings: Settings) -> Settings:
    """Return the settings with the credentials of redis_url masked, for showing and logging."""
    url = settings.queue.redis_url
    if url is None:
        return settings
    return msgspec.structs.replace(settings, queue=msgspec.structs.replace(settings.queue, redis_url=shown(url)))


def to_toml(settings: Settings, origin: Mapping[str, Origin] | None = None) -> str:
    """Return the settings as a TOML file that loads back to the same; `origin` adds who decided each field.

    It holds secrets as they are: pass `without_secrets(settings)` to show it to anybody.
    """
    lines: list[str] = []
    for section, values in msgspec.to_builtins(settings).items():
        lines += ["", f"[{section}]"] if lines else [f"[{section}]"]
        for name, value in values.items():
            # TOML has no null: an unset field is one that is not there.
            line = f"# {name} is unset" if value is None else f"{name} = {_toml_scalar(value)}"
            by = origin.get(f"{section}.{name}") if origin else None
            lines.append(f"{line:<40} # {by}" if by else line)
    return "\n".join(lines) + "\n"


def shown(value: object) -> object:
    """Return a value fit for messages: a URL loses its user and password."""
    if isinstance(value, str) and "://" in value and "@" in value:
        scheme, _, rest = value.partition("://")
        return f"{scheme}://***@{rest.rpartition('@')[2]}"
    return value


def nearest(name: str, known: list[str]) -> str:
    """Return a phrase that helps after an unknown name: the nearest known one, and all of them."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(sorted(known))}"


def _toml_scalar(value: object) -> str:
    # JSON strings, numbers and booleans are valid TOML, but for the one control character JSON leaves bare.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _from_file(path: Path | None) -> _Tree:
    if path is None:
        return {}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    tree: _Tree = {}
    for section, values in document.items():
        _check_section(section, str(path))
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: {section} must be a table [{section}], got {values!r}")
        tree[section] = {name: _Given(value, "file", str(path)) for name, value in values.items()}
    return tree


def _from_environ(environ: Mapping[str, str]) -> _Tree:
    tree: _Tree = {}
    for variable in sorted(environ):
        text = environ[variable]
        if not variable.startswith(ENV_PREFIX) or not text:
            continue
        section, separator, name = variable.removeprefix(ENV_PREFIX).lower().partition("__")
        if not separator:
            raise ConfigError(f"environment variable {variable} is unknown: settings are SPECD_SECTION__FIELD")
        _check_section(section, variable)
        tree.setdefault(section, {})[name] = _Given(_scalar(text), "env", variable, text)
    return tree


def _from_flags(flags: Mapping[str, object]) -> _Tree:
    tree: _Tree = {}
    for dotted, value in flags.items():
        section, _, name = dotted.partition(".")
        _check_section(section, dotted)
        if value is not None:
            tree.setdefault(section, {})[name] = _Given(value, "flag", "the command line")
    return tree


def _scalar(text: str) -> object:
    """Read an environment string as one TOML scalar, or as itself."""
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = document["value"]
    return value if len(document) == 1 and isinstance(value, str | int | float | bool) else text


def _check_section(section: str, where: str) -> None:
    if section not in SECTIONS:
        raise ConfigError(f"unknown section {section!r} ({where}); {nearest(section, list(SECTIONS))}")


def _kind(section: str, values: Mapping[str, _Given]) -> object:
    return values["kind"].value if "kind" in values else next(iter(SECTIONS[section]))


def _build(section: str, values: dict[str, _Given], origin: dict[str, Origin]) -> Struct:
    """Build one section from what was given for it, and note in `origin` who decided each field."""
    kinds = SECTIONS[section]
    kind = _kind(section, values)
    if not isinstance(kind, str) or kind not in kinds:
        where = values["kind"].where
        raise ConfigError(f"unknown {section}.kind {kind!r} ({where}); {nearest(str(kind), list(kinds))}")
    shape = kinds[kind]
    types = get_type_hints(shape, include_extras=True)
    known = list(shape.__struct_fields__)
    if kind:
        origin[f"{section}.kind"] = values["kind"].origin if "kind" in values else "default"
    built: dict[str, Any] = {}
    for name, given in values.items():
        if name == "kind" and kind:
            continue
        if name not in known:
            of_kind = f" for kind {kind!r}" if kind else ""
            raise ConfigError(f"unknown setting {section}.{name}{of_kind} ({given.where}); {nearest(name, known)}")
        built[name] = _convert(f"{section}.{name}", given, types[name])
    for name in known:
        origin[f"{section}.{name}"] = values[name].origin if name in values else "default"
    return shape(**built)


def _convert(name: str, given: _Given, wanted: Any) -> Any:
    try:
        return msgspec.convert(given.value, wanted)
    except msgspec.ValidationError as error:
        # A folder may be called 123: what reads as a number may still be meant as a string.
        if given.text is not None and _takes(given.text, wanted):
            return given.text
        choices = get_args(wanted) if get_origin(wanted) is Literal else ()
        reason = f"expected one of {', '.join(map(repr, choices))}" if choices else str(error)
        raise ConfigError(f"{name}: {reason}; got {shown(given.value)!r} ({given.where})") from error


def _takes(text: str, wanted: Any) -> bool:
    try:
        msgspec.convert(text, wanted)
    except msgspec.ValidationError:
        return False
    return True
