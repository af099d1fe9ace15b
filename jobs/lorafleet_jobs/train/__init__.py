"""From images to a bundle, many jobs over one base. Imports neither ray nor mlflow; trackers are passed in."""

from lorafleet_jobs.train.contest import Contest, NoContest, Stopped
from lorafleet_jobs.train.run import FAILURES, Cancelled, Crew, Follower, JobRun, Order, train_job

__all__ = [
    "FAILURES",
    "Cancelled",
    "Contest",
    "Crew",
    "Follower",
    "JobRun",
    "NoContest",
    "Order",
    "Stopped",
    "train_job",
]
