"""Every format, written from one and the same drafter, drafts what DeepSpec's form of it drafts, bit for bit."""

import pytest
import torch
from safetensors.torch import load_file

from core.errors import CheckpointError
from models import draft_fit
from models.formats import eagle, specforge, speculators, zlab
from paths import FIXTURES
from tests.drafters import dflash_cases, eagle3_cases
from tests.drafters.test_dflash_fixtures import check_rounds
from tests.drafters.test_eagle3 import errors_of_rounds
from tests.models.formats import foreign
from tests.models.formats.computed import assert_same_numbers, compare, drafter_of, numbers_of

SLIDING, FULL = "sliding_attention", "full_attention"
HEADED = {"markov_rank": 8, "enable_confidence_head": True, "confidence_head_with_markov": True}
REDUCED = {"draft_vocab_size": 100, "own_ends": True}


def speculators_dspark(config, tensors):
    return foreign.speculators_block(config, tensors, "dspark")


def speculators_dflash(config, tensors):
    return foreign.speculators_block(config, tensors, "dflash")


def filled_in(fixture):
    config, tensors = fixture
    return {**config, "sample_from_anchor": False}, tensors


def random_dspark(**changes):
    return dflash_cases.random_checkpoint(markov_head_type="vanilla", **HEADED | changes)


def random_eagle3(**changes):
    """An EAGLE-3 as those formats have it: a Llama layer, three states, a reduced vocabulary."""
    own = {"model_type": "llama", "target_layer_ids": [1, 3, 4], "draft_vocab_size": 100, "num_target_layers": None}
    return eagle3_cases.random_checkpoint(dflash_cases.fixture_target(), **own | changes)


# --- Every format and kind ----------------------------------------------------------------------------------------

BLOCKS = [
    *((write, name) for write in (speculators_dspark, foreign.specforge_dspark) for name in foreign.DSPARKS),
    *((write, "dflash") for write in (foreign.zlab, foreign.specforge_dflash, speculators_dflash)),
]


@pytest.mark.parametrize(("write", "name"), BLOCKS, ids=lambda part: getattr(part, "__name__", part))
def test_a_block_drafter_of_every_format_computes_what_deepspecs_form_does(tmp_path, write, name):
    fixture = foreign.deepspec(name)
    compare(tmp_path, filled_in(fixture) if name == "dflash" else fixture, write(*fixture))


@pytest.mark.parametrize("write", [foreign.eagle, foreign.specforge_eagle3, foreign.speculators_eagle3])
def test_an_eagle3_of_every_format_computes_what_deepspecs_form_does(tmp_path, write):
    fixture = random_eagle3(own_embedding=True)
    compare(tmp_path, fixture, write(*fixture))


@pytest.mark.parametrize("write", [speculators_dspark, foreign.specforge_dspark])
def test_a_block_drafter_of_a_reduced_vocabulary_is_the_same_in_both_formats(tmp_path, write):
    fixture = random_dspark(**REDUCED)
    # SpecForge's borrows its embedding.
    fixture[1]["embed_tokens.weight"] = dflash_cases.fixture_target().embedding
    compare(tmp_path, fixture, write(*fixture))


@pytest.mark.parametrize("is_causal", [True, False])
def test_sliding_layers_of_speculators_are_causal_or_not_as_its_flag_says(tmp_path, is_causal):
    slides = {"layer_types": [SLIDING, FULL], "use_sliding_window": True, "sliding_window": 6}
    fixture = random_dspark(**slides, sliding_is_causal=is_causal)
    config, tensors = speculators_dspark(*fixture)
    config["transformer_layer_config"] |= {"use_sliding_window": True, "sliding_window": 6}
    compare(tmp_path, fixture, (config | {"sliding_window_non_causal": not is_causal}, tensors))


