"""The cluster files: what Ray's launcher and KubeRay would make of them, checked without a cloud."""

import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
PINNED_RAY = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]  # type: ignore[index]


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture
def rayjob() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "examples" / "rayjob.yaml").read_text())


def test_cluster_yaml_is_valid_against_rays_own_schema(cluster):
    jsonschema.validate(cluster, json.loads(SCHEMA.read_text()))


def test_the_schema_would_refuse_a_misspelt_key(cluster):
    """The check above can fail."""
    cluster["idle_timeout_minuets"] = cluster.pop("idle_timeout_minutes")
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minuets"):
        jsonschema.validate(cluster, json.loads(SCHEMA.read_text()))


def test_head_has_no_gpu_and_gpu_workers_scale_from_zero(cluster):
    types = cluster["available_node_types"]
    head = types.pop(cluster["head_node_type"])
    assert "GPU" not in head["resources"]
    assert types, "no worker type"
    for name, kind in types.items():
        assert kind["min_workers"] == 0, f"{name} costs money while nothing runs"
        assert 0 < kind["max_workers"] <= cluster["max_workers"]
        assert kind["resources"]["GPU"] >= 1, f"{name}: the autoscaler cannot know that it has a GPU"
    assert cluster["idle_timeout_minutes"] > 0


def test_token_authentication_is_on_on_every_node(cluster):
    assert cluster["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("RAY_AUTH_MODE=token" in command for command in cluster["initialization_commands"])
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        start = [command for command in cluster[commands] if "ray start" in command]
        assert len(start) == 1
        assert "RAY_AUTH_MODE=token" in start[0]
        assert "dashboard-host=0.0.0.0" not in start[0], "the dashboard belongs behind the SSH tunnel"


def test_nodes_install_the_pinned_packages_from_the_clone(cluster):
    mounts = cluster["file_mounts"]
    for remote, local in mounts.items():
        if not local.startswith("~"):
            assert (ROOT / local).is_file(), f"file_mounts: {local} is not in the clone"
            assert remote.rsplit("/", 1)[1] == local
    (install,) = (command for command in cluster["setup_commands"] if "-r " in command)
    words = shlex.split(install)
    for option, name in (("-c", "constraints.txt"), ("-r", "pyproject.toml")):
        path = words[words.index(option) + 1].replace("~", "/home/ubuntu")
        assert mounts[path] == name


def test_rayjob_has_a_cpu_head_and_gpu_workers_from_zero(rayjob):
    assert (rayjob["apiVersion"], rayjob["kind"]) == ("ray.io/v1", "RayJob")
    spec = rayjob["spec"]["rayClusterSpec"]
    assert spec["enableInTreeAutoscaling"] is True
    (head,) = spec["headGroupSpec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    (group,) = spec["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"]) == (0, 0)
    assert group["maxReplicas"] > 0
    (worker,) = group["template"]["spec"]["containers"]
    assert int(worker["resources"]["limits"]["nvidia.com/gpu"]) >= 1
    assert worker["image"] == head["image"]
    for container in (head, worker):
        assert container["resources"]["requests"] == container["resources"]["limits"], (
            "Ray's view would differ"
        )


def test_rayjob_takes_its_token_from_a_secret_and_its_ray_from_the_pins(rayjob):
    spec = rayjob["spec"]["rayClusterSpec"]
    assert spec["authOptions"]["mode"] == "token"
    secret = spec["authOptions"]["secretName"]
    text = (ROOT / "examples" / "rayjob.yaml").read_text()
    assert f"kubectl create secret generic {secret} --from-literal=auth_token=" in text
    assert spec["rayVersion"] == PINNED_RAY
    assert f"rayproject/ray:{PINNED_RAY}-" in (ROOT / "examples" / "Dockerfile").read_text()


def test_rayjob_runs_the_main_job_on_urls_and_goes_away(rayjob):
    words = shlex.split(rayjob["spec"]["entrypoint"])
    assert words[0] == "python"
    assert words[1].endswith("jobs/segment_wsi.py")
    options = dict(itertools.pairwise(words))
    for place in (words[2], options["--support"], options["--out"]):
        assert "://" in place, f"{place} is not visible to every pod"
    workers = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    gpus = int(options["--workers"]) * float(options["--gpus-per-worker"])
    assert 0 < gpus <= workers["maxReplicas"], "more GPUs asked for than the group may have"
    assert rayjob["spec"]["shutdownAfterJobFinishes"] is True
