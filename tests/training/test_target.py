"""The target's training: what goes to which optimiser, a run that learns and resumes, and what is exported."""

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import save_file
from tokenizers import Tokenizer

from core.errors import CheckpointError, ConfigError
from disks import files_up_to
from models.load_target import load_target
from toys import tiny_config
from training.averaged_weights import averaged
from training.budget import Budget, learning_rate_scale
from training.corpus import read_corpus
from training.demo import Plan, Scale, build_target
from training.export import export_target
from training.muon import Muon, orthogonalise, split_parameters
from training.packing import Mixture, Rows, RowStream
from training.target import Origin, TargetRecipe, evaluate, new_target, next_token_loss, optimizers_of, train_target

# Mixed precision is meant: weights stay float32 under bf16 autocast.
pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype:UserWarning")

TINY = tiny_config(4096, layers=2)
# Names whose hashes put one into the held-out part.
PACKAGES = [f"package{number}" for number in range(60)]


def recipe(num_steps):
    return TargetRecipe(Budget(600.0, tokens=num_steps * 4 * 64), num_rows=4, row_len=64, compile=False, log_steps=5)


def rows(tokenizer):
    return RowStream(tokenizer, [torch.arange(4, 200).numpy()], 64, 0, Mixture(0.3, 0.0001, 0.3))


def test_matrices_go_to_muon_and_the_rest_to_adam():
    network = new_target(TINY, seed=0)
    matrices, others = split_parameters(network)
    names = {parameter: name for name, parameter in network.named_parameters()}
    assert {names[one].split(".")[-2] for one in matrices} == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    assert {names[one].split(".")[-2] for one in others} >= {"embed_tokens", "norm", "q_norm"}
    assert len(matrices) + len(others) == len(list(network.parameters()))


def test_muon_takes_the_same_steps_as_torch():
    torch.manual_seed(0)
    own = [torch.nn.Parameter(torch.randn(size)) for size in ((8, 4), (4, 8), (8, 4))]
    theirs = [torch.nn.Parameter(one.detach().clone()) for one in own]
    ours, reference = Muon(own, lr=0.02, weight_decay=0.1), torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1)
    for _ in range(3):
        for one, other in zip(own, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        ours.step()
        reference.step()
    for one, other in zip(own, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


def test_orthogonalised_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(2, 32, 16)).float())
    assert (values > 0.5).all()
    assert (values < 1.3).all()


def test_the_rate_warms_up_holds_and_decays_to_zero():
    scales = [learning_rate_scale(progress) for progress in (0.0, 0.01, 0.1, 0.3, 0.65, 1.0)]
    assert scales == pytest.approx([0.02, 0.5, 1.0, 1.0, 0.5, 0.0])


def test_twenty_steps_lower_the_loss(demo_tokenizer, tmp_path):
    network = new_target(TINY, seed=0)
    held_out = {"math": rows(demo_tokenizer).batch(4)}
    before = evaluate(network, held_out)["math"]
    after = train_target(network, rows(demo_tokenizer), held_out, recipe(20), tmp_path)["math"]
    assert after < before - 0.3


def test_a_resumed_run_goes_on_from_the_saved_step(demo_tokenizer, tmp_path):
    train_target(new_target(TINY, seed=0), rows(demo_tokenizer), {}, recipe(4), tmp_path)
    resumed = new_target(TINY, seed=1)
    train_target(resumed, rows(demo_tokenizer), {}, recipe(4), tmp_path)
    again = new_target(TINY, seed=2)
    train_target(again, rows(demo_tokenizer), {}, recipe(4), tmp_path)
    assert all(one.equal(other) for one, other in zip(resumed.parameters(), again.parameters(), strict=True))