# Canonical options of a chain, and their names in the formats.
OPTIONS = {
    "norm_before_residual": "norm_before_residual",
    "norm_before_fc": "norm_before_fc",
    "fc_norm": "fc_norm",
    "feeds_normed": "norm_output",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_the_norm_options_of_speculators_do_what_the_canonical_ones_do(tmp_path, option):
    fixture = random_eagle3(**{option: True})
    compare(tmp_path, fixture, foreign.speculators_eagle3(*fixture))


@pytest.mark.parametrize("option", ["norm_before_residual", "norm_before_fc", "fc_norm"])
def test_the_norm_options_of_specforge_do_what_the_canonical_ones_do(tmp_path, option):
    fixture = random_eagle3(**{option: True})
    compare(tmp_path, fixture, foreign.specforge_eagle3(*fixture))


# --- Against the reference implementation's numbers ---------------------------------------------------------------


@pytest.mark.parametrize("name", foreign.DSPARKS)
@pytest.mark.parametrize("write", [speculators_dspark, foreign.specforge_dspark])
def test_a_foreign_dspark_drafts_what_the_reference_drafted(tmp_path, write, name):
    check_rounds(drafter_of(foreign.write(tmp_path, *write(*foreign.deepspec(name)))), name)


def test_a_shifted_dflash_of_speculators_drafts_what_the_reference_drafted(tmp_path):
    config, tensors = speculators_dflash(*foreign.deepspec("dflash"))
    check_rounds(drafter_of(foreign.write(tmp_path, config | {"sample_from_anchor": True}, tensors)), "dflash")


def test_an_eagle3_of_speculators_drafts_what_the_reference_drafted(tmp_path):
    fixture = foreign.deepspec("eagle3")
    compare(tmp_path, fixture, foreign.speculators_eagle3(*fixture))
    expected = load_file(FIXTURES / "eagle3" / "expected.safetensors")
    errors = errors_of_rounds(drafter_of(tmp_path / "theirs"), expected, eagle3_cases.empty_kv())
    assert all(error < 1e-4 for error in errors.values()), errors


# --- Mistakes of translation, each planted and caught by the comparison that passes above --------------------------


def base_off_by_one(dialect):
    def plant(monkeypatch):
        right = dialect.read_layer_ids
        monkeypatch.setattr(
            dialect, "read_layer_ids", lambda *given, first: [each - 1 for each in right(*given, first=first)]
        )

    return plant


def anchor_flag_ignored(monkeypatch):
    monkeypatch.setattr(speculators, "_samples_from_anchor", lambda *_, is_dspark: not is_dspark)


def specforge_fills_in(monkeypatch):
    right = specforge.translate
    monkeypatch.setattr(specforge, "translate", lambda *given: {**right(*given), "sample_from_anchor": False})


def table_taken_as_ids(monkeypatch):
    monkeypatch.setattr(draft_fit, "read_target_ids", lambda table, *_: table)


def heads_swapped_by_name(monkeypatch):
    other = {"markov_head.markov_w1.weight": "markov_w2", "markov_head.markov_w2.weight": "markov_w1"}
    right = specforge.rename

    def rename(name):
        ours = right(name)
        return f"markov_head.{other[ours]}.weight" if ours in other else ours

    monkeypatch.setattr(specforge, "rename", rename)


MISTAKES = [
    (base_off_by_one(zlab), foreign.zlab, "dflash"),
    (base_off_by_one(zlab), foreign.specforge_dspark, "dspark_vanilla"),
    (base_off_by_one(speculators), speculators_dspark, "dspark_vanilla"),
    (base_off_by_one(speculators), speculators_dflash, "dflash"),
    (base_off_by_one(speculators), foreign.speculators_eagle3, "random"),
    (base_off_by_one(specforge), foreign.specforge_eagle3, "random"),
    (base_off_by_one(eagle), foreign.eagle, "random"),
    (anchor_flag_ignored, speculators_dspark, "dspark_vanilla"),
    (anchor_flag_ignored, speculators_dflash, "dflash"),
    (specforge_fills_in, foreign.specforge_dspark, "dspark_vanilla"),
    (heads_swapped_by_name, foreign.specforge_dspark, "dspark_vanilla"),
]


@pytest.mark.parametrize(
    ("plant", "write", "name"), MISTAKES, ids=lambda part: getattr(part, "__qualname__", part).split(".")[0]
)
def test_a_mistake_of_translation_does_not_pass(tmp_path, monkeypatch, plant, write, name):
    fixture = random_eagle3() if name == "random" else foreign.deepspec(name)
    made = write(*fixture)
    ours = filled_in(fixture) if name == "dflash" else fixture
    compare(tmp_path, ours, made)
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=r"do not match|not equal"):
        compare(tmp_path, ours, made)


@pytest.mark.parametrize(
    ("make", "write"),
    [
        (random_eagle3, foreign.eagle),
        (random_eagle3, foreign.specforge_eagle3),
        (random_eagle3, foreign.speculators_eagle3),
        (lambda: random_dspark(**REDUCED), speculators_dspark),
    ],
    ids=["EAGLE", "SpecForge", "speculators", "speculators dspark"],
)
def test_differences_taken_as_ids_do_not_pass(tmp_path, monkeypatch, make, write):
    config, tensors = make()
    # Differences for all formats; these would be ids just as well.
    tensors["d2t"] = torch.arange(100) + 3
    ours, folder = numbers_of(foreign.write(tmp_path / "ours", config, tensors)), tmp_path / "theirs"
    foreign.write(folder, *write(config, tensors))
    assert_same_numbers(ours, numbers_of(folder))
    table_taken_as_ids(monkeypatch)
    with pytest.raises(AssertionError, match="not equal"):
        assert_same_numbers(ours, numbers_of(folder))


def test_a_table_of_ids_is_refused(tmp_path):
    config, tensors = foreign.eagle(*random_eagle3())
    ids = torch.arange(100) + tensors["d2t"]
    with pytest.raises(CheckpointError, match="must be different target ids"):
        drafter_of(foreign.write(tmp_path, config, tensors | {"d2t": ids}))


@pytest.mark.parametrize("option", OPTIONS)
def test_a_norm_option_that_is_dropped_is_refused_or_does_not_pass(tmp_path, option):
    fixture = random_eagle3(**{option: True})
    config, tensors = foreign.speculators_eagle3(*fixture)
    with pytest.raises((AssertionError, CheckpointError), match=r"not equal|is not understood"):
        compare(tmp_path, fixture, (config | {OPTIONS[option]: False}, tensors))
