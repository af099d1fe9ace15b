"""The whole fan-out on a real Ray: two lanes, four jobs, one that fails; lanes and dispatcher are killed on the way."""

import os
import signal

import psutil
import pytest
import ray
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from lorafleet.errors import UnreachableError
from lorafleet.home import Home
from lorafleet.tracking import MlflowRegistry, MlflowTracking
from lorafleet_jobs.cluster.ray_cluster import cluster
from lorafleet_jobs.cluster.remote_queue import remote_queue, start_dispatcher
from lorafleet_jobs.intake.prepare import prepare
from lorafleet_jobs.jobqueue.job_queue import JobQueue, LaneConfig
from lorafleet_jobs.jobqueue.status import load_submission, store_url
from lorafleet_jobs.lane.lane import Lane
from lorafleet_jobs.submission.submit import record, submit

SUBJECTS = ("cup", "jug", "pan", "pot")
STEPS = 36
WEIGHTS = "pytorch_lora_weights.safetensors"


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
        "recipe": {"rank": 2, "steps": STEPS}, "validation": {"steps": 1}, "promotion": "always",
        "resources": {"lanes": 2, "pack": 2, "exact": True, "checkpoint_seconds": 0.2},
        "subjects": [{"name": subject, "images": subject, "class": "vessel"} for subject in SUBJECTS],
    }  # fmt: skip
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(text))
    return tmp_path / "manifest.yaml"


class Trouble:
    """Sends signals to processes of our Ray, each as soon as some job of a later attempt is a few steps on its way."""

    def __init__(self, *plan):
        self.plan, self.sent, self.after = list(plan), [], 0

    def __call__(self, submission):
        busy = [job for job in submission.jobs if job.state == "running" and job.step > 5]
        if self.plan and sum(job.attempts for job in busy) > self.after:
            name, number = self.plan[0]
            family = psutil.Process().children(recursive=True)
            found = [one for one in family if name in "".join(one.cmdline())]
            if found:
                self.plan.pop(0)
                self.after = max(job.attempts for job in submission.jobs) if "Worker" in name else 0
                os.kill(found[0].pid, number)
                self.sent.append(name)


LANE, DISPATCHER = "RayTrainWorker", "JobQueue"


@pytest.mark.slow
def test_lanes_train_and_publish_whatever_is_killed_on_the_way(ray_here, manifest, tmp_path, with_mlflow):
    home = Home(with_mlflow(tmp_path / "home"))
    prepared = prepare(manifest)
    (tmp_path / "pan").rename(tmp_path / "elsewhere")

    trouble = Trouble((DISPATCHER, signal.SIGKILL), (LANE, signal.SIGKILL))
    first = submit(prepared, home, show=trouble)
    assert trouble.sent == [DISPATCHER, LANE]
    states = {job.spec.subject: (job.state, job.kind, job.version) for job in first.jobs}
    good = ("succeeded", "unchanged", 1)
    assert states == {"cup": good, "jug": good, "pan": ("failed", "data", None), "pot": good}
    assert first.state == "failed"
    logs = {job.spec.subject: home.job_log(first.id, job.id).read_text() for job in first.jobs}
    assert any("goes on at step" in log for log in logs.values()), logs
    assert any(f"-{lane} died of " in log for log in logs.values() for lane in "01"), "what killed it is said"

    (tmp_path / "elsewhere").rename(tmp_path / "pan")
    trouble = Trouble((LANE, signal.SIGTERM))
    second = submit(prepared, home, show=trouble)
    assert trouble.sent == [LANE]
    (pan,) = [job for job in second.jobs if job.spec.subject == "pan"]
    assert (pan.state, pan.attempts, pan.lanes_lost, pan.version) == ("succeeded", 3, 0, 1)
    log = home.job_log(second.id, pan.id).read_text()
    assert "is preempted" in log
    assert "goes on at step" in log

    adapters = MlflowRegistry(home.tracking_uri, home.adapter_cache).list()
    assert [(one.name, one.version, one.aliases) for one in adapters] == [(name, 1, ("champion",)) for name in SUBJECTS]
    calm = without_trouble(Home(with_mlflow(tmp_path / "calm")), prepared)
    tracking = MlflowTracking(home.tracking_uri, home.artifacts)
    for job in second.jobs:
        ours, theirs = (load_file(one.bundles / job.id / WEIGHTS) for one in (home, calm))
        assert {name for name in ours if not torch.equal(ours[name], theirs[name])} == set()
        steps = [point.step for point in tracking.client.get_metric_history(job.run_id, "train/loss")]
        assert sorted(steps) == sorted(set(steps)), "no point twice"
        assert steps[-1] == STEPS

    said = {job.id: home.job_log(second.id, job.id).read_text() for job in second.jobs}
    third = submit(prepared, home)
    assert third.jobs == second.jobs
    assert {job.id: home.job_log(third.id, job.id).read_text() for job in third.jobs} == said, "nothing was started"
    assert [path.name for path in home.ray_temp.iterdir()] == []
    assert [path.name for path in home.checkpoints.iterdir()] == []


def test_a_dispatcher_that_died_is_asked_again_and_one_that_is_gone_is_named(ray_here, manifest, tmp_path, with_mlflow):
    home = Home(with_mlflow(tmp_path / "home"))
    prepared = prepare(manifest)
    record(prepared, home)
    actor = start_dispatcher(store_url(home), prepared.plan.submission)
    queue = remote_queue(actor, patience=3.0)
    held = queue.lease("a", ())
    ray.kill(actor, no_restart=False)
    assert queue.heartbeat(held.spec.id, held.attempt)
    assert queue.lease("a", ()) == held, "an answer that got lost is given again"
    ray.kill(actor)
    with pytest.raises(UnreachableError, match=r"dispatcher does not answer .*submit again"):
        beat_on(queue, held)


def beat_on(queue, held):
    """Ends once nobody answers: Ray does not wait until a kill has arrived."""
    while True:
        queue.heartbeat(held.spec.id, held.attempt)


def without_trouble(home, prepared):
    """The same submission on one lane in this process."""
    record(prepared, home)
    tracking = MlflowTracking(home.tracking_uri, home.artifacts)
    row = load_submission(home, prepared.plan.submission).row
    setup = LaneConfig("calm", home.root, tracking.uri, cpus=1, device="cpu", pack=2, resources=row.resources)
    Lane(setup, JobQueue(store_url(home), row.id), tracking).run()
    return home
