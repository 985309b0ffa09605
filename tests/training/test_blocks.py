"""Where blocks start, what a slot may see, and how much of what is drafted is accepted."""

import msgspec
import numpy as np
import pytest
import torch

from toys import tiny_config
from training.acceptance import expected_survival
from training.blocks import block_mask, make_blocks, sample_anchors
from training.drafter_files import drafter_json, make_drafter
from training.dspark_loss import DFLASH_WEIGHTS, LossWeights
from training.initial_weights import start_at_random, start_at_target
from training.objective import BlockObjective, ChainObjective
from training.packed_rows import MaskedText, PackedRows
from training.recipe import DrafterShape
from training.target import new_target

# Mixed precision is meant: weights stay float32 under bf16 autocast.
pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype:UserWarning")

TINY = tiny_config(64, layers=4)
OBJECTIVES = {
    "dspark": BlockObjective(LossWeights()),
    "dflash": BlockObjective(DFLASH_WEIGHTS),
    "eagle3": ChainObjective(),
}


def test_anchors_are_supervised_ascending_and_without_repeats():
    mask = torch.zeros(3, 40)
    mask[0, 5:30] = 1
    mask[1, 10:13] = 1
    anchors, kept = sample_anchors(mask, 8, torch.Generator().manual_seed(0))
    assert kept.sum(1).tolist() == [8, 2, 0]
    assert anchors[1].tolist() == [10, 11, 0, 0, 0, 0, 0, 0]
    assert (anchors[0].diff() > 0).all()
    assert mask[0, anchors[0]].all()


def test_a_row_shorter_than_the_anchors_asked_for_gives_those_it_has():
    anchors, kept = sample_anchors(torch.ones(2, 300), 512, torch.Generator().manual_seed(0))
    assert anchors.shape == kept.shape == (2, 512)
    assert anchors[0].tolist() == [*range(299), *[0] * 213]
    assert kept[0].tolist() == [True] * 299 + [False] * 213


def test_a_slot_sees_earlier_context_of_its_document_and_its_own_block():
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
    tokens = torch.arange(8)[None]
    blocks = make_blocks(tokens, documents, torch.ones(1, 8), torch.tensor([[1, 5]]), torch.tensor([[True, True]]), 2)
    seen = block_mask(blocks.anchors, documents, 2)[0, 0].int().tolist()
    assert seen[0] == seen[1] == [1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0]
    assert seen[2] == seen[3] == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1]
    assert blocks.labels.tolist() == [[[2, 3], [6, 7]]]
    assert blocks.mask.tolist() == [[[1.0, 0.0], [1.0, 1.0]]]


def test_a_slot_of_a_causal_window_sees_the_last_positions_up_to_its_own():
    seen = block_mask(torch.tensor([[4]]), torch.zeros(1, 6, dtype=torch.long), 3, window=3, is_causal=True)
    assert seen[0, 0].int().tolist() == [
        [0, 0, 1, 1, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 1, 1, 1],
    ]


def counting_rows():
    texts = [np.arange(start, start + 24) % 60 + 4 for start in range(60)]
    return PackedRows([MaskedText(text, np.arange(24) >= 4) for text in texts], 48, 4, seed=0).batch(0)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_survival_falls_with_the_draft_and_stays_a_probability(kind):
    target = new_target(TINY, seed=0).requires_grad_(False)
    shape = DrafterShape(kind, (0, 2), num_layers=1, block_size=4, markov_rank=8)
    config = {"model_type": "qwen3", **msgspec.structs.asdict(TINY)}
    drafter = make_drafter(drafter_json(config, shape, 8), kind, target)
    start_at_random(drafter, 0)
    start_at_target(drafter, target)
    survival = expected_survival(drafter, target, OBJECTIVES[kind], counting_rows(), 8)
    assert survival.shape == (4,)
    assert (survival.diff() <= 0).all()
    assert 0 < survival[0] <= 1
