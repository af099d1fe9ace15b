"""The exponential moving average of a job's parameters. Knows decay and warm-up; refuses to know what is averaged.

diffusers' `EMAModel` has the same rule with the step counted otherwise, but rounds differently while 1 - d > 0.5, and
at every step without `foreach`: adapters would differ in their last bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lorafleet_jobs.train.trainable_state import TrainableState


class Average:
    """avg <- d avg + (1 - d) p after each step t = 2, 3, ..., with d = min(decay, (1 + t) / (10 + t)).

    It starts as the parameters after step 1. The warm-up of d is TensorFlow's (`tf.train.ExponentialMovingAverage` with
    `num_updates`), so that the random start is soon forgotten. A frozen parameter is never replaced by its average:
    what was trained after it was frozen was trained beside that very value.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.t = 0
        self._averages: list[Tensor] = []

    @torch.no_grad()
    def update(self, trainable: TrainableState) -> None:
        """Adds the parameters as they are after one optimizer step."""
        self.t += 1
        parameters = trainable.parameters()
        if not self._averages:
            self._averages = [parameter.detach().clone() for parameter in parameters]
        d = min(self.decay, (1 + self.t) / (10 + self.t))
        for average, parameter in zip(self._averages, parameters, strict=True):
            if parameter.requires_grad:
                average.lerp_(parameter, 1 - d)

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps."""
        return {"t": self.t, "averages": self._averages}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continues from what a checkpoint kept."""
        self.t, self._averages = int(state["t"]), [tensor.to(device) for tensor in state["averages"]]

    @contextmanager
    def swapped_in(self, trainable: TrainableState) -> Iterator[None]:
        """While it lasts, parameters that are still trained are their average; none is before the first update."""
        pairs = zip(trainable.parameters(), self._averages, strict=True) if self._averages else ()
        swapped = [(parameter, average) for parameter, average in pairs if parameter.requires_grad]
        current = [(parameter, parameter.detach().clone()) for parameter, _ in swapped]
        _write(swapped)
        try:
            yield
        finally:
            _write(current)


@torch.no_grad()
def _write(values: list[tuple[nn.Parameter, Tensor]]) -> None:
    for parameter, value in values:
        parameter.copy_(value)  # in place: an optimizer may hold views of this memory
