"""Dashboards and alerts ask only for what /metrics tells: our own, and those that vLLM ships.

tests/fixtures/vllm_dashboards.json says what vLLM's dashboards (of 0.33, Apache-2.0) ask for, by file: metric names and
the labels they are selected or grouped by. The dashboards themselves are not copied.
"""

import json
import re

import msgspec
import pytest
import yaml

from core.config import FixedSettings
from layers import ROOT
from tests.service.fakes import FakeEngine, fake_settings, running
from tests.service.promql import asked, dashboard_expressions, plain
from tests.service.test_metrics import scrape, scrape_until, scrape_until_told

DOCKER = ROOT / "docker"
DASHBOARD, ALERTS = DOCKER / "grafana" / "specd.json", DOCKER / "prometheus" / "alerts.yml"
VLLM = json.loads((ROOT / "tests" / "fixtures" / "vllm_dashboards.json").read_text(encoding="utf-8"))
# Parts of vLLM that specd has not: KV that comes from other machines, and images. Their panels stay empty, as vLLM's
# own do where they are not configured.
NOT_OURS = re.compile(r"vllm:(external_prefix|mm)_cache_(hits|queries)_total")


def rules():
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions():
    return [*dashboard_expressions(DASHBOARD), *(rule["expr"] for rule in rules())]


@pytest.fixture
async def told(redis_url, tmp_path):
    """Return the series that /metrics has after one request, each with its labels."""
    settings = msgspec.structs.replace(fake_settings(redis_url, tmp_path / "model"), policy=FixedSettings(2))
    async with running(settings, FakeEngine()) as service:
        await service.post(prompt="abc", max_tokens=9)
        await scrape_until(service, settings, "vllm:request_inference_time_seconds_count", 1)
        await scrape_until(service, settings, "specd_engine_steps_total", 3)
        await scrape_until_told(service, settings, "specd_worker_redis_rtt_seconds")
        found = await scrape(service, settings)
    samples = [sample for family in found.families.values() for sample in family.samples]
    return {
        name: set().union(*(one.labels for one in samples if one.name == name)) for name in {s.name for s in samples}
    }


async def test_all_that_vllms_dashboards_ask_for_is_there(told):
    missing = {
        f"{name} {sorted(set(labels) - told.get(name, set()))}"
        for queries in VLLM.values()
        for name, labels in queries.items()
        if not NOT_OURS.fullmatch(name) and not (name in told and set(labels) <= told[name])
    }
    assert missing == set()
    assert not any(NOT_OURS.fullmatch(name) for name in told)


async def test_all_that_our_dashboard_and_alerts_ask_for_is_there(told):
    for expression in expressions():
        series = asked(expression)
        assert series or expression.startswith("up{"), expression
        for name, labels in series.items():
            assert name in told, f"{name} in {expression}"
            assert labels <= told[name], f"{labels - told[name]} of {name} in {expression}"


def test_what_an_expression_asks_for_is_found():
    expression = 'sum by (le, arm) (rate(vllm:x_bucket{job=~"a", engine="0"}[1m])) / on () specd_y{part!="b"}'
    assert asked(expression) == {"vllm:x_bucket": {"le", "arm", "engine"}, "specd_y": {"le", "arm", "part"}}


def test_every_expression_is_promql():
    parser = pytest.importorskip("promql_parser", reason="specd[test] brings it")
    for expression in expressions():
        parser.parse(plain(expression))
    with pytest.raises(ValueError, match="unclosed left parenthesis"):
        parser.parse(plain("sum by (le (rate(specd_workers[$__rate_interval]))"))


async def test_the_bound_that_alerts_ask_for_is_one_of_the_histogram(redis_url, tmp_path):
    # A bound that is no bucket's would keep the alert silent for ever.
    bounds = set(re.findall(r'le="([^"]+)"', ALERTS.read_text(encoding="utf-8")))
    settings = fake_settings(redis_url, tmp_path / "model")
    async with running(settings, FakeEngine()) as service:
        await service.post(prompt="a", max_tokens=3)
        found = await scrape(service, settings)
    assert bounds
    assert bounds <= found.labels("vllm:time_to_first_token_seconds_bucket", "le")


def test_alerts_have_names_of_their_own_a_severity_and_a_summary():
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) >= 10
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert rule["annotations"]["summary"], rule["alert"]
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        if "for" in rule:
            assert re.fullmatch(r"\d+[smh]", rule["for"]), rule["alert"]


def test_prometheus_scrapes_the_gateway_and_reads_the_alerts():
    config = yaml.safe_load((ALERTS.parent / "prometheus.yml").read_text(encoding="utf-8"))
    assert config["rule_files"] == [ALERTS.name]
    (job,) = config["scrape_configs"]
    # Each gateway on its own: what one counts of its clients no other tells.
    (found_by,) = job["dns_sd_configs"]
    assert (job["job_name"], found_by["names"], found_by["port"]) == ("specd", ["gateway"], 8000)


def test_grafana_is_given_the_dashboard_and_where_prometheus_is():
    folder = DOCKER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text(encoding="utf-8"))["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = yaml.safe_load((folder / "dashboards" / "specd.yaml").read_text(encoding="utf-8"))["providers"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"


def test_the_dashboards_panels_have_ids_of_their_own_and_do_not_overlap():
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
