"""What class of failure a problem is: it decides whether a job is tried again, and how."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

import torch

from lorafleet.errors import (
    BaseModelError,
    DataError,
    LorafleetError,
    ManifestError,
    NonFiniteError,
    SettingsError,
    UnreachableError,
    summary,
)
from lorafleet_jobs.jobqueue.job_state import FailureKind

STORAGE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE})
KINDS: tuple[tuple[type[Exception], FailureKind], ...] = (
    (DataError, "data"),
    (ManifestError, "recipe"),
    (SettingsError, "recipe"),
    (BaseModelError, "recipe"),
    (NonFiniteError, "non-finite"),
    (UnreachableError, "publish"),
    (MemoryError, "memory"),
    (torch.OutOfMemoryError, "memory"),
    (torch.AcceleratorError, "lost"),
    (torch.distributed.DistError, "lost"),
)
ALLOCATORS = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What torch's allocators say in a plain RuntimeError."""
DEVICE = ("CUDA error", "CUDNN_STATUS", "NCCL error", "/gloo/")
"""After these the process is of no more use: its device failed, or another worker of its job is gone."""


def classify(problem: Exception) -> FailureKind:
    """The class of a problem; what is none of our errors and no matter of memory, device or disk is a defect."""
    for kind_of, kind in KINDS:
        if isinstance(problem, kind_of):
            return kind
    if isinstance(problem, OSError) and problem.errno in STORAGE:
        return "storage"
    if isinstance(problem, RuntimeError) and not isinstance(problem, LorafleetError):
        message = str(problem)
        if any(words in message for words in ALLOCATORS):
            return "memory"
        if any(words in message for words in DEVICE):
            return "lost"
    return "defect"


REMEDIES: dict[FailureKind, str] = {
    "memory": "does not fit in memory even alone: set gradient_checkpointing, or a smaller batch_size or resolution",
    "storage": "make room on the disk or the folder writable, then retry",
    "lost": "the device, or another worker of the job, failed; see whether it is healthy",
}
"""What is added to a reason that is not our own."""


def reason(problem: Exception, log: Path) -> str:
    """Why a job failed, in one line; `log` has the traceback of what is none of our errors."""
    if isinstance(problem, LorafleetError):
        return str(problem)
    remedy = REMEDIES.get(classify(problem), "")
    return f"{summary(problem)} (traceback in {log})" + (f"; {remedy}" if remedy else "")


def lines_of(problem: Exception) -> list[str]:
    """Its traceback."""
    return "".join(traceback.format_exception(problem)).splitlines()
