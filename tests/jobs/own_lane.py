"""What tests share that run a lane in their own process: real trainer, rows and MLflow, and no cluster."""

from zlib import crc32

from lorafleet.home import Home
from lorafleet.tracking import MlflowTracking
from lorafleet_jobs.jobqueue.job_queue import JobQueue, LaneConfig
from lorafleet_jobs.jobqueue.job_state import JobRow
from lorafleet_jobs.jobqueue.outbox import Outbox
from lorafleet_jobs.jobqueue.status import load_submission, open_store
from lorafleet_jobs.lane.lane import Lane, Leaving, stays
from lorafleet_jobs.submission.outbox_sender import flush


def lane(home: Home, tracking: MlflowTracking, queue: JobQueue, pack: int = 1, must_leave=stays, then=None) -> Leaving:
    """A lane's life, with the resources of the queue's submission."""
    resources = load_submission(home, queue.submission).row.resources
    setup = LaneConfig("a", home.root, tracking.uri, cpus=1, device="cpu", pack=pack, resources=resources)
    try:
        return Lane(setup, queue, tracking, must_leave, *([then] if then else [])).run()
    finally:
        send(home, tracking, queue.submission)


def send(home: Home, tracking: MlflowTracking, submission: str) -> None:
    """What a driver does beside its lanes: sends what they record to MLflow, if it answers."""
    flush(Outbox(open_store(home).engine), tracking, [submission], 0.1)


def jobs_of(home: Home, submission: str) -> dict[str, JobRow]:
    """By subject."""
    return {job.spec.subject: job for job in load_submission(home, submission).jobs}


def seed_of(name: str) -> int:
    """Of a submission; differs from test to test, so that none finds another's bundle."""
    return crc32(name.encode()) % 10_000
