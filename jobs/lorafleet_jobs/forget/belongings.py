"""What belongs to a subject, and whether it may be forgotten now: decided from rows and versions. Pure.

A job's id is a hash of what it trains, so several submissions may hold the same job and share its bundle and version.
With one submission named these stay for the others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from lorafleet.errors import BusyError, NotFoundError, RequestError
from lorafleet.tracking.removal import Registered
from lorafleet_jobs.jobqueue.job_state import ENDED, LEASE_SECONDS, JobRow


@dataclass(frozen=True)
class Belongings:
    """What the rows say is a subject's."""

    subject: str
    jobs: tuple[JobRow, ...]
    """Their rows are blanked."""
    only_its: frozenset[str]
    """Ids of those jobs that no other row needs: their bundles, versions, runs and checkpoints go."""
    photographs: frozenset[str]
    """sha256 of its images' and masks' files."""
    kept_photographs: frozenset[str] = frozenset()
    """Those of them that a job of the same subject goes on needing, in a submission that is not meant."""
    kept_runs: frozenset[str] = frozenset()
    """Runs that other rows have: submissions share the run of a job that was trained once for both."""
    folders: frozenset[str] = frozenset()
    """Where its photographs lie, but for what another job is trained on as well."""

    @property
    def by_submission(self) -> dict[str, list[JobRow]]:
        """The jobs of each submission."""
        found: dict[str, list[JobRow]] = {}
        for job in self.jobs:
            found.setdefault(job.submission, []).append(job)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The registered names that may hold versions of it."""
        return tuple(dict.fromkeys([self.subject, *(job.spec.adapter for job in self.jobs)]))


def belongings(subject: str, rows: Sequence[JobRow], submission: str | None = None) -> Belongings:
    """What is a subject's among all rows of a database, or what is in one submission alone."""
    mine = [row for row in rows if row.spec.subject == subject and submission in (None, row.submission)]
    keys = {(row.submission, row.id) for row in mine}
    others = [row for row in rows if (row.submission, row.id) not in keys and row.state != "forgotten"]
    shared = {row.id for row in others}
    return Belongings(
        subject=subject,
        jobs=tuple(mine),
        only_its=frozenset(row.id for row in mine if row.id not in shared),
        photographs=frozenset().union(*map(pictures_of, mine)),
        kept_photographs=frozenset().union(*(pictures_of(row) for row in others if row.spec.subject == subject)),
        kept_runs=frozenset(row.run_id for row in others if row.run_id is not None),
        folders=frozenset(row.spec.folder for row in mine) - {row.spec.folder for row in others},
    )


def pictures_of(row: JobRow) -> frozenset[str]:
    """sha256 of the files that a job was planned with: images and masks."""
    masks = (image.mask.sha256 for image in row.spec.images if image.mask is not None)
    return frozenset([*(image.sha256 for image in row.spec.images), *masks])


@dataclass(frozen=True)
class Versions:
    """The versions of a subject's names."""

    its: tuple[Registered, ...]
    elsewhere: tuple[Registered, ...]
    """Of the same name, but made under another home that has the same MLflow, or by a submission that is not meant."""


def versions_of(
    mine: Belongings, versions: Sequence[Registered], imported: Collection[str], whole: bool
) -> Versions:  # fmt: skip
    """Which versions of a subject's names are its own: those of its jobs, and unless one submission is meant imports.

    `imported` are the ids of bundles that lie in this home; `whole` says that every submission is meant.
    """
    known = {row.id for row in mine.jobs}

    def is_its(version: Registered) -> bool:
        return version.job_id in mine.only_its or (whole and version.job_id in imported and version.job_id not in known)

    return Versions(
        tuple(version for version in versions if is_its(version)),
        tuple(version for version in versions if not is_its(version)),
    )


def runs_of(mine: Belongings, found: Collection[str], kept: Sequence[Registered]) -> tuple[str, ...]:
    """The runs that go: those of its jobs, `found` among them, but for one that another row or a bundle needs."""
    runs = dict.fromkeys([*found, *(row.run_id for row in mine.jobs if row.run_id is not None)])
    staying = mine.kept_runs | {version.run_id for version in kept}
    return tuple(run for run in runs if run not in staying)


def refuse_too_early(mine: Belongings, driven: Collection[str], now: float) -> None:
    """Raises RequestError for a job that has not ended, BusyError for one that a lane may not have let go of yet.

    `driven` are the submissions that a process drives; its lanes notice within seconds that a job was cancelled.
    """
    for row in mine.jobs:
        if row.state not in ENDED:
            raise RequestError(
                f"{row.spec.subject} is {row.state} in {row.submission}, at step {row.step} of {row.steps}; end that "
                f"first: lorafleet cancel {row.submission} {row.id}"
            )
        left = LEASE_SECONDS - (now - row.updated)
        if row.state == "cancelled" and row.submission in driven and 0 < left <= LEASE_SECONDS:
            raise BusyError(
                f"{row.spec.subject} was cancelled in {row.submission} a moment ago, and a lane may still hold it; "
                f"forget it in {left:.0f} s"
            )


def refuse_unknown(subject: str, submission: str | None, subjects: Collection[str], names: Collection[str]) -> None:
    """Raises NotFoundError, with the nearest names, for what is neither a subject nor a registered name."""
    if subject in subjects or (submission is None and subject in names):
        return
    where = f" in {submission}" if submission is not None else ""
    near = get_close_matches(subject, {*subjects, *(names if submission is None else ())}, n=3)
    told = f"did you mean {' or '.join(near)}?" if near else "see: lorafleet ls, and: lorafleet adapters ls"
    raise NotFoundError(f"there is no subject {subject!r}{where}; {told}")


def what_goes(mine: Belongings, versions: Versions, submissions: Mapping[str, str]) -> str:
    """One sentence for whoever is asked; `submissions` are the names of the submissions by id."""
    jobs = f"{len(mine.jobs)} job{'s' * (len(mine.jobs) != 1)}"
    where = ", ".join(sorted({submissions[row.submission] for row in mine.jobs}))
    made = ", ".join(map(str, versions.its)) or "no registered version"
    return f"forget {mine.subject}: {jobs}{f' of {where}' if where else ''}, {made}"
