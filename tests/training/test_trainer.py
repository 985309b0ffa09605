"""The trainer: its steps are those of a plain loop, and a run that was stopped in any way is the run that was not."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from core.errors import CheckpointError, ConfigError, DataError
from disks import files_up_to, lift_limit, limit_files
from models.folders import target_folder
from models.load_drafter import load_drafter
from models.load_target import load_frozen, load_target
from training.blocks import sample_anchors
from training.drafter_files import write_drafter
from training.features import target_states
from training.identity import tokenizer_sha256, weights_sha256
from training.objective import Draw
from training.processes import Place
from training.progress import Progress, Silent
from training.recipe import Run
from training.schedule import warm_up_cosine
from training.shards import INDEX_FILE
from training.sources import Batch, shard_batches
from training.train_drafter import cache_features, first_drafter, objective_of, open_batches, target_dtype, train
from training.trainer import SEEDS_PER_STEP, Trainer
from training_pair import TARGET, documents, make_recipe, write_recipe

ROOT = Path(__file__).parents[2]
ALONE = Place(0, 1, torch.device("cpu"))
KINDS = {
    "dspark": (),
    "dflash": ("drafter.kind=dflash", "drafter.sample_from_anchor=false"),
    "eagle3": ("drafter.kind=eagle3",),
}


@pytest.fixture(scope="module")
def target():
    return load_frozen(TARGET, torch.float32)


def make_trainer(recipe, target, folder, sha256="of the target"):
    network, _ = first_drafter(recipe, target, TARGET)
    return Trainer(
        recipe,
        network,
        target,
        objective_of(recipe),
        shard_batches(recipe.data, recipe.run, TARGET),
        folder,
        ALONE,
        sha256,
    )


class TextsOf:
    """The rows of other batches without what the target makes of them."""

    def __init__(self, batches):
        self.batches_per_epoch, self.sha256, self._batches = batches.batches_per_epoch, batches.sha256, batches

    def batch(self, number):
        return Batch(self._batches.batch(number).rows)


def weights_of(trainer):
    return {name: weight.clone() for name, weight in trainer.weights().items()}


def plain_loop(recipe, target, num_steps):
    """The same training, written out: torch's AdamW, its clipping, the schedule by its formula."""
    network, _ = first_drafter(recipe, target, TARGET)
    objective, run = objective_of(recipe), recipe.run
    batches = shard_batches(recipe.data, run, TARGET)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=recipe.optimiser.weight_decay)
    for step in range(num_steps):
        optimizer.zero_grad()
        for pass_ in range(step * run.accumulation, (step + 1) * run.accumulation):
            rows = batches.batch(pass_).rows
            states = target_states(target, rows, network.config.target_layer_ids)
            for draw in range(run.anchor_draws):
                seed = run.seed * SEEDS_PER_STEP + pass_ * run.anchor_draws + draw
                anchors, kept = sample_anchors(rows.weights, run.num_anchors, torch.Generator().manual_seed(seed))
                loss = objective.losses(network, target, Draw(rows, states, anchors, kept)).total
                (loss / (run.accumulation * run.anchor_draws)).backward()
        nn.utils.clip_grad_norm_(network.parameters(), recipe.optimiser.max_gradient_norm)
        scale = warm_up_cosine((step + 0.5) / num_steps, recipe.optimiser.warm_up)
        for group in optimizer.param_groups:
            group["lr"] = recipe.optimiser.learning_rate * scale
        optimizer.step()
    return dict(network.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_twenty_steps_are_those_of_a_plain_loop(kind, target, tmp_path):
    recipe = make_recipe(tmp_path, *KINDS[kind], "run.steps=20", "run.accumulation=2", "run.anchor_draws=2")
    trainer = make_trainer(recipe, target, tmp_path / "run")
    first = weights_of(trainer)
    trainer.train(Silent())
    wanted = plain_loop(recipe, target, 20)
    for name, weight in trainer.weights().items():
        torch.testing.assert_close(weight, wanted[name], rtol=1e-5, atol=1e-6)
    assert not trainer.weights()["fc.weight"].equal(first["fc.weight"])


def test_a_steps_gradient_is_the_mean_over_its_passes_and_draws(target, tmp_path, monkeypatch):
    """Adam forgives a factor, so the gradient itself is looked at."""
    recipe = make_recipe(tmp_path, "run.accumulation=2", "run.anchor_draws=3")
    monkeypatch.setattr(Trainer, "_descend", lambda self, scale: None)
    trainer = make_trainer(recipe, target, tmp_path / "run")
    shown = trainer.step().total
    network, _ = first_drafter(recipe, target, TARGET)
    losses = []
    for pass_ in range(2):
        rows = shard_batches(recipe.data, recipe.run, TARGET).batch(pass_).rows
        states = target_states(target, rows, network.config.target_layer_ids)
        for draw in range(3):
            generator = torch.Generator().manual_seed(recipe.run.seed * SEEDS_PER_STEP + 3 * pass_ + draw)
            drawn = Draw(rows, states, *sample_anchors(rows.weights, recipe.run.num_anchors, generator))
            losses.append(objective_of(recipe).losses(network, target, drawn).total)
    mean = torch.stack(losses).mean()
    mean.backward()
    torch.testing.assert_close(shown, mean)
    for own, wanted in zip(trainer.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(own.grad, wanted.grad, rtol=1e-5, atol=1e-6)


# Mixed precision is meant: weights stay float32 under bf16 autocast.
@pytest.mark.filterwarnings("ignore:Mismatch dtype:UserWarning")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_on_features_from_disk_is_one_with_features_made_in_it(kind, precision, target, tmp_path):
    recipe = make_recipe(tmp_path, *KINDS[kind], f"run.precision={precision}", "run.num_anchors=64")
    cache_features(recipe, tmp_path / "cache")
    cached = make_recipe(
        tmp_path, *KINDS[kind], f"run.precision={precision}", "run.num_anchors=64",
        "data.source=cache", f"data.folder={tmp_path / 'cache'}",
    )  # fmt: skip
    network, _ = first_drafter(cached, target, TARGET)
    batches = open_batches(cached, network, target, TARGET, tmp_path / "run")
    on_disk = Trainer(cached, network, target, objective_of(cached), batches, tmp_path / "run", ALONE, "t")
    network, _ = first_drafter(recipe, target, TARGET)
    objective = objective_of(recipe)
    made = Trainer(recipe, network, target, objective, TextsOf(batches), tmp_path / "made", ALONE, "t")
    torch.testing.assert_close(on_disk.step().total, made.step().total, rtol=2e-2, atol=2e-2)


def test_a_run_in_float32_keeps_the_target_in_it_on_any_device():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert target_dtype(Run(precision="float32"), cuda) is torch.float32
    assert target_dtype(Run(), cuda) is torch.bfloat16
    assert target_dtype(Run(), cpu) is torch.float32


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_resumed_run_ends_with_the_same_bits(optimiser, target, tmp_path):
    recipe = make_recipe(tmp_path, f"optimiser.kind={optimiser}")
    whole = make_trainer(recipe, target, tmp_path / "whole")
    whole.train(Silent())
    for _ in range(3):
        # Two steps each, as after a kill: nothing of the process is left but its file.
        part = make_trainer(recipe, target, tmp_path / "parts")
        part.step()
        part.step()
        part.save()
    assert part.counters.steps == 6
    for name, weight in whole.weights().items():
        assert weight.equal(part.weights()[name]), name


def test_a_changed_recipe_does_not_go_on_with_another_runs_state(target, tmp_path):
    recipe = make_recipe(tmp_path)
    make_trainer(recipe, target, tmp_path / "run").save()
    changed = make_recipe(tmp_path, "optimiser.learning_rate=0.5")
    with pytest.raises(ConfigError, match=r"optimiser\.learning_rate = 0\.002, the recipe has 0\.5"):
        make_trainer(changed, target, tmp_path / "run")
    make_trainer(make_recipe(tmp_path, "run.save_s=7"), target, tmp_path / "run")


def test_a_run_does_not_go_on_with_another_target_or_other_data(target, tmp_path):
    recipe = make_recipe(tmp_path)
    make_trainer(recipe, target, tmp_path / "run").save()
    with pytest.raises(
        DataError, match=r"whose target .* was another \(sha256 of the targe\) than it is now \(another\)"
    ):
        make_trainer(recipe, target, tmp_path / "run", "another")
    shutil.rmtree(tmp_path / "data")
    write_recipe(tmp_path, documents(41))
    with pytest.raises(DataError, match=r"whose data .*/data' was another .*; put it back to go on"):
        make_trainer(recipe, target, tmp_path / "run")


def test_a_state_that_does_not_say_what_it_learnt_from_is_refused(target, tmp_path):
    recipe, path = make_recipe(tmp_path), tmp_path / "run" / "state.safetensors"
    make_trainer(recipe, target, tmp_path / "run").save()
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["header"])
    del header["origin"]
    save_file(load_file(path), path, metadata={"header": json.dumps(header | {"version": 1})})
    with pytest.raises(CheckpointError, match="is of version 1, this specd goes on with version 2"):
        make_trainer(recipe, target, tmp_path / "run")


@pytest.mark.parametrize("use", ["train", "features"])
def test_texts_of_another_tokenizer_are_refused(use, tmp_path):
    recipe = make_recipe(tmp_path)
    index = tmp_path / "data" / INDEX_FILE
    index.write_text(index.read_text().replace(tokenizer_sha256(TARGET), tokenizer_sha256(target_folder("demo"))))
    with pytest.raises(DataError, match=r"another tokenizer .* specd data prepare \.\.\. --target .*target_qwen3"):
        train(recipe) if use == "train" else cache_features(recipe, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_target_that_was_trained_on_has_another_hash(tmp_path):
    shutil.copytree(TARGET, tmp_path / "other")
    assert weights_sha256(tmp_path / "other") == weights_sha256(TARGET)
    tensors = load_file(TARGET / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, tmp_path / "other" / "model.safetensors")
    assert weights_sha256(tmp_path / "other") != weights_sha256(TARGET)


def test_a_full_disk_keeps_the_state_before_and_the_run_goes_on(target, tmp_path, monkeypatch):
    recipe = make_recipe(tmp_path, "run.save_s=1e-9")
    trainer = make_trainer(recipe, target, tmp_path / "run")
    trainer.step()
    trainer.save()
    before = (tmp_path / "run" / "state.safetensors").read_bytes()
    warned = []

    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    class Warned(Silent):
        def warn(self, message):
            warned.append(message)

    with monkeypatch.context() as patch:
        patch.setattr("models.checkpoint.save_file", full)
        with pytest.raises(OSError, match="No space left"):
            trainer.train(Warned())
    assert trainer.counters.steps == 6
    assert len(warned) == 5
    assert (tmp_path / "run" / "state.safetensors").read_bytes() == before
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["state.safetensors"]


def test_a_run_survives_what_it_cannot_export_or_record(target, tmp_path):
    recipe = make_recipe(tmp_path, "run.save_s=1e-9", "run.log_steps=1")
    trainer = make_trainer(recipe, target, tmp_path / "run")
    warned = []

    class Warned(Progress):
        def warn(self, message):
            warned.append(message)

    def export():
        # As much room as the state takes, none for the drafter or the record.
        with files_up_to(64):
            write_drafter(tmp_path / "out", {}, trainer.weights())

    with Warned(tmp_path / "run", trainer.objective.terms(trainer.network), tensorboard=False) as show:
        with files_up_to(64):
            show.step(trainer.counters, 0.0, trainer.step(), 1.0)
        refused = r"out cannot be written: .*model\.safetensors cannot be written: .*too large"
        with pytest.raises(OSError, match=refused):
            trainer.train(show, export)
    assert trainer.counters.steps == 6
    assert "losses.csv cannot be written" in warned[0]
    assert [one.endswith("the run goes on, its last saved state stays") for one in warned[1:]] == [True] * 5
    # The row that found no room came with the next.
    assert len((tmp_path / "run" / "losses.csv").read_text(encoding="utf-8").splitlines()) == 1 + 6
    assert not (tmp_path / "out").exists()
    assert make_trainer(recipe, target, tmp_path / "run").counters.steps == 6


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_drafter_loads_beside_its_target_and_is_gone_on_from(kind, target, tmp_path):
    recipe = make_recipe(tmp_path, *KINDS[kind], "run.steps=2")
    folder = train(recipe)
    loaded = load_drafter(folder, load_target(TARGET, torch.float32), kind)
    assert loaded.config.num_drafts == (3 if kind == "dflash" else 4)
    again = msgspec.structs.replace(
        recipe, output=str(tmp_path / "tuned"), drafter=msgspec.structs.replace(recipe.drafter, start=str(folder))
    )
    tuned, _ = first_drafter(again, target, TARGET)
    written = load_file(folder / "model.safetensors")["fc.weight"]
    assert tuned.get_parameter("fc.weight").equal(written.float())
    kept = msgspec.structs.replace(again, drafter=msgspec.structs.replace(again.drafter, start_share=1.0))
    assert load_file(train(kept) / "model.safetensors")["fc.weight"].equal(written)
    columns = (folder / "run" / "losses.csv").read_text(encoding="utf-8").splitlines()
    assert columns[0].startswith("step,tokens,seconds,learning_rate,loss,")
    assert len(columns) == 2


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "dspark",
            "drafter.target_layer_ids=[1, 3]",
            r"target_layer_ids .* write drafter\.target_layer_ids = \[1, 3, 5\]",
        ),
        ("dspark", "drafter.num_layers=5", r"num_layers is 5 in the recipe.* has 1: .* = 1, or leave it out"),
        ("dspark", "drafter.block_size=7", r"block_size is 7 .* has 4"),
        ("dspark", "drafter.mask_token_id=0", r"mask_token_id is 0 .* has 255"),
        ("dspark", "drafter.markov_rank=256", r"markov_rank is 256 .* has 8"),
        ("dspark", "drafter.markov_head=rnn", r"markov_head is 'rnn' .* drafter\.markov_head = \"vanilla\""),
        ("dspark", "drafter.confidence_head=false", r"confidence_head is False .* drafter\.confidence_head = true"),
        (
            "dflash",
            "drafter.sample_from_anchor=true",
            r"sample_from_anchor is True .* drafter\.sample_from_anchor = false",
        ),
        ("eagle3", "drafter.block_size=5", r"block_size is 5 .* has 4"),
    ],
)
def test_a_drafter_to_go_on_from_keeps_its_shape(kind, change, message, target, tmp_path):
    folder = train(make_recipe(tmp_path, *KINDS[kind], "run.steps=1"))
    same = (*KINDS[kind], f"drafter.start={folder}")
    first_drafter(make_recipe(tmp_path, *same), target, TARGET)
    with pytest.raises(ConfigError, match=message):
        first_drafter(make_recipe(tmp_path, *same, change), target, TARGET)


