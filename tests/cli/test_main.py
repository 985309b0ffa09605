"""The command line: flags become settings, errors are one line and a status, help needs no torch."""

import json
import re
import subprocess
import sys

import pytest

from cli.configuration import with_state_dirs
from cli.main import main
from cli.packages import PACKAGES, check_packages
from cli.parser import drafter_flags, make_parser, policy_flags, setting_flags
from core.config import DSparkSettings, Eagle3Settings, FixedSettings, NgramSettings, Settings
from core.config_file import load_settings
from core.errors import CheckpointError, ConfigError
from core.registry import COMMANDS
from layers import LAYERS
from paths import FIXTURES

NGRAM = '{"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4, "prompt_lookup_min": 1}'


TINY = {
    "vocab_size": 8,
    "hidden_size": 4,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
}
DFLASH = {"block_size": 4, "mask_token_id": 7, "target_layer_ids": [0]}


def write_config(folder, **config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))


def settings_of(*arguments: str) -> Settings:
    return load_settings(None, {}, setting_flags(make_parser().parse_args(["serve", *arguments])))[0]


def test_serve_without_flags_is_the_defaults():
    assert settings_of() == Settings()


def test_each_serve_flag_reaches_its_setting():
    settings = settings_of(
        *("--host", "0.0.0.0", "--port", "0", "--target", "/m/t", "--drafter", "ngram", "--policy", "fixed:3"),
        *(
            "--target-revision",
            "v1",
            "--verifier",
            "coupled",
            "--redis-url",
            "redis://h",
            "--role",
            "worker",
            "--numerics",
            "batch_invariant",
        ),
    )
    assert (settings.engine.verifier, settings.engine.numerics) == ("coupled", "batch_invariant")
    assert (settings.server.host, settings.server.port, settings.server.role) == ("0.0.0.0", 0, "worker")
    assert (settings.engine.target, settings.engine.target_revision) == ("/m/t", "v1")
    assert settings.queue.redis_url == "redis://h"
    assert (settings.drafter, settings.policy) == (NgramSettings(), FixedSettings(3))


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("dspark", {"drafter.kind": "dspark"}),
        ("ngram", {"drafter.kind": "ngram"}),
        ("none", {"drafter.kind": "none"}),
        ("demo", {"drafter.kind": "dspark", "drafter.path": "demo"}),
    ],
)
def test_drafter_is_a_kind_or_a_folder(text, flags):
    assert drafter_flags(text) == flags


