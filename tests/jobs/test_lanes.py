"""The whole fan-out on a real Ray: two lanes, four jobs, one that fails, one whose lane is killed."""

import os
import signal
import time

import psutil
import pytest
import yaml
from PIL import Image

from lorafleet.home import Home
from lorafleet.tracking import MlflowRegistry
from lorafleet_jobs.cluster import cluster
from lorafleet_jobs.intake import prepare
from lorafleet_jobs.submit import submit

SUBJECTS = ("cup", "jug", "pan", "pot")


@pytest.fixture(scope="module")
def ray_here():
    with cluster("local", cpus=2):
        yield


@pytest.fixture
def manifest(tmp_path):
    for number, subject in enumerate(SUBJECTS):
        (tmp_path / subject).mkdir()
        for index in range(4):
            colour = (60 * index + 30, 60 * number + 20, 99)
            Image.new("RGB", (48, 40), colour).save(tmp_path / subject / f"{index}.png")
    text = {
        "apiVersion": "lorafleet/v1alpha1", "name": "kitchen", "base": "toy-playground",
        "recipe": {"rank": 2, "steps": 12}, "validation": {"steps": 1}, "resources": {"lanes": 2},
        "subjects": [{"name": subject, "images": subject, "class": "vessel"} for subject in SUBJECTS],
    }  # fmt: skip
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(text))
    return tmp_path / "manifest.yaml"


class Killer:
    """Kills the lane's worker, once, when it has taken a job."""

    def __init__(self):
        self.killed = []

    def __call__(self, submission):
        if not self.killed and any(job.state == "running" for job in submission.jobs):
            family = psutil.Process().children(recursive=True)
            workers = [one for one in family if "RayTrainWorker" in "".join(one.cmdline())]
            for worker in workers:
                os.kill(worker.pid, signal.SIGKILL)
            self.killed += workers


def test_lanes_train_and_publish_survive_a_failing_job_and_a_killed_worker(ray_here, manifest, tmp_path, with_mlflow):
    home = Home(with_mlflow(tmp_path / "home"))
    prepared = prepare(manifest)
    (tmp_path / "pan").rename(tmp_path / "elsewhere")

    first = submit(prepared, home)
    states = {job.spec.subject: (job.state, job.attempts, job.version) for job in first.jobs}
    good = ("succeeded", 1, 1)
    assert states == {"cup": good, "jug": good, "pan": ("failed", 1, None), "pot": good}
    assert first.state == "failed"

    (tmp_path / "elsewhere").rename(tmp_path / "pan")
    killer = Killer()
    second = submit(prepared, home, show=killer)
    assert killer.killed
    states = {job.spec.subject: (job.state, job.attempts, job.version) for job in second.jobs}
    assert states == {"cup": good, "jug": good, "pan": ("succeeded", 3, 1), "pot": good}

    adapters = MlflowRegistry(home.tracking_uri, home.adapter_cache).list()
    assert [(one.name, one.version, one.aliases) for one in adapters] == [(name, 1, ("champion",)) for name in SUBJECTS]

    started = time.monotonic()
    third = submit(prepared, home)
    assert third.jobs == second.jobs
    assert time.monotonic() - started < 2, "nothing was left to do, nothing was started"
    assert [path.name for path in home.ray_temp.iterdir()] == []
