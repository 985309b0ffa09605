"""Which small models may draft for a target: those whose ids mean what the target's mean."""

import pytest
import torch
from msgspec import to_builtins
from tokenizers import Tokenizer as HubTokenizer
from tokenizers.models import WordLevel

from bench.prove.tiny import scramble, tiny_config, tiny_target
from core.errors import CheckpointError
from core.types import Numerics
from models.checkpoint import save as save_checkpoint
from models.checkpoint import split_fused
from models.load_draft_model import load_draft_model
from models.qwen3 import Qwen3
from models.tokenizer import Tokenizer
from tests.models.formats import foreign

WORDS = ["zero", "one", "two", "three", "four", "five"]


def save(folder, vocab_size, words=None):
    """Write a checkpoint of a tiny model, with a tokenizer of these words if there are any."""
    config = tiny_config(vocab_size, layers=2)
    network = Qwen3(config)
    scramble(network, 1, 1.0)
    tensors = {f"model.{name}": tensor for name, tensor in split_fused(network).items()}
    save_checkpoint(folder, to_builtins(config) | {"architectures": ["Qwen3ForCausalLM"]}, tensors, torch.float32)
    if words:
        vocabulary = {word: index for index, word in enumerate(words)}
        HubTokenizer(WordLevel(vocabulary, unk_token=words[0])).save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def beside(tmp_path):
    """A target of eight ids, and its tokenizer, which defines six of them."""
    return tiny_target(8), Tokenizer(save(tmp_path / "target", 8, WORDS))


@pytest.mark.parametrize("vocab_size", [6, 8, 30])
def test_vocabularies_that_are_padded_otherwise_go_together(tmp_path, beside, vocab_size):
    network = load_draft_model(save(tmp_path / "small", vocab_size, WORDS), *beside)
    assert network.shape.vocab_size == vocab_size


@pytest.mark.parametrize("words", [WORDS[:4], [*WORDS, "six"]], ids=["fewer", "more"])
def test_a_tokenizer_may_define_fewer_or_more_tokens_than_the_targets(tmp_path, beside, words):
    assert load_draft_model(save(tmp_path / "small", 8, words), *beside)


def test_a_folder_without_a_tokenizer_is_taken_at_its_size(tmp_path, beside):
    assert load_draft_model(save(tmp_path / "small", 8), *beside)


@pytest.mark.parametrize("write", [foreign.eagle, foreign.specforge_eagle3])
def test_a_drafter_that_runs_on_a_targets_states_is_no_draft_model(tmp_path, beside, write):
    folder = foreign.write(tmp_path / "drafter", *write(*foreign.plain_eagle()))
    with pytest.raises(CheckpointError, match=r"holds a drafter \(format: .*no model that generates text by itself"):
        load_draft_model(folder, *beside)


@pytest.mark.parametrize(
    ("vocab_size", "words", "told"),
    [
        (30, None, ["vocabulary 30", "target of 8", "no tokenizer"]),
        (30, [*WORDS, *map(str, range(20))], ["vocabulary 30", "target of 8", "up to id 25"]),
        (8, ["zero", "one", "three", "two", "four"], ["5 tokens", "6 tokens", "2 ids differ", "2: 'three'", "'two'"]),
    ],
    ids=["larger", "larger-in-use", "other-order"],
)
def test_a_model_with_another_vocabulary_is_refused_with_both_sizes(tmp_path, beside, vocab_size, words, told):
    folder = save(tmp_path / "small", vocab_size, words)
    with pytest.raises(CheckpointError) as caught:
        load_draft_model(folder, *beside)
    for part in (str(folder), *told):
        assert part in str(caught.value)


def test_it_computes_as_its_target_does(tmp_path):
    target = tiny_target(8, numerics=Numerics.BATCH_INVARIANT)
    network = load_draft_model(save(tmp_path / "small", 8), target)
    assert (network.dtype, network.numerics) == (torch.float32, Numerics.BATCH_INVARIANT)
