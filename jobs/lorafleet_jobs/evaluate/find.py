"""Which adapters a user means, where their bundles lie, and the pictures they were trained on.

Knows the job rows and the registry. Refuses to know models and scores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lorafleet.bundle.bundle import CARD, read_bundle
from lorafleet.bundle.ports import AdapterRegistry
from lorafleet.errors import AmbiguousError, DataError, NotFoundError
from lorafleet.home import Home
from lorafleet_jobs.evaluate.pictures import SubjectPictures
from lorafleet_jobs.images import decode_image, read_image_bytes
from lorafleet_jobs.jobqueue.job_state import JobRow
from lorafleet_jobs.jobqueue.status import load_submission, open_store
from lorafleet_jobs.jobspec import JobSpec


@dataclass(frozen=True)
class Trained:
    """An adapter, the job that it came from, and the MLflow run of it, if it has one."""

    label: str
    spec: JobSpec
    bundle: Path
    run_id: str | None


@dataclass(frozen=True)
class Findings:
    """What was meant."""

    adapters: tuple[Trained, ...]
    left_out: tuple[str, ...]
    """Jobs of the submissions that have no adapter, each with its state."""


def find(wanted: Sequence[str], home: Home, registry: AdapterRegistry) -> Findings:
    """The adapters of submissions (id, or a beginning of it) and those named NAME[@VERSION|ALIAS].

    A word that is both is an adapter, unless it is the submission's whole id. Raises NotFoundError.
    """
    trained: dict[str, Trained] = {}
    left_out: list[str] = []
    for word in wanted:
        for one in _of_word(word, home, registry):
            if isinstance(one, Trained):
                trained.setdefault(one.spec.id, one)
            else:
                left_out.append(one)
    if not trained:
        raise NotFoundError(f"nothing to evaluate yet: {'; '.join(left_out)}")
    return Findings(tuple(trained.values()), tuple(left_out))


def _of_word(word: str, home: Home, registry: AdapterRegistry) -> list[Trained | str]:
    jobs = _jobs_of(word, home)
    name, _, version = word.partition("@")
    is_adapter = any(one.name == name for one in registry.list())
    if jobs and (jobs[0].submission == word or not is_adapter):
        return [_of_job(job, home, registry) for job in jobs]
    if not is_adapter:
        raise NotFoundError(
            f"{word!r} is neither a submission nor an adapter here; see lorafleet adapters ls, or status"
        )
    adapter = registry.resolve(name, version or None)
    card = read_bundle(adapter.path).card
    if card.imported_from:
        raise NotFoundError(
            f"adapter {word!r} was imported from {card.imported_from}: no pictures of its subject are known here; "
            "evaluate adapters that were trained here"
        )
    job = _job(card.job_id, home)
    if job is None:
        raise NotFoundError(
            f"adapter {word!r} was trained under another home: the pictures of job {card.job_id} are not recorded "
            "here; set LORAFLEET_HOME to the home that trained it"
        )
    return [Trained(f"{adapter.name}@{adapter.version}", job.spec, adapter.path, adapter.run_id or job.run_id)]


def _jobs_of(word: str, home: Home) -> tuple[JobRow, ...]:
    try:
        return load_submission(home, word).jobs
    except AmbiguousError:
        raise
    except NotFoundError:
        return ()


def _job(job_id: str, home: Home) -> JobRow | None:
    store = open_store(home)
    rows = (row for one in store.submissions() for row in store.jobs(one.id))
    return next((row for row in rows if row.id == job_id), None)


def _of_job(job: JobRow, home: Home, registry: AdapterRegistry) -> Trained | str:
    if job.state != "succeeded":
        return f"{job.spec.subject} ({job.id}) is {job.state}"
    label = job.spec.adapter if job.version is None else f"{job.spec.adapter}@{job.version}"
    bundle = home.bundles / job.id
    if not (bundle / CARD).exists():
        bundle = registry.resolve(job.spec.adapter, None if job.version is None else str(job.version)).path
    return Trained(label, job.spec, bundle, job.run_id)


def real_pictures(adapters: Sequence[Trained], side: int) -> list[SubjectPictures]:
    """Each adapter's subject by its training pictures, [n, 3, side, side]: no others are known.

    Adapters of one data set are of one subject; two data sets of one name are told apart by their fingerprints.
    """
    by_data: dict[tuple[str, str], SubjectPictures] = {}
    names: set[str] = set()
    for one in adapters:
        spec = one.spec
        key = (spec.subject, spec.dataset_fingerprint)
        if key not in by_data:
            name = spec.subject if spec.subject not in names else f"{spec.subject} ({spec.dataset_fingerprint[:6]})"
            names.add(name)
            pictures = training_pictures(spec, side)
            by_data[key] = SubjectPictures(name, spec.class_noun, pictures, pictures)
    return [by_data[one.spec.subject, one.spec.dataset_fingerprint] for one in adapters]


def training_pictures(spec: JobSpec, side: int) -> Tensor:
    """A job's training pictures, cut square about the middle, [n, 3, side, side]; DataError if one has changed."""
    pictures = []
    for image in spec.images:
        path = Path(spec.folder) / image.file
        try:
            data = read_image_bytes(path)
            if hashlib.sha256(data).hexdigest() != image.sha256:
                raise DataError("has changed since it was trained on; restore it, or train again")
            fitted = ImageOps.fit(decode_image(data), (side, side), Image.Resampling.BOX)
        except DataError as problem:
            raise DataError(f"{path} {problem}") from None
        pictures.append(torch.from_numpy(np.asarray(fitted, dtype=np.float32) / 255))
    return torch.stack(pictures).permute(0, 3, 1, 2).contiguous()
