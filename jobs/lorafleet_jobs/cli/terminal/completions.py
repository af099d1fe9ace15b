"""What a shell completes beside files and options: the submissions of the home, and their jobs.

Knows the rows; refuses to complain, for nobody asked a command yet: without a home or a database nothing is offered.
"""

from __future__ import annotations

from lorafleet.errors import LorafleetError
from lorafleet.home import Home
from lorafleet_jobs.jobqueue.status import Submission, load_submissions


def submissions(incomplete: str) -> list[tuple[str, str]]:
    """Ids that begin so, the newest first, each with its state."""
    return [(one.id, one.state) for one in _all() if one.id.startswith(incomplete)]


def submissions_and_jobs(incomplete: str) -> list[tuple[str, str]]:
    """The same, and the jobs of the newest submission as commands call them."""
    jobs = [(one.word(job), job.state) for one in _all()[:1] for job in one.jobs]
    return [*submissions(incomplete), *(job for job in jobs if job[0].startswith(incomplete))]


def _all() -> list[Submission]:
    try:
        return load_submissions(Home.from_environment())
    except LorafleetError:
        return []
