"""A job's checkpoints: its parameters, optimizer, schedule, moving average and step; verified on read.

    <folder>/step-000120/state.safetensors    every tensor
                         state.json           everything else, and the tensors' sha256

Batches and noise are functions of the job and a step, so no generator and no data position is kept. A resumed job goes
on as if it had never stopped: to the bit on a CPU of the same kind and, with `resources.exact`, on a GPU; else to
rounding, because attention's backward pass adds up in no fixed order there. Learned tokens are parameters like any
others, and which parameters are frozen follows from the step. Written to a temporary sibling, fsynced, renamed; the
last two are kept. Knows files and state; refuses to know when to save.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lorafleet.util.files import whole_folder
from lorafleet_jobs.train.progress import History
from lorafleet_jobs.train.training import Training

TENSORS, REST = "state.safetensors", "state.json"
KEPT = 2
"""Checkpoints of a job on disk: should the newest be damaged, the one before it is there."""


@dataclass(frozen=True)
class Snapshot:
    """A training's state after a step, in host memory of its own: the training goes on meanwhile."""

    job: str
    step: int
    tensors: dict[str, Tensor]
    rest: Any
    """Everything else, as JSON."""

    @classmethod
    def of(cls, training: Training, history: History) -> Snapshot:
        """The state after the last step of `history`."""
        tensors: dict[str, Tensor] = {}
        kept = {"losses": list(history.losses), "seconds": history.seconds}
        rest = _flatten(_state(training) | kept, "state", tensors)
        copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        return cls(training.spec.id, history.step, copies, rest)

    def write(self, folder: Path) -> Path:
        """Writes it as a checkpoint; of older ones only the newest stays. Raises OSError."""
        data = save(self.tensors)
        sha256 = hashlib.sha256(data).hexdigest()
        document = {"job": self.job, "step": self.step, "sha256": sha256, "state": self.rest}
        target = folder / f"step-{self.step:06d}"
        with whole_folder(target) as scratch:
            (scratch / TENSORS).write_bytes(data)
            (scratch / REST).write_text(json.dumps(document), "utf-8")
        for old in _written(folder)[:-KEPT]:
            shutil.rmtree(old)
        return target


class CheckpointWriter:
    """Writes one job's checkpoints from a thread, so that the steps go on: at rank 32 of SDXL one has 886 MiB."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread: ThreadPoolExecutor | None = None
        self._pending: Future[Path] | None = None

    def save(self, training: Training, history: History) -> None:
        """Copies the state and leaves the rest to the thread. Raises the OSError of the checkpoint before it."""
        self.wait()
        self._thread = self._thread or ThreadPoolExecutor(1, "checkpoint")
        self._pending = self._thread.submit(Snapshot.of(training, history).write, self._folder)

    def save_now(self, training: Training, history: History) -> None:
        """Writes a checkpoint, and returns when it is there. Raises OSError, of this one alone."""
        self.close()
        Snapshot.of(training, history).write(self._folder)

    def wait(self) -> None:
        """Returns once nothing is being written. Raises OSError if the last checkpoint could not be."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Ends the thread once nothing is being written, whatever came of it."""
        thread, self._thread, self._pending = self._thread, None, None
        if thread is not None:
            thread.shutdown()


def resume(folder: Path, training: Training) -> History:
    """Loads the newest sound checkpoint of this very job into a fresh training; returns the history up to it.

    The history is empty if there is none. A checkpoint that is damaged, or that this training cannot have written, is
    passed over for the one before it.
    """
    for path in reversed(_written(folder)):
        checkpoint = _read(path, training.spec.id)
        if checkpoint is not None and _fits(checkpoint[1], training):
            step, state = checkpoint
            _restore(training, state, step)
            return History(step, state["losses"], state["seconds"])
    return History()


def _state(training: Training) -> dict[str, Any]:
    average = training.ema
    return {
        "learned": training.trainable.parameters(),
        "optimizer": training.optimizer.state_dict(),
        "schedule": training.schedule.state_dict(),
        "average": None if average is None else average.state(),
    }


def _restore(training: Training, state: Mapping[str, Any], step: int) -> None:
    with torch.no_grad():
        for parameter, value in zip(training.trainable.parameters(), state["learned"], strict=True):
            parameter.copy_(value)  # in place: an optimizer may hold views of this memory
    training.optimizer.load_state_dict(state["optimizer"])
    training.schedule.load_state_dict(state["schedule"])
    if training.ema is not None:
        training.ema.restore(state["average"], training.base.device)
    training.begin(step)  # freezes what was frozen by then


def _fits(state: Mapping[str, Any], training: Training) -> bool:
    """Whether a state is one of this training: the same parts and shapes, all finite. Another release's may not be."""
    fresh = _state(training)
    if state.keys() != fresh.keys() | {"losses", "seconds"}:
        return False
    learned = state["learned"]
    return (
        [tensor.shape for tensor in learned] == [tensor.shape for tensor in fresh["learned"]]
        and all(bool(tensor.isfinite().all()) for tensor in learned)
        and len(state["optimizer"]["param_groups"]) == len(fresh["optimizer"]["param_groups"])
        and (state["average"] is None) == (fresh["average"] is None)
    )


def _written(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _read(path: Path, job: str) -> tuple[int, dict[str, Any]] | None:
    """A checkpoint's step and state; None if it is another job's, or damaged in any way."""
    try:
        card, data = json.loads((path / REST).read_text()), (path / TENSORS).read_bytes()
        if card["job"] != job or card["sha256"] != hashlib.sha256(data).hexdigest():
            return None
        return int(card["step"]), _unflatten(card["state"], load(data))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None


def _flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A nest of mappings, sequences and numbers as JSON, its tensors taken out by name."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):  # pairs, for optimizers' keys are numbers
        return {"pairs": [[key, _flatten(inner, f"{name}.{key}", tensors)] for key, inner in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_flatten(inner, f"{name}.{i}", tensors) for i, inner in enumerate(value)]
    return value


def _unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _unflatten(inner, tensors) for key, inner in value["pairs"]}
    return [_unflatten(inner, tensors) for inner in value] if isinstance(value, list) else value