def test_a_run_that_was_stopped_ends_as_one_that_was_not(demo_tokenizer, tmp_path):
    """Its budget is in tokens, so that no clock is in it."""
    whole, stopped = new_target(TINY, seed=0), new_target(TINY, seed=0)
    seen = train_target(whole, rows(demo_tokenizer), {}, recipe(6), tmp_path / "whole")
    saves = iter(range(3))

    def stop(_):
        if next(saves) == 2:
            raise KeyboardInterrupt

    often = replace(recipe(6), save_s=0.0)
    with pytest.raises(KeyboardInterrupt):
        train_target(stopped, rows(demo_tokenizer), {}, often, tmp_path / "stopped", stop)
    resumed = new_target(TINY, seed=1)
    assert train_target(resumed, rows(demo_tokenizer), {}, recipe(6), tmp_path / "stopped") == seen
    assert all(one.equal(other) for one, other in zip(resumed.parameters(), whole.parameters(), strict=True))


def test_skipped_rows_are_those_that_would_have_been_drawn(demo_tokenizer):
    drawn, skipped = rows(demo_tokenizer), rows(demo_tokenizer)
    for _ in range(3):
        drawn.batch(4)
    skipped.skip(3 * 4)
    assert skipped.batch(4).tokens.equal(drawn.batch(4).tokens)


def test_the_state_of_another_run_is_refused_by_name_and_left_as_it_is(demo_tokenizer, tmp_path):
    train_target(new_target(TINY, seed=0), rows(demo_tokenizer), {}, recipe(2), tmp_path, origin=Origin("abc"))
    state = (tmp_path / "state.safetensors").read_bytes()

    def resume(changed, *, shape=TINY, origin=Origin("abc")):  # noqa: B008
        train_target(new_target(shape, seed=0), rows(demo_tokenizer), {}, changed, tmp_path, origin=origin)

    with pytest.raises(ConfigError, match=r"of a run with muon_lr = 0\.02, this one has 0\.5; set it back"):
        resume(replace(recipe(2), muon_lr=0.5))
    with pytest.raises(ConfigError, match=r"mixture\.math = 0\.2, this one has 0\.1"):
        resume(replace(recipe(2), mixture=Mixture(math=0.1)))
    with pytest.raises(ConfigError, match=r"sha256\.start = 'abc', this one has ''"):
        resume(recipe(2), origin=Origin())
    with pytest.raises(ConfigError, match=r"shape\.num_hidden_layers = 2, this one has 3"):
        resume(recipe(2), shape=tiny_config(4096, layers=3))
    assert (tmp_path / "state.safetensors").read_bytes() == state
    # Of a budget one may always have more.
    resume(replace(recipe(4), log_steps=1, save_s=7.0))
    assert len((tmp_path / "losses.csv").read_text().splitlines()) == 1 + 1 + 2 + 1


def test_a_state_that_says_nothing_of_its_run_is_refused(demo_tokenizer, tmp_path):
    save_file({"network.x": torch.zeros(1)}, tmp_path / "state.safetensors", metadata={"counters": "{}"})
    with pytest.raises(CheckpointError, match=r"no state of a target's training that this specd wrote: .*begin anew"):
        train_target(new_target(TINY, seed=0), rows(demo_tokenizer), {}, recipe(2), tmp_path)


def test_a_target_in_training_survives_a_full_disk(demo_tokenizer, tmp_path, capsys):
    changed = replace(recipe(4), log_steps=1, save_s=0.0)
    held_out = {"math": rows(demo_tokenizer).batch(1)}
    with files_up_to(60), pytest.raises(OSError, match=r"state\.safetensors cannot be written"):
        train_target(new_target(TINY, seed=0), rows(demo_tokenizer), held_out, changed, tmp_path)
    # A terminal wraps long paths wherever they end.
    told = "".join(capsys.readouterr().out.split())
    assert "losses.csvcannotbewritten:" in told
    assert told.count("(oserror27);therungoeson,itslastsavedstatestays") == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["losses.csv"]


