"""From images to a bundle, many jobs over one base. Imports neither ray nor mlflow; trackers are passed in."""

from lorafleet_jobs.train.data.pieces import InPieces
from lorafleet_jobs.train.follower import Follower
from lorafleet_jobs.train.job_run import FAILURES, Cancelled, JobRun, TrainJob
from lorafleet_jobs.train.pack import Pack
from lorafleet_jobs.train.trial import EarlyStopped, NoTrial, Trial

__all__ = [
    "FAILURES",
    "Cancelled",
    "EarlyStopped",
    "Follower",
    "InPieces",
    "JobRun",
    "NoTrial",
    "Pack",
    "TrainJob",
    "Trial",
]
