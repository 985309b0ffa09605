"""The batched sampler: padding, mixed lengths and rows that leave must not change what a row writes."""

import torch

from toys import tiny_config
from training.attention import causal_attend
from training.generate import Prompt, frozen_copy, generate, sample
from training.target import new_target

TINY = tiny_config(64, layers=2)


def network():
    made = new_target(TINY, seed=0)
    torch.nn.init.normal_(made.embed_tokens.weight, std=1.0, generator=torch.Generator().manual_seed(0))
    return frozen_copy(made, torch.float32)


def greedy(model, ids, count):
    for _ in range(count):
        tokens = torch.tensor([ids])
        hidden, _ = model(tokens, torch.arange(len(ids))[None], causal_attend())
        ids = [*ids, int(model.logits(hidden[0, -1]).argmax())]
    return ids


def test_greedy_rows_of_a_batch_equal_single_forwards():
    model = network()
    prompts = [[5, 6, 7], [9], [11, 12, 13, 14, 15, 16]]
    outputs = generate(model, [Prompt(ids, 6, 0.0) for ids in prompts], end_id=-1, seed=0)
    assert [ids + output for ids, output in zip(prompts, outputs, strict=True)] == [
        greedy(model, ids, 6) for ids in prompts
    ]


def test_rows_end_at_their_own_limit_while_others_go_on():
    model = network()
    prompts = [Prompt([5, 6], 2, 0.0), Prompt([9, 3], 3, 0.0), Prompt([7, 8, 9], 8, 0.0)]
    outputs = generate(model, prompts, end_id=-1, seed=0)
    assert [len(output) for output in outputs] == [2, 3, 8]
    assert [7, 8, 9, *outputs[2]] == greedy(model, [7, 8, 9], 8)


def test_a_row_ends_with_the_end_token():
    model = network()
    end_id = generate(model, [Prompt([5, 6, 7], 4, 0.0)], end_id=-1, seed=0)[0][1]
    output = generate(model, [Prompt([5, 6, 7], 9, 0.0)], end_id=end_id, seed=0)[0]
    assert output.index(end_id) == len(output) - 1


def test_sampling_follows_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0]).repeat(20_000, 1)
    drawn = sample(logits, torch.ones(20_000), torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=3) / 20_000
    torch.testing.assert_close(shares, logits[0].softmax(0), rtol=0, atol=0.02)
