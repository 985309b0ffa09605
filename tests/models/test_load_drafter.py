"""Drafters load by their kind; another kind than asked for, and what no network computes, are errors that help."""

import pytest
import torch

from core.errors import CheckpointError
from models.dflash_net import DFlashNet
from models.load_drafter import load_drafter, read_drafter
from models.load_target import load_target
from paths import FIXTURES
from tests.models.formats import foreign


@pytest.fixture(scope="module")
def target():
    return load_target(FIXTURES / "target_qwen3", torch.float32)


@pytest.mark.parametrize(("name", "kind"), [("dspark_vanilla", "dspark"), ("dflash", "dflash")])
def test_a_drafter_loads_by_its_own_kind(target, name, kind):
    for asked in (None, kind):
        network = load_drafter(FIXTURES / name, target, asked)
        assert isinstance(network, DFlashNet)
        assert bool(network.config.markov_rank) == (kind == "dspark")


@pytest.mark.parametrize(
    ("name", "asked", "words"),
    [
        (
            "dspark_vanilla",
            "eagle3",
            r'a drafter of kind dspark \(format: DeepSpec.*asks for eagle3; .* kind = "dspark"',
        ),
        ("dflash", "dspark", 'kind = "dflash"'),
        ("eagle3", "dflash", 'kind = "eagle3"'),
    ],
)
def test_a_kind_that_it_is_not_is_refused_saying_what_to_write(target, name, asked, words):
    with pytest.raises(CheckpointError, match=words):
        load_drafter(FIXTURES / name, target, asked)


def test_default_layers_are_found_from_the_target(target, tmp_path):
    folder = foreign.write(tmp_path, *foreign.eagle(*foreign.plain_eagle()))
    assert read_drafter(folder, target, "eagle3").config["target_layer_ids"] == [1, 3, 4]
