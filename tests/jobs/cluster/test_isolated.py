"""Jobs that several workers share: who takes part in what, and the same result on a real Ray, whoever is killed."""

import psutil
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml
from PIL import Image
from safetensors.torch import load_file

from lorafleet.cli import build_app, run
from lorafleet.config import Resources
from lorafleet.errors import ManifestError
from lorafleet.home import Home
from lorafleet.tracking import MlflowTracking
from lorafleet_jobs.cluster.ray_cluster import Cluster, cluster
from lorafleet_jobs.cluster.sizing import fleet_of
from lorafleet_jobs.intake.machine import Machine
from lorafleet_jobs.intake.prepare import prepare
from lorafleet_jobs.jobqueue.job_queue import JobQueue, LaneConfig
from lorafleet_jobs.jobqueue.status import load_submission, open_store, store_url
from lorafleet_jobs.lane.followers import RankFollowers, follow_lane
from lorafleet_jobs.lane.lane import Lane
from lorafleet_jobs.submission.submit import record, submit
from lorafleet_jobs.train import Follower

STEPS = 20
WEIGHTS = "pytorch_lora_weights.safetensors"


def manifest_in(folder, workers, **more):
    for subject in ("cup", "jug"):
        (folder / subject).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (48, 40), (60 * index + 30, 20, 99)).save(folder / subject / f"{index}.png")
    text = {
        "apiVersion": "lorafleet/v1alpha1", "name": "kitchen", "base": "toy-sdxl", "validation": {"steps": 1},
        "recipe": {
            "rank": 2, "steps": STEPS, "batch_size": 2, "gradient_accumulation": 4, "workers": workers,
            "optimizer": "adamw",
        },
        "resources": {"checkpoint_seconds": 0.1},
        "subjects": [{"name": subject, "images": subject, "class": "vessel"} for subject in ("cup", "jug")],
    } | more  # fmt: skip
    (folder / "manifest.yaml").write_text(yaml.safe_dump(text))
    return folder / "manifest.yaml"


@pytest.fixture
def home(tmp_path, with_mlflow):
    return Home(with_mlflow(tmp_path / "home"))


# ---- who leases what, and how wide lanes are


def test_a_queue_for_so_many_workers_hands_out_their_jobs_only(tmp_path, home):
    points = {"points": [{"workers": 1, "rank": 2}, {"workers": 2, "rank": 4}]}
    prepared = prepare(manifest_in(tmp_path, 1, sweep=points))
    record(prepared, home)
    one, two = (JobQueue(store_url(home), prepared.plan.submission, workers=workers) for workers in (1, 2))
    while (lease := one.lease("a", ())) is not None:
        assert lease.spec.recipe.workers == 1
        assert not one.is_drained()
        one.finish(lease.spec.id, lease.attempt, "failed", None, "as planned")
    assert one.is_drained()
    assert not two.is_drained()
    assert two.lease("a", ()).spec.recipe.workers == 2


def test_a_lane_is_as_wide_as_its_jobs_and_on_a_gpu_packs_are_as_large_as_pays(tmp_path, home):
    def fleet(gpus, workers, name, **resources):
        prepared = prepare(manifest_in(tmp_path / name, workers, resources=resources))
        record(prepared, home)
        found = load_submission(home, prepared.plan.submission)
        return prepared.plan, fleet_of(found.row, found.jobs, home, Cluster(gpus, own=True))

    plan, made = fleet(4.0, 2, "a", lanes=2)
    assert [len(pack) for pack in plan.packs] == [1, 1]
    assert (made.lanes, made.gpus, made.rank) == (2, 1.0, 2)
    with pytest.raises(ManifestError, match=r"workers is 2, with 1 GPUs each, but this machine has 1; lower it"):
        fleet(1.0, 2, "b")
    store = open_store(home)
    assert fleet(1.0, 1, "c")[1].pack == 2, "no more than there are jobs"
    (row,) = [one for one in store.submissions() if one.id == load_submission(home, None).id]
    assert row.resources.pack == 2
    assert fleet(1.0, 1, "d", pack=1)[1].pack == 1, "as was said"


