"""One job's training: from images to a bundle. Imports neither ray nor mlflow; trackers are passed in."""

from lorafleet_jobs.train.loop import Cancelled, train_job
from lorafleet_jobs.train.warm import WarmBase

__all__ = ["Cancelled", "WarmBase", "train_job"]
