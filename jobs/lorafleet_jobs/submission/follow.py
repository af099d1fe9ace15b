"""Follows a submission that another process drives, by its rows alone."""

from __future__ import annotations

import time
from collections.abc import Callable

from lorafleet.home import Home
from lorafleet_jobs.jobqueue.status import Submission, load_submission, open_store
from lorafleet_jobs.submission.driver_lease import has_driver

Show = Callable[[Submission], None]
POLL_SECONDS = 0.3


def nobody(submission: Submission) -> None:
    """Shows nothing."""


def follow(submission: str, home: Home, show: Show) -> Submission:
    """Shows a submission that another process drives, until nobody drives it any more.

    A driver goes on after the last job has ended: it chooses champions and writes the report.
    """
    while True:
        driven = has_driver(open_store(home), submission)
        seen = load_submission(home, submission)
        show(seen)
        if not driven:
            return seen
        time.sleep(POLL_SECONDS)
