"""Cases of DSpark's sequential head: the drafter's own step from base logits to tokens, whichever kernels it takes."""

import copy
from functools import partial

import msgspec
import torch
from torch import Tensor

from bench.gpu.contract import Call, Case, Gap, Outputs, generator, num_bytes
from bench.gpu.laws import LAW_TOLERANCE, draw_gap
from bench.gpu.random_pair import TINY, dtype_on, fill_at_random
from core.tensors import DraftAsk, Processing
from core.types import Numerics
from drafters.dspark import DSpark
from models.dflash_config import DFlashConfig, MarkovHeadType
from models.dflash_net import DFlashNet
from models.draft_fit import fitted
from models.qwen3 import Qwen3

WIDTH, RANK, QWEN_VOCAB = 7, 256, 151_936
# Large enough that a head left out would show; trained heads move logits by about as much.
WEIGHT_STD = 0.2
# The bias is rounded to the weights' dtype once.
TOLERANCES = {torch.bfloat16: 1e-2, torch.float32: 1e-4}


class Head(DSpark):
    """A drafter of which only the head is called."""

    def choose(self, hidden: Tensor, logits: Tensor, ask: DraftAsk) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the tokens of blocks (`DSpark`)."""
        return self._choose(hidden, logits, ask)


def cases(is_dry_run: bool) -> list[Case]:
    """Return the cases of the three heads, and the times of the vanilla one."""
    kinds: tuple[MarkovHeadType, ...] = ("vanilla", "gated", "rnn")
    checked = [(1, 65), (9, 257)] if is_dry_run else [(1, 257), (9, 2049), (32, QWEN_VOCAB)]
    timed = [(2, 257)] if is_dry_run else [(1, QWEN_VOCAB), (32, QWEN_VOCAB), (128, QWEN_VOCAB)]
    rank = 16 if is_dry_run else RANK
    found = [
        Case("markov", f"{kind}/B{batch}-V{vocab}", partial(_head, kind, batch, vocab, rank, is_fresh=True))
        for batch, vocab in checked
        for kind in kinds
    ]
    return found + [
        Case("markov", f"timed/B{batch}-V{vocab}", partial(_head, "vanilla", batch, vocab, rank), False, True)
        for batch, vocab in timed
    ]


def _head(
    kind: MarkovHeadType, batch: int, vocab: int, rank: int, device: torch.device, *, is_fresh: bool = False
) -> Call:
    """Make a head and the base logits of blocks; with is_fresh every call begins at the same logits."""
    drafter, rng = _drafter(kind, vocab, rank, device), generator(device, batch)
    hidden = torch.randn(batch, WIDTH, TINY.hidden_size, generator=rng, device=device).to(drafter.network.dtype)
    # As the network computes them.
    base = (3.0 * torch.randn(batch, WIDTH, vocab, generator=rng, device=device)).to(drafter.network.dtype)
    logits, ask = base.clone() if is_fresh else base, _ask(batch, vocab, device)

    def run() -> Outputs:
        if is_fresh:
            logits.copy_(base)
        tokens, evidence, law = drafter.choose(hidden, logits, ask)
        return {"tokens": tokens, "law": law, "evidence": evidence}

    def check(outputs: Outputs) -> dict[str, Gap]:
        return head_gaps(drafter, outputs, (hidden, base), ask)

    head = drafter.network.markov_head
    assert head is not None
    # Every slot reads W2 anew: which rows of W1 it needs, only the slot before says.
    return Call(run, check, WIDTH * num_bytes(head.markov_w2.weight) + num_bytes(base) + 4 * base.numel())


def head_gaps(drafter: Head, outputs: Outputs, given: tuple[Tensor, Tensor], ask: DraftAsk) -> dict[str, Gap]:
    """Return how far laws, draws and evidence are from the head in float64, slot by slot along the tokens drawn."""
    network, (hidden, base), tokens = drafter.network, given, outputs["tokens"]
    if int(((tokens < 0) | (tokens >= base.shape[-1])).sum()):
        return {"tokens": Gap(float("inf"), 0.0, "tokens that there are not")}
    head = copy.deepcopy(network.markov_head)
    assert head is not None
    head = head.double()
    wide, state = hidden.double(), head.start(hidden[:, 0].double())
    before = torch.cat((ask.anchors[:, None], tokens[:, :-1]), 1)
    distance, drawn = 0.0, 0.0
    for k in range(WIDTH):
        bias, state = head.step(before[:, k], wide[:, k], state)
        wanted = (base[:, k].double() + bias).softmax(-1)
        found = outputs["law"][:, k].double().softmax(-1)
        distance = max(distance, 0.5 * (found - wanted).abs().sum(-1).max().item())
        drawn = max(drawn, draw_gap(tokens[:, k], found, ask.noise[:, k]).error)
    evidence = network.confidence(hidden, before).double()
    off = (outputs["evidence"].double() - evidence).abs().max().item()
    return {
        "law": Gap(distance, TOLERANCES[network.dtype], "total variation"),
        "tokens": Gap(drawn, LAW_TOLERANCE, "share of the law's mass"),
        "evidence": Gap(off, TOLERANCES[network.dtype], "absolute error"),
    }


def _drafter(kind: MarkovHeadType, vocab: int, rank: int, device: torch.device) -> Head:
    """Return a drafter whose backbone is as small as can be: it is not called."""
    backbone = msgspec.structs.replace(TINY, vocab_size=vocab)
    with device:
        target = Qwen3(backbone, Numerics.FAST)
        config = DFlashConfig(
            backbone=backbone,
            target_layer_ids=(0, 1),
            block_size=WIDTH,
            mask_token_id=3,
            num_target_layers=backbone.num_hidden_layers,
            markov_rank=rank,
            markov_head_type=kind,
            enable_confidence_head=True,
        )
        network = DFlashNet(fitted(config, target), Numerics.FAST)
    for module in (target, network):
        fill_at_random(module, WEIGHT_STD)
        module.to(dtype_on(device)).eval().requires_grad_(False)
    network.prepare()
    return Head("dspark", network, target)


def _ask(batch: int, vocab: int, device: torch.device) -> DraftAsk:
    rng = generator(device, 1)
    whole = torch.arange(batch, device=device)
    plain = Processing(
        temperature=torch.ones(batch, device=device),
        top_k=torch.zeros(batch, dtype=torch.int64, device=device),
        top_p=torch.ones(batch, device=device),
        min_p=torch.zeros(batch, device=device),
        is_plain=True,
        truncates=False,
    )
    anchors = torch.randint(vocab, (batch,), generator=rng, device=device)
    lengths = torch.full((batch,), WIDTH, dtype=torch.int32, device=device)
    noise = torch.rand(batch, WIDTH, generator=rng, device=device)
    return DraftAsk(whole, anchors, whole, lengths, plain, noise, None)
