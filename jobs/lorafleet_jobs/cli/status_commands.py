"""The commands `status`, `ls` and `watch`, and what is said of submissions for people. Imports nothing that trains."""

from __future__ import annotations

import time

from rich.table import Table
from rich.text import Text

from lorafleet.console import err, note, one_line, out, print_json
from lorafleet.home import Home
from lorafleet_jobs.cli.terminal.options import AsJson, NewestSubmission
from lorafleet_jobs.cli.terminal.watch import COLOURS, board, onlooker, previews
from lorafleet_jobs.jobqueue.status import Submission, counts, failures, load_submission, load_submissions, open_store
from lorafleet_jobs.submission.driver_lease import has_driver
from lorafleet_jobs.submission.follow import follow


def status(submission: NewestSubmission = None, as_json: AsJson = False) -> int:
    """Show how a submission stands.

    Exit code 3: there is no such submission.
    """
    home = Home.from_environment()
    seen = load_submission(home, submission)
    if as_json:
        print_json(seen.as_json())
    else:
        out.print(board(seen, time.time(), picture=previews(home)))
    say_orphan(seen, home)
    return 0


def ls(as_json: AsJson = False) -> int:
    """List every submission, the newest first.

    Exit code 3: there is none.
    """
    seen = load_submissions(Home.from_environment())
    if as_json:
        print_json({"submissions": [each.as_json() for each in seen]})
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("submission", "base", "jobs", "state", "submitted"):
        table.add_column(column, justify="right" if column == "jobs" else "left", no_wrap=column == "submission")
    for each in seen:
        state = Text(each.state, COLOURS[each.state])
        what = Text.assemble(state, f": {counts(each.jobs)}") if len({job.state for job in each.jobs}) > 1 else state
        table.add_row(each.id, one_line(each.row.base), str(len(each.jobs)), what, _ago(time.time() - each.row.created))
    out.print(table)
    return 0


def watch(submission: NewestSubmission = None) -> int:
    """Follow a submission until it ends.

    Ctrl-C leaves it to train on, and is no failure: exit code 0. Exit code 1: not everything succeeded.
    """
    home = Home.from_environment()
    seen = load_submission(home, submission)
    try:
        with onlooker(home) as show:
            done = follow(seen.id, home, show)
    except KeyboardInterrupt:
        say_farewell(seen.id)
        return 0
    say_end(done, home)
    say_orphan(done, home)
    return 0 if done.state == "succeeded" else 1


def say_end(done: Submission, home: Home) -> None:
    """How a submission ended, for people: counts, what failed, and where to read more."""
    if not done.has_ended:
        return
    say(f"{done.id}: {counts(done.jobs)}")
    for line in failures(done):
        say(line)
    if home.report(done.id).exists():
        say(f"Report: {home.report(done.id)}")
    say("Adapters: lorafleet adapters ls. Runs and pictures: lorafleet ui")


def say_orphan(seen: Submission, home: Home) -> None:
    """What to do about a submission that has not ended and that nobody drives."""
    if not seen.has_ended and not has_driver(open_store(home), seen.id):
        note(f"nobody is training {seen.id} now; go on with: lorafleet retry {seen.id}")


def say(text: str) -> None:
    """One line on stderr."""
    err.print(one_line(text), markup=False)


def say_farewell(submission: str) -> None:
    """That a submission which was watched goes on, and how to come back."""
    back, end = f"lorafleet watch {submission}", f"lorafleet cancel {submission}"
    say(f"{submission} goes on training; come back with {back}, or end it with {end}")


def _ago(seconds: float) -> str:
    """How long ago, in the largest unit of which there are at least two."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"
