"""cluster.yaml is what Ray accepts, and the choice of a cluster says what it lacks."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import venv
from pathlib import Path

import jsonschema
import psutil
import pytest
import ray.autoscaler
import yaml

from lorafleet.config import Resources
from lorafleet.errors import ManifestError, UnreachableError
from lorafleet.home import Home
from lorafleet.util import reach
from lorafleet_jobs.cluster import naming
from lorafleet_jobs.cluster import ray_cluster as clusters
from lorafleet_jobs.cluster.proving import Installed, difference, here, question
from lorafleet_jobs.cluster.ray_cluster import OWN, Cluster, cluster, gpus_a_lane, lanes_that_fit, python_of
from lorafleet_jobs.submission.submit import start_driver

ROOT = Path(__file__).parents[3]
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


@pytest.fixture
def silent():
    """The address of somebody who listens and says nothing, as a proxy does before a cluster that is gone."""
    with socket.create_server(("127.0.0.1", 0)) as there:
        yield f"127.0.0.1:{there.getsockname()[1]}"


@pytest.mark.timeout(60)
def test_a_named_cluster_that_is_gone_says_where_it_is_named_and_how_not_to(silent, monkeypatch, tmp_path):
    monkeypatch.setattr(naming, "await_rpc", lambda place: reach.await_rpc(place, seconds=0.5))
    monkeypatch.setenv("RAY_ADDRESS", silent)
    told = rf"no Ray answers at '{silent}', which RAY_ADDRESS names \(.*nothing answered.*unset it to train here"
    with pytest.raises(UnreachableError, match=told), cluster(None, 1):
        pass
    with pytest.raises(UnreachableError, match=told):
        start_driver("pets-01", Home(tmp_path), None)


@pytest.fixture
def left_here(tmp_path, monkeypatch):
    """Writes what `ray start` leaves on a machine, and names no cluster."""
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))

    def write(address):
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(address + "\n")
        return tmp_path / "ray" / "ray_current_cluster"

    return write


def test_auto_means_what_rays_file_says_and_the_file_is_named(left_here, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(UnreachableError, match="RAY_ADDRESS is 'auto', but no Ray runs here"), cluster(None, 1):
        pass
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    file = left_here(address)
    told = f"at '{address}', which RAY_ADDRESS=auto, from {file} names .*delete that file"
    with pytest.raises(UnreachableError, match=told), cluster(None, 1):
        pass


def test_a_cluster_that_nobody_named_is_passed_over_with_a_note(left_here, monkeypatch, capsys):
    left_here("127.0.0.1:7")
    monkeypatch.setattr(clusters, "answers", lambda _address: None)  # a port that only seems to be Ray's
    monkeypatch.setattr(clusters, "prove", lambda _address: "its workers cannot import lorafleet")
    assert clusters._join_running(1) is None
    said = capsys.readouterr().err
    assert (
        said == "note: the Ray at 127.0.0.1:7, which runs here, is passed over: its workers cannot import lorafleet\n"
    )


def test_the_question_to_a_worker_is_answered_where_lorafleet_is_missing():
    import cloudpickle

    ours = here()
    assert difference(Installed(*question()()), ours) is None
    assert "0.0.1, here it is" in difference(Installed("0.0.1", ours.digest), ours)
    assert "other sources" in difference(Installed(ours.version, "0" * 64), ours)
    code = "import sys, pickle; f = pickle.load(sys.stdin.buffer)\ntry: f()\nexcept ImportError as e: print(e.name)"
    site = next(path for path in sys.path if path.endswith("site-packages"))
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({site!r})\n{code}"],
        input=cloudpickle.dumps(question()), capture_output=True, check=True,
    )  # fmt: skip
    assert told.stdout.decode().strip() == "lorafleet"


def test_rays_shell_finds_a_python_whose_path_holds_a_space(tmp_path):
    assert python_of("/usr/bin/python3") is None
    python = tmp_path / "my 'own' env" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    executable = python_of(str(python))["py_executable"]
    command = f"exec {executable} -c 'print(6 * 7)'"  # as in ray/_private/runtime_env/context.py
    assert subprocess.run(["bash", "-c", command], capture_output=True, check=True, text=True).stdout == "42\n"


def train_on(tmp_path, python, **environment):
    """The exit code and stderr of a submission of one small job by another Python."""
    from lorafleet.toy.subjects import write_manifest, write_subjects

    subjects = write_subjects(tmp_path / "photos", ("mug",), pictures=4)
    write_manifest(tmp_path / "one.yaml", "one", "toy-playground", subjects, lanes=1, preset="fast", steps=3)
    told = {**os.environ, "LORAFLEET_HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}
    told.pop("RAY_ADDRESS")
    driver = subprocess.Popen(
        [python, "-m", "lorafleet.cli", "submit", str(tmp_path / "one.yaml"), "--yes"], env=told | environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        _, said = driver.communicate(timeout=400)
    finally:
        if driver.poll() is None:
            os.killpg(driver.pid, signal.SIGINT)
            driver.wait(60)
    return driver.returncode, said


def bare_python(folder, *paths):
    """An environment of its own with packages borrowed from `paths`."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = (folder / "lib").glob("*/site-packages")
    (site / "borrowed.pth").write_text("\n".join(paths))
    return str(folder / "bin" / "python")


@pytest.mark.slow
def test_it_trains_with_a_python_whose_path_holds_a_space(tmp_path):
    python = bare_python(tmp_path / "my env" / "v", *filter(None, sys.path))
    code, said = train_on(tmp_path, python, RAY_ADDRESS="local")
    assert code == 0, said
    assert f"trains on {OWN}" in said


@pytest.mark.slow
def test_another_ray_that_lacks_lorafleet_is_passed_over_and_named_is_refused(tmp_path):
    place = Path("/tmp") / f"lf{os.getpid()}"  # sockets have short names
    site = next(path for path in sys.path if path.endswith("site-packages"))
    python = bare_python(tmp_path / "v", site)  # an editable lorafleet is not borrowed
    other = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RAY_ADDRESS")}
    start = "import sys; from ray.scripts.scripts import main; sys.argv = ['ray', *sys.argv[1:]]; main()"
    head = subprocess.Popen(
        [python, "-c", start, "start", "--head", "--port=0", "--num-cpus=2", "--include-dashboard=false",
         "--object-store-memory=150000000", "--block"],
        env=other | {"RAY_TMPDIR": str(place)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    current = place / "ray" / "ray_current_cluster"
    try:
        while not current.exists():
            assert head.poll() is None
            time.sleep(0.5)
        code, said = train_on(tmp_path, sys.executable, RAY_TMPDIR=str(place))
        assert code == 0, said
        assert "is passed over: its workers cannot import lorafleet" in said
        assert f"trains on {OWN}" in said
        named = current.read_text().strip()
        code, said = train_on(tmp_path / "again", sys.executable, RAY_TMPDIR=str(place), RAY_ADDRESS=named)
        assert code == 4, said
        assert f"Ray at '{named}', which RAY_ADDRESS names, cannot be used: its workers cannot import" in said
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        for one in psutil.process_iter(["cmdline"]):
            if any(str(place) in word for word in one.info["cmdline"] or []):
                one.kill()
        shutil.rmtree(place, ignore_errors=True)
