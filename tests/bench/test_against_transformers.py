"""The comparison with transformers: it is the same model, and its answers are cut and counted alike."""

import pytest
import torch

from bench.against_transformers import EngineBaseline, count_tokens
from bench.transformers_baseline import Baseline, EndAtLoop, largest_difference, load_model, until_end
from core.config import EngineSettings, NoDrafterSettings, OffSettings, Settings
from core.errors import SpecdError
from core.repetition import loop_start
from engine.build import build_engine
from models.folders import target_folder

PROMPTS = [tuple(range(5, 25)), tuple(range(30, 36))]


@pytest.fixture(scope="module")
def engine():
    plain = EngineSettings(dtype="float32", max_num_seqs=2, kv_cache_tokens=2048)
    return build_engine(Settings(engine=plain, drafter=NoDrafterSettings(), policy=OffSettings()))


@pytest.fixture
def model():
    return load_model(target_folder("demo"), torch.float32)


def test_transformers_computes_the_same_law_from_the_same_folder(engine, model):
    assert largest_difference(model, engine, PROMPTS[0]) < 1e-3


def test_another_model_is_noticed(engine, model):
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1.5)
    with pytest.raises(SpecdError, match="different laws"):
        largest_difference(model, engine, PROMPTS[0])


def test_a_padded_batch_gets_the_greedy_answers_of_specd(engine, model):
    ours = EngineBaseline(engine).answer(PROMPTS, 24, 0.0)
    theirs = Baseline(model, engine.eos_ids, {}).answer(PROMPTS, 24, 0.0)
    assert [one[: loop_start(one)] for one in ours] == [one[: loop_start(one)] for one in theirs]


def test_an_answer_ends_with_its_end_token():
    assert until_end([4, 2, 9, 2], (2, 3)) == [4, 2]
    assert until_end([4, 5], (2, 3)) == [4, 5]


def test_generate_is_ended_row_by_row_where_a_greedy_answer_loops():
    stop = EndAtLoop(num_rows=2, prompt_len=3)
    first = torch.arange(32).repeat(2, 1)
    second = torch.cat([first, torch.stack([torch.arange(3, 15), torch.arange(50, 62)])], dim=1)
    assert stop(first, None).tolist() == [False, False]
    assert stop(second, None).tolist() == [True, False]


def test_greedy_tokens_count_up_to_the_loop():
    answer = [*range(15), *range(12)]
    assert count_tokens([answer, [1, 2]], greedy=True) == 17
    assert count_tokens([answer, [1, 2]], greedy=False) == 29
