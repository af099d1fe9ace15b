"""Carries out what `belongings` decided: a subject goes from MLflow, from disk and from the rows, in that order.

MLflow is asked before anything is touched. The rows, by which everything else is found, are blanked last, so that a
second call finishes what a crash left. Before anything goes its hashes are put on the list of forgotten contents.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lorafleet.bundle.bundle import EMBEDDINGS, WEIGHTS
from lorafleet.errors import BundleError, DataError, NotFoundError
from lorafleet.home import Home
from lorafleet.removal.forgotten import remember_forgotten, tensors_digest
from lorafleet.removal.receipt import Receipt, as_document
from lorafleet.removal.versions import remove_bundles, remove_folder, remove_versions
from lorafleet.tracking import MlflowRegistry, MlflowTracking
from lorafleet.tracking.removal import MlflowRemoval, Registered
from lorafleet.util.files import write_whole
from lorafleet_jobs.forget.belongings import (
    Belongings,
    Versions,
    belongings,
    refuse_too_early,
    refuse_unknown,
    runs_of,
    versions_of,
    what_goes,
)
from lorafleet_jobs.forget.redacted import lines_without, manifest_without
from lorafleet_jobs.images import decode_image, look_at, read_image_bytes
from lorafleet_jobs.jobqueue.erase import erase_jobs, rewrite_database
from lorafleet_jobs.jobqueue.job_state import JobRow
from lorafleet_jobs.jobqueue.status import Submission, load_submission, open_store
from lorafleet_jobs.jobqueue.store import JobStore
from lorafleet_jobs.submission.driver_lease import driver_lease, has_driver
from lorafleet_jobs.submission.finish import ARTIFACT, loss_curves
from lorafleet_jobs.submission.html_report import write_report
from lorafleet_jobs.train.data.latents import cached_of

MANIFEST = "manifest.yaml"


@dataclass(frozen=True)
class Found:
    """What would be forgotten."""

    mine: Belongings
    versions: Versions
    runs: tuple[str, ...]
    strangers: tuple[Registered, ...]
    """Versions of the same name that this home did not make; none where one submission is meant."""
    sentence: str
    """About it, for people."""


@dataclass(frozen=True)
class Forgotten:
    """What was forgotten, and what of it is still to be done by others."""

    receipt: Receipt
    file: Path
    """The receipt, as JSON."""
    notes: tuple[str, ...]
    stays: tuple[str, ...]
    """What could not be removed from here; the same command again, or what the line says, removes it."""


def find(home: Home, subject: str, submission: str | None = None) -> Found:
    """What belongs to a subject. Changes nothing; asks MLflow.

    Raises NotFoundError, RequestError or BusyError if it is being trained, UnreachableError.
    """
    store = store_of(home)
    seen = [] if store is None else store.submissions()
    if submission is not None:
        submission = load_submission(home, submission).id
    rows = [] if store is None else [row for one in seen for row in store.jobs(one.id)]
    mlflow = MlflowRemoval(home.tracking_uri)
    meant = [row for row in rows if submission in (None, row.submission)]
    refuse_unknown(subject, submission, {row.spec.subject for row in meant}, mlflow.names())
    mine = belongings(subject, rows, submission)
    driven = [] if store is None else [one for one in mine.by_submission if has_driver(store, one)]
    refuse_too_early(mine, driven, time.time())
    registered = [version for name in mine.names for version in mlflow.versions(name)]
    here = {path.name for path in home.bundles.iterdir()} if home.bundles.is_dir() else set()
    versions = versions_of(mine, registered, here, whole=submission is None)
    runs = runs_of(mine, [*mlflow.runs(mine.only_its), *(one.run_id for one in versions.its)], versions.elsewhere)
    strangers = versions.elsewhere if submission is None else ()
    return Found(mine, versions, runs, strangers, what_goes(mine, versions, {one.id: one.name for one in seen}))


def forget(home: Home, found: Found) -> Forgotten:
    """Removes all that was found, and writes the receipt. After UnreachableError or BusyError call it again."""
    mine, receipt = found.mine, Receipt()
    mlflow = MlflowRemoval(home.tracking_uri)
    with ExitStack() as leases:
        store = store_of(home)
        if store is not None:
            for submission in mine.by_submission:  # so that nobody begins to drive it meanwhile
                leases.enter_context(driver_lease(store, submission))
        remember_forgotten(home, [*_photographs(mine), *_weights(home, found)])
        notes = remove_versions(home, mlflow, found.versions.its, receipt)
        remove_bundles(home, mine.only_its, receipt)
        for run in found.runs:
            mlflow.remove_run(run, receipt)
        for name in mine.names:
            mlflow.remove_empty_name(name)
        _remove_files(home, mine, receipt)
        if store is not None:
            for submission, rows in mine.by_submission.items():
                _blank(home, store, mlflow, submission, rows, found.runs, receipt)
    stays = _left(home, mlflow, found)
    notes += [f"{one} was not made here, and stays; see: lorafleet adapters rm" for one in found.strangers]
    return Forgotten(receipt, _write(home, found, receipt, stays), tuple(notes), stays)


def store_of(home: Home) -> JobStore | None:
    """The job rows of a home; None where there are none yet, for nothing is made."""
    there = home.database.exists() or "LORAFLEET_DATABASE_URL" in os.environ
    return open_store(home) if there else None


def _photographs(mine: Belongings) -> set[str]:
    """Hashes of its images' files, and of the pixels of those that still lie where they were."""
    hashes: set[str] = set()
    for row in mine.jobs:
        for image in row.spec.images:
            if image.sha256 in mine.kept_photographs or image.sha256 in hashes:
                continue
            hashes.add(image.sha256)
            try:
                hashes.add(look_at(decode_image(read_image_bytes(Path(row.spec.folder) / image.file))).pixels)
            except DataError:
                continue  # it was moved or deleted: only the file's own hash is known
    return hashes


