"""Our targets against transformers' own forward, from one tiny random checkpoint on disk, in every way we run them."""

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from core.tensors import PagedKV, VerifyRows
from core.types import Numerics
from drafters.ngram import NGram
from engine.target import TargetForward
from models.load_target import load_target
from policies.fixed import Fixed
from toys import make_engine, request, run

BLOCK_SIZE = 4
LENGTHS = (1, 9, 40)
BLOCKS_PER_TEXT = 40 // BLOCK_SIZE + 1
TOLERANCE = 1e-4


def save_random(folder, reference, seed=0):
    """Draw every weight of a transformers model anew, norms and scalars too, and write it as a checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in reference.state_dict().items():
            draws = torch.randn(tensor.shape, generator=generator)
            if tensor.dim() == 1 and not name.endswith("bias"):
                tensor.copy_(1 + 0.2 * draws)
            else:
                tensor.copy_(draws * (0.3 if tensor.dim() == 1 else 1.2 / tensor.shape[-1] ** 0.5))
    reference.tie_weights()
    # All texts are as long as asked for.
    reference.generation_config.eos_token_id = None
    reference.eval().save_pretrained(folder)
    return folder


def dense(target):
    """Attention over whole texts [B, S], with each layer's window and scale, no cache."""

    def attend(layer, q, k, v):
        shape, places = target.shape.layers[layer], torch.arange(q.shape[-3])
        ahead = places[:, None] - places
        seen = (ahead >= 0) & (ahead < (shape.window or len(places)))
        heads_first = [x.transpose(-3, -2) for x in (q, k, v)]
        mixed = F.scaled_dot_product_attention(*heads_first, attn_mask=seen, scale=shape.scale, enable_gqa=True)
        return mixed.transpose(-3, -2)

    return attend


@torch.inference_mode()
def expected_rows(reference, ids):
    """Logits, final states and the stream after the embedding and each layer but the last, of one text [S]."""
    out = reference(ids[None], output_hidden_states=True, use_cache=False)
    states = [state[0] for state in out.hidden_states]
    return torch.cat((out.logits[0], states[-1], *states[:-1]), -1)


@torch.inference_mode()
def assert_same_function(target, reference, length=40):
    """Compare dense forwards over a batch of two texts."""
    taps = tuple(range(-1, len(target.shape.layers) - 1))
    ids = torch.randint(0, target.shape.vocab_size, (2, length), generator=torch.Generator().manual_seed(1))
    hidden, features = target(ids, torch.arange(length).expand(2, -1), dense(target), taps)
    found = torch.cat((target.logits(hidden), hidden, features), -1)
    expected = torch.stack([expected_rows(reference, text) for text in ids])
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)


def texts(target):
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(0, target.shape.vocab_size, (length,), generator=generator) for length in LENGTHS]


def poisoned_cache(target, seed):
    """A cache of NaN with as many blocks as all texts need, dealt out at random."""
    count = len(LENGTHS)
    shapes = [(count * BLOCKS_PER_TEXT + 1, BLOCK_SIZE, *layer) for layer in target.shape.kv_layers]
    keys, values = (tuple(torch.full(shape, torch.nan, dtype=target.dtype) for shape in shapes) for _ in range(2))
    order = torch.randperm(count * BLOCKS_PER_TEXT, generator=torch.Generator().manual_seed(seed))
    return PagedKV(keys, values, order.view(count, -1) + 1, BLOCK_SIZE)


@torch.inference_mode()
def forward(target, kv, pieces):
    """Run some (text, start, stop) in one batch; logits, states and features of each row by (text, position)."""
    rows = [(text, position) for text, start, stop in pieces for position in range(start, stop)]
    known, tables = texts(target), kv.block_tables[[text for text, _, _ in pieces]]
    verify = VerifyRows(
        torch.stack([known[text][position] for text, position in rows]),
        torch.tensor([position for _, position in rows]),
        torch.tensor([0, *(stop - start for _, start, stop in pieces)]).cumsum(0),
        tables,
    )
    taps = tuple(range(-1, len(target.shape.layers) - 1))
    hidden, features = TargetForward(target)(verify, dataclasses.replace(kv, block_tables=tables), taps)
    return dict(zip(rows, torch.cat((target.logits(hidden), hidden, features), 1), strict=True))


