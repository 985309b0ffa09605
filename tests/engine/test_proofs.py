"""A drafter that specd does not ship is believed only once its very source has been proved."""

from importlib.metadata import EntryPoint

import pytest

from bench.prove.mistakes import Liar
from bench.prove.uneven import Uneven
from core import registry
from engine.engine import Engine
from engine.proofs import Identity, Proof, identify, is_proven, keep, trusts_law
from policies.fixed import Fixed
from toys import SHAPE, request, run, tiny_dspark, tiny_target

NAME = "uneven"
OTHER_IDENTITIES = [
    Identity("other", "1.0", "ab"),
    Identity(NAME, "1.1", "ab"),
    Identity(NAME, "1.0", "ac"),
]


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    entry = EntryPoint(NAME, "bench.prove.uneven:Uneven", "specd.drafters")
    monkeypatch.setattr(registry, "entry_points", lambda **_: (entry,))


def proof_of(identity):
    return Proof(identity, "0.1.0", "2026-01-01T00:00:00+00:00", 1)


def test_shipped_drafters_need_no_proof():
    assert trusts_law("dspark", tiny_dspark(tiny_target()), None)
    assert trusts_law("none", None, None)


def test_a_stranger_is_trusted_once_its_proof_is_on_file(tmp_path):
    assert not trusts_law(NAME, Uneven(), tmp_path)
    keep(tmp_path, proof_of(identify(NAME, Uneven)))
    assert trusts_law(NAME, Uneven(), tmp_path)
    assert not trusts_law(NAME, Uneven(), None)


def test_a_proof_is_of_one_source_file(tmp_path):
    keep(tmp_path, proof_of(identify(NAME, Uneven)))
    assert not trusts_law(NAME, Liar(), tmp_path)


@pytest.mark.parametrize("other", OTHER_IDENTITIES, ids=["name", "version", "source"])
def test_a_proof_is_of_one_name_version_and_source(tmp_path, other):
    keep(tmp_path, proof_of(Identity(NAME, "1.0", "ab")))
    assert is_proven(tmp_path, Identity(NAME, "1.0", "ab"))
    assert not is_proven(tmp_path, other)


def test_a_broken_file_is_no_proof(tmp_path):
    identity = Identity(NAME, "1.0", "ab")
    keep(tmp_path, proof_of(identity)).write_text("{")
    assert not is_proven(tmp_path, identity)


@pytest.mark.parametrize("untrusted", [[], [NAME]])
def test_drafts_of_an_unproven_drafter_are_judged_as_point_masses(untrusted):
    target = tiny_target(5)
    engine = Engine(target, {NAME: Uneven()}, {"fixed": lambda: Fixed(3)}, SHAPE, (), untrusted=untrusted)
    judged = []
    speculator = engine.memory.speculators[NAME]
    propose = speculator.propose
    speculator.propose = lambda ask: judged.append(propose(ask)) or judged[-1]
    run(engine, [request((1, 2, 3), max_tokens=8)])
    assert judged
    assert all(bool(draft.point_mass.all()) == bool(untrusted) for draft in judged)
    assert all((draft.q_logits is None) == bool(untrusted) for draft in judged)


def test_greedy_texts_do_not_depend_on_trust():
    target, texts = tiny_target(5), []
    for untrusted in ([], [NAME]):
        engine = Engine(target, {NAME: Uneven()}, {"fixed": lambda: Fixed(3)}, SHAPE, (), untrusted=untrusted)
        texts.append(run(engine, [request((1, 2, 3), max_tokens=12, temperature=0.0)]))
    assert texts[0] == texts[1]
    assert len(texts[0]["r"]) == 12
