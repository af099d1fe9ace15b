"""A real MLflow server that hangs, dies and comes back, behind a wire that is cut: every step arrives, each once."""

import json
import signal
import threading
import time
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from job_rows import SUBMISSION
from mlflow.exceptions import MlflowException
from mlflow_server import Server, Wire
from PIL import Image
from safetensors.torch import save

from lorafleet.bases import find_base
from lorafleet.bundle.bundle import CARD, WEIGHTS, AdapterCard, Trigger, sha256_of, write_bundle
from lorafleet.bundle.ports import RunEnd, RunEntry
from lorafleet.config import Recipe, Validation
from lorafleet.errors import UnreachableError
from lorafleet.loaded import LoadedBase
from lorafleet.tracking import MlflowRegistry, MlflowTracking
from lorafleet.util.addresses import sqlite_url
from lorafleet_jobs.jobqueue.outbox import Outbox, QueueTracker
from lorafleet_jobs.jobqueue.store import JobStore
from lorafleet_jobs.jobspec import ImageSpec, JobSpec
from lorafleet_jobs.submission.outbox_sender import (
    OutboxSender,
    flush,
    send_waiting,
)
from lorafleet_jobs.train import Pack, TrainJob


@pytest.fixture(scope="module")
def server(tmp_path_factory, with_mlflow):
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # tests have less patience than lanes
    patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    server = Server(with_mlflow(tmp_path_factory.mktemp("mlflow server")))
    server.start()
    yield server
    server.stop()
    patch.undo()


@pytest.fixture(scope="module")
def direct(server):
    """The server's database, read without the server."""
    return MlflowTracking(f"sqlite:///{server.home / 'mlflow.db'}", server.home / "unused")


@pytest.fixture(scope="module")
def new_run(direct):
    experiment = direct.client.create_experiment("outages", artifact_location="mlflow-artifacts:/outages")
    return lambda: direct.client.create_run(experiment).info.run_id


KEYS = ("train/loss", "train/lr")
STATES = st.sampled_from(["whole", "cut", "deaf"])
ATTEMPTS = st.lists(
    st.fixed_dictionaries(
        {
            "back": st.integers(0, 4),  # steps since the last checkpoint
            "forward": st.integers(1, 8),
            "states": st.lists(st.tuples(st.integers(0, 8), STATES), max_size=3),
            "pushes": st.sets(st.integers(0, 8), max_size=3),  # steps at which the sender is given time
            "lingers": st.booleans(),  # the process is thought dead and lives
        }
    ),
    min_size=1,
    max_size=4,
)


def value(key, step):
    return (1 + KEYS.index(key)) / (step + 1)


def colour(step):
    return (step * 20 % 256, step * 7 % 256, 90)


def train(box, run_id, tracking, first, last, wire, course):
    """What a training records in one attempt, while a driver sends."""
    tracker = QueueTracker(lambda entries: box.record(SUBMISSION, run_id, entries, time.time()))
    for step in range(first, last + 1):
        for at, state in course["states"]:
            if at == step - first:
                wire.state = state
        tracker.metrics(step, {key: value(key, step) for key in KEYS})
        if step % 3 == 0:
            tracker.image("val/p00", step, Image.new("RGB", (16, 16), colour(step)))
        if step - first in course["pushes"]:
            flush(box, tracking, [SUBMISSION], 3.0)


QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@settings(max_examples=2, deadline=None, suppress_health_check=QUIET)
@given(attempts=ATTEMPTS)
def test_whatever_happens_the_curve_is_that_of_an_uninterrupted_run(
    server, direct, new_run, tmp_path_factory, attempts
):
    check_course(server, direct, new_run, tmp_path_factory, attempts)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(attempts=ATTEMPTS)
def test_whatever_happens_sixty_times(server, direct, new_run, tmp_path_factory, attempts):
    check_course(server, direct, new_run, tmp_path_factory, attempts)


