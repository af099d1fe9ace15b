"""What must be true afterwards, and what must never be seen meanwhile. A check returns complaints, a line each."""

from __future__ import annotations

import time
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
from chaos_place import Place

from lorafleet.bundle.bundle import CARD, Bundle, read_bundle
from lorafleet.errors import BundleError, LorafleetError
from lorafleet.tracking import MlflowRegistry, MlflowTracking
from lorafleet_jobs.jobqueue.outbox import Outbox

LOSS = "train/loss"
GONE_SECONDS = 60.0  # for processes that were told to end


class Watcher:
    """Reads every bundle that has a card, and every registered version, again and again."""

    def __init__(self, place: Place) -> None:
        self.complaints: list[str] = []
        self.reads = 0
        self._place, self._stop = place, Event()
        self._thread = Thread(target=self._watch, name="watcher", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_problem: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            for card in sorted(self._place.home.bundles.glob(f"[!.]*/{CARD}")):
                self._read(card.parent)

    def _read(self, path: Path) -> None:
        try:
            read_bundle(path)
        except BundleError as problem:
            self.complaints.append(f"at {time.time():.1f}: {problem}")
        self.reads += 1


def check(place: Place, calm: Place) -> list[str]:
    """Everything, against the place where nobody was killed."""
    return [
        *check_jobs(place), *check_adapters(place, calm), *check_runs(place, calm), *check_leftovers(place),
    ]  # fmt: skip


def check_jobs(place: Place) -> list[str]:
    """Every job succeeded, as version 1."""
    return [
        f"job {job.spec.adapter} is {job.state}, version {job.version}: {job.error}"
        for job in place.jobs()
        if (job.state, job.version, job.error) != ("succeeded", 1, None)
    ]


def check_adapters(place: Place, calm: Place) -> list[str]:
    """One version and one bundle a job, each sound, each as where nobody was killed, to the bit."""
    registry = MlflowRegistry(place.home.tracking_uri, place.home.adapter_cache)
    versions = [(one.name, one.version, one.aliases) for one in registry.list()]
    expected = sorted((job.spec.adapter, 1, ("champion",)) for job in place.jobs())
    found = [] if sorted(versions) == expected else [f"registered are {versions}"]
    folders = sorted(path.name for path in place.home.bundles.iterdir())
    if folders != sorted(job.id for job in place.jobs()):
        found.append(f"under bundles are {folders}")
    for job in place.jobs():
        found += _compare(job.spec.adapter, place.home.bundles / job.id, calm.home.bundles / job.id)
        found += _compare(f"MLflow's {job.spec.adapter}", _artifact(place, job.run_id), calm.home.bundles / job.id)
    return found


def _artifact(place: Place, run_id: str | None) -> Path:
    return next(path for path in place.home.artifacts.glob(f"**/{run_id}/artifacts/adapter"))


def _compare(name: str, path: Path, reference: Path) -> list[str]:
    try:
        one, other = read_bundle(path), read_bundle(reference)
    except LorafleetError as problem:
        return [f"{name}: {problem}"]
    return [] if _equal(one, other) else [f"{name}: its weights are not those of the uninterrupted run"]


def _equal(one: Bundle, other: Bundle) -> bool:
    tensors = [(one.weights(), other.weights()), (one.embeddings(), other.embeddings())]
    return all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in tensors
    )  # fmt: skip


def check_runs(place: Place, calm: Place) -> list[str]:
    """One run a job and one above them, all ended; every curve whole, no point twice, no picture missing."""
    tracking, calm_tracking = _tracking(place), _tracking(calm)
    client: Any = tracking.client
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()], max_results=1000)
    ended = sorted(run.info.status for run in runs)
    jobs, references = place.jobs(), {job.id: job for job in calm.jobs()}
    found = [] if ended == ["FINISHED"] * (len(jobs) + 1) else [f"the runs ended {ended}"]
    for job in jobs:
        assert job.run_id is not None
        reference = references[job.id].run_id
        assert reference is not None
        theirs: Any = calm_tracking.client
        for key in sorted(theirs.get_run(reference).data.metrics):
            mine, other = _curve(client, job.run_id, key), _curve(theirs, reference, key)
            timed = key.startswith("perf/")  # is what it is
            if [step for step, _ in mine] != [step for step, _ in other] or (mine != other and not timed):
                found.append(f"{job.spec.adapter}: {key} has {len(mine)} points, not those {len(other)}")
        pictures, expected = _pictures(client, job.run_id), _pictures(theirs, reference)
        if pictures != expected:
            found.append(f"{job.spec.adapter}: {len(pictures)} pictures, not {len(expected)}")
    return found


def _tracking(place: Place) -> MlflowTracking:
    return MlflowTracking(place.home.tracking_uri, place.home.artifacts)


def _curve(client: Any, run_id: str, key: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run_id, key))


def _pictures(client: Any, run_id: str) -> list[str]:
    """By key, step and kind; the rest of a name is when it was taken."""
    names = [Path(one.path).name for one in client.list_artifacts(run_id, "images")]
    return sorted(f"{name.split('+timestamp+')[0]}{Path(name).suffix}" for name in names)


def check_leftovers(place: Place) -> list[str]:
    """No process, no scratch, nothing half-way, nothing unsent."""
    deadline = time.monotonic() + GONE_SECONDS
    while (alive := list(place.processes())) and time.monotonic() < deadline:
        time.sleep(1.0)
    found = [f"process {one.pid} is left: {' '.join(one.cmdline())[:200]}" for one in alive if one.is_running()]
    home = place.home
    for folder in (home.checkpoints, home.ray_temp):
        found += [_left(path, home.root) for path in (folder.iterdir() if folder.is_dir() else ())]
    outbox = Outbox(place.store().engine)
    if waiting := outbox.count(outbox.submissions_waiting()):
        found.append(f"{waiting} entries for MLflow are not sent")
    return found + [_left(path, home.root) for path in home.root.rglob(".*")]


def _left(path: Path, home: Path) -> str:
    return f"home/{path.relative_to(home)} is left"
