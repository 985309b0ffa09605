import pytest
import torch
from safetensors.torch import load_file

from core.tensors import Commit, PagedKV
from core.types import Numerics
from drafters.eagle3 import Eagle3
from drafters.margin import SLOPE
from models.paged import PagedAttention
from models.shape import AttentionShape
from paths import FIXTURES
from tests.drafters.eagle3_cases import (
    BLOCK_SIZE,
    WIDTH,
    ByHand,
    ask,
    commit,
    empty_kv,
    fixture_config,
    fixture_target,
    make_drafter,
    random_checkpoint,
)

NEAR = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module")
def expected():
    return load_file(FIXTURES / "eagle3" / "expected.safetensors")


@pytest.fixture(scope="module")
def targets():
    return {numerics: fixture_target(numerics) for numerics in Numerics}


@pytest.fixture(scope="module")
def target(targets):
    return targets[Numerics.FAST]


def outputs(drafter, question):
    """A proposal, and what the layer gave out for the first sequence at every step."""
    seen = []
    hook = drafter.network.register_forward_hook(lambda module, inputs, out: seen.append(out[0]))
    draft = drafter.propose(question)
    hook.remove()
    return draft, seen


@torch.inference_mode()
def errors_of_rounds(drafter, expected, kv):
    """Play the fixture's two rounds; the greatest error of each output, logits where the greedy tokens differ."""
    ids, length = expected["prompt_ids"], int(expected["prompt_length"])
    drafter.open(0, [], 0)
    found = {}
    for index, (start, stop, name) in enumerate([(0, length, "prefill"), (length, length + 3, "extend")]):
        drafter.extend(commit(ids, expected["features"], kv, start, stop))
        question = ask(kv, [int(ids[stop])], [stop])
        draft, outs = outputs(drafter, question)
        logits = drafter.target.logits(drafter.network.norm(torch.stack(outs)))
        found[f"{name}.out_last"] = outs[0] - expected[f"{name}.out_last"]
        found[f"round{index}.logits"] = logits - expected[f"round{index}.logits"]
        found[f"round{index}.tokens"] = (draft.tokens[0] != expected[f"round{index}.tokens"]).float()
    return {name: float(error.abs().nan_to_num(torch.inf).max()) for name, error in found.items()}


@pytest.mark.parametrize("numerics", Numerics)
def test_both_rounds_match_the_reference_implementation(targets, expected, numerics):
    errors = errors_of_rounds(make_drafter(targets[numerics]), expected, empty_kv())
    assert len(errors) == 6
    assert all(error < 1e-4 for error in errors.values()), errors


# --- Mistakes that are easily made, each of which the fixture must tell ---------------------------------------------


class PairsWithOwnToken(Eagle3):
    """Pairs the feature of row t with token t."""

    def _store(self, commit, before, paired, kv):
        super()._store(commit, self.network.fuse(commit.features), paired, kv)


class RopesAtTheToken(Eagle3):
    """Rotates stored keys by the position of the token. Rotation is relative: all rows alike would not show."""

    def _store(self, commit, before, paired, kv):
        usual = self.network.keys_values
        self.network.keys_values = lambda state, embedded, positions: usual(state, embedded, positions + 1)
        super()._store(commit, before, paired, kv)
        del self.network.keys_values


class RopesDraftsAtTheAnchor(Eagle3):
    """Gives every row of a chain the same position."""

    def propose(self, ask):
        usual = self.network.rotation.at
        self.network.rotation.at = lambda positions, dtype: usual(ask.positions - 1, dtype)
        draft = super().propose(ask)
        del self.network.rotation.at
        return draft


class KeepsTheChain(Eagle3):
    """Leaves in place what drafts wrote, once they are accepted."""

    def _store(self, commit, before, paired, kv):
        super()._store(commit, before, paired[:1] if int(commit.positions[0]) else paired, kv)


