"""The forms that answers may be held to, as OpenAI (`response_format`) and vLLM (`structured_outputs`) spell them."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from core.errors import RequestError
from core.grammar import MAX_CHOICES, Grammar, GrammarKind


class TextFormat(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """Any text."""


class JsonObjectFormat(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class NamedSchema(Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON schema with a name for it; it is followed to the letter whether strict or not."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """JSON of one schema."""

    json_schema: NamedSchema


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


class StructuredOutputs(Struct, frozen=True, forbid_unknown_fields=True):
    """What vLLM calls structured outputs: exactly one of these. json is a schema, as an object or as its text."""

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: Annotated[list[str], Meta(min_length=1, max_length=MAX_CHOICES)] | None = None
    grammar: str | None = None
    json_object: bool | None = None

    @property
    def wanted(self) -> Grammar:
        """The grammar that is asked for; raises RequestError unless it is exactly one."""
        asked = {name: value for name, value in msgspec.structs.asdict(self).items() if value not in (None, False)}
        if len(asked) != 1:
            raise RequestError(
                f"structured_outputs takes exactly one of {', '.join(self.__struct_fields__)}, got {len(asked)}",
                param="structured_outputs",
            )
        [(name, value)] = asked.items()
        match name:
            case "json_object":
                return any_object("structured_outputs")
            case "json":
                return json_grammar(value, "structured_outputs")
            case "choice":
                kind, text = GrammarKind.CHOICE, msgspec.json.encode(value).decode()
            case "regex":
                kind, text = GrammarKind.REGEX, value
            case _:
                kind, text = GrammarKind.LARK, value
        return bounded(kind, text, "structured_outputs")


def format_grammar(asked: ResponseFormat | None) -> Grammar | None:
    """Return the grammar of a response_format; None where any text will do."""
    match asked:
        case JsonObjectFormat():
            return any_object("response_format")
        case JsonSchemaFormat(json_schema=named):
            return json_grammar(named.schema, "response_format")
    return None


def any_object(param: str) -> Grammar:
    """Return the grammar of all JSON objects."""
    return json_grammar({"type": "object"}, param)


def json_grammar(schema: dict[str, Any] | str, param: str) -> Grammar:
    """Return the grammar of a JSON schema; raises RequestError, naming the field, if it is too large or too deep."""
    text = schema if isinstance(schema, str) else msgspec.json.encode(schema).decode()
    return bounded(GrammarKind.JSON_SCHEMA, text, param)


def bounded(kind: GrammarKind, text: str, param: str) -> Grammar:
    """Return a grammar within the bounds of its type; raises RequestError, naming the field, if it is not."""
    try:
        return msgspec.convert({"kind": str(kind), "text": text}, Grammar)
    except msgspec.ValidationError as error:
        raise RequestError(f"the grammar cannot be taken: {error}", param=param) from error
