"""What a drafter of a folder drafts beside the fixture target, to compare one format's with another's."""

from types import SimpleNamespace

import torch

from core.tensors import Commit, PagedKV
from drafters.dflash import DFlash
from drafters.dspark import DSpark
from drafters.eagle3 import Eagle3
from models.formats.checkpoint import read_checkpoint
from models.load_drafter import load_drafter
from tests.drafters.dflash_cases import BLOCK_SIZE, ask, empty_kv, expected_of, features_by_target, fixture_target
from tests.models.formats import foreign

KINDS = {"dspark": DSpark, "dflash": DFlash, "eagle3": Eagle3}
# Of the sequences of the batch: not the first rows of a block, the last ones, and any.
LENGTHS = (5, 8, 23)
TOLD_FIRST = (2, 7, 11)


def drafter_of(folder):
    """Load a folder as a server does, and give it the class that its kind has."""
    target = fixture_target()
    kind = read_checkpoint(folder, len(target.shape.layers)).kind
    return KINDS[kind]("drafter", load_drafter(folder, target), target)


@torch.inference_mode()
def numbers_of(folder):
    """Return tokens, laws and evidence of drafts in a batch, greedy and drawn, and all that was stored of the context.

    Features are those of the target's layers that the drafter asks for.
    """
    drafter, ids = drafter_of(folder), expected_of("dspark_vanilla")["prompt_ids"]
    features, slots = features_by_target(drafter, ids), torch.arange(len(LENGTHS))
    kv = empty_kv(drafter, sequences=len(LENGTHS))
    for slot in range(len(LENGTHS)):
        drafter.open(slot, [], 0)
    for starts, stops in (((0,) * len(LENGTHS), TOLD_FIRST), (TOLD_FIRST, LENGTHS)):
        rows = torch.cat([torch.arange(*span) for span in zip(starts, stops, strict=True)])
        counts = torch.tensor(stops) - torch.tensor(starts)
        cu_rows = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
        drafter.extend(Commit(slots, cu_rows, rows, ids[rows], ids[rows + 1], features[rows], kv))
    stored = context(kv)
    anchors, width = [int(ids[length]) for length in LENGTHS], drafter.spec.max_drafts
    noise = torch.rand(len(LENGTHS), width, generator=torch.Generator().manual_seed(3))
    drawn = drafter.propose(ask(kv, anchors, LENGTHS, width, 1.0, noise))
    greedy = drafter.propose(ask(kv, anchors, LENGTHS, width))
    return SimpleNamespace(
        tokens=drawn.tokens, laws=drawn.q_logits, evidence=drawn.evidence, greedy=greedy.tokens, context=stored
    )


def context(kv: PagedKV):
    """Return the keys and values of every layer and sequence, in the order of positions."""
    rows = []
    for blocks, length in zip(kv.block_tables, LENGTHS, strict=True):
        # The first place of an Eagle3 holds no pair.
        places = torch.arange(1, length)
        at = blocks[places // BLOCK_SIZE], places % BLOCK_SIZE
        rows += [pages[at].flatten(1) for pages in (*kv.keys, *kv.values)]
    return torch.cat(rows)


def assert_same_numbers(ours, theirs):
    """Raise AssertionError unless two drafters compute the same, bit for bit."""
    assert ours.laws is not None
    for name, wanted in vars(ours).items():
        assert not wanted.isnan().any(), name
        torch.testing.assert_close(getattr(theirs, name), wanted, atol=0.0, rtol=0.0)


def compare(folder, fixture, made):
    """Raise AssertionError unless a fixture in DeepSpec's form and what `made` is of it compute the same."""
    ours = numbers_of(foreign.write(folder / "ours", *fixture))
    assert_same_numbers(ours, numbers_of(foreign.write(folder / "theirs", *made)))
