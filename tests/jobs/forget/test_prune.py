"""What nothing needs any more goes, and what anybody may still need stays, whatever its age."""

import fcntl
import json
import os
import socket
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_rows import spec
from own_lane import jobs_of

from lorafleet.bundle.disk_cache import BundleCache
from lorafleet.cli import build_app, run
from lorafleet.tracking import MlflowRegistry
from lorafleet_jobs.forget.prunable import (
    CACHED,
    CHECKPOINTS,
    CLASS_IMAGES,
    DAY,
    HALVES,
    LATENTS,
    ORPHANS,
    PHOTOGRAPHS,
    RUNS,
    Lying,
    Seen,
    prunable,
)
from lorafleet_jobs.jobqueue.job_state import JobRow, may_resume
from lorafleet_jobs.train.data.cache_files import try_only_process

NOW = 1e9
STATES = ["queued", "running", "succeeded", "stopped", "failed", "cancelled", "forgotten"]


def row(job, state, submission="one", **more):
    return JobRow(submission, job, 0, spec(job, submission), state=state, **more)


def lying(name, days=0.0):
    return Lying(Path("/home") / name, 10, NOW - days * DAY)


def names(found):
    return {kind: [one.path.name for one in lying] for kind, lying in found.items()}


def test_fetched_photographs_stay_while_a_job_may_be_trained_on_them():
    waits, done = row("waits", "queued"), row("done", "succeeded")
    rows = [replace(one, spec=one.spec.with_changes(folder=f"/home/{one.id}/inner")) for one in (waits, done)]
    seen = Seen(rows, [], [], [], photographs=[lying("waits", 99), lying("done", 99), lying("new", 1)])
    assert names(prunable(seen, 30, NOW)) == {PHOTOGRAPHS: ["done"]}


def test_each_kind_by_its_own_rule():
    seen = Seen(
        rows=[row("done", "succeeded"), row("lost", "failed", kind="lost"), row("bad", "failed", kind="data")],
        driven=["two-1"], published=["there"], unregistered=["gone"],
        checkpoints=[lying("done"), lying("lost"), lying("bad"), lying("lost-seed1"), lying("who"), lying("old", 40)],
        bundles=[lying("done", 99), lying("there", 99), lying("who", 99), lying("new", 3)],
        cached=[lying("gone"), lying("kept", 29), lying("old", 31)], latents=[lying("a", 40), lying("b", 3)],
        class_images=[lying("dogs", 40), lying("cats", 3)], scratch=[lying(".a", 2), lying(".b", 0.5)],
        runs=[lying("one-0-0-0"), lying("two-1-0-0-0"), lying("who-0-0-0"), lying("old-0-0-0", 40)],
    )  # fmt: skip
    assert names(prunable(seen, 30, NOW)) == {
        CHECKPOINTS: ["done", "bad", "lost-seed1", "old"], HALVES: [".a"], LATENTS: ["a"], CLASS_IMAGES: ["dogs"],
        CACHED: ["gone", "old"], ORPHANS: ["who"], RUNS: ["one-0-0-0", "old-0-0-0"],
    }  # fmt: skip
    busy = replace(seen, rows=[*seen.rows, row("now", "running")])
    assert not {LATENTS, CLASS_IMAGES} & prunable(busy, 30, NOW).keys(), "a job that runs reads them"


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(STATES), st.sampled_from(["one", "two"])), max_size=5),
    st.floats(0, 100),
)  # fmt: skip
def test_nothing_that_a_job_may_go_on_from_is_pruned(jobs, days):
    rows = [row(job, state, submission) for job, state, submission in {(j, s): (j, t, s) for j, t, s in jobs}.values()]
    checkpoints = [lying(job, 200) for job in "abc"]
    seen = Seen(rows, [], [], [], checkpoints=checkpoints, bundles=[lying(job, 200) for job in "abc"])
    found = names(prunable(seen, days, NOW))
    resumable, known = {one.id for one in rows if may_resume(one)}, {one.id for one in rows}
    assert not resumable & set(found.get(CHECKPOINTS, ()))
    assert set(found.get(ORPHANS, ())) == set("abc") - known


