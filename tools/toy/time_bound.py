"""One training loop for the VAE and the bases, whose whole step a GPU records and replays.

The toy networks are so small that a GPU waits for Python between their kernels. So forward, backward, clipping, AdamW
and the moving average are one CUDA graph; random numbers are drawn on the device, and what changes from step to step
is a tensor. Without CUDA the same step is called.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorafleet.numerics.captured import Calls, CapturedCalls, PlainCalls

READ_EVERY = 20  # steps; reading the loss waits for the device, which keeps the clock honest


@dataclass(frozen=True)
class Limits:
    """A run ends after `steps` or `seconds`, whichever comes first; `record` says whether a GPU may record the step."""

    steps: int
    seconds: float
    record: bool = True

    def progress(self, step: int, elapsed: float) -> float:
        """How much of the run is done, 0-1 and beyond."""
        return max(step / self.steps, elapsed / self.seconds)


class Step:
    """One training step of `model` on the loss that `loss()` draws a batch for; keeps the moving average beside it."""

    def __init__(self, model: nn.Module, loss: Callable[[], Tensor], device: torch.device) -> None:
        self.average = copy.deepcopy(model).requires_grad_(False).eval()
        self.rate = torch.zeros((), device=device)  # learning rate
        self.share = torch.ones((), device=device)  # of the new parameters in the average
        self._parameters, self._loss = list(model.parameters()), loss
        self._averaged = list(self.average.parameters())
        on_gpu = device.type == "cuda"
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=self.rate, weight_decay=1e-2, betas=(0.9, 0.99), capturable=on_gpu,
            fused=on_gpu or None,
        )  # fmt: skip

    def __call__(self) -> Tensor:
        """Takes the step and returns its loss."""
        self._optimizer.zero_grad(set_to_none=True)
        value = self._loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        with torch.no_grad():
            difference = torch._foreach_sub(self._parameters, self._averaged)
            torch._foreach_mul_(difference, self.share)
            torch._foreach_add_(self._averaged, difference)
        return value.detach()


def train(
    name: str,
    model: nn.Module,
    loss: Callable[[], Tensor],
    limits: Limits,
    learning_rate: float,
    checkpoint: Callable[[nn.Module], None] = lambda average: None,
    checkpoint_every: float = float("inf"),
) -> nn.Module:
    """Trains with AdamW (linear warm-up, cosine decay over the limits) and returns the exponential moving average.

    `checkpoint` is handed the average every `checkpoint_every` seconds. Raises FloatingPointError where the loss is
    no longer finite.
    """
    start = saved = time.monotonic()
    device = next(model.parameters()).device
    step = Step(model.train(), loss, device)
    calls: Calls = CapturedCalls(device) if limits.record else PlainCalls()

    def call() -> Tensor:
        return calls("step", lambda _: (step(),), {})[0]

    if device.type == "cuda":
        call()  # recorded at a rate of 0
    print(f"{name} begins after {time.monotonic() - start:.1f} s of preparation", flush=True)
    began, index = time.monotonic(), 0
    while (progress := limits.progress(index, time.monotonic() - start)) < 1:
        step.rate.fill_(learning_rate * min(1.0, (index + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * progress)))
        remembered = max(1.0, (index + 1) / max(progress, 1e-3) / 10)  # a tenth of the steps that there will be
        step.share.fill_(max(1 / remembered, 9 / (10 + index)))
        value = call()
        index += 1
        if index % READ_EVERY == 0:
            _read(name, value, index, progress, time.monotonic() - began)
        if time.monotonic() - saved > checkpoint_every:
            checkpoint(step.average)
            saved = time.monotonic()
    print(f"{name} {index} steps in {time.monotonic() - start:.1f} s, last loss {value.item():.4f}", flush=True)
    return step.average


def _read(name: str, value: Tensor, index: int, progress: float, elapsed: float) -> None:
    """Waits for the loss, and prints it now and then."""
    number = value.item()
    if not math.isfinite(number):
        raise FloatingPointError(f"{name}: the loss is {number} at step {index}; lower the learning rate")
    if index % (10 * READ_EVERY) == 0:
        print(f"{name} {index} {progress:.0%} loss {number:.4f} {1000 * elapsed / index:.2f} ms/step", flush=True)
