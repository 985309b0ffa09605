"""An experiment's file says everything, and says clearly what is wrong with it."""

import pytest

from core.config import FixedSettings, LoadAdaptiveSettings, Settings
from core.errors import ConfigError
from core.experiments.spec import arm_policies, decode_experiment, encode_experiment, parse_experiment
from core.types import Request, Sampling, Speculation

WHOLE = """
id = "adaptive-against-fixed"
unit = "switchback"
salt = "s1"
primary = "tokens_per_s"
[slot]
seconds = 60
burn_in_s = 10
[arms.fixed7]
policy = "fixed"
parameters = {length = 7}
[arms.adaptive]
policy = "load_adaptive"
weight = 2
[guardrails]
first_s_p95 = 1.1
[stop]
alpha = 0.05
"""


def read(text):
    return parse_experiment(text, "x.toml")


def test_a_file_is_read_and_kept_as_it_is():
    experiment = read(WHOLE)
    assert (experiment.control_arm, experiment.treatments, experiment.block_len) == ("fixed7", ["adaptive"], 3)
    assert decode_experiment(encode_experiment(experiment)) == experiment
    assert arm_policies(experiment, Settings()) == {
        "fixed7": FixedSettings(length=7),
        "adaptive": LoadAdaptiveSettings(),
    }


def test_the_digest_changes_with_any_setting():
    assert read(WHOLE).digest == read(WHOLE).digest != read(WHOLE.replace("alpha = 0.05", "alpha = 0.04")).digest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('salt = "s1"', 'sallt = "s1"', "unknown setting sallt; did you mean 'salt'"),
        ("burn_in_s = 10", "burnin_s = 10", "unknown setting slot.burnin_s; did you mean 'burn_in_s'"),
        ("weight = 2", "wieght = 2", "unknown setting arms.adaptive.wieght; did you mean 'weight'"),
        ("first_s_p95 = 1.1", "first_s_p59 = 1.1", "unknown metric 'first_s_p59' .*; did you mean 'first_s_p95'"),
        ('primary = "tokens_per_s"', 'primary = "tokens"', "unknown metric 'tokens' .primary."),
        ('primary = "tokens_per_s"', 'control = "fixed"', "unknown control 'fixed'; did you mean 'fixed7'"),
        ('primary = "tokens_per_s"', 'cuped = ["last"]', "unknown covariate 'last'"),
        ("burn_in_s = 10", "burn_in_s = 60", "slot.burn_in_s must be less than slot.seconds 60, got 60"),
        ("weight = 2", "weight = 0", "arms"),
        ('unit = "switchback"', 'unit = "mirror"', "needs a second server"),
        ('[arms.adaptive]\npolicy = "load_adaptive"\nweight = 2\n', "", "two arms or more"),
    ],
)
def test_what_it_cannot_mean_is_said_with_what_is_near(old, new, message):
    assert old in WHOLE
    with pytest.raises(ConfigError, match=message):
        read(WHOLE.replace(old, new))


def test_a_split_by_requests_is_refused_until_it_is_called_unsafe():
    split = WHOLE.replace('"switchback"', '"request"').replace("tokens_per_s", "token_s_p50")
    with pytest.raises(ConfigError, match="share the time of every step"):
        read(split)
    assert read("unsafe = true\n" + split).unsafe
    with pytest.raises(ConfigError, match="is one of the whole batch"):
        read("unsafe = true\n" + split.replace("token_s_p50", "tokens_per_s"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("length = 7", "lenght = 7", "unknown setting policies.fixed7.lenght for kind 'fixed'"),
        ('policy = "fixed"', 'policy = "fixd"', "unknown policies.fixed7.kind 'fixd'"),
        ("weight = 2", 'drafter = "ngramm"', "unknown arms.adaptive.drafter 'ngramm'"),
    ],
)
def test_an_arm_that_the_server_cannot_make_is_refused(old, new, message):
    with pytest.raises(ConfigError, match=message):
        arm_policies(read(WHOLE.replace(old, new)), Settings())


def test_who_names_its_own_speculation_takes_no_part():
    experiment = read(WHOLE + "[eligible]\nmin_max_tokens = 32\n")
    admits = experiment.eligible.admits
    assert admits(Request("a", (1,), Sampling(max_tokens=32), 0))
    assert not admits(Request("a", (1,), Sampling(max_tokens=31), 0))
    assert not admits(Request("a", (1,), Sampling(max_tokens=32), 0, speculation=Speculation(policy="off")))
