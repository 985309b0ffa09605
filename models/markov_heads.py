"""DSpark's sequential heads: a low-rank bias on a slot's logits from the token before it (arXiv 2607.05147, 3.2).

All three read e = W1[x_{k-1}] and add W2 of something of rank r to the logits of slot k: of e itself (vanilla), of e
under a gate that sees the slot's state (gated), of a small recurrent state (rnn). A block is walked by `start` and then
one `step` per slot; what a head remembers begins anew with every block.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.activations import invariant_sigmoid
from kernels.markov import HeadWeights
from kernels.markov_told import GATED, RECURRENT


class MarkovHead(nn.Module):
    """The vanilla head, bias = W2 e; it remembers nothing, and its state has width 0.

    W1 is V x r, by the target's token ids; W2 is Vd x r, by what the drafter can draft.
    """

    def __init__(self, vocab_size: int, draft_vocab_size: int, rank: int, hidden_size: int) -> None:  # noqa: ARG002
        super().__init__()
        self.markov_w1 = nn.Embedding(vocab_size, rank)
        self.markov_w2 = nn.Linear(rank, draft_vocab_size, bias=False)

    def start(self, hidden: Tensor) -> Tensor:
        """Return the state [..., S] before the first slot of blocks whose slots have states hidden [..., H]."""
        return hidden.new_zeros(*hidden.shape[:-1], 0)

    def step(self, previous: Tensor, hidden: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return the bias [..., Vd] of a slot and the state after it.

        previous i64 [...] is the token before the slot, hidden [..., H] the slot's final-normed state.
        """
        return self.markov_w2(self.markov_w1(previous)), state

    def weights(self, target_ids: Tensor | None) -> HeadWeights:
        """Return the head as the kernels of a GPU read it; target_ids as of the draft vocabulary."""
        return HeadWeights(self.markov_w1.weight, self.markov_w2.weight, target_ids)

    def by_slot(self, hidden: Tensor) -> Tensor | None:  # noqa: ARG002
        """Return what the states hidden [B, G, H] of slots add inside the gates, f32, with the bias; None: nothing."""
        return None

    def forward(self, previous: Tensor, hidden: Tensor) -> Tensor:
        """Return the biases [..., G, Vd] of whole blocks whose previous tokens [..., G] are known."""
        return self.step(previous, hidden, self.start(hidden))[0]


class GatedMarkovHead(MarkovHead):
    """bias = W2 (sigmoid(Wg [h; e] + b) * e)."""

    def __init__(self, vocab_size: int, draft_vocab_size: int, rank: int, hidden_size: int) -> None:
        super().__init__(vocab_size, draft_vocab_size, rank, hidden_size)
        self.gate_proj = nn.Linear(hidden_size + rank, rank)

    def step(self, previous: Tensor, hidden: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bias of a slot (`MarkovHead.step`)."""
        e = self.markov_w1(previous)
        return self.markov_w2(invariant_sigmoid(self.gate_proj(torch.cat((hidden, e), -1))) * e), state

    def weights(self, target_ids: Tensor | None) -> HeadWeights:
        """Return the head as kernels read it (`MarkovHead.weights`)."""
        own = self.gate_proj.weight[:, -self.markov_w1.embedding_dim :]
        return HeadWeights(self.markov_w1.weight, self.markov_w2.weight, target_ids, GATED, own)

    def by_slot(self, hidden: Tensor) -> Tensor | None:
        """Return what the gates [B, G, r] get of the slots' states (`MarkovHead.by_slot`)."""
        return F.linear(hidden, self.gate_proj.weight[:, : hidden.shape[-1]], self.gate_proj.bias).float()


class RecurrentMarkovHead(MarkovHead):
    """(g, c, o) = J [s; e; h] + b; the next state is sig(g) s + (1 - sig(g)) tanh(c), bias = W2 tanh(o); s_0 = 0."""

    def __init__(self, vocab_size: int, draft_vocab_size: int, rank: int, hidden_size: int) -> None:
        super().__init__(vocab_size, draft_vocab_size, rank, hidden_size)
        self.joint_proj = nn.Linear(2 * rank + hidden_size, 3 * rank)

    def start(self, hidden: Tensor) -> Tensor:
        """Return zeros [..., r]."""
        return hidden.new_zeros(*hidden.shape[:-1], self.markov_w1.embedding_dim)

    def step(self, previous: Tensor, hidden: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bias of a slot and the state after it (`MarkovHead.step`)."""
        joint = self.joint_proj(torch.cat((state, self.markov_w1(previous), hidden), -1))
        gate, candidate, output = joint.chunk(3, -1)
        kept = invariant_sigmoid(gate)
        return self.markov_w2(torch.tanh(output)), kept * state + (1 - kept) * torch.tanh(candidate)

    def weights(self, target_ids: Tensor | None) -> HeadWeights:
        """Return the head as kernels read it (`MarkovHead.weights`)."""
        own = self.joint_proj.weight[:, : 2 * self.markov_w1.embedding_dim]
        return HeadWeights(self.markov_w1.weight, self.markov_w2.weight, target_ids, RECURRENT, own)

    def by_slot(self, hidden: Tensor) -> Tensor | None:
        """Return what the joint products [B, G, 3r] get of the slots' states (`MarkovHead.by_slot`)."""
        return F.linear(hidden, self.joint_proj.weight[:, -hidden.shape[-1] :], self.joint_proj.bias).float()

    def forward(self, previous: Tensor, hidden: Tensor) -> Tensor:
        """Return the biases of whole blocks, slot by slot (`MarkovHead.forward`)."""
        state, biases = self.start(hidden[..., 0, :]), []
        for slot in range(previous.shape[-1]):
            bias, state = self.step(previous[..., slot], hidden[..., slot, :], state)
            biases.append(bias)
        return torch.stack(biases, -2)


MARKOV_HEADS = {"vanilla": MarkovHead, "gated": GatedMarkovHead, "rnn": RecurrentMarkovHead}
