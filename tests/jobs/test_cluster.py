"""cluster.yaml is what Ray accepts, and the choice of a cluster says what it lacks."""

import json
import re
import socket
import subprocess
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml

from lorafleet.config import Resources
from lorafleet.errors import ManifestError, UnreachableError
from lorafleet_jobs.cluster import Cluster, cluster, gpus_a_lane, lanes_that_fit

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


@pytest.fixture
def config():
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_cluster_yaml_is_valid_for_ray(config):
    from ray.autoscaler._private.util import prepare_config, validate_config

    jsonschema.validate(config, SCHEMA)
    validate_config(prepare_config(config))


def test_training_never_lands_on_the_head_and_workers_are_spot(config):
    head, gpu = config["available_node_types"][config["head_node_type"]], config["available_node_types"]["gpu"]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert gpu["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, config["max_workers"])


def test_the_cluster_asks_for_a_token_and_its_dashboard_listens_on_loopback(config):
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert (ROOT / config["file_mounts"]["~/lorafleet/constraints.txt"]).is_file()


def test_databases_lie_on_the_heads_own_disk(config):
    said = " ".join(config["docker"]["head_run_options"] + config["head_start_ray_commands"])
    assert re.findall(r"sqlite:////(\w+)/(\w+)", said) == [("state", "jobs"), ("state", "mlflow")]
    assert "sqlite" not in " ".join(config["docker"]["run_options"])


STAGES = ["initialization", "setup", "head_setup", "head_start_ray", "worker_start_ray"]


@pytest.mark.parametrize("stage", STAGES)
def test_the_shell_and_the_programs_understand_every_command(config, stage, parses):
    for command in config[f"{stage}_commands"]:
        wrapped = f"source ~/.bashrc; export OMP_NUM_THREADS=1 && ({command})"  # as Ray does
        subprocess.run(["bash", "-n", "-c", wrapped], check=True)
        words = re.split(r" \S*(?:>>|2>)", command)[0].split()
        if words[0] == "ray":
            parses(words)
        elif "mlflow" in words:
            parses(words[words.index("mlflow") :])


@pytest.mark.parametrize("place", [(), ("docker",), ("available_node_types", "gpu")])
def test_a_misspelt_key_is_refused(config, place):
    part = config
    for key in place:
        part = part[key]
    first = next(iter(part))
    part[first + "x"] = part.pop(first)
    with pytest.raises(jsonschema.ValidationError, match=first + "x"):
        jsonschema.validate(config, SCHEMA)


@pytest.mark.parametrize(
    ("wanted", "found", "gpus"),
    [
        (None, Cluster(gpus=0, own=True), 0.0),
        (None, Cluster(gpus=4, own=False), 1.0),
        (0.5, Cluster(gpus=1, own=True), 0.5),
        (1, Cluster(gpus=0, own=False), 1.0),  # an autoscaler may bring one
    ],
)
def test_lanes_take_gpus_where_there_are_any(wanted, found, gpus):
    assert gpus_a_lane(Resources(gpus_per_lane=wanted), found) == gpus


def test_a_gpu_that_this_machine_lacks_is_an_error_that_says_so():
    with pytest.raises(ManifestError, match=r"gpus_per_lane is 1, but this machine has 0; leave it out"):
        gpus_a_lane(Resources(gpus_per_lane=1), Cluster(gpus=0, own=True))


@pytest.mark.parametrize(
    ("wanted", "jobs", "gpus", "found", "lanes"),
    [
        (4, 2, 0, Cluster(0, own=True), 2),
        (4, 9, 1, Cluster(2, own=True), 2),
        (4, 9, 0.5, Cluster(1, own=True), 2),
        (4, 9, 1, Cluster(0, own=False), 4),
    ],
)
def test_no_more_lanes_than_jobs_and_gpus_of_our_own(wanted, jobs, gpus, found, lanes):
    assert lanes_that_fit(wanted, jobs, gpus, found) == lanes


@pytest.mark.timeout(60)  # Ray itself would go on trying
def test_a_cluster_that_is_not_there_is_named():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with (
        pytest.raises(UnreachableError, match=rf"no Ray answers at '{address}', which --address names .*leave it out"),
        cluster(address, 1),
    ):
        pass
