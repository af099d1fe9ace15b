"""From images to a bundle, many jobs over one base. Imports neither ray nor mlflow; trackers are passed in."""

from lorafleet_jobs.train.job_run import FAILURES, Cancelled, Follower, JobRun, Pack, TrainJob, train_job
from lorafleet_jobs.train.trial import EarlyStopped, NoTrial, Trial

__all__ = [
    "FAILURES",
    "Cancelled",
    "EarlyStopped",
    "Follower",
    "JobRun",
    "NoTrial",
    "Pack",
    "TrainJob",
    "Trial",
    "train_job",
]