def test_a_target_to_go_on_from_keeps_its_tokenizer_and_what_it_has_learnt(demo_tokenizer, tmp_path):
    library = tmp_path / "library"
    for package in PACKAGES:
        (library / package).mkdir(parents=True)
        (library / package / "text.py").write_text("value = [number + 1 for number in range(7)]\n" * 40)
    trained = new_target(TINY, seed=5)
    export_target(tmp_path / "trained", trained, demo_tokenizer)
    scale = Scale(shape=TINY, num_rows=2, row_len=64, compile=False, python_files=library)
    plan = Plan(
        tmp_path / "run",
        tmp_path / "out",
        target_tokens=1,
        target_start=tmp_path / "trained",
        start_share=0.0,
        scale=scale,
    )
    folder = build_target(plan, read_corpus(library))
    gone_on = load_target(folder, torch.float32)
    # One step, at a fiftieth of a fifth of the rate, on weights that were rounded to bfloat16 twice.
    for own, other in zip(gone_on.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=2**-7, atol=1e-3)
    assert not gone_on.embed_tokens.weight.equal(load_target(tmp_path / "trained", torch.float32).embed_tokens.weight)
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).to_str() == demo_tokenizer.to_str()
    whole = build_target(replace(plan, run=tmp_path / "again", start_share=1.0), read_corpus(library))
    kept = load_target(whole, torch.float32).parameters()
    started = load_target(tmp_path / "trained", torch.float32).parameters()
    assert all(own.equal(other) for own, other in zip(kept, started, strict=True))
    export_target(tmp_path / "other", new_target(TINY, seed=6), demo_tokenizer)
    with pytest.raises(ConfigError, match=r"is of a run with sha256\.start = "):
        build_target(replace(plan, target_start=tmp_path / "other"), read_corpus(library))
    (library / PACKAGES[0] / "text.py").write_text("other = 1\n" * 40)
    with pytest.raises(ConfigError, match=r"is of a run with sha256\.corpus = "):
        build_target(plan, read_corpus(library))
    (tmp_path / "trained" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="is missing: a target is gone on from with its own tokenizer"):
        build_target(plan, read_corpus(library))
    assert not (tmp_path / "trained" / "tokenizer.json").exists()
    with pytest.raises(ConfigError, match=r"start_share is a share, from 0 to 1, got 1\.5"):
        build_target(replace(plan, start_share=1.5), read_corpus(library))


def test_an_average_lies_between_its_ends_by_the_share_of_the_first():
    trained, start = {"a": torch.tensor([4.0, 8.0])}, {"a": torch.tensor([0.0, 16.0])}
    assert averaged(trained, start, 0.25)["a"].tolist() == [3.0, 10.0]
    assert averaged(trained, start, 0.0)["a"].equal(trained["a"])
    assert averaged(trained, start, 1.0)["a"].equal(start["a"])


def test_a_document_is_not_read_by_the_next():
    network = new_target(TINY, seed=0)
    for optimizer in optimizers_of(network, 0.0, 0.0, 0.0):
        optimizer.zero_grad()
    tokens = torch.randint(4, 4096, (1, 16), generator=torch.Generator().manual_seed(0))
    documents = torch.arange(16)[None] // 8
    weights = (documents == 1).float()
    changed = torch.cat((tokens[:, :8].flip(1), tokens[:, 8:]), 1)
    first, second = (next_token_loss(network, Rows(ids, documents, weights)) for ids in (tokens, changed))
    # bf16 positions differ in nothing but the other document.
    assert first.item() == pytest.approx(second.item(), abs=1e-6)


def test_an_exported_target_loads_again(demo_tokenizer, tmp_path):
    network = new_target(TINY, seed=0)
    export_target(tmp_path / "target", network, demo_tokenizer)
    loaded = load_target(tmp_path / "target", torch.float32)
    assert loaded.config == TINY
    assert loaded.embed_tokens.weight.equal(network.embed_tokens.weight.bfloat16().float())
    assert Tokenizer.from_file(str(tmp_path / "target" / "tokenizer.json")).get_vocab_size() == 4096
