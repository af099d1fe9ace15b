"""The command `submit`: a thin shell around `lorafleet_jobs.submission.submit`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from lorafleet.console import note, print_json
from lorafleet.home import Home
from lorafleet_jobs.cli.plan_commands import (
    BaseName,
    ForgottenToo,
    ManifestPath,
    cost,
    forgotten_photographs,
    plan,
    show_left_out,
)
from lorafleet_jobs.cli.status_commands import say, say_end, say_farewell
from lorafleet_jobs.cli.terminal.options import Address, AsJson
from lorafleet_jobs.cli.terminal.ticking import Ticking, cores
from lorafleet_jobs.cli.terminal.watch import onlooker
from lorafleet_jobs.cluster.ray_job import hand_over, job_api
from lorafleet_jobs.intake.plan import nothing_done
from lorafleet_jobs.intake.prepare import prepare
from lorafleet_jobs.jobqueue.status import open_store
from lorafleet_jobs.submission import submit as submission_driver
from lorafleet_jobs.submission.done import done_in
from lorafleet_jobs.submission.driver_lease import has_driver

if TYPE_CHECKING:
    from pathlib import Path

    from lorafleet.home import Home
    from lorafleet_jobs.intake.prepare import Prepared
    from lorafleet_jobs.jobqueue.status import Submission


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


def _attached(prepared: Prepared, home: Home, address: str | None) -> Submission:
    try:
        with onlooker(home) as show:
            return submission_driver.submit(prepared, home, address, show)
    except KeyboardInterrupt:
        if has_driver(open_store(home), prepared.plan.submission):  # another process, which this one only watched
            say_farewell(prepared.plan.submission)
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
