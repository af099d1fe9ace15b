"""One job's training: from images to a bundle. Imports neither ray nor mlflow; trackers are passed in."""

from lorafleet_jobs.train.loop import Cancelled, train_job

__all__ = ["Cancelled", "train_job"]
