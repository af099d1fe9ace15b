"""How a submission's progress is shown while it runs: a live table on a terminal, plain lines elsewhere. On stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from lorafleet.bundle.bundle import PREVIEW
from lorafleet.bundle.change import REMEDY, UNCHANGED
from lorafleet.console import err, one_line
from lorafleet.home import Home
from lorafleet_jobs.jobqueue.eta import all_seconds_left, clock, seconds_left, speed
from lorafleet_jobs.jobqueue.job_state import JobRow, State
from lorafleet_jobs.jobqueue.status import SHOWN, Submission, counts
from lorafleet_jobs.jobqueue.tables import LaneRow
from lorafleet_jobs.submission.follow import Show

COLOURS: dict[State, str] = {
    "queued": "dim", "running": "cyan", "succeeded": "green", "stopped": "blue", "failed": "red", "cancelled": "yellow",
    "forgotten": "dim",
}  # fmt: skip
COLUMNS = ("job", "lane", "state", "", "step", "loss", "it/s", "ETA", "")
NUMBERS = frozenset(COLUMNS[4:8])
BAR_WIDTH = 12
FRAME = 5  # lines that are neither a job's nor a lane's: the header, a blank one, the columns' names, the rest, a last
LEAST = 3  # jobs are shown on however low a screen
PLAIN_SECONDS = 10.0  # between two lines about the same running job


PictureOf = Callable[[JobRow], str | None]
"""The address of a job's picture; None if there is none yet."""


def no_picture(job: JobRow) -> str | None:
    """No job has a picture."""
    return None


def previews(home: Home) -> PictureOf:
    """Finds the previews of finished jobs of a home, as `file:` addresses, which many terminals open at a click."""

    def find(job: JobRow) -> str | None:
        preview = home.bundles / job.id / PREVIEW
        return preview.as_uri() if job.state == "succeeded" and preview.exists() else None

    return find


@contextmanager
def onlooker(home: Home) -> Iterator[Show]:
    """What shows a submission on this process's stderr, for as long as the block lasts."""
    if not err.is_terminal:
        yield PlainLines()
        return
    picture = previews(home)
    with Live(Text("starting ..."), console=err, refresh_per_second=4, transient=False) as live:

        def show(submission: Submission) -> None:
            room = max(LEAST, err.size.height - FRAME - max(1, len(submission.lanes)))
            live.update(board(submission, time.time(), room, picture))

        yield show


def board(
    submission: Submission, now: float, room: int | None = None, picture: PictureOf = no_picture
) -> RenderableType:
    """The submission and its lanes in a line each, then its jobs.

    With `room` no more jobs than so many, and of the rest how many. A job's name is a link to its picture.
    """
    shown = submission.jobs if room is None else jobs_that_fit(submission.jobs, room)
    live = room is not None
    table = Table(box=None, pad_edge=False, header_style="bold", expand=live)
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in NUMBERS else "left", no_wrap=True)
    remarks = table.columns[-1]  # on a screen of so many lines each has one, elsewhere as many as it needs
    remarks.no_wrap, remarks.overflow, remarks.ratio = live, "ellipsis" if live else "fold", 1 if live else None
    for job in shown:
        lane = number_of(job.lane) if job.lane and job.state == "running" else ""
        bar = ProgressBar(job.steps, job.step, BAR_WIDTH) if job.step else Text()
        state, said = Text(job.state, COLOURS[job.state]), Text(remark(job, now))
        table.add_row(_name(submission.label(job), picture(job)), lane, state, bar, *_numbers(job, now), said)
    seen = {job.id for job in shown}
    rest = [job for job in submission.jobs if job.id not in seen]
    more = [Text(f"and {len(rest)} more: {counts(rest)}", "dim")] if rest else []
    lanes = [Text(lane_line(row), "dim") for row in submission.lanes]
    if live and not lanes and submission.unfinished and all(job.state != "running" for job in submission.jobs):
        lanes = [Text("no lane is up yet: Ray starts, then each lane loads its base", "dim")]
    return Group(header(submission, now), *lanes, Text(), table, *more)


def _name(label: str, picture: str | None) -> Text:
    return Text(label, "" if picture is None else Style(link=picture))


def number_of(lane: str) -> str:
    """The number by which people call a lane: the last part of its name."""
    return lane.rpartition("-")[2]


def lane_line(row: LaneRow) -> str:
    """`lane 0: training 4 jobs, NVIDIA H200 97 % busy, 61.2 of 139.8 GiB, on node-3`."""
    busy = "" if row.busy is None else f" {row.busy:.0f} % busy"
    memory = f"{row.used_mib / 1024:.1f} of {row.total_mib / 1024:.1f} GiB"
    doing = one_line(row.doing)
    return f"lane {number_of(row.lane)}: {doing}, {one_line(row.device)}{busy}, {memory}, on {one_line(row.host)}"


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
    """What is worth saying about a job beside its numbers: why it failed or waits, its version, a later attempt."""
    error = "" if job.error is None else one_line(job.error)
    if job.state == "queued" and error:
        wait = max(0.0, (job.not_before or now) - now)
        return f"again in {clock(wait)}: {error}" if wait else f"again: {error}"
    if error and error != job.state:
        return f"{job.kind}: {error}" if job.state == "failed" and job.kind else error
    if job.version is not None:
        return f"version {job.version}" + (f", but {UNCHANGED}; {REMEDY}" if job.kind == "unchanged" else "")
    return f"attempt {job.attempts}" if job.attempts > 1 else ""


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
    parts += [said] if (said := remark(job, now)) else []
    return ", ".join(parts)


def _numbers(job: JobRow, now: float) -> tuple[str, str, str, str]:
    rate, left = speed(job), seconds_left(job, now)
    loss = "" if job.loss is None else f"{job.loss:.4f}"
    return (
        f"{job.step}/{job.steps}", loss, "" if rate is None else f"{rate:.1f}", "" if left is None else clock(left)
    )  # fmt: skip
