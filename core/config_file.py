"""From default, file, environment and flags, in that order, to one tree of settings; and back to a file.

Everything is passed in: this module reads one TOML file, the files that variables name (SPECD_SECTION__FIELD_FILE, for
secrets), and nothing of the process around it. An unknown key, a wrong type and an impossible combination are
ConfigError, with the name, what came and what would be right.
"""

import json
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from core.config import ENV_PREFIX, SECTIONS, TABLES, PluginSettings, PolicyPluginSettings, Settings, nearest
from core.config_check import check_settings
from core.errors import ConfigError
from core.masking import shown
from core.registry import DRAFTERS, POLICIES
from core.setting_types import Name

# A client's: the key that `specd complete` and its like send. No setting of a server.
API_KEY_VARIABLE = f"{ENV_PREFIX}API_KEY"

Origin = Literal["default", "file", "env", "flag"]

# What [drafters.NAME] and its like may be called: a bare key of TOML, which also fits a metric's label.
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# SPECD_QUEUE__REDIS_URL_FILE names a file with what SPECD_QUEUE__REDIS_URL would hold.
FILE_SUFFIX = "_file"
# Sections and tables whose kind may be a name that an installed package has registered.
PLUGINS = {"drafter": DRAFTERS, "drafters": DRAFTERS, "policy": POLICIES, "policies": POLICIES}


class _Given(Struct, frozen=True):
    """One value as somebody gave it; `text` is an environment string, `where` names its source in errors."""

    value: object
    origin: Origin
    where: str
    text: str | None = None


# Section -> field; the entries of a table are sections called table.name.
_Tree = dict[str, dict[str, _Given]]


def load_settings(
    toml_path: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]
) -> tuple[Settings, dict[str, Origin]]:
    """Return the effective settings and, per "section.field" or "table.name.field", who decided it.

    flags are named "section.field"; a value of None was not given. An empty environment variable counts as
    unset. Raises ConfigError.
    """
    given: _Tree = {section: {} for section in SECTIONS}
    for layer in (_from_file(toml_path), _from_environ(environ), _from_flags(flags)):
        for section, values in layer.items():
            # Fields of one kind mean nothing to another: who changes the kind starts that section anew.
            if "kind" in values and values["kind"].value != _kind(section, given.get(section, {})):
                given[section] = {}
            given[section] = given.get(section, {}) | values
    built: dict[str, Any] = {table: {} for table in TABLES}
    origin: dict[str, Origin] = {}
    for section, values in given.items():
        table, _, name = section.partition(".")
        if name:
            built[table][name] = _build(section, values, origin)
        else:
            built[section] = _build(section, values, origin)
    settings = Settings(**built)
    check_settings(settings)
    return settings, origin