def _weights(home: Home, found: Found) -> set[str]:
    """Hashes of the tensors that its jobs made, wherever a bundle of them still lies."""
    folders = [home.bundles / job for job in found.mine.only_its]
    registry = MlflowRegistry(home.tracking_uri, home.adapter_cache)
    for version in found.versions.its:
        try:
            folders.append(registry.resolve(version.name, str(version.version)).path)
        except (BundleError, NotFoundError):
            continue  # damaged or gone already
    hashes = {tensors_digest(folder / name) for folder in folders for name in (WEIGHTS, EMBEDDINGS)}
    return {one for one in hashes if one is not None}


def _remove_files(home: Home, mine: Belongings, receipt: Receipt) -> None:
    """Checkpoints, latents and logs, and photographs that the home unpacked or fetched."""
    for job in sorted(mine.only_its):
        for folder in (home.checkpoints / job, *home.checkpoints.glob(f"{job}-seed*")):
            remove_folder(folder, "checkpoints", receipt)
        for folder in home.checkpoints.glob(f".{job}*"):
            remove_folder(folder, "checkpoints", receipt)
    for folder in map(Path, sorted(mine.folders)):
        if folder.is_relative_to(home.photographs) and folder != home.photographs:
            remove_folder(home.photographs / folder.relative_to(home.photographs).parts[0], "photographs", receipt)
    for path in cached_of(home.cache, mine.photographs):
        _remove_file(path, "latents", receipt)
    for row in mine.jobs:
        _remove_file(home.job_log(row.submission, row.id), "logs", receipt)
        driver = home.submissions / row.submission / "driver.log"
        if driver.is_file():
            text = driver.read_bytes()
            left = lines_without(text, [row.id, row.spec.folder])
            receipt.add("lines of drivers' logs", text.count(b"\n") - left.count(b"\n"), len(text) - len(left))
            driver.write_bytes(left)  # in place: a driver that runs appends to this very file


def _remove_file(path: Path, kind: str, receipt: Receipt) -> None:
    if path.is_file():
        size = path.stat().st_size
        path.unlink(missing_ok=True)
        receipt.add(kind, 1, size)


def _blank(
    home: Home, store: JobStore, mlflow: MlflowRemoval, submission: str, rows: Sequence[JobRow], runs: Sequence[str],
    receipt: Receipt,
) -> None:  # fmt: skip
    """What remains of a submission: rows with names and states, and a manifest and report that say no more."""
    row = store.submission(submission)
    subject, folders = rows[0].spec.subject, {one.spec.folder for one in rows}
    manifest = manifest_without(row.manifest, subject, folders)
    told = erase_jobs(store.engine, rows, runs, manifest, time.time())
    receipt.add("entries for MLflow, and scores", told)
    receipt.add("rows of jobs, blanked", len(rows))
    copy = home.submissions / submission / MANIFEST
    if copy.is_file():
        write_whole(copy, manifest.encode())
    _report_again(home, mlflow, load_submission(home, submission))


def _report_again(home: Home, mlflow: MlflowRemoval, left: Submission) -> None:
    """Writes the report anew, here and in the submission's run, without the pictures of what was forgotten."""
    run_id = left.row.run_id
    if run_id is not None and not mlflow.is_open(run_id):
        for artifact in (MANIFEST, ARTIFACT):
            mlflow.remove_artifact(run_id, artifact)
        run_id = None
    tracking = MlflowTracking(home.tracking_uri, home.artifacts)
    if run_id is not None:
        tracking.log_text(run_id, left.row.manifest, MANIFEST)
    if home.report(left.id).exists():
        page = write_report(home, left, loss_curves(left, tracking), time.time())
        if run_id is not None:
            tracking.log_text(run_id, page.read_text("utf-8"), ARTIFACT)
    if run_id is not None:
        tracking.link(run_id, {job.run_id: job.state for job in left.jobs if job.run_id})


def _left(home: Home, mlflow: MlflowRemoval, found: Found) -> tuple[str, ...]:
    """What cannot be removed from here, a line each, with what to do about it."""
    lines = []
    for file, done in (("the job rows", rewrite_database(home.database_url)), ("MLflow's database", mlflow.rewrite())):
        if not done:
            lines.append(f"{file} were in use: deleted rows can still be read from the file; repeat this command later")
    if not mlflow.erases and found.runs:
        lines.append(
            f"the MLflow server keeps settings and numbers of {len(found.runs)} deleted runs until this is run there: "
            f"mlflow gc --run-ids {','.join(found.runs)}"
        )
    return tuple(lines)


def _write(home: Home, found: Found, receipt: Receipt, stays: Sequence[str]) -> Path:
    now = datetime.now(UTC)
    document = {
        "subject": found.mine.subject,
        "at": now.isoformat(timespec="seconds"),
        "jobs": [{"submission": row.submission, "job": row.id} for row in found.mine.jobs],
        "versions": [str(version) for version in found.versions.its],
        "removed": as_document(receipt.rows),
        "stays": list(stays),
    }
    path = home.forgotten / "receipts" / f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}.json"
    write_whole(path, (json.dumps(document, indent=2) + "\n").encode())
    return path
