"""The losses of all drafters: equal to the reference implementation's, gradients too, and the same in chunks."""

import math

import msgspec
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
from training import blocks, chunks
from training import eagle3_loss as eagle3_loss_module
from training.attention import attend_dense
from training.blocks import make_blocks, run_blocks
from training.dspark_loss import DFLASH_WEIGHTS, LossWeights, dspark_loss
from training.eagle3_loss import eagle3_loss
from training.features import target_states
from training.objective import BlockObjective, ChainObjective, Draw
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
    made = make_blocks(rows.tokens, rows.documents, rows.weights, anchors, kept, network.config.num_drafts)
    hidden = run_blocks(network, target, expected["train.features"], rows.tokens, rows.documents, made)
    decay = expected["train.gamma"].item()
    # DFlash is trained by its first loss alone.
    weights = DFLASH_WEIGHTS if name == "dflash" else LossWeights(*expected["train.alphas"].tolist(), decay=decay)
    return made, dspark_loss(network, target, hidden, expected["train.last_hidden"], made, weights)


def check_gradients(network, expected):
    twin = type(network)(network.config)
    for own, other in zip(twin.parameters(), network.parameters(), strict=True):
        own.data.copy_(other.grad)
    gradients = checkpoint.split_fused(twin)
    assert {f"train.grad.{name}" for name in gradients} == {name for name in expected if name.startswith("train.grad.")}
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[f"train.grad.{name}"], **CLOSE)


@pytest.fixture(params=("whole", "chunked"))
def chunk_logits(request, monkeypatch):
    """All at once, or logits of three rows, two blocks and ten queries at a time: nothing may depend on it."""
    if request.param == "chunked":
        monkeypatch.setattr(chunks, "CHUNK_LOGITS", 3 * 7 * 256)
        monkeypatch.setattr(blocks, "CHUNK_BLOCKS", 2)
        monkeypatch.setattr(eagle3_loss_module, "QUERY_ROWS", 10)


@pytest.mark.usefixtures("chunk_logits")
@pytest.mark.parametrize("name", BLOCK_KINDS)
def test_block_losses_and_all_gradients_equal_the_reference(name, target):
    network, expected = load(name, target)
    made, losses = block_losses(name, network, target, expected)
    losses.total.backward()
    assert made.mask.int().equal(expected["train.eval_mask"])
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


def alone(network, target, features, tokens, anchor):
    """One block at one anchor by the networks' own words, nothing packed or masked: its states that draft."""
    config = network.config
    rows = torch.arange(anchor)
    context = network.context_keys_values(network.context(features[:anchor]), rows)

    def attend(layer, q, k, v):
        keys, values = context[layer]
        return attend_dense(q[None], torch.cat((keys, k))[None], torch.cat((values, v))[None], None)[0]

    ids = torch.tensor([tokens[anchor].item()] + [config.mask_token_id] * (config.block_size - 1))
    hidden = network.block(target.embed(ids), anchor + torch.arange(config.block_size), attend)
    return hidden if config.sample_from_anchor else hidden[1:]


@pytest.mark.parametrize("shifted", [True, False], ids=("next token", "fill in"))
def test_a_blocks_loss_is_that_of_each_block_alone_under_both_conventions(shifted, target):
    """Slot j predicts the token after its own position, or the token at it, and then slot 0 is not trained."""
    network, expected = load("dflash", target)
    network.config = msgspec.structs.replace(network.config, sample_from_anchor=shifted)
    rows, features = rows_of(expected), expected["train.features"]
    num_drafts = 7 if shifted else 6
    anchors = torch.tensor([[5, 12, 20], [3, 9, 30]])
    supervised = Rows(rows.tokens, rows.documents, torch.ones_like(rows.weights))
    kept = torch.ones_like(anchors, dtype=torch.bool)
    made = make_blocks(supervised.tokens, supervised.documents, supervised.weights, anchors, kept, num_drafts)
    hidden = run_blocks(network, target, features, rows.tokens, rows.documents, made)
    losses = dspark_loss(network, target, hidden, expected["train.last_hidden"], made, DFLASH_WEIGHTS)
    total, weight = torch.zeros(()), 0.0
    for row in range(2):
        for anchor in anchors[row].tolist():
            states = alone(network, target, features[row], rows.tokens[row], anchor)
            logits = target.logits(states)
            assert len(logits) == num_drafts
            for k in range(num_drafts):
                # Draft k is the token k + 1 after the anchor, whichever slot it comes from.
                label = rows.tokens[row, anchor + 1 + k]
                decay = math.exp(-k / 4)
                total = total - decay * logits[k].log_softmax(-1)[label]
                weight += decay
    torch.testing.assert_close(losses.total, total / weight, rtol=1e-5, atol=1e-5)
    own, wanted = (torch.autograd.grad(loss, list(network.parameters())) for loss in (losses.total, total / weight))
    for one, other in zip(own, wanted, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("name", ["dspark_vanilla", "eagle3"])
def test_documents_packed_into_a_row_weigh_what_they_do_alone(name, target):
    """Two texts in one row, and each in a row of its own that padding fills: the same loss and gradients."""
    network, expected = load(name, target)
    texts = expected["train.input_ids"][:, :16]
    padding = torch.zeros(1, 16, dtype=torch.long)
    packed = Rows(texts.reshape(1, 32), torch.arange(2).repeat_interleave(16)[None], torch.ones(1, 32))
    apart = Rows(
        torch.cat((texts, padding.expand(2, -1)), 1),
        torch.tensor([0] * 16 + [-1] * 16).expand(2, -1),
        torch.tensor([1.0] * 16 + [0.0] * 16).expand(2, -1),
    )
    layer_ids = network.config.target_layer_ids
    found = []
    # The same texts at other positions: rotation is relative, so nothing but the place of the anchors changes.
    for rows, anchors in ((packed, [[2, 9, 20, 25]]), (apart, [[2, 9], [4, 9]])):
        states = target_states(target, rows, layer_ids)
        drawn = Draw(rows, states, torch.tensor(anchors), torch.ones(len(anchors), len(anchors[0]), dtype=torch.bool))
        objective = ChainObjective() if name == "eagle3" else BlockObjective(LossWeights())
        total = objective.losses(network, target, drawn).total
        # Eagle3 divides by all positions of a batch, of which there are twice as many.
        total = total * rows.tokens.numel() / 32 if name == "eagle3" else total
        found.append((total, *torch.autograd.grad(total, list(network.parameters()))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
