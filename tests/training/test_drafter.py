"""The drafter's training: anchors, blocks, and a run that learns."""

import msgspec
import pytest
import torch

from models.load_drafter import load_drafter
from toys import tiny_config
from training.acceptance import expected_survival
from training.blocks import block_mask, make_blocks, sample_anchors
from training.budget import Budget
from training.drafter import DrafterRecipe, TextRows, draft_losses, new_drafter, objective_of, train_drafter
from training.export import export_drafter
from training.onpolicy import Texts
from training.packing import Document
from training.target import new_target

# Mixed precision is meant: weights stay float32 under bf16 autocast.
pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype:UserWarning")

TINY = tiny_config(64, layers=4)
RECIPE = DrafterRecipe(
    Budget(600.0, tokens=20 * 4 * 48),
    num_rows=4,
    row_len=48,
    num_anchors=8,
    num_layers=1,
    target_layer_ids=(0, 2),
    block_size=4,
    markov_rank=8,
    compile=False,
    log_steps=5,
)


def test_anchors_are_supervised_ascending_and_without_repeats():
    mask = torch.zeros(3, 40)
    mask[0, 5:30] = 1
    mask[1, 10:13] = 1
    anchors, kept = sample_anchors(mask, 8, torch.Generator().manual_seed(0))
    assert kept.sum(1).tolist() == [8, 2, 0]
    assert anchors[1].tolist() == [10, 11, 0, 0, 0, 0, 0, 0]
    assert (anchors[0].diff() > 0).all()
    assert mask[0, anchors[0]].all()


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
    documents = [Document([(start + step) % 60 + 4 for step in range(24)], 4) for start in range(60)]
    return TextRows([Texts("math", documents)], [torch.arange(4, 64).numpy()] * 3, RECIPE.row_len, seed=0)


@pytest.mark.parametrize("kind", ["dspark", "dflash", "eagle3"])
def test_twenty_steps_lower_the_loss(kind, tmp_path):
    recipe = msgspec.structs.replace(RECIPE, kind=kind)
    target = new_target(TINY, seed=0).requires_grad_(False)
    drafter = new_drafter(target, recipe)
    batch = counting_rows().batch(4)
    anchors, kept = sample_anchors(batch.weights, recipe.num_anchors, torch.Generator().manual_seed(1))
    before = draft_losses(drafter, target, objective_of(recipe), batch, anchors, kept).total.item()
    train_drafter(drafter, target, counting_rows(), recipe, tmp_path)
    after = draft_losses(drafter, target, objective_of(recipe), batch, anchors, kept).total.item()
    assert after < before
    assert {"state.safetensors", "losses.csv", "losses.png"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("kind", ["dspark", "dflash", "eagle3"])
def test_survival_falls_with_the_draft_and_stays_a_probability(kind):
    recipe = msgspec.structs.replace(RECIPE, kind=kind)
    target = new_target(TINY, seed=0).requires_grad_(False)
    survival = expected_survival(new_drafter(target, recipe), target, objective_of(recipe), counting_rows().batch(4), 8)
    assert survival.shape == (4,)
    assert (survival.diff() <= 0).all()
    assert 0 < survival[0] <= 1


@pytest.mark.parametrize("kind", ["dspark", "dflash", "eagle3"])
def test_an_exported_drafter_loads_again(kind, tmp_path, demo_tokenizer):
    recipe = msgspec.structs.replace(RECIPE, kind=kind)
    target = new_target(TINY, seed=0)
    drafter = new_drafter(target, recipe)
    export_drafter(tmp_path / kind, drafter, demo_tokenizer, recipe.num_anchors)
    loaded = load_drafter(tmp_path / kind, target)
    # What a file leaves to defaults, loading spells out.
    spelt = {"target_hidden_size": None, "draft_vocab_size": None}
    if kind != "eagle3":
        spelt["layer_types"] = ()
    assert msgspec.structs.replace(loaded.config, **spelt) == msgspec.structs.replace(drafter.config, **spelt)
    assert loaded.fc.weight.equal(drafter.fc.weight.bfloat16().float())
