"""docs/configuration.md, made from the typed settings: each field's type, default, variable, flag and meaning."""

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from cli.parser import SETTING_FLAGS
from core.config import ENV_PREFIX, SECTIONS, TABLES
from core.setting_descriptions import description

HEAD = """# Settings

Made by `specd config reference > docs/configuration.md`; a test fails while it is not what that prints.

Later wins: defaults, the TOML file of `--config`, variables, flags. A variable whose name ends in `_FILE`, such as
`SPECD_QUEUE__REDIS_URL_FILE`, names a file that holds the value, for secrets. `specd config show` prints what is in
force and who decided it. How settings play together is told in [operating.md](operating.md).
"""
# Flags that say the kind of a section, and more with it (cli/parser.py).
KIND_FLAGS = {"drafter": "--drafter", "policy": "--policy"}
OTHER_FLAGS = {"drafter.path": "--drafter", "drafter.revision": "--drafter-revision"}
COLUMNS = ("field", "type", "default", "variable", "flag", "meaning")


def reference() -> str:
    """Return the page as Markdown."""
    parts = [HEAD]
    for section, kinds in SECTIONS.items():
        parts.append(f"## [{section}]\n")
        if "" not in kinds:
            parts.append(_kinds(section, kinds))
        parts += [_fields(section, kind, shape) for kind, shape in kinds.items()]
    parts.append("## Tables\n\nIn the file only, each with a name of yours.\n")
    for table, kinds in TABLES.items():
        if "" in kinds:
            parts.append(f"## [{table}.NAME]\n")
            parts.append(_fields(table, "", kinds[""], is_table=True))
        else:
            section = next(name for name, known in SECTIONS.items() if known is kinds)
            parts.append(f"`[{table}.NAME]` has a `kind` and its fields, as `[{section}]` does.\n")
    return "\n".join(parts)


def _kinds(section: str, kinds: dict[str, type[Struct]]) -> str:
    variable = f"{ENV_PREFIX}{section.upper()}__KIND"
    return (
        f"`kind` is one of {', '.join(f'`{kind}`' for kind in kinds)}, or a name that an installed package has "
        f"registered; the default is `{next(iter(kinds))}`. Variable `{variable}`, flag `{KIND_FLAGS[section]}`.\n"
    )


def _fields(section: str, kind: str, shape: type[Struct], *, is_table: bool = False) -> str:
    types_of = get_type_hints(shape, include_extras=True)
    lines = [f"### {kind}\n"] if kind else []
    summary = (shape.__doc__ or "").partition("\n")[0]
    if kind:
        lines.append(f"{summary}\n")
    rows = [
        (
            f"`{field.name}`",
            type_words(types_of[field.name]),
            "required" if field.required else _default(field.default),
            "" if is_table else f"`{ENV_PREFIX}{section.upper()}__{field.name.upper()}`",
            "" if is_table else _flag(f"{section}.{field.name}"),
            description(section, kind, field.name),
        )
        for field in msgspec.structs.fields(shape)
    ]
    if rows:
        lines += [_row(COLUMNS), "|---" * len(COLUMNS) + "|", *map(_row, rows), ""]
    return "\n".join(lines)


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _default(value: object) -> str:
    return "unset" if value is None else f"`{msgspec.json.encode(value).decode()}`"


def _flag(name: str) -> str:
    flags = [f"--{flag.replace('_', '-')}" for flag, setting in SETTING_FLAGS.items() if setting == name]
    flags += [OTHER_FLAGS[name]] if name in OTHER_FLAGS else []
    return ", ".join(f"`{flag}`" for flag in flags)


def type_words(wanted: Any) -> str:
    """Say a type and its bounds in words."""
    if get_origin(wanted) is Annotated:
        inner, *notes = get_args(wanted)
        bounds = [bound for note in notes if isinstance(note, Meta) for bound in _bounds(note)]
        return " ".join([type_words(inner), *bounds])
    if get_origin(wanted) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(wanted))
    if get_origin(wanted) in (Union, types.UnionType):
        return " or ".join(type_words(each) for each in get_args(wanted) if each is not type(None))
    plain = {str: "text", int: "integer", float: "number", bool: "`true`, `false`"}
    return plain.get(wanted, "array")


def _bounds(meta: Meta) -> list[str]:
    found = ((">=", meta.ge), (">", meta.gt), ("<=", meta.le), ("<", meta.lt))
    return [
        f"{sign} {bound:g}" if isinstance(bound, float) else f"{sign} {bound}"
        for sign, bound in found
        if bound is not None
    ]
