"""docs/configuration.md is made from the settings, and every setting is told of."""

from typing import Annotated, Literal

import pytest
from msgspec import Meta
from msgspec.structs import fields

from cli.config_reference import reference, type_words
from cli.main import main
from core.config import SECTIONS, TABLES
from core.setting_descriptions import DESCRIPTIONS, description
from layers import ROOT

SHAPES = [
    (name, kind, shape)
    for table in (SECTIONS, {"arms": TABLES["arms"]})
    for name in table
    for kind, shape in table[name].items()
]


def test_the_page_is_what_the_settings_are(capsys):
    assert main(["config", "reference"]) == 0
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == capsys.readouterr().out


@pytest.mark.parametrize(("section", "kind", "shape"), SHAPES)
def test_every_field_is_described_with_its_variable(section, kind, shape):
    page = reference()
    for field in fields(shape):
        assert description(section, kind, field.name) in page
        assert section == "arms" or f"`SPECD_{section.upper()}__{field.name.upper()}`" in page


def test_nothing_is_described_that_is_not_there():
    known = {f"{section}.{field.name}" for section, _, shape in SHAPES for field in fields(shape)}
    assert set(DESCRIPTIONS) - known == set()


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (bool, "`true`, `false`"),
        (Literal["a", "b"] | None, "`a`, `b`"),
        (Annotated[int, Meta(ge=1, le=1 << 30)], "integer >= 1 <= 1073741824"),
        (Annotated[float, Meta(gt=0.0, le=0.5)] | None, "number > 0 <= 0.5"),
    ],
)
def test_a_type_is_told_in_words(wanted, words):
    assert type_words(wanted) == words