def test_a_drafters_kind_is_read_from_its_checkpoint(tmp_path, monkeypatch):
    write_config(tmp_path / "mine", architectures=["DFlashDraftModel"], **TINY, dflash_config=DFLASH)
    monkeypatch.chdir(tmp_path)
    assert drafter_flags("mine") == {"drafter.kind": "dflash", "drafter.path": "mine"}


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("off", {"policy.kind": "off"}),
        ("fixed", {"policy.kind": "fixed"}),
        ("fixed:3", {"policy.kind": "fixed", "policy.length": 3}),
        ("confidence", {"policy.kind": "confidence"}),
        ("load_adaptive", {"policy.kind": "load_adaptive"}),
        ("slo", {"policy.kind": "slo"}),
        ("batch_table:1-8=7,9-32=3", {"policy.kind": "batch_table", "policy.lengths": [[1, 8, 7], [9, 32, 3]]}),
        ("confidence:0.4", {"policy.kind": "confidence", "policy.threshold": 0.4}),
    ],
)
def test_policy_is_a_kind_with_an_optional_value(text, flags):
    assert policy_flags(text) == flags


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--drafter", "ngrm"], "did you mean 'ngram'"),
        (["--policy", "fixd"], "did you mean 'fixed'"),
        (["--policy", "off:3"], "only for fixed, confidence, batch_table"),
        (["--policy", "fixed:x"], "needs a number"),
        (["--policy", "batch_table"], "policy.lengths is missing"),
        (["--policy", "batch_table:7"], "such as 1-8=7"),
        (["--policy", "confidence:2"], "policy.threshold"),
        (["--role", "gateway"], "queue.redis_url"),
        (["--drafter-revision", "v1"], "the demo has no revisions"),
        (["--target-revision", "v1"], "the demo has no revisions"),
        (["--drafter", "ngram", "--drafter-revision", "v1"], "unknown setting drafter.revision"),
        (["--speculative-config", '{"method": "eagle"}'], "'eagle' is not built"),
        (["--drafter", "ngram", "--speculative-config", NGRAM], "--speculative-config and --drafter both"),
        (["--policy", "off", "--speculative-config", NGRAM], "--speculative-config and --policy both"),
        (["--config", "/no/such/file.toml"], "cannot read"),
    ],
)
def test_a_wrong_setting_is_one_line_and_status_2(arguments, words, capsys):
    assert main(["config", "check", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("specd: ")
    assert said.err.count("\n") == 1
    assert words in said.err


def test_vllms_speculative_config_is_taken_in_place_of_drafter_and_policy():
    settings = settings_of("--speculative-config", NGRAM)
    assert (settings.drafter, settings.policy) == (NgramSettings(5, 4, 1), FixedSettings(5))


def test_a_speculative_config_without_a_method_takes_the_kind_of_its_model():
    told = json.dumps({"model": str(FIXTURES / "eagle3"), "num_speculative_tokens": 3})
    settings = settings_of("--speculative-config", told)
    assert settings.drafter == Eagle3Settings(str(FIXTURES / "eagle3"))
    assert settings.policy == FixedSettings(3)
    with pytest.raises(CheckpointError, match='drafts with kind = "draft_model"'):
        settings_of("--speculative-config", json.dumps({"model": str(FIXTURES / "target_qwen3")}))


def test_a_speculative_config_that_leaves_the_policy_open_goes_with_a_policy():
    told = '{"method": "dspark", "model": "/m/d"}'
    settings = settings_of("--speculative-config", told, "--policy", "fixed:3")
    assert (settings.drafter, settings.policy) == (DSparkSettings("/m/d"), FixedSettings(3))


@pytest.mark.parametrize(
    ("configured", "state_dir", "environ", "folder"),
    [
        ("/tables", "/state", {"HOME": "/home/ada"}, "/tables"),
        (None, "/state", {"HOME": "/home/ada"}, "/state/cost"),
        (None, None, {"HOME": "/home/ada"}, "/home/ada/.cache/specd/cost"),
        (None, None, {"HOME": "/home/ada", "XDG_CACHE_HOME": "/cache"}, "/cache/specd/cost"),
        (None, None, {}, None),
    ],
)
def test_cost_tables_are_kept_where_said_else_with_the_state_else_in_the_users_cache(
    configured, state_dir, environ, folder
):
    flags = {"engine.cost_table_dir": configured, "queue.state_dir": state_dir}
    settings = with_state_dirs(load_settings(None, {}, flags)[0], environ)
    assert settings.engine.cost_table_dir == folder


@pytest.mark.parametrize(
    ("configured", "state_dir", "environ", "folder"),
    [
        ("/proofs", "/state", {"HOME": "/home/ada"}, "/proofs"),
        (None, "/state", {"HOME": "/home/ada"}, "/state/proofs"),
        (None, None, {"HOME": "/home/ada"}, "/home/ada/.local/state/specd/proofs"),
        (None, None, {"HOME": "/home/ada", "XDG_STATE_HOME": "/own"}, "/own/specd/proofs"),
        (None, None, {}, None),
    ],
)
def test_proofs_are_kept_where_said_else_with_the_state_else_in_the_users(configured, state_dir, environ, folder):
    flags = {"engine.proof_dir": configured, "queue.state_dir": state_dir}
    settings = with_state_dirs(load_settings(None, {}, flags)[0], environ)
    assert settings.engine.proof_dir == folder


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["serve", "--nonsense"], ["train", "other"], ["serve", "--po", "1"]]
)
def test_a_wrong_command_line_is_status_2(arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_config_show_says_who_decided(monkeypatch, capsys):
    monkeypatch.setenv("SPECD_LOG__LEVEL", "debug")
    assert main(["config", "show", "--port", "9000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines if line.startswith(("port", "level", "format"))] == [
        ["port", "=", "9000", "#", "flag"],
        ["level", "=", '"debug"', "#", "env"],
        ["format", "=", '"console"', "#", "default"],
    ]


def test_a_missing_checkpoint_is_one_line_and_status_1(tmp_path, capsys):
    assert main(["inspect", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"specd: no checkpoint at {tmp_path}: config.json is missing\n"


def test_every_command_of_the_parser_is_registered():
    help_text = make_parser().format_help()
    for name in COMMANDS.names():
        assert re.search(rf"^    {name}\s", help_text, re.MULTILINE)


def test_help_loads_neither_torch_nor_a_network_library():
    code = "import sys\nfrom cli.main import main\ntry:\n    main(['--help'])\nfinally:\n    print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {"torch", "numpy", "aiohttp", "redis", "rich"} & set(said.stdout.split())


def test_the_packages_checked_are_those_of_the_layers():
    assert set(PACKAGES) == set(LAYERS)


def test_our_own_packages_pass():
    check_packages()


def test_a_shadowing_package_is_named_with_its_cure(tmp_path):
    with pytest.raises(ConfigError, match=r"'core'.*pip uninstall"):
        check_packages(tmp_path)


def test_inspect_describes_a_drafter(capsys):
    assert main(["inspect", str(FIXTURES / "dspark_vanilla")]) == 0
    said = capsys.readouterr().out
    for words in ("drafter (DSpark)", "reads target layers", "Markov (vanilla), rank", "parameters"):
        assert words in said