def read_entry(table: str, name: str, values: Mapping[str, object], where: str) -> Struct:
    """Return one entry of a table, such as [drafters.small], from its values as plain data; `where` names their source.

    Raises ConfigError as the file's own entries do.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"{where}: a name in [{table}] is 1 to 64 of A-Z a-z 0-9 _ -, got {name!r}")
    given = {field: _Given(value, "file", where) for field, value in values.items()}
    return _build(f"{table}.{name}", given, {})


def to_toml(settings: Settings, origin: Mapping[str, Origin] | None = None) -> str:
    """Return the settings as a TOML file that loads back to the same; `origin` adds who decided each field.

    It holds secrets as they are: pass `without_secrets(settings)` to show it to anybody.
    """
    sections: dict[str, dict[str, object]] = {}
    for section in settings.__struct_fields__:
        values = getattr(settings, section)
        if section in TABLES:
            sections |= {f"{section}.{name}": _fields(entry) for name, entry in values.items()}
        else:
            sections[section] = _fields(values)
    lines: list[str] = []
    for section, values in sections.items():
        lines += ["", f"[{section}]"] if lines else [f"[{section}]"]
        for name, value in values.items():
            # TOML has no null: an unset field is one that is not there.
            line = f"# {name} is unset" if value is None else f"{_toml_key(name)} = {_toml_value(value)}"
            by = origin.get(f"{section}.{name}") if origin else None
            lines.append(f"{line:<40} # {by}" if by else line)
    return "\n".join(lines) + "\n"


def _fields(section: Struct) -> dict[str, object]:
    if isinstance(section, PluginSettings):
        brought = {"drafter": section.drafter} if isinstance(section, PolicyPluginSettings) else {}
        return {"kind": section.name, **brought, **section.options}
    fields: dict[str, object] = msgspec.to_builtins(section)
    return fields


def _toml_key(name: str) -> str:
    return name if NAME.fullmatch(name) else _toml_value(name)


def _toml_value(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_key(name)} = {_toml_value(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    # JSON strings, numbers and booleans are valid TOML, but for the one control character JSON leaves bare.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


# --- The three layers -------------------------------------------------------------------------------------------


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
        if section not in TABLES:
            _check_section(section, str(path), [*SECTIONS, *TABLES])
            tree[section] = _section_of_file(section, values, path)
            continue
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: {section} must hold tables [{section}.NAME], got {values!r}")
        for name, entry in values.items():
            if not NAME.fullmatch(name):
                raise ConfigError(f"{path}: a name in [{section}] is 1 to 64 of A-Z a-z 0-9 _ -, got {name!r}")
            tree[f"{section}.{name}"] = _section_of_file(f"{section}.{name}", entry, path)
    return tree


def _section_of_file(section: str, values: object, path: Path) -> dict[str, _Given]:
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: {section} must be a table [{section}], got {values!r}")
    return {name: _Given(value, "file", str(path)) for name, value in values.items()}


def _from_environ(environ: Mapping[str, str]) -> _Tree:
    tree: _Tree = {}
    for variable in sorted(environ):
        text = environ[variable]
        if not variable.startswith(ENV_PREFIX) or variable == API_KEY_VARIABLE or not text:
            continue
        section, separator, name = variable.removeprefix(ENV_PREFIX).lower().partition("__")
        if not separator:
            raise ConfigError(f"environment variable {variable} is unknown: settings are SPECD_SECTION__FIELD")
        _check_section(section, variable, list(SECTIONS))
        fields = {each for shape in SECTIONS[section].values() for each in shape.__struct_fields__}
        if name not in fields and (named := name.removesuffix(FILE_SUFFIX)) in fields:
            name, text = named, _read_secret(variable, Path(text))
        if name in tree.get(section, {}):
            raise ConfigError(f"{tree[section][name].where} and {variable} both say {section}.{name}; give one of them")
        tree.setdefault(section, {})[name] = _Given(_value(text), "env", variable, text)
    return tree


def _read_secret(variable: str, path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"cannot read {path}, which {variable} names: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}, which {variable} names, is not UTF-8 text") from error
    if not text:
        raise ConfigError(f"{path}, which {variable} names, is empty")
    return text


def _from_flags(flags: Mapping[str, object]) -> _Tree:
    tree: _Tree = {}
    for dotted, value in flags.items():
        section, _, name = dotted.partition(".")
        _check_section(section, dotted, list(SECTIONS))
        if value is not None:
            tree.setdefault(section, {})[name] = _Given(value, "flag", "the command line")
    return tree


def _value(text: str) -> object:
    """Read an environment string as one TOML scalar or array, or as itself."""
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = document["value"]
    return value if len(document) == 1 and isinstance(value, str | int | float | bool | list) else text


def _check_section(section: str, where: str, known: list[str]) -> None:
    if section in known:
        return
    if section in TABLES:
        raise ConfigError(f"[{section}.NAME] can be given in the configuration file only, not by {where}")
    raise ConfigError(f"unknown section {section!r} ({where}); {nearest(section, known)}")


# --- One section ------------------------------------------------------------------------------------------------


def _kinds(section: str) -> dict[str, type[Struct]]:
    return SECTIONS[section] if section in SECTIONS else TABLES[section.partition(".")[0]]


def _kind(section: str, values: Mapping[str, _Given]) -> object:
    kinds = _kinds(section)
    return values["kind"].value if "kind" in values and "" not in kinds else next(iter(kinds))


def _build(section: str, values: dict[str, _Given], origin: dict[str, Origin]) -> Struct:
    """Build one section from what was given for it, and note in `origin` who decided each field."""
    kinds = _kinds(section)
    if "" not in kinds and section not in SECTIONS and "kind" not in values:
        raise ConfigError(f"{section}.kind is missing; known: {', '.join(sorted([*kinds, *_plugins(section)]))}")
    kind = _kind(section, values)
    if not isinstance(kind, str) or kind not in kinds:
        plugins = _plugins(section)
        if isinstance(kind, str) and kind in plugins:
            return _build_plugin(section, kind, values, origin)
        where = values["kind"].where
        raise ConfigError(f"unknown {section}.kind {kind!r} ({where}); {nearest(str(kind), [*kinds, *plugins])}")
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
    for required in msgspec.structs.fields(shape):
        if required.required and required.name not in built:
            raise ConfigError(f"{section}.{required.name} is missing; kind {kind!r} needs it")
    for name in known:
        origin[f"{section}.{name}"] = values[name].origin if name in values else "default"
    return shape(**built)


def _plugins(section: str) -> list[str]:
    registry = PLUGINS.get(section.partition(".")[0])
    return registry.plugins() if registry else []


def _build_plugin(section: str, kind: str, values: dict[str, _Given], origin: dict[str, Origin]) -> PluginSettings:
    """Build a section of a kind that a package defines; which fields it has, its class decides (core/plugins.py)."""
    for name, given in values.items():
        if not _is_plain(given.value):
            raise ConfigError(
                f"{section}.{name}: expected text, a number, true, false, or an array or table of such; "
                f"got {given.value!r} ({given.where})"
            )
        origin[f"{section}.{name}"] = given.origin
    options = {name: given.value for name, given in values.items() if name != "kind"}
    if PLUGINS[section.partition(".")[0]] is DRAFTERS:
        return PluginSettings(kind, options)
    options.pop("drafter", None)
    brought = _convert(f"{section}.drafter", values["drafter"], Name) if "drafter" in values else None
    return PolicyPluginSettings(kind, options, brought)


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if isinstance(value, list) else isinstance(value, str | int | float)


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
