"""The commands `cancel`, `retry`, `logs` and `wait`: thin shells around `lorafleet_jobs.submission.control`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from lorafleet.console import note, one_line, out, print_json
from lorafleet.home import Home
from lorafleet_jobs.cli.status_commands import say, say_end, say_orphan
from lorafleet_jobs.cli.terminal import completions
from lorafleet_jobs.cli.terminal.options import Address, AsJson, SubmissionId
from lorafleet_jobs.jobqueue.job_state import ENDED
from lorafleet_jobs.jobqueue.status import load_submission, open_store
from lorafleet_jobs.lane.job_log import entries, follow
from lorafleet_jobs.submission import control
from lorafleet_jobs.submission.control import wait_for
from lorafleet_jobs.submission.driver_lease import has_driver

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lorafleet.home import Home
    from lorafleet_jobs.jobqueue.job_state import JobRow
    from lorafleet_jobs.jobqueue.status import Submission

Jobs = Annotated[
    list[str] | None,
    typer.Argument(metavar="[JOB]...", help="Adapters' names or ids; all by default.", show_default=False),
]
FOLLOW_SECONDS = 0.5


def cancel(submission: SubmissionId, jobs: Jobs = None) -> int:
    """Cancel a submission, or some of its jobs; what is finished stays.

    What runs ends between two steps, and the other jobs of its lane go on. Exit code 3: there is no such thing.
    """
    home = Home.from_environment()
    seen = load_submission(home, submission)
    ended = control.cancel(home, seen.id, jobs or [])
    if ended:
        say(f"{seen.id}: cancelled {_labels(seen, ended)}; queue again with: lorafleet retry {seen.id}")
    else:
        note(f"nothing to cancel: {_have_ended(jobs)}")
    return 0


def retry(
    submission: SubmissionId,
    jobs: Jobs = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only what failed, not what was cancelled.")] = False,
    address: Address = None,
) -> int:
    """Queue failed and cancelled jobs again, and go on in the background with whatever has not ended.

    Adapters that are finished stay. Exit code 3: there is no such submission or job. 4: Ray does not answer.
    """
    home = Home.from_environment()
    seen = load_submission(home, submission)
    done = control.retry(home, seen.id, jobs or [], only_failed=failed, address=address)
    if done.queued:
        say(f"{seen.id}: queued again {_labels(seen, done.queued)}")
    else:
        note(f"no job of {'those' if jobs else seen.id} has failed" + ("" if failed else " or was cancelled"))
    if done.driver_started:
        say(f"{seen.id} trains in the background; lorafleet watch {seen.id}")
    return 0


def logs(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[SUBMISSION] JOB",
            help="The newest submission by default; a job's adapter or id.",
            show_default=False,
            autocompletion=completions.submissions_and_jobs,
        ),
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends; Ctrl-C leaves.")] = False,
    as_json: AsJson = False,
) -> int:
    """Show what happened to a job: attempts, steps, failures with their tracebacks.

    Exit code 3: there is no such job.
    """
    if follow and as_json:
        raise typer.BadParameter("--json is one document, --follow has no end; use one of them")
    if len(words) > 2:
        raise typer.BadParameter(f"{len(words)} names; give a submission and a job, or a job of the newest one")
    home = Home.from_environment()
    seen = load_submission(home, words[0] if len(words) == 2 else None)
    job = open_store(home).find_job(seen.id, words[-1])
    lines = _lines(home, job, follow)
    if as_json:
        logged = [{"time": entry.time, "text": entry.text} for entry in entries(lines)]
        named = {"adapter": job.spec.adapter, "point": seen.points[job.id]}
        print_json({"submission": seen.id, "job": job.id, **named, "entries": logged})
        return 0
    if seen.points[job.id]:
        note(f"{seen.label(job)}, job {job.id}", "log of", "dim")
    if not follow and not home.job_log(seen.id, job.id).exists():
        why = "was forgotten; its log is gone" if job.state == "forgotten" else "has not begun; nothing is logged yet"
        note(f"{seen.label(job)} {why}")
    try:
        for line in lines:
            out.print(one_line(line), markup=False)
    except KeyboardInterrupt:
        pass  # leaving is no failure
    return 0


def wait(
    submissions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SUBMISSION]...",
            help="Ids, or beginnings of them; the newest by default.",
            autocompletion=completions.submissions,
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Wait until submissions have ended, detached ones too.

    Exit code 0: every job of all of them succeeded. 1: some did not, or nobody is training one any more. 3: there is no
    such submission.
    """
    home = Home.from_environment()
    names: Sequence[str | None] = submissions or [None]
    wanted = dict.fromkeys(load_submission(home, name).id for name in names)  # all of them exist
    done = [wait_for(home, one) for one in wanted]
    for one in done:
        say_end(one, home)
        say_orphan(one, home)
    if as_json:
        print_json({"submissions": [one.as_json() for one in done]})
    return 0 if all(one.state == "succeeded" for one in done) else 1


def _lines(home: Home, job: JobRow, go_on: bool) -> Iterator[str]:
    def is_over() -> bool:
        if not go_on:
            return True
        row = open_store(home).find_job(job.submission, job.id)
        return row.state in ENDED or not has_driver(open_store(home), job.submission)

    return follow(home.job_log(job.submission, job.id), is_over, lambda: time.sleep(FOLLOW_SECONDS))


def _labels(submission: Submission, jobs: tuple[JobRow, ...]) -> str:
    return ", ".join(submission.label(job) for job in jobs)


def _have_ended(jobs: list[str] | None) -> str:
    return f"{', '.join(jobs)} ended before" if jobs else "every job has ended"