def test_lanes_are_told_absolute_addresses_whatever_the_driver_was_told(tmp_path, with_mlflow, monkeypatch):
    with_mlflow(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("LORAFLEET_HOME", "home")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    monkeypatch.setenv("LORAFLEET_DATABASE_URL", "sqlite:///rows.db")
    home = Home.from_environment()
    prepared = prepare(manifest_in(tmp_path / "a", 1))
    record(prepared, home)
    found = load_submission(home, prepared.plan.submission)
    told = fleet_of(found.row, found.jobs, home, Cluster(0, own=True))
    places = told.home, told.storage, told.spans
    assert all(place.is_relative_to(tmp_path / "here" / "home") for place in places)
    assert told.tracking_uri == f"sqlite:///{tmp_path / 'here' / 'mlflow.db'}"
    assert told.database == f"sqlite:///{tmp_path / 'here' / 'rows.db'}"
    assert (tmp_path / "here" / "rows.db").exists()


def test_the_plan_says_how_wide_lanes_are(tmp_path, capsys):
    path = manifest_in(tmp_path, 2, resources={"lanes": 2})
    assert run(build_app(), ["plan", str(path)]) == 0
    assert "2 jobs on 2 lanes of 2 workers, which share one job" in capsys.readouterr().out
    one, two = (Machine(cpus=4, gpus=0).lanes_at_once(Resources(lanes=4), workers) for workers in (1, 2))
    assert (one, two) == (4, 2)


# ---- workers that keep in step


def worker(rank, folder, setup, specs):
    """The first announces a job that it cannot start, then one that goes ahead, then it leaves."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    if rank:
        follow_lane(setup)
    else:
        lead(RankFollowers(), setup, specs)
    (folder / f"{rank}.done").touch()
    dist.destroy_process_group()


def lead(followers, setup, specs):
    from lorafleet.bases import find_base
    from lorafleet.loaded import LoadedBase

    with pytest.raises(OSError, match="no room"), followers.starting(specs[0], setup.home / "half-way"):
        raise OSError("no room")
    followers.waiting()
    with followers.starting(specs[1], setup.home / "half-way"):
        mine = Follower(specs[1], LoadedBase.load(find_base("toy-sdxl")), followers.process_group)
    mine.run()
    followers.leaving()


def test_the_others_take_part_in_what_goes_ahead_and_in_nothing_else(tmp_path):
    prepared = prepare(manifest_in(tmp_path, 2))
    gone, there = prepared.plan.jobs
    gone = gone.with_changes(folder=str(tmp_path / "gone"))
    setup = LaneConfig("a", tmp_path / "home", "", cpus=1, device="cpu")
    mp.spawn(worker, (tmp_path, setup, [gone, there]), nprocs=2)
    assert [(tmp_path / f"{rank}.done").exists() for rank in range(2)] == [True, True]


class Cancelling(JobQueue):
    """Its user cancels the first job as soon as it has begun."""

    def progress(self, job, attempt, step, loss):
        if step and job == self._store.jobs(self.submission)[0].id:
            self._store.cancel(self.submission, 0.0, job)
        return super().progress(job, attempt, step, loss)


def member(rank, folder, setup, database, submission):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    if rank:
        follow_lane(setup)
    else:
        tracking = MlflowTracking(setup.tracking_uri, Home(setup.home).artifacts)
        queue = Cancelling(database, submission, workers=2)
        assert Lane(setup, queue, tracking, followers=RankFollowers()).run() == "drained"
    dist.destroy_process_group()


def test_a_cancelled_job_lets_all_workers_go_on_to_the_next(tmp_path, home):
    prepared = prepare(manifest_in(tmp_path, 2))
    record(prepared, home)
    setup = LaneConfig("a", home.root, home.tracking_uri, cpus=1, device="cpu")
    mp.spawn(member, (tmp_path, setup, store_url(home), prepared.plan.submission), nprocs=2)
    jobs = load_submission(home, prepared.plan.submission).jobs
    assert [job.state for job in jobs] == ["cancelled", "succeeded"]


# ---- the whole, on a real Ray


class Trouble:
    """Kills a worker of a job once that is on its way."""

    def __init__(self):
        self.killed = False

    def __call__(self, submission):
        if self.killed or not any(job.state == "running" and job.step > 5 for job in submission.jobs):
            return
        found = [one for one in psutil.Process().children(recursive=True) if "RayTrainWorker" in "".join(one.cmdline())]
        found[-1].kill()
        self.killed = True


@pytest.mark.slow
def test_two_workers_come_to_what_one_does_and_survive_the_death_of_one(tmp_path, home, with_mlflow):
    trouble = Trouble()
    with cluster("local", cpus=2):
        shared = submit(prepare(manifest_in(tmp_path / "two", 2)), home, show=trouble)
        other = Home(with_mlflow(tmp_path / "other"))
        alone = submit(prepare(manifest_in(tmp_path / "one", 1)), other)
    assert trouble.killed
    assert [(job.state, job.version) for job in shared.jobs] == [("succeeded", 1)] * 2, shared.jobs
    assert sorted(job.attempts for job in shared.jobs) == [1, 2]
    assert any("goes on at step" in home.job_log(shared.id, job.id).read_text() for job in shared.jobs)
    assert [job.id for job in shared.jobs] == [job.id for job in alone.jobs], "the number of workers changes nothing"
    for job in shared.jobs:
        ours, theirs = (load_file(one.bundles / job.id / WEIGHTS) for one in (home, other))
        assert ours.keys() == theirs.keys()
        for name, expected in theirs.items():
            assert (ours[name] - expected).norm() <= 1e-3 * expected.norm(), name
