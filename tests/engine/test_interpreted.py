"""With every kernel run by Triton's interpreter, an engine answers as it does with the torch twins."""

import pytest

from bench.prove.tiny import tiny_target as make_target
from core.types import Numerics
from drafters.draft_model import DraftModel
from drafters.ngram import NGram
from engine import noise
from kernels.dispatch import interpreted
from policies.fixed import Fixed
from toys import SHAPE, make_engine, request, run, tiny_dflash, tiny_dspark, tiny_eagle3

DRAFTERS = {
    "dspark": lambda target: tiny_dspark(target, block_size=3),
    "dflash": lambda target: tiny_dflash(target, block_size=3),
    "eagle3": lambda target: tiny_eagle3(target, num_drafts=2),
    "draft_model": lambda target: DraftModel("small", make_target(seed=3), 32, max_drafts=2),
    "ngram": lambda target: NGram(max_drafts=2),
}
PROMPT = (5, 9, 5)


def answer(target, drafter, *laws):
    engine = make_engine(target, drafter, Fixed(2), SHAPE, ())
    asked = [
        request(PROMPT, number, str(number), max_tokens=3, **law)
        for number, law in enumerate(laws or ({"temperature": 0.0},))
    ]
    return run(engine, asked), engine.stats


# The others run no kernel that these do not; dspark shows the split attention of batch-invariant numerics too.
CELLS = [
    ("dspark", Numerics.FAST),
    ("dflash", Numerics.FAST),
    ("eagle3", Numerics.FAST),
    pytest.param("dspark", Numerics.BATCH_INVARIANT, marks=pytest.mark.slow),
    pytest.param("draft_model", Numerics.FAST, marks=pytest.mark.slow),
    pytest.param("ngram", Numerics.FAST, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "numerics"), CELLS, ids=lambda value: str(getattr(value, "value", value)))
def test_greedy_tokens_are_those_of_the_twins(name, numerics):
    target = make_target(numerics=numerics)
    expected, _ = answer(target, DRAFTERS[name](target))
    with interpreted():
        tokens, stats = answer(target, DRAFTERS[name](target))
    assert tokens == expected
    assert stats.drafted > 0


def test_seeded_tokens_are_those_of_the_twins_though_their_noise_is_only_named(monkeypatch):
    target = make_target(numerics=Numerics.FAST)
    laws = {"temperature": 0.8, "seed": 3}, {"temperature": 0.9}
    expected, _ = answer(target, DRAFTERS["dspark"](target), *laws)
    # Numbers in memory would be as large as the logits.
    monkeypatch.setattr(noise, "gumbel_noise", None)
    with interpreted():
        tokens, stats = answer(target, DRAFTERS["dspark"](target), *laws)
    assert tokens == expected
    assert stats.drafted > 0
