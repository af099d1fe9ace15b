"""Bad days that come from outside: full and read-only disks, edited manifests, images and checkpoints gone bad.

Each ends in a clear state with a reason, harms no other job, and leaves nothing half-published.
"""

import hashlib
import json
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import own_lane
import pytest
import torch
import yaml
from own_lane import jobs_of
from PIL import Image
from safetensors.torch import load_file, save

from lorafleet.bundle.bundle import read_bundle
from lorafleet.cli import new_app, run
from lorafleet.errors import NotFoundError
from lorafleet.home import Home
from lorafleet.tracking import MlflowRegistry, MlflowTracking
from lorafleet_jobs.cli.commands import register
from lorafleet_jobs.intake.prepare import prepare
from lorafleet_jobs.jobqueue import job_state as rows
from lorafleet_jobs.jobqueue.job_queue import JobQueue
from lorafleet_jobs.jobqueue.status import load_submission, open_store, store_url
from lorafleet_jobs.lane import heartbeat
from lorafleet_jobs.lane.lane import stays
from lorafleet_jobs.submission.submit import record

STEPS = 4
WEIGHTS = "pytorch_lora_weights.safetensors"


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(rows, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(rows, "WAITS", 1)
    monkeypatch.setattr(heartbeat, "PROGRESS_SECONDS", 0.0)


@pytest.fixture
def home(tmp_path, with_mlflow):
    return Home(with_mlflow(tmp_path / "home"))


@pytest.fixture
def mounted():
    """Puts a file system in memory over a folder, with mount's options; it is gone after the test."""
    places = []

    def mount(folder: Path, options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("needs the right to mount")
        places.append(folder)

    yield mount
    for folder in places:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


def fill(file: Path) -> None:
    """Writes until the disk is full."""
    with file.open("wb", buffering=0) as stream, suppress(OSError):
        while stream.write(bytes(4096)):
            pass


@pytest.fixture
def manifest(tmp_path):
    return write_manifest(tmp_path)


def write_manifest(folder: Path, steps: int = STEPS, subjects: tuple[str, ...] = ("cup", "jug"), **resources) -> Path:
    for number, subject in enumerate(subjects):
        (folder / subject).mkdir(exist_ok=True)
        for index in range(4):
            colour = (60 * index + 30, 90 * number + 20, 140)
            Image.new("RGB", (48, 40), colour).save(folder / subject / f"{index}.png")
    manifest = {
        "apiVersion": "lorafleet/v1alpha1", "name": "kitchen", "base": "toy-playground",
        "recipe": {"rank": 2, "steps": steps}, "validation": {"steps": 1}, "resources": {"exact": True, **resources},
        "promotion": "always",
        "subjects": [{"name": subject, "images": subject, "class": "mug"} for subject in subjects],
    }  # fmt: skip
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return folder / "manifest.yaml"


def recorded(manifest: Path, home: Home) -> str:
    prepared = prepare(manifest)
    record(prepared, home)
    return prepared.plan.submission


def lane(home: Home, submission: str, must_leave=stays, pack: int = 1) -> str:
    tracking = MlflowTracking(home.tracking_uri, home.artifacts)
    return own_lane.lane(home, tracking, JobQueue(store_url(home), submission), pack, must_leave)


def submit(manifest: Path) -> int:
    """As a user does; returns the exit code."""
    app = new_app()
    register(app)
    return run(app, ["submit", str(manifest), "-y"])


def leaves_at(home: Home, submission: str, step: int):
    """A notice to leave once a job has got so far."""
    return lambda: any(job.step >= step for job in load_submission(home, submission).jobs)


def adapters(home: Home) -> list[tuple[str, int]]:
    return [(one.name, one.version) for one in MlflowRegistry(home.tracking_uri, home.adapter_cache).list()]


def test_a_full_disk_fails_its_jobs_by_name_and_with_room_they_are_published_once(home, manifest, mounted):
    submission = recorded(manifest, home)
    mounted(home.bundles, "size=16k")
    lane(home, submission)
    for job in jobs_of(home, submission).values():
        assert (job.state, job.kind, job.attempts) == ("failed", "storage", 2)
        assert "No space left on device" in job.error
        assert "make room" in job.error
        assert "\n" not in job.error
    assert list(home.bundles.iterdir()) == []
    assert adapters(home) == []
    remount(home.bundles, "size=64m")
    open_store(home).retry(submission, time.time())
    lane(home, submission)
    assert {job.state for job in jobs_of(home, submission).values()} == {"succeeded"}
    assert adapters(home) == [("cup", 1), ("jug", 1)]


@pytest.mark.parametrize("where", ["home", "mlflow"])
def test_what_cannot_be_written_is_named_before_anything_starts(
    tmp_path, manifest, mounted, monkeypatch, capsys, where
):
    root = tmp_path / "home"
    monkeypatch.setenv("LORAFLEET_HOME", str(root))
    if where == "home":
        mounted(root, "size=1m,ro")
    else:
        mounted(tmp_path / "elsewhere", "size=1m,ro")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'elsewhere' / 'mlflow.db'}")
    code = submit(manifest)
    said = capsys.readouterr().err
    assert code in (2, 4), said
    assert "Traceback" not in said
    assert str(root if where == "home" else tmp_path / "elsewhere") in said
    if where == "mlflow":
        assert {job.state for job in load_submission(Home(root), None).jobs} == {"queued"}, "and goes on later"


def test_mlflow_that_cannot_be_written_any_more_delays_publishing_and_nothing_else(
    home, manifest, mounted, tmp_path, with_mlflow, monkeypatch
):
    store = tmp_path / "store"
    mounted(store, "size=8m")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{with_mlflow(store) / 'mlflow.db'}")
    submission = recorded(manifest, home)
    fill(store / "ballast")
    lane(home, submission)
    for job in jobs_of(home, submission).values():
        assert (job.state, job.kind) == ("failed", "publish")
        assert "\n" not in job.error
        assert read_bundle(home.bundles / job.id).card.job_id == job.id
    assert adapters(home) == []
    (store / "ballast").unlink()
    open_store(home).retry(submission, time.time())
    lane(home, submission)
    assert {job.state for job in jobs_of(home, submission).values()} == {"succeeded"}
    assert adapters(home) == [("cup", 1), ("jug", 1)]


def test_what_a_driver_left_that_died_over_its_last_words_is_done_by_the_next(home, tmp_path, monkeypatch, capsys):
    manifest = write_manifest(tmp_path, subjects=("cup",))
    submission = recorded(manifest, home)
    lane(home, submission)
    open_store(home).set_cluster(submission, "ray-1")
    left = home.ray_temp / f"{submission}-0a1b2c3d-0-0"
    left.mkdir(parents=True)
    tracking, parent = MlflowTracking(home.tracking_uri, home.artifacts), load_submission(home, submission).row.run_id
    assert tracking.client.get_run(parent).info.status == "RUNNING"
    monkeypatch.setenv("LORAFLEET_HOME", str(home.root))
    assert submit(manifest) == 0, capsys.readouterr().err
    assert tracking.client.get_run(parent).info.status == "FINISHED"
    assert home.report(submission).exists()
    assert not left.exists()
    assert load_submission(home, submission).row.cluster is None, "once"


def test_a_manifest_that_is_edited_half_way_is_another_submission_and_the_first_goes_on_as_it_was(
    home, manifest, tmp_path
):
    first = recorded(manifest, home)
    assert lane(home, first, leaves_at(home, first, 2)) == "preempted"
    second = recorded(write_manifest(tmp_path, steps=STEPS + 2, subjects=("cup", "jug", "pan")), home)
    assert second != first
    assert lane(home, first) == "drained"
    assert lane(home, second) == "drained"
    for submission, steps, subjects in ((first, STEPS, 2), (second, STEPS + 2, 3)):
        jobs = jobs_of(home, submission).values()
        assert [(job.state, job.step) for job in jobs] == [("succeeded", steps)] * subjects
        assert all(read_bundle(home.bundles / job.id).card.steps == steps for job in jobs)
    assert "goes on at step 2" in home.job_log(first, jobs_of(home, first)["cup"].id).read_text()


@pytest.mark.parametrize("harm", ["deleted", "replaced"])
def test_an_image_that_is_gone_or_another_one_half_way_fails_its_job_alone(home, manifest, tmp_path, harm):
    submission = recorded(manifest, home)
    assert lane(home, submission, leaves_at(home, submission, 2)) == "preempted"
    picture = tmp_path / "cup" / "2.png"
    picture.unlink()
    if harm == "replaced":
        Image.new("RGB", (48, 40), (1, 2, 3)).save(picture)
    lane(home, submission)
    jobs = jobs_of(home, submission)
    assert (jobs["cup"].state, jobs["cup"].kind) == ("failed", "data")
    assert "2.png" in jobs["cup"].error
    assert "\n" not in jobs["cup"].error
    assert jobs["jug"].state == "succeeded"
    assert adapters(home) == [("jug", 1)]
    with pytest.raises(NotFoundError):
        MlflowRegistry(home.tracking_uri, home.adapter_cache).resolve("cup")


def test_checkpoints_that_are_whole_but_wrong_are_not_trained_on(home, tmp_path, with_mlflow):
    manifest = write_manifest(tmp_path, subjects=("cup", "jug", "pan"))
    submission = recorded(manifest, home)
    assert lane(home, submission, leaves_at(home, submission, 2), pack=3) == "preempted"
    poisons = ("shapes", "keys", "numbers")
    for (subject, job), poison in zip(jobs_of(home, submission).items(), poisons, strict=True):
        (kept,) = (home.checkpoints / job.id).glob("step-*")
        poisoned(kept, poison)
        assert job.step == 2, subject
    lane(home, submission, pack=3)
    calm = Home(with_mlflow(tmp_path / "calm"))
    lane(calm, recorded(manifest, calm), pack=3)
    for job in jobs_of(home, submission).values():
        assert job.state == "succeeded"
        assert "goes on" not in home.job_log(submission, job.id).read_text()
        assert (home.bundles / job.id / WEIGHTS).read_bytes() == (calm.bundles / job.id / WEIGHTS).read_bytes()


def poisoned(folder: Path, how: str) -> None:
    """Changes a checkpoint so that its hash still fits."""
    tensors = load_file(folder / "state.safetensors")
    name = next(key for key in tensors if key.startswith("state.learned"))
    said = json.loads((folder / "state.json").read_text())
    if how == "shapes":
        tensors[name] = torch.zeros(3, 3)
    elif how == "numbers":
        tensors[name] = torch.full_like(tensors[name], float("nan"))
    else:
        said["state"]["pairs"] = said["state"]["pairs"][:1]
    data = save(tensors)
    (folder / "state.safetensors").write_bytes(data)
    said["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "state.json").write_text(json.dumps(said))
