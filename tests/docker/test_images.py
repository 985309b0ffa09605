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

from layers import LAYERS, ROOT

DOCKER = ROOT / "docker"
DOCKERFILE = DOCKER / "Dockerfile"
COMPOSE = DOCKER / "compose.yaml"
# The Compose Specification's own schema (Apache-2.0), github.com/compose-spec/compose-spec.
SCHEMA = jsonschema.Draft7Validator(
    json.loads((Path(__file__).parent / "compose.schema.json").read_text(encoding="utf-8"))
)
SERVICES = ("redis", "gateway", "worker")
# What the gateway's requirements bring along themselves.
# What libraries of the gateway's load where it happens to be installed, and do without where it is not.
IF_THERE = {"cryptography", "psutil", "opentelemetry-exporter-otlp-proto-http", "opentelemetry-api"}
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


def requirements() -> set[str]:
    lines = (DOCKER / "gateway-requirements.txt").read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def test_the_dockerfile_passes_hadolint():
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    said = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, timeout=60, check=False)
    assert (said.returncode, said.stdout) == (0, "")


def test_compose_yaml_is_valid():
    SCHEMA.validate(compose())


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


def test_the_gateway_is_published_on_this_machine_only():
    assert all(port.startswith("127.0.0.1:") for port in compose()["services"]["gateway"]["ports"])


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_a_service_builds_a_target_of_the_dockerfile_and_waits_for_redis(name):
    service = compose()["services"][name]
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert re.search(rf"^FROM \S+ AS {service['build']['target']}$", text, re.MULTILINE)
    assert (COMPOSE.parent / service["build"]["context"]).resolve() == ROOT
    assert service["depends_on"]["redis"]["condition"] == "service_healthy"
    assert service["environment"]["SPECD_QUEUE__REDIS_URL"] == "redis://redis:6379/0"


def test_the_images_run_as_nobody_in_particular():
    final = DOCKERFILE.read_text(encoding="utf-8").partition(" AS runtime")[2]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert "USER root" not in final


def test_what_the_dockerfile_copies_exists_and_is_sent_to_the_builder():
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for source in re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE):
        assert (ROOT / source).exists()
        assert source == "." or f"!{source}" in ignore
    for package in LAYERS:
        assert f"!{package}" in ignore


def test_the_gateway_image_pins_every_requirement_and_has_no_torch():
    pinned = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert requirements() <= pinned
    assert not {"torch", "triton", "safetensors"} & requirements()


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