def test_a_share_of_a_start_that_is_no_drafter_is_refused(target, tmp_path):
    with pytest.raises(ConfigError, match=r'start_share is of a drafter to go on from, and drafter\.start is "target"'):
        first_drafter(make_recipe(tmp_path, "drafter.start_share=0.5"), target, TARGET)


def test_a_drafter_of_another_target_is_refused_by_key(target, tmp_path):
    recipe = make_recipe(tmp_path, "drafter.target_layer_ids=[1, 7]")
    with pytest.raises(CheckpointError, match=r"target_layer_ids must lie within -1\.\.6"):
        first_drafter(recipe, target, TARGET)
    demo = make_recipe(tmp_path, f"drafter.start={ROOT / 'models' / 'demo' / 'dspark'}")
    with pytest.raises(CheckpointError, match="a target of hidden_size 256 and vocab_size 4096; this target has 64"):
        first_drafter(demo, target, TARGET)
    other = make_recipe(tmp_path, f"drafter.start={ROOT / 'tests' / 'fixtures' / 'eagle3'}")
    with pytest.raises(CheckpointError, match=r'drafter\.kind = "eagle3"'):
        first_drafter(other, target, TARGET)


def test_tensorboard_is_asked_for_in_vain_where_it_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'specd\[tensorboard\]'"):
        train(make_recipe(tmp_path, "run.tensorboard=true"))