class ReadsTheFirstPlace(Eagle3):
    """Sees place 0, which holds no pair."""

    def __init__(self, name, network, target):
        super().__init__(name, network, target)
        self._attention = PagedAttention((AttentionShape(num_heads=4, num_kv_heads=2, head_dim=24),), network.numerics)


MISTAKES = [PairsWithOwnToken, RopesAtTheToken, RopesDraftsAtTheAnchor, KeepsTheChain, ReadsTheFirstPlace]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
@pytest.mark.parametrize("numerics", Numerics)
def test_a_planted_mistake_is_noticed(targets, expected, mistake, numerics):
    errors = errors_of_rounds(make_drafter(targets[numerics], kind=mistake), expected, empty_kv())
    assert max(errors.values()) > 1e-3, errors


def test_feeding_the_normed_output_back_is_noticed(target, expected):
    errors = errors_of_rounds(make_drafter(target, fixture_config(feeds_normed=True)), expected, empty_kv())
    assert errors["prefill.out_last"] < 1e-4
    assert errors["round0.logits"] > 1e-3


@pytest.mark.parametrize("numerics", Numerics)
def test_the_first_place_is_not_read_where_it_happens_to_hold_numbers(targets, expected, numerics):
    kv = empty_kv()
    zeros = PagedKV(tuple(map(torch.zeros_like, kv.keys)), tuple(map(torch.zeros_like, kv.values)), kv.block_tables, 4)
    assert max(errors_of_rounds(make_drafter(targets[numerics]), expected, zeros).values()) < 1e-4
    read = errors_of_rounds(make_drafter(targets[numerics], kind=ReadsTheFirstPlace), expected, zeros)
    assert 1e-3 < max(read.values()) < torch.inf


# --- Batches, chunks and lengths -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drafter(target):
    return make_drafter(target)


def same_proposal(one, b, other, c):
    assert one.tokens[b].tolist() == other.tokens[c].tolist()
    for ours, theirs in ((one.evidence, other.evidence), (one.q_logits, other.q_logits)):
        torch.testing.assert_close(ours[b], theirs[c], **NEAR)


@torch.inference_mode()
@pytest.mark.parametrize("chunks", [(1,) * 23, (5, 11, 7), (4, 4, 8, 4, 3), (22, 1), (1, 22)], ids=str)
def test_a_proposal_does_not_depend_on_how_its_context_was_chunked(drafter, expected, chunks):
    ids, features = expected["prompt_ids"], expected["features"]
    proposals = []
    for sizes in (chunks, (23,)):
        kv, done = empty_kv(), 0
        drafter.open(0, [], 0)
        for size in sizes:
            drafter.extend(commit(ids, features, kv, done, done + size))
            done += size
        proposals.append(drafter.propose(ask(kv, [int(ids[23])], [23], 1.0)))
    same_proposal(proposals[0], 0, proposals[1], 0)


class ForgetsTheRowBefore(Eagle3):
    """Begins every commit anew, so that its first token goes without a pair."""

    def extend(self, commit):
        self._kept_for.fill_(-1)
        super().extend(commit)


@torch.inference_mode()
def test_a_chunk_whose_first_token_went_without_its_pair_is_noticed(target, expected):
    ids, features, kv = expected["prompt_ids"], expected["features"], empty_kv()
    drafter = make_drafter(target, kind=ForgetsTheRowBefore)
    drafter.open(0, [], 0)
    for start, stop in ((0, 5), (5, 9)):
        drafter.extend(commit(ids, features, kv, start, stop))
    assert drafter.propose(ask(kv, [int(ids[9])], [9], 1.0)).q_logits.isnan().any()


