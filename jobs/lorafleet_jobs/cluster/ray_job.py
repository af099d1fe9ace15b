"""A submission as a Ray job: handed to a cluster's job API from here, driven on its head node, detached.

The submission's id is the Ray job's id, so the same manifest twice is one job. The two machines share the manifest, the
photos and the base, under the same paths; rows, MLflow and home are the cluster's own, named in its environment.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from lorafleet.errors import LorafleetError, UnreachableError, first_line
from lorafleet.util.machine import this_user
from lorafleet.util.reach import PORTS, ask_directly, probe_url

if TYPE_CHECKING:
    from lorafleet_jobs.intake.prepare import Prepared

JobStatus = Literal["PENDING", "RUNNING", "STOPPED", "SUCCEEDED", "FAILED"]
Step = Literal["submit", "replace", "leave"]
STOPPING = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "45"}
"""For `ray job stop`: SIGTERM would kill the driver on the spot; SIGINT lets its lanes end between two steps."""


@dataclass(frozen=True)
class Handed:
    """What became of a submission that was handed to a cluster."""

    submission: str
    address: str
    step: Step
    was: JobStatus | None
    """The state of the Ray job that was there already."""

    @property
    def story(self) -> str:
        """One line for the user."""
        if self.step == "leave":
            how = {"SUCCEEDED": "it has succeeded"}.get(self.was or "", "it is under way")
            return f"{self.submission} was already submitted, {how}; {self.follow}"
        again = f" again (it had {self.was.lower()})" if self.step == "replace" and self.was is not None else ""
        return f"{self.submission} is submitted{again}; {self.follow}"

    @property
    def follow(self) -> str:
        """The command that shows it."""
        return f"ray job logs --follow --address {self.address} {self.submission}"

    def as_json(self) -> dict[str, str]:
        """The document of `submit --json`."""
        state = {"leave": "already submitted", "submit": "submitted", "replace": "submitted"}[self.step]
        return {"submission": self.submission, "address": self.address, "state": state}


def job_api(address: str | None) -> str | None:
    """The job API (the dashboard) that `address`, else RAY_ADDRESS, names; None if it is Ray itself, or nothing."""
    wanted = address or os.environ.get("RAY_ADDRESS", "")
    return wanted if urlsplit(wanted).scheme in PORTS else None


def next_step(status: JobStatus | None) -> Step:
    """What to do with a submission whose Ray job is in `status`, or None if the cluster knows no such job.

    A job ends well only if every adapter was published. One that failed or was stopped starts again under its id, and
    trains what is missing.
    """
    if status is None:
        return "submit"
    return "replace" if status in ("FAILED", "STOPPED") else "leave"


def entrypoint(manifest: Path, submission: str, base: str | None) -> str:
    """The shell command that the cluster's head runs."""
    if base is not None and Path(base).is_dir():
        base = str(Path(base).absolute())
    words = [
        "python",
        "-m",
        "lorafleet_jobs.cli.ray_job_main",
        str(manifest.absolute()),
        submission,
        *([base] if base else []),
    ]
    return shlex.join(words)


def hand_over(prepared: Prepared, manifest: Path, base: str | None, address: str) -> Handed:
    """Makes a submission a job of the cluster at `address`, unless it is one already.

    Raises UnreachableError if nothing answers there, or not to us.
    """
    submission = prepared.plan.submission
    with _job_api(address) as client:
        status = _status(client, submission)
        step = next_step(status)
        if step == "leave":
            return Handed(submission, address, step, status)
        try:
            if step == "replace":
                client.delete_job(submission)
            client.submit_job(
                entrypoint=entrypoint(manifest, submission, base),
                submission_id=submission,
                runtime_env={"env_vars": {**STOPPING, "LOGNAME": this_user()}},  # who is named in MLflow
                metadata={"manifest": prepared.manifest.name},
            )
        except RuntimeError as problem:
            rival = _status(client, submission)
            if next_step(rival) != "leave":
                raise UnreachableError(f"Ray at {address} takes no job ({first_line(problem, 200)})") from None
            return Handed(submission, address, "leave", rival)  # somebody else was faster
    return Handed(submission, address, step, status)


@contextmanager
def _job_api(address: str) -> Iterator[Any]:
    """A client of the job API at `address`, whatever RAY_ADDRESS says; Ray would let that win over an argument."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    before = os.environ.get("RAY_API_SERVER_ADDRESS")
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    try:
        ask_directly(address)
        probe_url(address)
        yield JobSubmissionClient(address)
    except AuthenticationError:
        raise UnreachableError(
            f"Ray at {address} refuses this token; set RAY_AUTH_MODE=token and put the cluster's token into "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token"
        ) from None
    except (OSError, RuntimeError) as problem:  # the HTTP library's own errors are OSErrors
        if isinstance(problem, LorafleetError):
            raise
        raise UnreachableError(
            f"no Ray job API answers at {address} ({first_line(problem, 200)}); it is the dashboard's address, "
            "usually port 8265: open a tunnel to it, or correct --address"
        ) from None
    finally:
        if before is None:
            del os.environ["RAY_API_SERVER_ADDRESS"]
        else:
            os.environ["RAY_API_SERVER_ADDRESS"] = before


def _status(client: Any, submission: str) -> JobStatus | None:
    return next((job.status.value for job in client.list_jobs() if job.submission_id == submission), None)
