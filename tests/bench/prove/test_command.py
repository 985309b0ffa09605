"""`specd prove --drafter NAME` for a drafter of an installed package: its proof is kept if it passes, and only then."""

import json
from importlib.metadata import EntryPoint

import pytest

from bench.prove.certificate import Line, certify, scope_of, sections, summarise
from bench.prove.outcome import Outcome
from bench.prove.report import write_report
from bench.prove.uneven import Uneven
from cli.main import main
from core import registry
from engine.proofs import trusts_law

LINES = [
    Line("enumeration", "rejection fixed", Outcome(True, "TV 0 exactly"), 0.5),
    Line("real loop", "a x b", Outcome(False, "p 1.0e-09, 10 draws; drafts verified 2, kept 1", 1), 1.0),
    Line("real loop", "c x d", Outcome(True, "p 2.0e-01, 10 draws; drafts verified 2, kept 1", 1), 1.0),
    Line("planted bugs", "off-by-one", Outcome(True, "honest: fine; planted: caught"), 2.0),
]
SCOPE = scope_of(is_full=False, drafter=None, seed=0)


def install(monkeypatch, value):
    entry = EntryPoint("uneven", value, "specd.drafters")
    monkeypatch.setattr(registry, "entry_points", lambda **_: (entry,))


def test_a_report_says_what_failed_and_with_what_power(tmp_path):
    page, data = write_report(tmp_path / "out", summarise(SCOPE, LINES), LINES)
    text = page.read_text()
    assert "**1 checks failed.** 4 checks of specd" in text
    assert "- real loop: a x b: p 1.0e-09" in text
    assert "2, each at alpha 0.0001" in text
    assert "0.999 for any law that is off by a total variation of 0.1, with 2204 draws each" in text
    assert [line["name"] for line in json.loads(data.read_text())["lines"]] == [line.name for line in LINES]


def test_one_failed_check_fails_the_certificate():
    assert not summarise(SCOPE, LINES).passes
    assert summarise(SCOPE, [line for line in LINES if line.outcome.passes]).passes
    assert not summarise(SCOPE, []).passes


def test_the_family_wise_rate_bounds_all_tests_together():
    assert summarise(SCOPE, LINES).family_rate == pytest.approx(2e-4, rel=1e-3)


def test_a_whole_certificate_has_every_section():
    assert list(sections(SCOPE, {})) == [
        "enumeration",
        "law of a round",
        "drafter contract",
        "real loop",
        "off and mixed batches",
        "planted bugs",
    ]


def test_lines_are_told_as_they_are_done():
    first = next(certify(SCOPE, {}))
    assert (first.section, first.outcome.passes) == ("enumeration", True)


def test_an_unknown_drafter_is_refused(capsys):
    assert main(["prove", "--drafter", "dspork"]) == 2
    assert "unknown drafter 'dspork'; did you mean 'dspark'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_drafter_that_passes_is_trusted_from_then_on(monkeypatch, tmp_path):
    install(monkeypatch, "bench.prove.uneven:Uneven")
    monkeypatch.setenv("SPECD_ENGINE__PROOF_DIR", str(tmp_path))
    assert not trusts_law("uneven", Uneven(), tmp_path)
    assert main(["prove", "--drafter", "uneven"]) == 0
    assert trusts_law("uneven", Uneven(), tmp_path)


@pytest.mark.slow
def test_a_drafter_that_lies_gets_no_proof(monkeypatch, tmp_path):
    install(monkeypatch, "bench.prove.mistakes:Liar")
    monkeypatch.setenv("SPECD_ENGINE__PROOF_DIR", str(tmp_path))
    assert main(["prove", "--drafter", "uneven"]) == 1
    assert list(tmp_path.iterdir()) == []