def check_course(server, direct, new_run, folders, attempts):
    wire, run_id = Wire(server.port), new_run()
    box = Outbox(JobStore(sqlite_url(folders.mktemp("rows") / "jobs.db")).engine)
    reached, ghosts = 0, []
    for course in attempts:
        tracking = MlflowTracking(wire.uri, Path())
        sender = OutboxSender(box, tracking, SUBMISSION)
        first = max(1, reached + 1 - course["back"])
        last = max(reached, first + course["forward"])
        train(box, run_id, tracking, first, last, wire, course)
        reached = last
        if course["lingers"]:
            ghosts.append(sender)
        else:
            sender.stop()
    wire.state = "whole"
    assert flush(box, MlflowTracking(wire.uri, Path()), [SUBMISSION], 60) == 0
    for ghost in ghosts:
        ghost.stop()
    expected = list(range(1, reached + 1))
    for key in KEYS:
        history = direct.client.get_metric_history(run_id, key)
        assert sorted(point.step for point in history) == expected
        assert {point.step: point.value for point in history} == {step: value(key, step) for step in expected}
    check_pictures(server, run_id, [step for step in expected if step % 3 == 0])


def check_pictures(server, run_id, expected):
    client = MlflowTracking(server.uri, Path()).client
    names = [Path(file.path).name for file in client.list_artifacts(run_id, "images")]
    assert Counter(int(name.split("+")[2]) for name in names) == dict.fromkeys(expected, 2)  # itself and its thumbnail
    for name in names:
        if name.endswith(".png"):
            with Image.open(client.download_artifacts(run_id, f"images/{name}")) as image:
                assert image.getpixel((0, 0)) == colour(int(name.split("+")[2]))


