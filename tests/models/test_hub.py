"""Hub ids become folders of the library's own cache; what cannot be had is said in words that help.

There is no network here: the cache is made by hand, as the library lays it out, and the library is told to be offline.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants, errors

from core.errors import CheckpointError, ConfigError
from core.registry import OPTIONAL
from layers import ROOT
from models import hub
from models.drafter_kind import drafter_kind
from models.folders import drafter_folder, is_unpinned, target_folder
from paths import FIXTURES

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "owner/drafter"


def put(cache: Path, name: str, fixture: str, commit: str = COMMIT) -> Path:
    """Lay a model out in the cache as the library does: a snapshot by commit, and what `main` is."""
    model = cache / f"models--{name.replace('/', '--')}"
    snapshot = model / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in ("config.json", "model.safetensors"):
        shutil.copy(FIXTURES / fixture / file, snapshot)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    return snapshot


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_cached_model_is_a_folder_whichever_way_it_is_named(cache, revision):
    snapshot = put(cache, NAME, "dspark_vanilla")
    assert target_folder(NAME, revision) == drafter_folder("dspark", NAME, revision) == snapshot


def test_the_kind_of_a_drafter_is_read_from_the_cache(cache):
    put(cache, NAME, "eagle3")
    assert drafter_kind(NAME) == "eagle3"


def test_a_folder_of_that_name_comes_first(cache, tmp_path, monkeypatch):
    put(cache, NAME, "dspark_vanilla")
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir(parents=True)
    assert target_folder(NAME) == Path(NAME)


@pytest.mark.parametrize("ask", [lambda: target_folder(NAME), lambda: drafter_kind(NAME)], ids=["whole", "config"])
def test_what_is_not_cached_while_offline_is_said(cache, ask):
    with pytest.raises(CheckpointError, match=r"no folder 'owner/drafter' here, .* Hub id: .*not in the local cache"):
        ask()


def test_a_revision_that_is_not_cached_is_named(cache):
    put(cache, NAME, "dspark_vanilla")
    with pytest.raises(CheckpointError, match="owner/drafter at revision v2: it is not in the local cache"):
        target_folder(NAME, "v2")


def test_a_snapshot_without_a_config_is_no_model(cache):
    (put(cache, NAME, "dspark_vanilla") / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config.json"):
        target_folder(NAME)


def test_only_what_is_read_is_asked_for(monkeypatch, tmp_path):
    asked = {}
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(OPTIONAL, "load", lambda name: lambda **given: asked.update(given) or str(tmp_path))
    hub.snapshot_folder(NAME, COMMIT)
    assert (asked["repo_id"], asked["revision"]) == (NAME, COMMIT)
    assert {"*.json", "*.safetensors", "*.jinja"} <= set(asked["allow_patterns"])
    assert {"*.bin", "*.pt", "*.py"} <= set(asked["ignore_patterns"])
    assert not {"*.bin", "*.pt", "*.py", "*"} & set(asked["allow_patterns"])


def raised(error):
    def ask(**given):
        raise error

    return ask


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (errors.GatedRepoError, "restricted: ask for it"),
        (errors.RepositoryNotFoundError, "no such model, or it is private"),
        (errors.RevisionNotFoundError, "no such revision"),
        (errors.HFValidationError, "no valid id"),
        (errors.LocalEntryNotFoundError, "not in the local cache"),
    ],
)
def test_what_the_library_cannot_do_is_said_in_our_words(monkeypatch, kind, words):
    # Raised as the library would: it asks the network, which is not there.
    error = kind.__new__(kind)
    monkeypatch.setattr(OPTIONAL, "load", lambda name: raised(error))
    with pytest.raises(CheckpointError, match=words):
        hub.snapshot_folder(NAME, "v1")


def test_any_other_failure_of_the_network_keeps_its_words(monkeypatch):
    monkeypatch.setattr(OPTIONAL, "load", lambda name: raised(OSError("disk full")))
    with pytest.raises(CheckpointError, match="cannot be fetched: disk full"):
        hub.snapshot_folder(NAME)


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"needs the library huggingface_hub: pip install 'specd\[hf\]'"):
        target_folder(NAME)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("owner/name", True),
        ("deepseek-ai/dspark_qwen3_4b_block7", True),
        ("/owner/name", False),
        ("./name", False),
        ("../name", False),
        ("name", False),
        ("a/b/c", False),
        ("owner/na me", False),
        ("demo", False),
    ],
)
def test_a_hub_id_is_an_owner_and_a_name(name, is_one):
    assert hub.is_hub_id(name) is is_one


def test_what_is_no_hub_id_is_a_folder_that_is_read_or_not():
    assert target_folder("/no/such") == Path("/no/such")
    with pytest.raises(ConfigError, match="is a folder and has no revisions"):
        target_folder("/no/such", "main")


@pytest.mark.parametrize(
    ("name", "revision", "unpinned"),
    [(NAME, None, True), (NAME, "main", True), (NAME, COMMIT[:7], True), (NAME, COMMIT, False), ("/m", None, False)],
)
def test_a_model_is_pinned_by_a_whole_commit(name, revision, unpinned):
    assert is_unpinned(name, revision) is unpinned


def test_the_command_line_takes_a_hub_id_from_the_cache_that_the_environment_names(tmp_path):
    put(tmp_path / "hub", NAME, "dflash")
    environ = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environ.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-m", "cli.main", "config", "show", "--drafter", NAME, "--drafter-revision", COMMIT]
    said = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=True)
    section = said.stdout.partition("[drafter]\n")[2].partition("\n\n")[0]
    assert [line.split("#")[0].split() for line in section.splitlines()] == [
        ["kind", "=", '"dflash"'],
        ["path", "=", f'"{NAME}"'],
        ["revision", "=", f'"{COMMIT}"'],
    ]


def test_asking_the_hub_loads_no_torch(tmp_path):
    put(tmp_path / "hub", NAME, "dflash")
    code = f"import sys; from models.folders import target_folder; target_folder({NAME!r}); print(*sys.modules)"
    environ = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environ.pop("HF_HUB_CACHE", None)
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert "torch" not in said.stdout.split()
