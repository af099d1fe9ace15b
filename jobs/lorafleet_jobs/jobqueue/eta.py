"""How fast a job trains and when it and its submission will be done, from rows alone. Pure: the time is passed in."""

from __future__ import annotations

from collections.abc import Sequence

from lorafleet_jobs.jobqueue.job_state import ENDED, JobRow


def speed(job: JobRow) -> float | None:
    """Steps a second since the current attempt's first step, loading not included; None where there is no telling."""
    if job.state != "running" or job.stepping_since is None or job.updated <= job.stepping_since:
        return None
    return (job.step - job.stepping_from) / (job.updated - job.stepping_since) or None


def seconds_left(job: JobRow, now: float) -> float | None:
    """Until a running job has made its last step; None where there is no telling."""
    rate = speed(job)
    return None if rate is None else max(0.0, (job.steps - job.step) / rate - (now - job.updated))


def all_seconds_left(jobs: Sequence[JobRow], now: float) -> float | None:
    """Until all have ended, if what is trained now goes on at its pace and the rest as fast; None without a pace.

    Steps that are left over the sum of all paces, and no less than the slowest job needs.
    """
    rates = [rate for job in jobs if (rate := speed(job)) is not None]
    if not rates:
        return None
    steps = sum(job.steps - job.step for job in jobs if job.state not in ENDED)
    return max([steps / sum(rates), *(left for job in jobs if (left := seconds_left(job, now)) is not None)])


def elapsed(job: JobRow, now: float) -> float | None:
    """Seconds that the last attempt has taken, or took; None without one."""
    if job.started is None:
        return None
    return max(0.0, (job.updated if job.state in ENDED else now) - job.started)


def clock(seconds: float) -> str:
    """0:07, 12:30, 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"
