"""Every format, written from the fixtures, is read to what DeepSpec's form of the same drafter is read to."""

import pytest
import torch
from safetensors.torch import load_file

from models.formats.checkpoint import read_checkpoint
from models.load_drafter import load_drafter
from models.load_target import load_target
from paths import FIXTURES
from tests.models.formats import foreign

FILLED_IN = {"sample_from_anchor": False}
# The target's depth is known when a drafter is loaded.
DEPTH = 8


def both(folder, fixture, made):
    """Return the checkpoint of DeepSpec's form and that of another's."""
    ours = read_checkpoint(foreign.write(folder / "ours", *fixture), DEPTH)
    theirs = read_checkpoint(foreign.write(folder / "theirs", *made), DEPTH)
    return ours, theirs


def assert_same_tensors(ours, theirs, *, borrowed=()):
    assert set(ours.tensors) - set(borrowed) == set(theirs.tensors)
    for name, tensor in theirs.tensors.items():
        assert torch.equal(ours.tensors[name], tensor), name


@pytest.mark.parametrize("name", foreign.DSPARKS)
def test_a_dspark_of_speculators_is_deepspecs(tmp_path, name):
    fixture = foreign.deepspec(name)
    ours, theirs = both(tmp_path, fixture, foreign.speculators_block(*fixture, "dspark"))
    assert (theirs.kind, theirs.format, theirs.num_drafts) == ("dspark", "speculators", 7)
    assert ours.config == {**theirs.config, "num_target_layers": 8}
    assert_same_tensors(ours, theirs)


@pytest.mark.parametrize("name", foreign.DSPARKS)
def test_a_dspark_of_specforge_is_deepspecs_but_for_what_it_borrows(tmp_path, name):
    fixture = foreign.deepspec(name)
    ours, theirs = both(tmp_path, fixture, foreign.specforge_dspark(*fixture))
    assert (theirs.kind, theirs.format, theirs.num_drafts) == ("dspark", "SpecForge", 7)
    assert ours.config == theirs.config
    assert_same_tensors(ours, theirs, borrowed=foreign.BORROWED)


@pytest.mark.parametrize(("write", "name"), [(foreign.zlab, "z-lab DFlash"), (foreign.specforge_dflash, "SpecForge")])
def test_a_dflash_of_zlab_or_specforge_fills_slots_in(tmp_path, write, name):
    fixture = foreign.deepspec("dflash")
    ours, theirs = both(tmp_path, fixture, write(*fixture))
    assert (ours.num_drafts, theirs.num_drafts) == (7, 6)
    assert (theirs.kind, theirs.format) == ("dflash", name)
    assert {**ours.config, **FILLED_IN} == theirs.config
    assert_same_tensors(ours, theirs, borrowed=foreign.BORROWED)


def test_a_dflash_of_speculators_fills_slots_in(tmp_path):
    fixture = foreign.deepspec("dflash")
    ours, theirs = both(tmp_path, fixture, foreign.speculators_block(*fixture, "dflash"))
    assert (theirs.kind, theirs.num_drafts) == ("dflash", 6)
    assert {**ours.config, **FILLED_IN} == {**theirs.config, "num_target_layers": 8}
    assert_same_tensors(ours, theirs)


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (foreign.eagle, "EAGLE"),
        (foreign.specforge_eagle3, "SpecForge"),
        (foreign.speculators_eagle3, "speculators"),
    ],
)
def test_a_plain_eagle3_is_the_same_in_every_format(tmp_path, write, name):
    fixture = foreign.plain_eagle()
    ours, theirs = both(tmp_path, fixture, write(*fixture))
    assert (theirs.kind, theirs.format, theirs.num_drafts) == ("eagle3", name, 7)
    assert ours.config == theirs.config
    assert_same_tensors(ours, theirs)


def test_deepspecs_eagle3_with_its_norms_of_heads_is_one_of_speculators(tmp_path):
    fixture = foreign.deepspec("eagle3")
    ours, theirs = both(tmp_path, fixture, foreign.speculators_eagle3(*fixture))
    assert ours.config == {**theirs.config, "num_target_layers": 8}
    assert ours.config["qk_norm"] is True
    assert_same_tensors(ours, theirs)


def test_canonical_layers_and_slots_are_what_the_fixtures_were_made_with(tmp_path):
    # Equality with DeepSpec's form would not notice a base or a slot that is wrong in both.
    for name in foreign.DSPARKS:
        checkpoint = read_checkpoint(FIXTURES / name)
        assert checkpoint.config["target_layer_ids"] == [1, 3, 5]
        assert checkpoint.config["sample_from_anchor"] is True
    assert read_checkpoint(FIXTURES / "eagle3").config["target_layer_ids"] == [0, 1, 3, 5, 6]


@pytest.mark.parametrize(
    "write",
    [lambda *fixture: foreign.speculators_block(*fixture, "dspark"), foreign.specforge_dspark],
    ids=["speculators", "SpecForge"],
)
def test_a_foreign_dspark_computes_what_the_reference_computed(tmp_path, write):
    expected = load_file(FIXTURES / "dspark_vanilla" / "expected.safetensors")
    folder = foreign.write(tmp_path, *write(*foreign.deepspec("dspark_vanilla")))
    network = load_drafter(folder, load_target(FIXTURES / "target_qwen3", torch.float32), "dspark")
    length = int(expected["rounds"][-1])
    context = network.context(expected["features"][:length])
    for layer, (k, v) in enumerate(network.context_keys_values(context, torch.arange(length))):
        torch.testing.assert_close(k.transpose(0, 1), expected[f"context_k.{layer}"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(v.transpose(0, 1), expected[f"context_v.{layer}"], atol=1e-5, rtol=1e-5)
    hidden, tokens = expected["round0.hidden"], expected["round0.greedy_tokens"]
    anchor = expected["prompt_ids"][expected["rounds"][0]][None]
    previous = torch.cat((anchor, tokens[:-1]))
    torch.testing.assert_close(network.confidence(hidden, previous), expected["round0.confidence_logits"])
    logits = expected["round0.base_logits"] + network.markov_head(previous, hidden)
    torch.testing.assert_close(logits, expected["round0.draft_logits"], atol=1e-5, rtol=1e-5)
