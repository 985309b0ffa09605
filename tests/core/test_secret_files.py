"""SPECD_SECTION__FIELD_FILE: a secret that comes as a file, as containers hand them out."""

import pytest

from core.config_file import load_settings
from core.errors import ConfigError

URL = "redis://specd:a#b@redis:6379/0"


def test_a_variable_may_name_a_file_with_the_value(tmp_path):
    secret = tmp_path / "redis_url"
    secret.write_text(URL + "\n")
    settings, origin = load_settings(None, {"SPECD_QUEUE__REDIS_URL_FILE": str(secret)}, {})
    assert settings.queue.redis_url == URL
    assert origin["queue.redis_url"] == "env"


def test_an_empty_variable_leaves_the_word_to_the_file(tmp_path):
    secret = tmp_path / "redis_url"
    secret.write_text(URL)
    environ = {"SPECD_QUEUE__REDIS_URL": "", "SPECD_QUEUE__REDIS_URL_FILE": str(secret)}
    assert load_settings(None, environ, {})[0].queue.redis_url == URL


def test_a_value_and_a_file_for_it_are_refused(tmp_path):
    secret = tmp_path / "redis_url"
    secret.write_text(URL)
    environ = {"SPECD_QUEUE__REDIS_URL": URL, "SPECD_QUEUE__REDIS_URL_FILE": str(secret)}
    with pytest.raises(
        ConfigError, match=r"SPECD_QUEUE__REDIS_URL and SPECD_QUEUE__REDIS_URL_FILE both say queue"
    ) as e:
        load_settings(None, environ, {})
    assert "a#b" not in str(e.value)


def test_a_file_that_is_missing_empty_or_no_text_is_an_error_that_names_it(tmp_path):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name, words in (("none", "cannot read"), ("empty", "is empty"), ("bytes", "is not UTF-8")):
        with pytest.raises(ConfigError, match=words) as error:
            load_settings(None, {"SPECD_QUEUE__REDIS_URL_FILE": str(tmp_path / name)}, {})
        assert str(tmp_path / name) in str(error.value)
        assert "SPECD_QUEUE__REDIS_URL_FILE" in str(error.value)


def test_a_field_that_is_not_there_is_none_as_a_file_either():
    with pytest.raises(ConfigError, match=r"unknown setting log.levl_file .*did you mean 'level'"):
        load_settings(None, {"SPECD_LOG__LEVL_FILE": "/nowhere"}, {})
