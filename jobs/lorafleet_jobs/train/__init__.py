"""From images to a bundle, many jobs over one base. Imports neither ray nor mlflow; trackers are passed in."""

from lorafleet_jobs.train.contest import Contest, NoContest, Stopped
from lorafleet_jobs.train.run import FAILURES, Cancelled, Crew, JobRun, Order, follow, train_job

__all__ = ["FAILURES", "Cancelled", "Contest", "Crew", "JobRun", "NoContest", "Order", "Stopped", "follow", "train_job"]