def alone(target):
    """Every text in one piece, one after the other."""
    found, kv = {}, poisoned_cache(target, 0)
    for text, length in enumerate(LENGTHS):
        found |= forward(target, kv, [(text, 0, length)])
    return found


def together(target, seed):
    """All texts at once, cut into pieces of odd sizes, each batch in a random order, in other blocks."""
    generator = torch.Generator().manual_seed(seed)
    found, kv, done = {}, poisoned_cache(target, seed), [0] * len(LENGTHS)
    while any(done[text] < length for text, length in enumerate(LENGTHS)):
        order = torch.randperm(len(LENGTHS), generator=generator).tolist()
        sizes = torch.randint(0, 20, (len(LENGTHS),), generator=generator).tolist()
        ends = [min(LENGTHS[text], done[text] + size) for text, size in zip(order, sizes, strict=True)]
        pieces = [(text, done[text], end) for text, end in zip(order, ends, strict=True) if end > done[text]]
        for text, _, end in pieces:
            done[text] = end
        if pieces:
            found |= forward(target, kv, pieces)
    return found


def assert_same_over_pages(target, reference, seed=3):
    """Compare ragged, chunked, paged forwards with whole texts of the reference."""
    expected = [expected_rows(reference, text) for text in texts(target)]
    for (text, position), row in together(target, seed).items():
        torch.testing.assert_close(row, expected[text][position], atol=TOLERANCE, rtol=TOLERANCE)


def assert_same_bits_in_any_company(folder):
    """Compare rows of batch-invariant forwards bit by bit; raises AssertionError naming how many differ."""
    target = load_target(folder, torch.float32, Numerics.BATCH_INVARIANT)
    expected = alone(target)
    for seed in (1, 2, 3):
        found = together(target, seed)
        assert found.keys() == expected.keys()
        assert sum(not torch.equal(found[row], expected[row]) for row in expected) == 0


@torch.inference_mode()
def assert_same_greedy_texts(target, reference, num_tokens=40):
    """Decode through the engine, with n-gram drafts verified on the way, and through transformers' generate."""
    # A prompt that repeats itself, so that the drafter has something to say.
    prompts = [tuple(texts(target)[1].tolist()) * 2, tuple(texts(target)[2].tolist())]
    engine = make_engine(target, NGram(max_drafts=4), Fixed(4))
    asked = [request(prompt, name=str(i), max_tokens=num_tokens, temperature=0.0) for i, prompt in enumerate(prompts)]
    got = run(engine, asked)
    assert engine.stats.drafted > 0
    for (name, tokens), prompt in zip(sorted(got.items()), prompts, strict=True):
        options = {"max_new_tokens": num_tokens, "do_sample": False, "pad_token_id": 0}
        expected = reference.generate(torch.tensor([prompt]), **options)
        assert tokens == expected[0, len(prompt) :].tolist(), f"text {name}"


class MatchesTransformers:
    """What every family of targets is held to, for each `case` of its module: a checkpoint, and the model it is of."""

    @pytest.mark.parametrize("numerics", Numerics)
    def test_logits_and_every_layers_output_match_transformers(self, case, numerics):
        folder, reference = case
        assert_same_function(load_target(folder, torch.float32, numerics), reference)

    @pytest.mark.parametrize("numerics", Numerics)
    def test_so_do_ragged_rows_over_pages(self, case, numerics):
        folder, reference = case
        assert_same_over_pages(load_target(folder, torch.float32, numerics), reference)

    def test_batch_invariant_rows_are_the_same_bits_in_any_company(self, case):
        assert_same_bits_in_any_company(case[0])

    def test_the_engine_writes_the_greedy_texts_of_transformers(self, case):
        folder, reference = case
        assert_same_greedy_texts(load_target(folder, torch.float32), reference)