@pytest.fixture
def lorafleet(here, capsys):
    def call(*words):
        code = run(build_app(), list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return call


def aged(path, days=40):
    then = time.time() - days * DAY
    for one in (path, *path.rglob("*")):
        os.utime(one, (then, then))
    return path


def removed(out):
    return {one["kind"]: one["count"] for one in json.loads(out)["removed"]}


def test_a_home_is_shown_first_and_pruned_when_asked_and_its_adapters_stay_whole(here, trained, lorafleet):
    job = jobs_of(here, trained("pets", "rex"))["rex"]
    assert lorafleet("prune")[1] == ""
    (here.checkpoints / job.id / "step-000001").mkdir(parents=True)
    (here.checkpoints / job.id / "step-000001" / "state.json").write_text("{}")
    half = here.bundles / f".{job.id}.{uuid.uuid4().hex}"
    half.mkdir()
    (half / "weights").write_bytes(b"x" * 1000)
    aged(half)
    for path in (here.cache / "latents").iterdir():
        aged(path)
    before = {path for path in here.root.rglob("*") if path.is_file()}
    code, out, err = lorafleet("prune")
    assert (code, "lorafleet prune --yes" in err) == (0, True)
    assert "checkpoints of ended jobs" in out
    assert "1000 B" in out
    assert {path for path in here.root.rglob("*") if path.is_file()} == before, "shown, and nothing more"
    latents = len([path for path in before if path.suffix == ".safetensors" and "latents" in path.parts])
    expected = {CHECKPOINTS: 1, HALVES: 1, LATENTS: latents}
    assert removed(lorafleet("prune", "--json")[1]) == removed(lorafleet("prune", "--yes", "--json")[1]) == expected
    assert not half.exists()
    assert lorafleet("prune", "--json")[1].count("kind") == 0
    assert lorafleet("adapters", "verify")[:2] == (0, "rex@1: whole\n")
    assert trained("pets", "rex"), "and the submission is as done as before"
    assert jobs_of(here, job.submission)["rex"] == job


def test_a_cached_bundle_goes_when_it_is_registered_no_longer_or_unused_but_never_while_it_is_read(
    here, trained, lorafleet
):
    trained("pets", "rex")
    registry = MlflowRegistry(here.tracking_uri, here.adapter_cache)
    version = registry._find("rex", "1")
    bundle = registry.bundles.get(
        registry._digest(version), lambda folder: registry._download(version, "adapter", folder)
    )
    assert removed(lorafleet("prune", "--json")[1]) == {}
    registry.client.delete_model_version("rex", "1")
    assert removed(lorafleet("prune", "--json")[1]) == {CACHED: 1}
    with (here.adapter_cache / ".locks" / f"{bundle.path.name}.pin").open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)  # as a server's request does
        code, out, _ = lorafleet("prune", "--yes", "--json")
    assert (code, removed(out), json.loads(out)["kept"]) == (0, {}, [f"{bundle.path} is in use, and stays"])
    assert BundleCache(here.adapter_cache).entries()
    assert removed(lorafleet("prune", "--yes", "--json")[1]) == {CACHED: 1}
    assert not BundleCache(here.adapter_cache).entries()


def test_class_images_that_are_being_made_stay(here, lorafleet):
    folder = here.cache / "prior" / "dogs"
    folder.mkdir(parents=True)
    (folder / "0000.png").write_bytes(b"png")
    aged(folder)
    with try_only_process(folder.with_name("dogs.lock")) as alone:
        assert alone
        assert json.loads(lorafleet("prune", "--yes", "--json")[1])["kept"] == [f"{folder} is in use, and stays"]
    assert removed(lorafleet("prune", "--yes", "--json", "--days", "39")[1]) == {CLASS_IMAGES: 1}
    assert not folder.exists()


def test_while_mlflow_is_away_nothing_is_pruned(here, lorafleet, monkeypatch):
    folder = aged_checkpoint(here)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
        code, _, err = lorafleet("prune", "--yes")
    assert (code, "does not answer" in err, folder.exists()) == (4, True, True)


def aged_checkpoint(home):
    folder = home.checkpoints / "stranger"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")
    return aged(folder)