def child(recipe, *changes, before=None, **environ):
    command = [sys.executable, "-m", "cli.main", "train", "drafter", recipe]
    for change in changes:
        command += ["--set", change]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **environ}
    return subprocess.Popen(
        command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=before
    )


def network_of(folder):
    tensors = load_file(folder / "run" / "state.safetensors")
    return {name: tensor for name, tensor in tensors.items() if name.startswith("network.")}


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path):
    recipe = write_recipe(tmp_path)
    steps, state = "run.steps=400", tmp_path / "killed" / "run" / "state.safetensors"
    settings = (steps, "run.save_s=0.2", f"output={tmp_path / 'killed'}")
    killed = child(recipe, *settings)
    deadline = time.monotonic() + 300
    while not state.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    output, _ = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, output.decode()
    assert not (tmp_path / "killed" / "run" / "losses.png").exists()
    runs = [child(recipe, *settings), child(recipe, steps, f"output={tmp_path / 'whole'}")]
    for run in runs:
        output, _ = run.communicate(timeout=300)
        assert run.returncode == 0, output.decode()
    whole, resumed = network_of(tmp_path / "whole"), network_of(tmp_path / "killed")
    assert whole.keys() == resumed.keys()
    assert all(tensor.equal(resumed[name]) for name, tensor in whole.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        ("optimiser.kind=adamw", 1e-5),
        ("drafter.kind=eagle3", 1e-5),
        # Muon iterates in bfloat16, where gradients that differ in their last bits come apart.
        ("optimiser.kind=muon", 1e-3),
    ],
)
def test_two_processes_are_one_within_rounding(change, tolerance, tmp_path):
    recipe = write_recipe(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    settings = (change, "run.anchor_draws=2", "run.save_s=1e-6")
    runs = [
        child(recipe, *settings, f"output={tmp_path / 'two'}", RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank in range(2)
    ]
    runs.append(child(recipe, *settings, f"output={tmp_path / 'one'}"))
    for run in runs:
        output, _ = run.communicate(timeout=300)
        assert run.returncode == 0, output.decode()
    one, two = network_of(tmp_path / "one"), network_of(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=tolerance, atol=tolerance)
    written = [load_file(tmp_path / each / "model.safetensors") for each in ("one", "two")]
    assert written[0].keys() == written[1].keys()


@pytest.mark.slow
def test_a_run_that_ends_on_a_full_disk_says_what_and_where_in_a_line(tmp_path):
    run = child(write_recipe(tmp_path), before=limit_files)
    output, _ = run.communicate(timeout=300)
    last = output.decode().strip().splitlines()[-1]
    assert run.returncode == 1, output.decode()
    assert last.startswith(f"specd: {tmp_path / 'out' / 'run' / 'state.safetensors'} cannot be written: "), last
    assert last.endswith("start the same command again: it goes on from its last state")
    assert "Traceback" not in output.decode()


@pytest.mark.slow
def test_two_processes_of_which_the_first_has_a_full_disk_for_a_while_stay_together(tmp_path):
    recipe = write_recipe(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    settings = ("run.steps=150", "run.save_s=1e-6", f"output={tmp_path / 'two'}")
    first, second = (
        child(recipe, *settings, before=before, RANK=str(rank), LOCAL_RANK=str(rank), **shared)
        for rank, before in enumerate((limit_files, None))
    )
    said = ""
    while "the run goes on" not in said and first.poll() is None:
        said += first.stdout.readline().decode()
    lift_limit(first.pid)
    outputs = [run.communicate(timeout=300)[0].decode() for run in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], (said, *outputs)
    alone = child(recipe, "run.steps=150", f"output={tmp_path / 'one'}")
    output, _ = alone.communicate(timeout=300)
    assert alone.returncode == 0, output.decode()
    one, two = network_of(tmp_path / "one"), network_of(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-3)
    assert (tmp_path / "two" / "model.safetensors").exists()
