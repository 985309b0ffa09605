"""The Kubernetes manifests by our own rules, and against what the code says: streams, ports, times, settings."""

import pytest
import yaml

from client.wire import PRIORITIES, WORKER_GROUP, queue_stream
from layers import ROOT
from service.gateway import SHUTDOWN_S
from service.worker import DRAIN_S, WRITE_OUT_S

FOLDER = ROOT / "docker" / "kubernetes"
STOP_S = 2 * max(SHUTDOWN_S, DRAIN_S + WRITE_OUT_S)


def documents() -> list[dict]:
    files = sorted(FOLDER.glob("*/*.yaml"))
    return [each for path in files for each in yaml.safe_load_all(path.read_text(encoding="utf-8"))]


def named(kind: str, name: str) -> dict:
    """The manifest in base, or the only one of its kind."""
    return next(each for each in documents() if each["kind"] == kind and each["metadata"]["name"] == name)


WORKLOADS = [("Deployment", "gateway"), ("Deployment", "worker"), ("StatefulSet", "redis")]


@pytest.fixture(params=WORKLOADS, ids=[name for _, name in WORKLOADS])
def pod(request):
    return named(*request.param)["spec"]["template"]["spec"]


def test_a_pod_has_nothing_it_does_not_need(pod):
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] != 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        own = container["securityContext"]
        assert own["readOnlyRootFilesystem"] is True
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}


def test_a_container_says_what_it_needs_and_how_it_fares(pod):
    for container in pod["containers"]:
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        tag = container["image"].partition(":")[2]
        assert tag not in ("", "latest")


def test_a_mount_has_a_volume(pod):
    claims = {each["metadata"]["name"] for each in named("StatefulSet", "redis")["spec"]["volumeClaimTemplates"]}
    volumes = {each["name"] for each in pod["volumes"]} | claims
    assert {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]} <= volumes


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_a_pod_has_longer_to_stop_than_it_takes(name):
    pod = named("Deployment", name)["spec"]["template"]["spec"]
    before = pod["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {"command": [0, 0]})["command"][1]
    assert pod["terminationGracePeriodSeconds"] > int(before) + STOP_S


def test_an_outage_of_redis_restarts_nobody():
    gateway, worker = (
        named("Deployment", name)["spec"]["template"]["spec"]["containers"][0] for name in ("gateway", "worker")
    )
    assert gateway["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/health"
    assert worker["livenessProbe"]["exec"]["command"][-1] == "--alive"


def test_selectors_pick_their_own_pods():
    for kind, name in WORKLOADS:
        spec = named(kind, name)["spec"]
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"] == {"app.kubernetes.io/component": name}
    for name in ("gateway", "worker"):
        budget = named("PodDisruptionBudget", name)["spec"]
        assert budget["selector"]["matchLabels"] == {"app.kubernetes.io/component": name}


def test_every_kustomization_names_files_that_are_there():
    for path in FOLDER.glob("*/kustomization.yaml"):
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
        files = [*told["resources"], *(patch["path"] for patch in told.get("patches", []))]
        assert all((path.parent / each).exists() for each in files)


def test_redis_is_reached_by_ours_and_forgets_nothing():
    (rule,) = named("NetworkPolicy", "redis")["spec"]["ingress"]
    expression = rule["from"][0]["podSelector"]["matchExpressions"][0]
    assert expression["values"] == ["gateway", "worker"]
    args = named("StatefulSet", "redis")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[args.index("--maxmemory-policy") + 1] == "noeviction"
    assert args[args.index("--appendonly") + 1] == "yes"


def test_workers_are_scaled_by_the_streams_that_they_read():
    scaled = named("ScaledObject", "worker")["spec"]
    told = [trigger["metadata"] for trigger in scaled["triggers"]]
    assert [each["stream"] for each in told] == [queue_stream("demo", priority) for priority in PRIORITIES]
    assert {each["consumerGroup"] for each in told} == {WORKER_GROUP}
    assert scaled["minReplicaCount"] >= 1


def test_the_settings_are_those_of_compose():
    assert (FOLDER / "base" / "specd.toml").read_bytes() == (ROOT / "docker" / "specd.toml").read_bytes()
