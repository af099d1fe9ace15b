"""Workers of one job: each asks its share of a step's micro-batches, then all add up gradients and take the same step.

Batches, noise and first weights are functions of the seed, and the sums are the same everywhere, so all workers hold
the same parameters at every step, and the job comes out as it does on one worker, to the order of additions. Knows
torch.distributed; refuses to know who started the processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class SingleRank:
    """One worker."""

    rank: int = 0
    size: int = 1

    def asks(self, micro: int) -> bool:
        """Whether the micro-batch of this place in a step is this worker's."""
        return micro % self.size == self.rank

    def add_up(self, parameters: Sequence[nn.Parameter], loss: float) -> float:
        """Makes every worker's gradients the sum of all; returns the loss likewise."""
        return loss

    def give_up(self, parameters: Sequence[nn.Parameter]) -> None:
        """Ends the others too, which wait for this worker's part of the next step."""


@dataclass(frozen=True)
class ProcessGroup(SingleRank):
    """What this process is among those of the default process group."""

    @classmethod
    def here(cls) -> ProcessGroup:
        """Of a process group that has been started."""
        return cls(dist.get_rank(), dist.get_world_size())

    def add_up(self, parameters: Sequence[nn.Parameter], loss: float) -> float:
        """Makes every worker's gradients the sum of all; returns the loss likewise. One call of the network.

        `parameters` are all that the job has, frozen ones too. A loss that is not a number, by which a worker says that
        it failed, makes it so for all.
        """
        device = parameters[0].device
        said = torch.tensor([loss], dtype=parameters[0].dtype, device=device)
        flat = torch.cat([said, *((torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters)])
        dist.all_reduce(flat)
        pieces = flat[1:].split([parameter.numel() for parameter in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            if parameter.requires_grad:
                parameter.grad = piece.view_as(parameter)
        return flat[0].item()

    def give_up(self, parameters: Sequence[nn.Parameter]) -> None:
        """Ends the others too, which wait for this worker's part of the next step."""
        self.add_up(parameters, math.nan)
