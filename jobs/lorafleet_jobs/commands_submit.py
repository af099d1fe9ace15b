"""The commands `submit`, `status` and `watch`: thin shells around `lorafleet_jobs.submit`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lorafleet_jobs.commands_intake import AsJson, BaseName, ManifestPath

if TYPE_CHECKING:
    from lorafleet.home import Home
    from lorafleet_jobs.intake import Prepared
    from lorafleet_jobs.report import Submission

SubmissionId = Annotated[
    str, typer.Argument(metavar="SUBMISSION", help="Its id, or a beginning of it.", show_default=False)
]


def register_submit(app: typer.Typer) -> None:
    """Adds `submit`, `status` and `watch`."""
    app.command("submit")(submit)
    app.command("status")(status)
    app.command("watch")(watch)


def submit(
    manifest: ManifestPath,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start without asking.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Train in the background and return at once.")] = False,
    base: BaseName = None,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="RAY", help="A Ray cluster; by default one here.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Train every subject of a manifest, and publish its adapters.

    Submitting again trains only what is missing. Exit code 0: every subject succeeded. 1: some failed or were left out.
    2: nothing can be trained. 4: Ray or MLflow does not answer.
    """
    from lorafleet.console import print_json
    from lorafleet.home import Home
    from lorafleet_jobs.intake import prepare
    from lorafleet_jobs.submit import submit_detached

    home = Home.from_environment()
    prepared = prepare(manifest, base)
    _announce(prepared)
    if sys.stdin.isatty() and not yes:
        typer.confirm("start?", default=True, abort=True, err=True)
    done = submit_detached(prepared, home, address) if detach else _attached(prepared, home, address)
    if as_json:
        skipped = [one.model_dump(mode="json") for one in prepared.plan.skipped]
        print_json({**done.as_json(), "skipped": skipped})
    elif detach:
        _say(f"{done.id} trains in the background; lorafleet watch {done.id}")
    else:
        _conclude(done)
    failed = not detach and done.state != "succeeded"
    return 1 if failed or prepared.plan.skipped else 0


def status(
    submission: Annotated[
        str | None,
        typer.Argument(metavar="[SUBMISSION]", help="Its id, or a beginning of it; the newest by default."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show how a submission stands. Exit code 3: there is no such submission."""
    import time

    from lorafleet.console import note, out, print_json
    from lorafleet.home import Home
    from lorafleet_jobs.lock import has_driver
    from lorafleet_jobs.report import load_submission
    from lorafleet_jobs.watch import board

    home = Home.from_environment()
    found = load_submission(home, submission)
    if as_json:
        print_json(found.as_json())
    else:
        out.print(board(found, time.time()))
    if not found.has_ended and not has_driver(home, found.id):
        note(f"nobody is training {found.id} now; submit its manifest again to go on")
    return 0


def watch(submission: SubmissionId) -> int:
    """Follow a submission until it ends; leaving does not stop it. Exit code 1: not everything succeeded."""
    from lorafleet.console import note
    from lorafleet.home import Home
    from lorafleet_jobs.report import load_submission
    from lorafleet_jobs.submit import follow
    from lorafleet_jobs.watch import onlooker

    home = Home.from_environment()
    found = load_submission(home, submission)
    with onlooker() as show:
        done = follow(found.id, home, show)
    if not done.has_ended:
        note(f"nobody is training {found.id} now; submit its manifest again to go on")
    return 0 if done.state == "succeeded" else 1


def _attached(prepared: Prepared, home: Home, address: str | None) -> Submission:
    from lorafleet_jobs.submit import submit
    from lorafleet_jobs.watch import onlooker

    with onlooker() as show:
        return submit(prepared, home, address, show)


def _announce(prepared: Prepared) -> None:
    from lorafleet.console import note

    plan = prepared.plan
    for skipped in plan.skipped:
        note(f"{skipped.subject} is left out; {skipped.reason}", "skipped")
    jobs = "1 adapter" if len(plan.jobs) == 1 else f"{len(plan.jobs)} adapters"
    lanes = "1 lane" if plan.lanes == 1 else f"{plan.lanes} lanes"
    _say(f"{plan.submission}: {jobs} on base {prepared.manifest.base}, {lanes}")


def _conclude(done: Submission) -> None:
    counts = ", ".join(
        f"{sum(job.state == state for job in done.jobs)} {state}" for state in ("succeeded", "failed", "cancelled")
        if any(job.state == state for job in done.jobs)
    )  # fmt: skip
    _say(f"{done.id}: {counts}. Adapters: lorafleet adapters ls. Runs and pictures: lorafleet ui")


def _say(text: str) -> None:
    from lorafleet.console import err

    err.print(text, markup=False)
