"""The commands `submit`, `status`, `ls` and `watch`: thin shells around `lorafleet_jobs.submission.submit`."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from lorafleet.console import err, note, one_line, out, print_json
from lorafleet.home import Home
from lorafleet_jobs.cli.plan_commands import (
    AsJson,
    BaseName,
    ForgottenToo,
    ManifestPath,
    cost,
    forgotten_photographs,
    plan,
    show_left_out,
)
from lorafleet_jobs.cli.ticking import Ticking, cores
from lorafleet_jobs.cli.watch import COLOURS, board, onlooker
from lorafleet_jobs.cluster.ray_job import hand_over, job_api
from lorafleet_jobs.intake.plan import nothing_done
from lorafleet_jobs.intake.prepare import prepare
from lorafleet_jobs.jobqueue.status import counts, failures, load_submission, load_submissions, open_store
from lorafleet_jobs.submission import submit as submission_driver
from lorafleet_jobs.submission.done import done_in
from lorafleet_jobs.submission.driver_lease import has_driver

if TYPE_CHECKING:
    from pathlib import Path

    from lorafleet.home import Home
    from lorafleet_jobs.intake.prepare import Prepared
    from lorafleet_jobs.jobqueue.status import Submission

SubmissionId = Annotated[
    str, typer.Argument(metavar="SUBMISSION", help="Its name, its id, or a beginning of that.", show_default=False)
]
NewestSubmission = Annotated[
    str | None,
    typer.Argument(metavar="[SUBMISSION]", help="Its name, its id, or a beginning of that; the newest by default."),
]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="RAY", help="A Ray cluster; by default one here.", show_default=False),
]


def submit(
    manifest: ManifestPath,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start without asking.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Train in the background and return at once.")] = False,
    base: BaseName = None,
    address: Address = None,
    as_json: AsJson = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and start nothing: as lorafleet plan.")
    ] = False,
    forgotten_too: ForgottenToo = False,
) -> int:
    """Train every subject of a manifest, and publish its adapters.

    Submitting again trains only what is missing. --address http://HEAD:8265 leaves it to that cluster, as a Ray job.
    Exit code 0: every subject succeeded. 1: some failed or were left out. 2: nothing can be trained. 4: Ray or MLflow
    does not answer.
    """
    if dry_run:
        return plan(manifest, base, as_json, forgotten_too)
    home = Home.from_environment()
    known = done_in(home) if job_api(address) is None else nothing_done
    left_out = forgotten_photographs(forgotten_too)
    prepared = prepare(manifest, base, tick=Ticking(), done=known, workers=cores(), forgotten=left_out)
    warnings = _announce(prepared)
    if sys.stdin.isatty() and not yes:
        asked = f"{warnings} warning{'s' * (warnings != 1)} above; start?" if warnings else "start?"
        typer.confirm(asked, default=True, abort=True, err=True)
    if (cluster := job_api(address)) is not None:
        return _hand_over(prepared, manifest, base, cluster, as_json)
    done = submission_driver.submit_detached(prepared, home, address) if detach else _attached(prepared, home, address)
    if as_json:
        skipped = [one.model_dump(mode="json") for one in prepared.plan.skipped]
        print_json({**done.as_json(), "skipped": skipped})
    elif detach:
        say(f"{done.id} trains in the background; lorafleet watch {done.id}")
    else:
        say_end(done, home)
    failed = not detach and done.state != "succeeded"
    return 1 if failed or prepared.plan.skipped else 0


def status(submission: NewestSubmission = None, as_json: AsJson = False) -> int:
    """Show how a submission stands. Exit code 3: there is no such submission."""
    home = Home.from_environment()
    seen = load_submission(home, submission)
    if as_json:
        print_json(seen.as_json())
    else:
        out.print(board(seen, time.time()))
    say_orphan(seen, home)
    return 0


def ls(as_json: AsJson = False) -> int:
    """List every submission, the newest first. Exit code 3: there is none."""
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
    """Follow a submission until it ends. Exit code 1: not everything succeeded.

    Ctrl-C leaves it to train on, and is no failure: exit code 0.
    """
    home = Home.from_environment()
    seen = load_submission(home, submission)
    try:
        with onlooker() as show:
            done = submission_driver.follow(seen.id, home, show)
    except KeyboardInterrupt:
        _say_farewell(seen.id)
        return 0
    say_end(done)
    say_orphan(done, home)
    return 0 if done.state == "succeeded" else 1


def _attached(prepared: Prepared, home: Home, address: str | None) -> Submission:
    try:
        with onlooker() as show:
            return submission_driver.submit(prepared, home, address, show)
    except KeyboardInterrupt:
        if has_driver(open_store(home), prepared.plan.submission):  # another process, which this one only watched
            _say_farewell(prepared.plan.submission)
        raise


def _hand_over(prepared: Prepared, manifest: Path, base: str | None, cluster: str, as_json: bool) -> int:
    handed = hand_over(prepared, manifest, base, cluster)
    if as_json:
        skipped = [one.model_dump(mode="json") for one in prepared.plan.skipped]
        print_json({**handed.as_json(), "skipped": skipped})
    else:
        say(handed.story)
    return 1 if prepared.plan.skipped else 0


def _announce(prepared: Prepared) -> int:
    """Says what would start; returns how many warnings were told."""
    plan = prepared.plan
    warnings = show_left_out(prepared)
    secret = prepared.manifest.notify and prepared.manifest.notify.secret_env
    if secret and not os.environ.get(secret):
        note(f"notify.secret_env names {secret}, which is not set here; nobody will be notified")
    jobs = "1 adapter" if len(plan.jobs) == 1 else f"{len(plan.jobs)} adapters"
    lanes = "1 lane" if plan.lanes == 1 else f"{plan.lanes} lanes"
    say(f"{plan.submission}: {jobs} on base {prepared.manifest.base}, {lanes}")
    say(cost(prepared))
    return warnings


def say_end(done: Submission, home: Home | None = None) -> None:
    """How a submission ended, for people: counts, what failed and where to read more; with a home also its report."""
    if not done.has_ended:
        return
    say(f"{done.id}: {counts(done.jobs)}")
    for line in failures(done):
        say(line)
    if home is not None and home.report(done.id).exists():
        say(f"Report: {home.report(done.id)}")
    say("Adapters: lorafleet adapters ls. Runs and pictures: lorafleet ui")


def say_orphan(seen: Submission, home: Home) -> None:
    """What to do about a submission that has not ended and that nobody drives."""
    if not seen.has_ended and not has_driver(open_store(home), seen.id):
        note(f"nobody is training {seen.id} now; go on with: lorafleet retry {seen.id}")


def say(text: str) -> None:
    """One line on stderr."""
    err.print(one_line(text), markup=False)


def _say_farewell(submission: str) -> None:
    say(f"{submission} trains on; lorafleet watch {submission} comes back, lorafleet cancel {submission} ends it")


def _ago(seconds: float) -> str:
    """How long ago, in the largest unit of which there are at least two."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"
