"""How a submission's progress is shown while it runs: a live table on a terminal, plain lines elsewhere. On stderr."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live
from rich.table import Table
from rich.text import Text

from lorafleet.console import err, one_line
from lorafleet_jobs.report import Submission
from lorafleet_jobs.rows import JobRow
from lorafleet_jobs.submit import Show

COLOURS = {"queued": "dim", "running": "cyan", "succeeded": "green", "failed": "red", "cancelled": "yellow"}
PLAIN_SECONDS = 10.0  # between two lines about the same running job


@contextmanager
def onlooker() -> Iterator[Show]:
    """What shows a submission on this process's stderr, for as long as the block lasts."""
    if err.is_terminal:
        with Live(Text("starting ..."), console=err, refresh_per_second=4, transient=False) as live:
            yield lambda submission: live.update(board(submission, time.time()))
    else:
        yield PlainLines()


def board(submission: Submission, now: float) -> Table:
    """One line a job: state, steps, loss, speed, time to go."""
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left", title_style="none")
    table.title = f"{submission.id}: {submission.state}"
    for column in ("adapter", "state", "step", "loss", "it/s", "ETA", ""):
        table.add_column(column, justify="right" if column in ("step", "loss", "it/s", "ETA") else "left")
    for job in submission.jobs:
        state = Text(job.state, COLOURS[job.state])
        table.add_row(Text(job.spec.adapter), state, *_numbers(job, now), Text(remark(job)))
    return table


def remark(job: JobRow) -> str:
    """What is worth saying about a job beside its numbers: why it failed, its version, its attempt."""
    if job.error:
        return one_line(job.error)
    if job.version is not None:
        return f"version {job.version}"
    return f"attempt {job.attempts}" if job.attempts > 1 else ""


def speed(job: JobRow) -> float | None:
    """Steps a second of a running job since its attempt began (the base's first load included); None without a step."""
    if job.state != "running" or not job.step or job.started is None or job.updated <= job.started:
        return None
    return job.step / (job.updated - job.started)


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
                err.print(line(job, now), markup=False)
            else:
                self._said.setdefault(job.id, (state, at))


def line(job: JobRow, now: float) -> str:
    """A job in one line of plain text."""
    step, loss, rate, eta = _numbers(job, now)
    parts = [f"{job.spec.adapter}: {job.state}", f"step {step}"]
    parts += [f"loss {loss}"] if loss else []
    parts += [f"{rate} it/s", f"ETA {eta}"] if rate else []
    parts += [remark(job)] if remark(job) else []
    return ", ".join(parts)


def _numbers(job: JobRow, now: float) -> tuple[str, str, str, str]:
    rate = speed(job)
    loss = "" if job.loss is None else f"{job.loss:.4f}"
    if rate is None:
        return f"{job.step}/{job.steps}", loss, "", ""
    remaining = max(0.0, (job.steps - job.step) / rate - (now - job.updated))
    return f"{job.step}/{job.steps}", loss, f"{rate:.1f}", f"{int(remaining // 60)}:{int(remaining % 60):02d}"
