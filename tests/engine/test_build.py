"""From settings to an engine, where a part of it is somebody else's."""

import pytest
from structlog.testing import capture_logs

from core.config import (
    DFlashSettings,
    DSparkSettings,
    EngineSettings,
    NgramSettings,
    PluginSettings,
    PolicyPluginSettings,
    Settings,
)
from core.errors import CheckpointError, ConfigError
from core.types import Sampling
from engine.build import build_engine, log_unpinned, make_policy
from models.folders import drafter_folder
from tests.plugins import install


def test_an_engine_is_built_with_a_drafter_and_a_policy_of_a_package(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch)
    settings = Settings(
        engine=EngineSettings(max_num_seqs=2, kv_cache_tokens=1024, profile=False),
        drafter=PluginSettings("echo", {"max_drafts": 3}),
        policy=PolicyPluginSettings("polite", {"length": 2}),
    )
    engine = build_engine(settings)
    assert engine.memory.speculators["echo"].drafter.target is engine.target
    engine.generate(["1 + 1 ="], Sampling(max_tokens=8, temperature=0.0))
    group = engine.groups.by_key["echo", "polite"]
    assert group.counts.drafted > 0
    assert engine.stats.fallbacks["policy"] == engine.stats.fallbacks["drafter"] == 0


def test_what_lacks_the_methods_of_a_policy_is_refused_by_name(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match="policy 'hollow' must have plan, observe; it has no plan and no observe"):
        make_policy(PolicyPluginSettings("hollow", {"draft_len": 0, "rule": 0, "follow": 0}))


def test_models_of_the_hub_that_no_commit_names_are_logged():
    settings = Settings(
        engine=EngineSettings(target="owner/target", target_revision="v1"),
        drafter=DSparkSettings("owner/drafter"),
        drafters={"pinned": DFlashSettings("owner/other", "0" * 40), "lookup": NgramSettings()},
    )
    with capture_logs() as logs:
        log_unpinned(settings)
        log_unpinned(Settings())
    told = [(each["event"], each["role"], each["model"], each["revision"]) for each in logs]
    assert told == [
        ("revision_unpinned", "target", "owner/target", "v1"),
        ("revision_unpinned", "dspark", "owner/drafter", "main"),
    ]


def test_a_configured_kind_that_the_checkpoint_is_not_is_refused_saying_what_to_write():
    settings = Settings(
        engine=EngineSettings(kv_cache_tokens=2048, profile=False),
        drafter=DFlashSettings(str(drafter_folder("dspark", "demo"))),
    )
    with pytest.raises(CheckpointError, match='asks for dflash; write kind = "dspark"'):
        build_engine(settings)