@torch.inference_mode()
def test_a_ragged_batch_drafts_what_each_sequence_drafts_alone(drafter, expected):
    ids, features = expected["prompt_ids"], expected["features"]
    lengths = [1, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 23]
    kv = empty_kv(sequences=len(lengths))
    noise = torch.rand(len(lengths), WIDTH, generator=torch.Generator().manual_seed(3))
    alone = []
    for b, length in enumerate(lengths):
        own = PagedKV(kv.keys, kv.values, kv.block_tables[b : b + 1], BLOCK_SIZE)
        # Slots need be neither in order nor near each other.
        drafter.open(20 - 3 * b, [], 0)
        drafter.extend(commit(ids, features, own, 0, length, slot=20 - 3 * b))
        question = ask(own, [int(ids[length])], [length], 1.0, noise[b : b + 1], [20 - 3 * b])
        alone.append(drafter.propose(question))
    slots = [20 - 3 * b for b in range(len(lengths))]
    whole = drafter.propose(ask(kv, [int(ids[n]) for n in lengths], lengths, 1.0, noise, slots))
    for b, single in enumerate(alone):
        same_proposal(whole, b, single, 0)


@torch.inference_mode()
def test_ragged_commits_store_what_single_ones_do(drafter, expected):
    ids, features = expected["prompt_ids"], expected["features"]
    kv = empty_kv(sequences=3)
    for b in range(3):
        drafter.open(b, [], 0)
    # Each of three sequences is the same text, committed in pieces that share calls with those of the others.
    for pieces in ([(0, 0, 1), (2, 0, 9)], [(0, 1, 8), (1, 0, 12), (2, 9, 10)], [(2, 10, 12), (0, 8, 12)]):
        rows = torch.cat([torch.arange(start, stop) for _, start, stop in pieces])
        cu_rows = torch.tensor([0, *(stop - start for _, start, stop in pieces)]).cumsum(0)
        slots = torch.tensor([b for b, _, _ in pieces])
        view = PagedKV(kv.keys, kv.values, kv.block_tables[slots], BLOCK_SIZE)
        drafter.extend(Commit(slots, cu_rows, rows, ids[rows], ids[rows + 1], features[rows], view))
    draft = drafter.propose(ask(kv, [int(ids[12])] * 3, [12] * 3, 1.0, torch.full((3, WIDTH), 0.4)))
    same_proposal(draft, 0, draft, 1)
    same_proposal(draft, 0, draft, 2)