@pytest.fixture(scope="module")
def warm():
    return LoadedBase.load(find_base("toy-playground"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        Image.effect_noise((48, 48), 80).convert("RGB").save(folder / f"{i}.png")
    return folder


def spec_of(warm, photos, steps, seed):
    images = tuple(ImageSpec(file=f"{i}.png", caption=None, sha256=sha256_of(photos / f"{i}.png")) for i in range(3))
    return JobSpec(
        id=f"{seed:016x}", submission="test", subject="rex", adapter="rex", base=warm.base.name, folder=str(photos),
        images=images, class_noun="dog", instance_prompt="a photo of TOK dog", recipe=Recipe(rank=2, seed=seed),
        steps=steps, validation=Validation(steps=1), dataset_fingerprint="",
    )  # fmt: skip


def train_through(box, warm, photos, run_ids, folder, steps, outage):
    """Trains a job a run in one pack; `outage` is called with each step."""
    pack = Pack(warm)
    for seed, run_id in enumerate(run_ids):
        tracker = QueueTracker(lambda entries, run_id=run_id: box.record(SUBMISSION, run_id, entries, time.time()))
        spec = spec_of(warm, photos, steps, seed)
        pack.join(TrainJob(spec, folder / spec.id, tracker, lambda step, loss: None, run_id))
    for step in range(1, steps + 1):
        outage(step)
        ended = pack.step()
    assert [type(end).__name__ for _, end in ended] == ["Bundle"] * len(run_ids)


def check_curves(direct, server, run_ids, steps):
    every = max(1, steps // 50)
    client = MlflowTracking(server.uri, Path()).client
    for run_id in run_ids:
        for key in ("train/loss", "train/lr", "perf/steps_per_second"):
            history = direct.client.get_metric_history(run_id, key)
            assert [point.step for point in history] == list(range(every, steps + 1, every))
        names = [Path(file.path).name for file in client.list_artifacts(run_id, "images")]
        assert Counter(int(name.split("+")[2]) for name in names) == {
            0: 4,
            steps: 4,
        }  # photos and base; words and adapter


def test_a_server_that_hangs_for_seconds_costs_no_step(server, direct, new_run, warm, photos, tmp_path):
    runs, waiting = [new_run() for _ in range(3)], []
    box = Outbox(JobStore(sqlite_url(tmp_path / "jobs.db")).engine)
    sender = OutboxSender(box, MlflowTracking(server.uri, tmp_path), SUBMISSION)

    def outage(step):
        if step == 10:
            server.signal(signal.SIGSTOP)
        if step == 40:
            waiting.append(box.count([SUBMISSION]))
            threading.Timer(3.0, partial(server.signal, signal.SIGCONT)).start()

    train_through(box, warm, photos, runs, tmp_path, 40, outage)
    assert waiting[0] >= 3 * 29, "training went on while nobody answered"
    sender.stop()
    assert flush(box, MlflowTracking(server.uri, tmp_path), [SUBMISSION], 60) == 0
    check_curves(direct, server, runs, 40)


@pytest.mark.slow
def test_a_server_that_is_dead_for_a_minute_costs_no_step(server, direct, new_run, warm, photos, tmp_path):
    runs, died = [new_run() for _ in range(4)], threading.Event()
    box = Outbox(JobStore(sqlite_url(tmp_path / "jobs.db")).engine)
    sender = OutboxSender(box, MlflowTracking(server.uri, tmp_path), SUBMISSION)

    def outage(step):
        if step == 20:
            server.stop()
            died.set()
            threading.Timer(60.0, server.start).start()
        if died.is_set() and step % 4 == 0:
            time.sleep(1.0)  # toy steps are short; a minute must pass within the training

    train_through(box, warm, photos, runs, tmp_path, 300, outage)
    sender.stop()
    assert flush(box, MlflowTracking(server.uri, tmp_path), [SUBMISSION], 90) == 0
    check_curves(direct, server, runs, 300)


def test_a_run_is_not_closed_before_its_numbers_are_there(server, direct, new_run, tmp_path):
    wire, run_id = Wire(server.port), new_run()
    box, tracking = Outbox(JobStore(sqlite_url(tmp_path / "jobs.db")).engine), MlflowTracking(wire.uri, tmp_path)
    wire.state = "cut"
    box.record(SUBMISSION, run_id, [RunEntry("attempt", "", 1), RunEntry("metric", "train/loss", 1, "0.5")], 1.0)
    box.record(SUBMISSION, run_id, [RunEntry("end", "", 1, json.dumps(asdict(RunEnd("FINISHED"))))], 2.0)
    with pytest.raises(UnreachableError):
        send_waiting(box, tracking, [SUBMISSION])
    assert flush(box, tracking, [SUBMISSION], 0.1) == 3
    assert direct.client.get_run(run_id).info.status == "RUNNING"
    wire.state = "whole"
    assert flush(box, tracking, [SUBMISSION], 10) == 0
    run = direct.client.get_run(run_id)
    assert (run.info.status, run.data.metrics, run.data.tags["attempt"]) == ("FINISHED", {"train/loss": 0.5}, "1")


def test_one_run_that_fails_alone_holds_up_no_other(server, direct, new_run, tmp_path, monkeypatch):
    good, bad = new_run(), new_run()
    box, tracking = Outbox(JobStore("sqlite://").engine), MlflowTracking(server.uri, tmp_path)
    for now, run_id in enumerate([good, bad]):
        box.record(SUBMISSION, run_id, [RunEntry("metric", "train/loss", 1, "0.5")], float(now))
    log_batch = tracking.client.log_batch

    def fails(run_id, **more):
        if run_id == bad:
            raise MlflowException("its disk is full")
        log_batch(run_id, **more)

    monkeypatch.setattr(tracking.client, "log_batch", fails)
    with pytest.raises(UnreachableError, match="its disk is full"):
        send_waiting(box, tracking, [SUBMISSION])
    assert direct.client.get_run(good).data.metrics == {"train/loss": 0.5}
    assert box.runs_waiting([SUBMISSION]) == [bad]


def test_bundles_come_over_http(server, direct, new_run, tmp_path):
    run_id, remote = new_run(), MlflowTracking(server.uri, tmp_path / "unused")
    card = AdapterCard(
        name="far", base="toy-playground", base_fingerprint="0" * 16, prediction="edm", rank=4, alpha=4,
        targets=("to_q",), triggers=(Trigger(trigger="<far>", abstraction="TOK", tokens=(0, 1)),),
        class_noun="dog", instance_prompt="a photo of TOK dog", recipe={}, dataset_fingerprint="f", images=5,
        steps=12, licence="apache-2.0", job_id="9" * 16, lorafleet_version="0.1.0",
    )  # fmt: skip
    bundle = write_bundle(tmp_path / "far", card, {WEIGHTS: save({"unet.a.lora_A.weight": torch.ones(4, 8)})})
    remote.log_bundle(run_id, bundle.path)
    remote.register(bundle, run_id)
    remote.finish(run_id, RunEnd("FINISHED"))
    bundle.path.rename(tmp_path / "out of sight")
    registry = MlflowRegistry(remote.uri, tmp_path / "cache")
    place = tmp_path / "cache" / sha256_of(tmp_path / "out of sight" / CARD)
    assert registry.resolve("far").path == registry.resolve("far", "1").path == place
    assert {one.name: one.path for one in registry.list()}["far"] == place
    assert registry.cache_stats().misses == 1, "the second time from the cache"
