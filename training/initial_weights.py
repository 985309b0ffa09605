"""Where a drafter's training starts: at the target's last layers, which know the residual stream, or at random."""

import torch
from torch import nn

from models.dflash_net import DFlashNet
from models.draft_fit import DraftNetwork
from models.eagle3_net import Eagle3Net, PairLayer
from models.layers import Attention
from models.target import Target

INIT_STD = 0.02
MARKOV_STD = 0.1


@torch.no_grad()
def start_at_random(network: DraftNetwork, seed: int) -> None:
    """Draw small matrices; norms are ones, biases, the Markov bias and the confidence head zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if name.endswith("markov_w1.weight"):
            parameter.normal_(std=MARKOV_STD, generator=generator)
        elif "confidence_head" in name or name.endswith(("markov_w2.weight", ".bias")):
            parameter.zero_()
        elif parameter.ndim == 2:
            parameter.normal_(std=INIT_STD, generator=generator)
        else:
            parameter.fill_(1.0)


@torch.no_grad()
def start_at_target(network: DraftNetwork, target: Target) -> None:
    """Copy what fits of the target's last layers and norm, and let the features enter as their average.

    Layers of another shape than the target's keep what they have.
    """
    theirs = target.get_submodule("layers")
    assert isinstance(theirs, nn.ModuleList)
    if isinstance(network, DFlashNet):
        for own, copied in zip(network.layers, theirs[-len(network.layers) :], strict=True):
            _copy_fitting(own, copied)
    if isinstance(network, Eagle3Net):
        _start_pair_layer(network.layers[0], theirs[-1])
    _copy_fitting(network.get_submodule("norm"), target.get_submodule("norm"))
    fc = network.get_parameter("fc.weight")
    if fc.shape[1] % fc.shape[0] == 0:
        num_taps = fc.shape[1] // fc.shape[0]
        fc.copy_(torch.eye(fc.shape[0]).repeat(1, num_taps) / num_taps)


def _start_pair_layer(own: nn.Module, copied: nn.Module) -> None:
    """Let a pair's state take the place of the residual stream; what is made of its token starts as it is."""
    assert isinstance(own, PairLayer)
    attention, theirs = own.self_attn, copied.get_submodule("self_attn")
    for name in ("post_attention_layernorm", "mlp"):
        _copy_fitting(own.get_submodule(name), copied.get_submodule(name))
    _copy_fitting(own.hidden_norm, copied.get_submodule("input_layernorm"))
    if not isinstance(theirs, Attention) or theirs.qkv_proj.weight.shape[0] != attention.qkv_proj.weight.shape[0]:
        return
    size = theirs.qkv_proj.weight.shape[1]
    attention.qkv_proj.weight[:, size:].copy_(theirs.qkv_proj.weight)
    attention.o_proj.load_state_dict(theirs.o_proj.state_dict())
    for name in ("q_norm", "k_norm"):
        ours = getattr(attention, name)
        if ours is not None and getattr(theirs, name) is not None:
            ours.load_state_dict(getattr(theirs, name).state_dict())


def _copy_fitting(own: nn.Module, copied: nn.Module) -> None:
    theirs = dict(copied.named_parameters())
    for name, parameter in own.named_parameters():
        if name in theirs and theirs[name].shape == parameter.shape:
            parameter.copy_(theirs[name])