@torch.inference_mode()
def test_what_is_kept_of_one_sequence_is_never_paired_in_the_next(drafter, expected):
    ids, features, kv = expected["prompt_ids"], expected["features"], empty_kv()
    place = kv.block_tables[0, 11 // BLOCK_SIZE], 11 % BLOCK_SIZE
    drafter.open(0, [], 0)
    drafter.extend(commit(ids, features, kv, 0, 11))
    # The next sequence of the slot has eleven rows from a cache, and with them place 11.
    drafter.open(0, [], 11)
    drafter.extend(commit(ids, features, kv, 11, 13))
    assert kv.keys[0][place].isnan().all()
    drafter.open(0, [], 0)
    drafter.extend(commit(ids, features, kv, 0, 11))
    drafter.extend(commit(ids, features, kv, 11, 13))
    assert kv.keys[0][place].isfinite().all()


@torch.inference_mode()
def test_nothing_is_drafted_past_the_longest_length_asked_for(drafter, expected):
    ids, features, kv = expected["prompt_ids"], expected["features"], empty_kv(sequences=2)
    for b in range(2):
        drafter.open(b, [], 0)
        own = PagedKV(kv.keys, kv.values, kv.block_tables[b : b + 1], BLOCK_SIZE)
        drafter.extend(commit(ids, features, own, 0, 11, slot=b))
    noise = torch.full((2, WIDTH), 0.4)
    whole = drafter.propose(ask(kv, [int(ids[11])] * 2, [11] * 2, 1.0, noise))
    short, outs = outputs(drafter, ask(kv, [int(ids[11])] * 2, [11] * 2, 1.0, noise, lengths=[1, 3]))
    assert len(outs) == 3
    assert short.lengths.tolist() == [1, 3]
    assert short.tokens[1, :3].tolist() == whole.tokens[1, :3].tolist()
    assert short.tokens.shape == whole.tokens.shape == (2, WIDTH)


@torch.inference_mode()
@pytest.mark.parametrize("numerics", Numerics)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_first_token_has_no_feature_before_it_and_gets_no_drafts(targets, expected, temperature, numerics):
    drafter, ids, features = make_drafter(targets[numerics]), expected["prompt_ids"], expected["features"]
    kv = empty_kv(sequences=3)
    for b in range(3):
        drafter.open(b, [], 0)
    beside = PagedKV(kv.keys, kv.values, kv.block_tables[1:2], BLOCK_SIZE)
    drafter.extend(commit(ids, features, beside, 0, 9, slot=1))
    both = drafter.propose(ask(kv, [int(ids[0]), int(ids[9]), int(ids[0])], [0, 9, 0], temperature))
    assert both.lengths.tolist() == [0, WIDTH, 0]
    noise = torch.rand(3, WIDTH, generator=torch.Generator().manual_seed(1))[1:2]
    same_proposal(both, 1, drafter.propose(ask(beside, [int(ids[9])], [9], temperature, noise, [1])), 0)
    alone = drafter.propose(ask(PagedKV(kv.keys, kv.values, kv.block_tables[:1], BLOCK_SIZE), [3], [0], temperature))
    assert alone.lengths.tolist() == [0]
    assert all(torch.isfinite(draft.evidence).all() for draft in (both, alone))


@torch.inference_mode()
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_evidence_never_sees_the_token_it_judges(drafter, expected, temperature):
    ids, kv = expected["prompt_ids"], empty_kv()
    drafter.open(0, [], 0)
    drafter.extend(commit(ids, expected["features"], kv, 0, 12))
    noise = torch.full((1, WIDTH), 0.9)
    before = drafter.propose(ask(kv, [int(ids[12])], [12], temperature, noise))
    for k in range(WIDTH):
        changed = noise.clone()
        changed[0, k] = 0.01
        after = drafter.propose(ask(kv, [int(ids[12])], [12], temperature, changed))
        assert torch.equal(after.evidence[0, : k + 1], before.evidence[0, : k + 1])
        if temperature and k + 1 < WIDTH:
            assert int(after.tokens[0, k]) != int(before.tokens[0, k])
            assert float(after.evidence[0, k + 1]) != float(before.evidence[0, k + 1])


# --- Kinds of checkpoints, against float64 by hand ------------------------------------------------------------------

LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

KINDS = {
    "deepspec": {},
    "one-feature": {"target_layer_ids": [3]},
    "embedding-tap": {"target_layer_ids": [-1, 2, 6]},
    "llama": {"model_type": "llama"},
    "llama-linear": {"model_type": "llama", "rope_parameters": LINEAR},
    "llama-llama3": {"model_type": "llama", "rope_parameters": LLAMA3},
    "norm_before_residual": {"norm_before_residual": True},
    "norm_before_fc": {"norm_before_fc": True},
    "fc_norm": {"fc_norm": True, "target_layer_ids": [0, 3, 5]},
    "feeds_normed": {"feeds_normed": True},
    "attention_bias": {"attention_bias": True},
    "own-embedding": {"own_embedding": True},
    "reduced-vocabulary": {"draft_vocab_size": 100},
    "narrow": {"hidden_size": 48, "target_hidden_size": 64, "num_key_value_heads": 4, "head_dim": 16},
    "all": {
        "model_type": "llama",
        "norm_before_residual": True,
        "fc_norm": True,
        "feeds_normed": True,
        "attention_bias": True,
        "draft_vocab_size": 100,
        "target_layer_ids": [1, 4],
    },
}


@torch.inference_mode()
def error_against_by_hand(drafter, config, tensors, target, expected):
    ids, features = expected["prompt_ids"][:14], torch.randn(13, 64 * len(config["target_layer_ids"]))
    kv = empty_kv(kv_heads=config["num_key_value_heads"], head_dim=config["head_dim"])
    drafter.open(0, [], 0)
    for start, stop in ((0, 6), (6, 13)):
        drafter.extend(commit(ids, features, kv, start, stop))
    draft = drafter.propose(ask(kv, [int(ids[13])], [13], 1.0))
    wanted = ByHand(config, tensors, target).chain(ids, features, draft.tokens[0].tolist()).float()
    same_place = wanted.isinf() == draft.q_logits[0].isinf()
    error = (wanted - draft.q_logits[0]).nan_to_num(0.0).abs().max()
    best = wanted.topk(2).values
    evidence = (draft.evidence[0] - SLOPE * (best[:, 0] - best[:, 1])).abs().max()
    return max(float(error), float(evidence)) if same_place.all() else torch.inf


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_checkpoint_matches_the_computation_by_hand(target, expected, kind):
    torch.manual_seed(0)
    config, tensors = random_checkpoint(target, **KINDS[kind])
    drafter = make_drafter(target, config, tensors)
    assert error_against_by_hand(drafter, config, tensors, target, expected) < 1e-4


@pytest.mark.parametrize("option", ["norm_before_residual", "norm_before_fc", "fc_norm", "feeds_normed", "qk_norm"])
def test_an_option_that_was_not_heeded_would_be_noticed(target, expected, option):
    torch.manual_seed(0)
    heeded = option != "qk_norm"
    config, tensors = random_checkpoint(target, **{option: heeded})
    read = {name: tensor for name, tensor in tensors.items() if "input_norm" not in name and "fc_norm" not in name}
    if not heeded:
        read |= {f"layers.0.self_attn.{kind}_norm.weight": torch.ones(24) for kind in "qk"}
    drafter = make_drafter(target, config | {option: not heeded}, read)
    assert error_against_by_hand(drafter, config, tensors, target, expected) > 1e-2


def test_a_stretch_of_the_rotation_that_was_not_heeded_would_be_noticed(target, expected):
    config, tensors = random_checkpoint(target, **KINDS["llama-llama3"])
    drafter = make_drafter(target, config | {"rope_parameters": LINEAR | {"factor": 1.0}}, tensors)
    assert error_against_by_hand(drafter, config, tensors, target, expected) > 1e-2


def test_differences_of_a_reduced_vocabulary_taken_with_the_wrong_sign_are_noticed(target, expected):
    config, tensors = random_checkpoint(target, draft_vocab_size=100)
    drafter = make_drafter(target, config, tensors)
    drafter.network.vocabulary.target_ids = (torch.arange(100) - tensors["d2t"]) % config["vocab_size"]
    assert error_against_by_hand(drafter, config, tensors, target, expected) == torch.inf


@torch.inference_mode()
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_a_reduced_vocabulary_drafts_tokens_of_the_target_and_no_others(target, expected, temperature):
    config, tensors = random_checkpoint(target, draft_vocab_size=100)
    drafter, kv, ids = make_drafter(target, config, tensors), empty_kv(), expected["prompt_ids"]
    drafter.open(0, [], 0)
    drafter.extend(commit(ids, expected["features"], kv, 0, 11))
    many = PagedKV(kv.keys, kv.values, kv.block_tables.expand(300, -1), BLOCK_SIZE)
    draft = drafter.propose(ask(many, [int(ids[11])] * 300, [11] * 300, temperature, slots=[0] * 300))
    kept = set((torch.arange(100) + tensors["d2t"]).tolist())
    assert set(draft.tokens.flatten().tolist()) <= kept
    law = draft.q_logits[0, 0].softmax(-1)
    assert float(law[sorted(set(range(256)) - kept)].sum()) == 0.0
