"""Eagle3's training-time test: the drafter is run as it drafts, fed its own outputs, and every step is supervised.

At step s row i pairs a state with token i + 1 + s and predicts what the target does after it. The state is the fused
features at step 0 and the step before's output from then on. A row attends to the step-0 rows up to itself and to its
own row of every step in between: what a chain that left the text at row i would have in its cache. L is the sum over s
of decay^s times the cross entropy with the target's distribution, over all rows of the batch, supervised or not.
Sources: arXiv 2503.01840 section 3.2, with the constants of DeepSpec's code.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.eagle3_net import Eagle3Net
from models.layers import Attend
from models.target import Target
from training.chunks import chunk_rows, over_chunks
from training.losses import Losses
from training.packing import Rows

QUERY_ROWS = 512


def run_steps(network: Eagle3Net, target: Target, features: Tensor, rows: Rows, num_steps: int) -> list[Tensor]:
    """Return the drafter's un-normed outputs [B, S, H] of every step; features [B, S, m*H] are the target's."""
    positions = torch.arange(rows.tokens.shape[1], device=rows.tokens.device)
    state = network.fuse(features)
    keys: list[Tensor] = []
    values: list[Tensor] = []
    outputs = []
    for step in range(num_steps):
        embedded = target.embed(rows.tokens.roll(-1 - step, 1)).to(state.dtype)
        attend = chain_attend(keys, values, rows.documents)
        outputs.append(network(state, embedded, (positions + step).expand_as(rows.tokens), attend))
        state = network.norm(outputs[-1]) if network.config.feeds_normed else outputs[-1]
    return outputs


def chain_attend(keys: list[Tensor], values: list[Tensor], documents: Tensor) -> Attend:
    """Keep the step's keys and values beside those of the steps before, and attend to what a chain would see."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG001, the protocol has it
        keys.append(k)
        values.append(v)
        inputs = (documents, torch.stack(keys, 2), torch.stack(values, 2))
        starts = range(0, q.shape[1], QUERY_ROWS)
        if len(starts) == 1 or not torch.is_grad_enabled():
            return torch.cat([attend_chain(q, *inputs, start) for start in starts], 1)
        return torch.cat([checkpoint(attend_chain, q, *inputs, start, use_reentrant=False) for start in starts], 1)

    return attend


def attend_chain(q: Tensor, documents: Tensor, keys: Tensor, values: Tensor, start: int) -> Tensor:
    """Attend from rows `start`.. of q [B, S, Hq, D] over keys and values [B, S, steps, Hkv, D]; rows of one chunk."""
    end = min(q.shape[1], start + QUERY_ROWS)
    chosen = q[:, start:end].unflatten(2, (keys.shape[3], -1)) * q.shape[-1] ** -0.5  # [B, Q, Hkv, groups, D]
    text = torch.einsum("bqhgd,bthd->bhgqt", chosen, keys[:, :end, 0])
    columns = torch.arange(end, device=q.device)
    seen = (columns <= columns[start:, None]) & (documents[:, start:end, None] == documents[:, None, :end])
    text = text.masked_fill(~seen[:, None, None], float("-inf"))
    chain = torch.einsum("bqhgd,bqshd->bhgqs", chosen, keys[:, start:end, 1:])
    weights = torch.cat((text, chain), -1).float().softmax(-1).to(values.dtype)
    of_text, of_chain = weights.split((end, keys.shape[2] - 1), -1)
    out = torch.einsum("bhgqt,bthd->bqhgd", of_text, values[:, :end, 0])
    out = out + torch.einsum("bhgqs,bqshd->bqhgd", of_chain, values[:, start:end, 1:])
    return out.flatten(2, 3)


def step_names(num_steps: int) -> tuple[str, ...]:
    """Name the steps' losses."""
    return tuple(f"step_{step}" for step in range(num_steps))


def step_weights(rows: Rows, num_steps: int) -> Tensor:
    """Return f32 [B, S, steps]: row i at step s counts where token i + s and the next of its document are there.

    That the loss mask is looked up at i + s, not at the token predicted, is the reference implementation's way.
    """
    documents = F.pad(rows.documents, (0, num_steps), value=-1)
    length = rows.tokens.shape[1]
    valid = F.pad((rows.weights > 0) & (documents[:, 1 : length + 1] == rows.documents), (0, num_steps))
    shifted = [
        valid[:, step : length + step] & (documents[:, step : length + step] == rows.documents)
        for step in range(num_steps)
    ]
    return torch.stack(shifted, -1).float()


def eagle3_loss(
    network: Eagle3Net, target: Target, features: Tensor, last_hidden: Tensor, rows: Rows, decay: float
) -> Losses:
    """Run the steps and compute their losses against the target's final states last_hidden [B, S, H]."""
    num_steps = network.config.num_drafts
    outputs = run_steps(network, target, features, rows, num_steps)
    # Rows of one chunk share the target's distribution: row i at step s is laid at i + 1 + s, the row it is told by.
    states = torch.stack([output.roll(1 + step, 1) for step, output in enumerate(outputs)], 2)
    weights = step_weights(rows, num_steps)
    weights = torch.stack([weights[..., step].roll(1 + step, 1) for step in range(num_steps)], -1)

    def compute(states: Tensor, last_hidden: Tensor) -> tuple[Tensor]:
        with torch.no_grad():
            wanted = target.logits(last_hidden).softmax(-1)
        logits = target.logits(network.norm(states))
        return (logits.logsumexp(-1) - (logits * wanted[:, None]).sum(-1),)

    counted = weights.flatten(0, 1)
    # Rows that count at no step, those of prompts mostly, need no logits: the head costs more than the layer.
    chosen = counted.any(-1).nonzero().squeeze(-1)
    size = chunk_rows(num_steps, target.shape.vocab_size)
    (terms,) = over_chunks(compute, (states.flatten(0, 1)[chosen], last_hidden.flatten(0, 1)[chosen]), size)
    means = (terms * counted[chosen]).sum(0) / rows.tokens.numel()
    factors = decay ** torch.arange(num_steps, device=means.device)
    return Losses((means * factors).sum(), means, step_names(num_steps))
