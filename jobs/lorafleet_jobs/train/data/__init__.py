"""What a job is trained on: images as latents, captions, time ids, masks and class images, batch by batch."""

from lorafleet_jobs.train.data.dataset import Batch, Dataset

__all__ = ["Batch", "Dataset"]
