"""How a submission's progress is shown while it runs: a live table on a terminal, plain lines elsewhere. On stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lorafleet.console import err, one_line
from lorafleet_jobs.jobqueue.eta import all_seconds_left, clock, seconds_left, speed
from lorafleet_jobs.jobqueue.job_state import JobRow, State
from lorafleet_jobs.jobqueue.status import SHOWN, Submission, counts
from lorafleet_jobs.submission.submit import Show

COLOURS: dict[State, str] = {
    "queued": "dim", "running": "cyan", "succeeded": "green", "stopped": "blue", "failed": "red", "cancelled": "yellow",
    "forgotten": "dim",
}  # fmt: skip
COLUMNS = ("job", "lane", "state", "step", "loss", "it/s", "ETA", "attempts", "")
NUMBERS = frozenset(COLUMNS[3:8])
FRAME = 5  # lines that are no job's: the header, a blank one, the columns' names, the rest, the cursor's
LEAST = 3  # jobs are shown on however low a screen
PLAIN_SECONDS = 10.0  # between two lines about the same running job


@contextmanager
def onlooker() -> Iterator[Show]:
    """What shows a submission on this process's stderr, for as long as the block lasts."""
    if err.is_terminal:
        with Live(Text("starting ..."), console=err, refresh_per_second=4, transient=False) as live:
            yield lambda submission: live.update(board(submission, time.time(), max(LEAST, err.size.height - FRAME)))
    else:
        yield PlainLines()


def board(submission: Submission, now: float, room: int | None = None) -> Group:
    """The submission in a line, then a line a job; with `room` no more than so many, and of the rest how many."""
    shown = submission.jobs if room is None else jobs_that_fit(submission.jobs, room)
    live = room is not None
    table = Table(box=None, pad_edge=False, header_style="bold", expand=live)
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in NUMBERS else "left", no_wrap=True)
    remarks = table.columns[-1]  # on a screen of so many lines each has one, elsewhere as many as it needs
    remarks.no_wrap, remarks.overflow, remarks.ratio = live, "ellipsis" if live else "fold", 1 if live else None
    for job in shown:
        lane = (job.lane or "").rpartition("-")[2] if job.state == "running" else ""
        state, attempts = Text(job.state, COLOURS[job.state]), str(job.attempts or "")
        said = Text(remark(job, now))
        table.add_row(Text(submission.label(job)), lane, state, *_numbers(job, now), attempts, said)
    seen = {job.id for job in shown}
    rest = [job for job in submission.jobs if job.id not in seen]
    more = [Text(f"and {len(rest)} more: {counts(rest)}", "dim")] if rest else []
    return Group(header(submission, now), Text(), table, *more)


def header(submission: Submission, now: float) -> Text:
    """`pets-01: running   3 running, 45 queued   since 2:31   ETA 20:12`."""
    parts = [counts(submission.jobs)]
    ended = max((job.updated for job in submission.jobs), default=now) if submission.has_ended else now
    parts.append(("took " if submission.has_ended else "since ") + clock(max(0.0, ended - submission.row.created)))
    if (left := all_seconds_left(submission.jobs, now)) is not None:
        parts.append(f"ETA {clock(left)}")
    state = submission.state
    return Text.assemble((submission.id, "bold"), ": ", (state, COLOURS[state]), "   ", "   ".join(parts))


def jobs_that_fit(jobs: Sequence[JobRow], room: int) -> tuple[JobRow, ...]:
    """All of them in order if there is room; else those that run, then those that failed, then the others."""
    if len(jobs) <= room:
        return tuple(jobs)
    return tuple(sorted(jobs, key=lambda job: (SHOWN.index(job.state), job.position))[:room])


def remark(job: JobRow, now: float) -> str:
    """What is worth saying about a job beside its numbers: why it failed or waits, its version."""
    error = "" if job.error is None else one_line(job.error)
    if job.state == "queued" and error:
        wait = max(0.0, (job.not_before or now) - now)
        return f"again in {clock(wait)}: {error}" if wait else f"again: {error}"
    if error and error != job.state:
        return f"{job.kind}: {error}" if job.state == "failed" and job.kind else error
    return f"version {job.version}" if job.version is not None else ""


class PlainLines:
    """Shows a submission as lines: one for each change of state, and now and then one for each running job."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, float]] = {}

    def __call__(self, submission: Submission) -> None:
        """Writes the lines that are due."""
        now = time.time()
        for job in submission.jobs:
            state, at = self._said.get(job.id, ("queued", now))
            if job.state != state or (job.state == "running" and now - at >= PLAIN_SECONDS):
                self._said[job.id] = (job.state, now)
                err.print(line(job, now, submission.label(job)), markup=False)
            else:
                self._said.setdefault(job.id, (state, at))


def line(job: JobRow, now: float, label: str) -> str:
    """A job in one line of plain text."""
    step, loss, rate, eta = _numbers(job, now)
    parts = [f"{label}: {job.state}", f"step {step}"]
    parts += [f"loss {loss}"] if loss else []
    parts += [f"{rate} it/s", f"ETA {eta}"] if rate else []
    parts += [f"attempt {job.attempts}"] if job.attempts > 1 else []
    parts += [said] if (said := remark(job, now)) else []
    return ", ".join(parts)


def _numbers(job: JobRow, now: float) -> tuple[str, str, str, str]:
    rate, left = speed(job), seconds_left(job, now)
    loss = "" if job.loss is None else f"{job.loss:.4f}"
    return (
        f"{job.step}/{job.steps}", loss, "" if rate is None else f"{rate:.1f}", "" if left is None else clock(left)
    )  # fmt: skip
