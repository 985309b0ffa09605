"""The losses of all drafters: equal to the reference implementation's, gradients too, and the same in chunks."""

import pytest
import torch
from safetensors.torch import load_file

from core.types import Numerics
from models import checkpoint
from models.config_json import read_config
from models.dflash_config import DFlashConfig
from models.dflash_net import DFlashNet
from models.eagle3_config import Eagle3Config
from models.eagle3_net import Eagle3Net
from models.qwen3 import Qwen3
from paths import FIXTURES
from training import chunks
from training.blocks import make_blocks, run_blocks
from training.dspark_loss import DFLASH_WEIGHTS, LossWeights, dspark_loss
from training.eagle3_loss import eagle3_loss
from training.packing import Rows

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
BLOCK_KINDS = ("dspark_vanilla", "dspark_gated", "dspark_rnn", "dspark_plain", "dflash")
SHARED = ("embed_tokens.weight", "lm_head.weight")


@pytest.fixture(scope="module")
def target():
    folder = FIXTURES / "target_qwen3"
    network = Qwen3.from_json(read_config(folder), Numerics.FAST)
    checkpoint.load_into(network, network.own_tensors(checkpoint.read_tensors(folder)), source="fixture")
    return network.requires_grad_(False)


def load(name, target):
    """The drafter of a fixture and what is expected of it; its embedding and head are the target's."""
    folder = FIXTURES / name
    tensors = checkpoint.read_tensors(folder)
    assert tensors["embed_tokens.weight"].equal(target.embedding)
    assert tensors["lm_head.weight"].equal(target.head)
    config = read_config(folder)
    network = (
        Eagle3Net(Eagle3Config.from_json(config)) if name == "eagle3" else DFlashNet(DFlashConfig.from_json(config))
    )
    checkpoint.load_into(network, tensors, source="fixture", skip=SHARED)
    return network, load_file(folder / "expected.safetensors")


def rows_of(expected):
    tokens = expected["train.input_ids"]
    return Rows(tokens, torch.zeros_like(tokens), expected["train.loss_mask"])


def block_losses(name, network, target, expected):
    rows = rows_of(expected)
    anchors, kept = expected["train.anchors"], expected["train.keep"].bool()
    blocks = make_blocks(rows.tokens, rows.documents, rows.weights, anchors, kept, network.config.num_drafts)
    hidden = run_blocks(network, target, expected["train.features"], rows.tokens, rows.documents, blocks)
    decay = expected["train.gamma"].item()
    # DFlash is trained by its first loss alone.
    weights = DFLASH_WEIGHTS if name == "dflash" else LossWeights(*expected["train.alphas"].tolist(), decay=decay)
    return blocks, dspark_loss(network, target, hidden, expected["train.last_hidden"], blocks, weights)


def check_gradients(network, expected):
    twin = type(network)(network.config)
    for own, other in zip(twin.parameters(), network.parameters(), strict=True):
        own.data.copy_(other.grad)
    gradients = checkpoint.split_fused(twin)
    assert {f"train.grad.{name}" for name in gradients} == {name for name in expected if name.startswith("train.grad.")}
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[f"train.grad.{name}"], **CLOSE)


@pytest.fixture(params=(2**24, 3 * 7 * 256), ids=("whole", "chunked"))
def chunk_logits(request, monkeypatch):
    """Chunks of all rows, and of three: the loss may not depend on it."""
    monkeypatch.setattr(chunks, "CHUNK_LOGITS", request.param)


@pytest.mark.usefixtures("chunk_logits")
@pytest.mark.parametrize("name", BLOCK_KINDS)
def test_block_losses_and_all_gradients_equal_the_reference(name, target):
    network, expected = load(name, target)
    blocks, losses = block_losses(name, network, target, expected)
    losses.total.backward()
    assert blocks.mask.int().equal(expected["train.eval_mask"])
    wanted = expected["train.losses"]
    torch.testing.assert_close(losses.terms[: len(wanted)], wanted, **CLOSE)
    torch.testing.assert_close(losses.total, expected["train.total"][0], **CLOSE)
    check_gradients(network, expected)


@pytest.mark.usefixtures("chunk_logits")
def test_eagle3_losses_and_all_gradients_equal_the_reference(target):
    network, expected = load("eagle3", target)
    features, last_hidden = expected["train.features"], expected["train.last_hidden"]
    losses = eagle3_loss(network, target, features, last_hidden, rows_of(expected), expected["train.decay"].item())
    losses.total.backward()
    torch.testing.assert_close(losses.terms, expected["train.step_losses"], **CLOSE)
    torch.testing.assert_close(losses.total, expected["train.total"][0], **CLOSE)
    check_gradients(network, expected)
