"""The drafter's training: the loss of the reference implementation, anchors, blocks, and a run that learns."""

import msgspec
import pytest
import torch
from safetensors.torch import load_file

from models import checkpoint
from models.config_json import read_config
from models.dflash_config import DFlashConfig
from models.dflash_net import DFlashNet
from models.load_drafter import load_dspark
from paths import FIXTURES
from toys import tiny_config
from training.acceptance import expected_survival
from training.blocks import block_mask, make_blocks, run_blocks, sample_anchors
from training.budget import Budget
from training.drafter import DrafterRecipe, TextRows, block_losses, new_drafter, train_drafter
from training.dspark_loss import LossWeights, dspark_loss
from training.export import drafter_json, export_drafter
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


@pytest.fixture(scope="module", params=("dspark_vanilla", "dspark_gated", "dspark_rnn", "dspark_plain", "dflash"))
def reference(request):
    folder = FIXTURES / request.param
    expected = load_file(folder / "expected.safetensors")
    tensors = checkpoint.read_tensors(folder)
    network = DFlashNet(DFlashConfig.from_json(read_config(folder)))
    checkpoint.load_into(network, tensors, source="fixture", skip=("embed_tokens.weight", "lm_head.weight"))
    tokens = expected["train.input_ids"]
    blocks = make_blocks(
        tokens,
        torch.zeros_like(tokens),
        expected["train.loss_mask"],
        expected["train.anchors"],
        expected["train.keep"].bool(),
        network.config.block_size,
    )
    hidden = run_blocks(
        network, tensors["embed_tokens.weight"], expected["train.features"], tokens, torch.zeros_like(tokens), blocks
    )
    # DFlash is trained by its first loss alone.
    factors = (1.0, 0.0, 0.0) if request.param == "dflash" else expected["train.alphas"].tolist()
    weights = LossWeights(*factors, decay=expected["train.gamma"].item())
    losses = dspark_loss(network, tensors["lm_head.weight"], hidden, expected["train.last_hidden"], blocks, weights)
    losses.total.backward()
    return expected, network, blocks, losses


def test_supervised_labels_are_the_reference_ones(reference):
    expected, _, blocks, _ = reference
    assert blocks.mask.int().equal(expected["train.eval_mask"])


def test_losses_equal_the_reference(reference):
    expected, _, _, losses = reference
    wanted = expected["train.losses"]
    torch.testing.assert_close(losses.terms[: len(wanted)], wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses.total, expected["train.total"][0], rtol=1e-5, atol=1e-5)


def test_gradients_equal_the_reference(reference):
    expected, network, _, _ = reference
    gradients = DFlashNet(network.config)
    for own, other in zip(gradients.parameters(), network.parameters(), strict=True):
        own.data.copy_(other.grad)
    for name, gradient in checkpoint.split_fused(gradients).items():
        torch.testing.assert_close(gradient, expected[f"train.grad.{name}"], rtol=1e-5, atol=1e-5)


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
    seen = block_mask(blocks, documents)[0, 0].int().tolist()
    assert seen[0] == seen[1] == [1, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0]
    assert seen[2] == seen[3] == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1]
    assert blocks.labels.tolist() == [[[2, 3], [6, 7]]]
    assert blocks.mask.tolist() == [[[1.0, 0.0], [1.0, 1.0]]]


def counting_rows():
    documents = [Document([(start + step) % 60 + 4 for step in range(24)], 4) for start in range(60)]
    return TextRows([Texts("math", documents)], [torch.arange(4, 64).numpy()] * 3, RECIPE.row_len, seed=0)


def test_twenty_steps_lower_the_loss(tmp_path):
    target = new_target(TINY, seed=0).requires_grad_(False)
    drafter = new_drafter(target, RECIPE)
    batch = counting_rows().batch(4)
    anchors, kept = sample_anchors(batch.weights, RECIPE.num_anchors, torch.Generator().manual_seed(1))
    before = block_losses(drafter, target, batch, anchors, kept, RECIPE.weights).total.item()
    train_drafter(drafter, target, counting_rows(), RECIPE, tmp_path)
    after = block_losses(drafter, target, batch, anchors, kept, RECIPE.weights).total.item()
    assert after < before
    assert {"state.safetensors", "losses.csv", "losses.png"} <= {path.name for path in tmp_path.iterdir()}


def test_survival_falls_with_the_draft_and_stays_a_probability():
    target = new_target(TINY, seed=0).requires_grad_(False)
    survival = expected_survival(new_drafter(target, RECIPE), target, counting_rows().batch(4), 8)
    assert survival.shape == (4,)
    assert (survival.diff() <= 0).all()
    assert 0 < survival[0] <= 1


def test_an_exported_drafter_loads_again(tmp_path, demo_tokenizer):
    target = new_target(TINY, seed=0)
    drafter = new_drafter(target, RECIPE)
    export_drafter(tmp_path / "dspark", drafter, demo_tokenizer, RECIPE.num_anchors)
    loaded = load_dspark(tmp_path / "dspark", target)
    written = DFlashConfig.from_json(drafter_json(drafter.config, demo_tokenizer, 8))
    # What a file leaves to defaults, loading spells out.
    assert msgspec.structs.replace(loaded.config, target_hidden_size=None, draft_vocab_size=None, layer_types=()) == (
        msgspec.structs.replace(written, layer_types=())
    )
    assert loaded.fc.weight.equal(drafter.fc.weight.bfloat16().float())
