"""Which jobs of a plan are done already, so that nothing is trained for them again. Makes nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lorafleet.bundle.bundle import CARD
from lorafleet.home import Home
from lorafleet_jobs.intake.plan import Done
from lorafleet_jobs.jobqueue.status import open_store


def done_in(home: Home) -> Done:
    """What a home knows: jobs that have ended well in the same submission, and adapters that lie in the home.

    An adapter of another submission is published again without being trained.
    """

    def done(submission: str, ids: Sequence[str]) -> set[str]:
        there = {job for job in ids if (home.bundles / job / CARD).is_file()}
        if home.database.exists() or "LORAFLEET_DATABASE_URL" in os.environ:
            rows = open_store(home).jobs(submission)
            there |= {row.id for row in rows if row.state in ("succeeded", "stopped")}
        return there

    return done
