"""The program that a Ray cluster runs for a submission handed to it: `python -m lorafleet_jobs.cli.ray_job_main`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lorafleet.console import escape_unwritable
from lorafleet.errors import LorafleetError, ManifestError
from lorafleet.home import Home
from lorafleet_jobs.cli.terminal.watch import onlooker
from lorafleet_jobs.intake.prepare import prepare
from lorafleet_jobs.submission.submit import submit


def main(arguments: Sequence[str]) -> int:
    """Trains a submission on the cluster that this process is a job of; exit code 0 if every adapter was published.

    Arguments: manifest, the submission's id as it was where it was submitted, and the base if not the manifest's.
    """
    escape_unwritable()
    manifest, submission, *base = arguments
    try:
        return _train(Path(manifest), submission, base[0] if base else None)
    except LorafleetError as problem:
        sys.stderr.write(f"error: {problem}\n")
        return problem.exit_code
    except KeyboardInterrupt:
        return 130


def _train(manifest: Path, submission: str, base: str | None) -> int:
    if "LORAFLEET_HOME" not in os.environ:
        raise ManifestError("LORAFLEET_HOME is not set on the cluster; start its nodes with a folder they all see")
    prepared = prepare(manifest, base)
    if prepared.plan.submission != submission:
        raise ManifestError(
            f"{manifest} is {prepared.plan.submission} here, but {submission} where it was submitted: the manifest, "
            "a photo or the base differs or has changed since; submit it again"
        )
    home = Home.from_environment()
    with onlooker(home) as show:
        done = submit(prepared, home, show=show)
    return 0 if done.state == "succeeded" else 1  # subjects left out were told to whoever submitted


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
